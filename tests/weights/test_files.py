"""Files of tensors: damaged or dangerous files are refused with a message that says what to do."""

import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tlx.weights import load_pretrained
from tlx.weights.files import CHECKSUM, read_config, read_file, read_tensors, write_file, write_tensors

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.weight": np.ones(4, np.float32)}


def test_written_files_are_read_back(tmp_path):
    write_tensors(tmp_path, TENSORS)
    for name, tensor in read_tensors(tmp_path).items():
        np.testing.assert_array_equal(tensor, TENSORS[name])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_floating_tensors_become_float32_and_integers_stay(tmp_path, dtype):
    import ml_dtypes

    kind = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
    write_tensors(tmp_path, {"a": TENSORS["a.weight"].astype(kind), "ids": np.arange(3)})
    read = read_tensors(tmp_path)
    assert read["a"].dtype == np.float32 and read["ids"].dtype == np.int64
    np.testing.assert_array_equal(read["a"], TENSORS["a.weight"])


def shard(folder):
    for n, (name, tensor) in enumerate(TENSORS.items(), 1):
        save_file({name: tensor}, folder / f"model-0000{n}-of-00002.safetensors")
    index = {"weight_map": {name: f"model-0000{n}-of-00002.safetensors" for n, name in enumerate(TENSORS, 1)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_read_as_one_file(tmp_path):
    shard(tmp_path)
    assert read_tensors(tmp_path).keys() == TENSORS.keys()


def test_a_missing_shard_is_named(tmp_path):
    shard(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index.json names the missing file model-00002-of-00002.safetensors"):
        read_tensors(tmp_path)


def test_a_truncated_file_says_how_much_is_missing(tmp_path):
    write_tensors(tmp_path, TENSORS)
    path = tmp_path / "model.safetensors"
    full = path.read_bytes()
    path.write_bytes(full[:-5])
    with pytest.raises(ValueError) as error:
        read_tensors(tmp_path)
    assert str(error.value) == (
        f"{path} is cut short: it has {len(full) - 5} bytes, but its header describes {len(full)}; fetch it again"
    )


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 8 + b"nonsense", b"\x04\0\0\0\0\0\0\0[{}]"])
def test_a_broken_header_is_damage(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged: its header")):
        read_tensors(tmp_path)


HEADER = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F32", "shape": [4], "data_offsets": [24, 40]},
}


def write_raw(path, header, size=40, *, length=None):
    """Write a safetensors file with this header (a dict or its text) and `size` bytes of ones after it."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    count = len(text) if length is None else length
    path.write_bytes(count.to_bytes(8, "little") + text + np.ones(size // 4, np.float32).tobytes() + b"x" * (size % 4))


def changed(name, **fields):
    return HEADER | {name: HEADER[name] | fields}


DAMAGE = {
    "offsets overlap": (changed("b", data_offsets=[20, 36]), "tensor 'b' at byte 20 overlaps 'a'"),
    "offsets leave a gap": (
        changed("b", data_offsets=[28, 44]),
        "tensor 'b' at byte 28 leaves 4 bytes unused after 'a'",
    ),
    "two tensors of the same bytes": (
        {"a": HEADER["a"], "c": HEADER["a"]},
        "tensor 'c' at byte 0 overlaps 'a'",
    ),
    "negative offset": (
        changed("a", data_offsets=[-24, 0]),
        "tensor 'a' has the data_offsets [-24, 0], expected [start",
    ),
    "offsets in reverse": (changed("a", data_offsets=[24, 0]), "tensor 'a' has the data_offsets [24, 0], -24 bytes"),
    "offsets too few for the shape": (
        changed("a", data_offsets=[0, 20]),
        "tensor 'a' has the data_offsets [0, 20], 20 bytes ... 24 bytes ... F32 [2, 3]",
    ),
    "one offset": (changed("a", data_offsets=[24]), "tensor 'a' has the data_offsets [24], expected [start, stop]"),
    "three offsets": (changed("a", data_offsets=[0, 24, 40]), "has the data_offsets [0, 24, 40], expected"),
    "offsets of text": (changed("a", data_offsets=["0", "24"]), "has the data_offsets ['0', '24'], expected"),
    "offsets that are no list": (changed("a", data_offsets=24), "has the data_offsets 24, expected"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [10]}}, "tensor 'a' has the data_offsets None, expected"),
    "huge offset": (changed("b", data_offsets=[24, 2**70]), f"has the data_offsets [24, {2**70}], expected"),
    "shape of halves": (changed("a", shape=[2, 3.0]), "tensor 'a' has the shape [2, 3.0], expected a list"),
    "shape of truth": (changed("a", shape=[True, 6]), "tensor 'a' has the shape [True, 6], expected a list"),
    "shape of many axes": (changed("a", shape=[1] * 70), "has the shape [1, 1, 1, "),
    "shape of an endless axis": (changed("a", shape=[2**62, 0], data_offsets=[0, 0]), f"has the shape [{2**62}, 0]"),
    "shape null": (changed("a", shape=None), "tensor 'a' has the shape None, expected a list"),
    "negative shape": (changed("a", shape=[-2, -3]), "tensor 'a' has the shape [-2, -3], expected a list"),
    "entry that is no object": (
        HEADER | {"a": [1]},
        "tensor 'a' has the entry [1], expected dtype, shape and data_off",
    ),
    "metadata of numbers": (HEADER | {"__metadata__": {"format": 1}}, "__metadata__ is {'format': 1}, expected an obj"),
    "metadata that is a list": (HEADER | {"__metadata__": [1]}, "__metadata__ is [1], expected an object of strings"),
    "list": ("[]", "its header: the document is []; expected an object"),
    "deep": ('{"a":' * 100_000, "its header is nested too deeply"),
    "a tensor twice": (
        '{"a":{"dtype":"F32","shape":[10],"data_offsets":[0,40]},"a":{"dtype":"I32","shape":[10],"data_offsets":[0,40]}}',
        "its header: the key 'a' occurs twice",
    ),
    "a field twice": (
        '{"a":{"dtype":"I32","shape":[10],"data_offsets":[0,40],"dtype":"F32"}}',
        "its header: the key 'dtype' occurs twice",
    ),
    "no JSON": ("{", "its header is not JSON: Expecting property name"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_header_that_contradicts_itself_or_the_file_is_damage(kind, tmp_path):
    header, message = DAMAGE[kind]
    path = tmp_path / "model.safetensors"
    write_raw(path, header)
    with pytest.raises(ValueError) as error:
        read_tensors(tmp_path)
    assert str(error.value).startswith(f"{path} is damaged: ")
    for part in message.split(" ... "):
        assert part in str(error.value)
    assert str(error.value).endswith("; fetch it again") and "\n" not in str(error.value)


@pytest.mark.parametrize(("size", "message"), [(44, "it has"), (43, "it has"), (36, "it has"), (0, "it has")])
def test_a_file_of_another_length_than_its_header_says_is_refused(size, message, tmp_path):
    write_raw(tmp_path / "model.safetensors", HEADER, size)
    with pytest.raises(ValueError, match=rf"{message} \d+ bytes, but its header describes \d+; fetch it again"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8 + 1, 1000])
def test_a_header_longer_than_the_file_is_not_read(length, tmp_path):
    path = tmp_path / "model.safetensors"
    write_raw(path, HEADER, length=length)
    with pytest.raises(ValueError) as error:
        read_tensors(tmp_path)
    size = path.stat().st_size
    assert str(error.value) == (
        f"{path} is damaged: its header cannot be read ({size} bytes, {length} bytes according to its "
        "first 8 bytes); fetch it again"
    )


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "C64", "F4", "f32", "", None, 32])
def test_a_type_that_tlx_does_not_read_is_named(dtype, tmp_path):
    path = tmp_path / "model.safetensors"
    write_raw(path, changed("a", dtype=dtype))
    with pytest.raises(ValueError) as error:
        read_tensors(tmp_path)
    assert str(error.value).startswith(f"{path}: tensor 'a' has the dtype {dtype!r}; tlx reads BOOL, U8, ")


def test_tensors_without_axes_and_without_numbers_are_read(tmp_path):
    tensors = {"a": np.float32(2), "b": np.zeros((0, 3), np.float32), "c": np.zeros((2, 0), bool), "d": np.array(True)}
    for write in (write_file, lambda path, own: save_file({n: np.asarray(t) for n, t in own.items()}, path)):
        write(tmp_path / "x", tensors)
        for name, tensor in read_file(tmp_path / "x").items():
            np.testing.assert_array_equal(tensor, tensors[name])
            assert tensor.shape == np.shape(tensors[name])


def test_written_files_equal_those_of_the_library_of_the_format(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        str(dtype): rng.integers(0, 2, (3, n)).astype(dtype)
        for n, dtype in enumerate((bool, "u1", "i2", "<u4", "i8", "f2", "f4", "f8", ">f4"))
    }
    tensors["turned"], tensors["one"] = np.arange(6.0).reshape(2, 3).T, np.float32(1)
    write_file(tmp_path / "x", tensors)
    read = load_file(tmp_path / "x")
    assert read.keys() == tensors.keys()
    for name, tensor in read.items():
        np.testing.assert_array_equal(tensor, tensors[name])
        assert tensor.dtype == np.asarray(tensors[name]).dtype.newbyteorder("=")
    # Equal tensors in any order give equal bytes.
    write_file(tmp_path / "y", dict(reversed(tensors.items())))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    with pytest.raises(ValueError, match=r"tensor 'a' has the type complex128; expected BOOL, U8"):
        write_file(tmp_path / "z", {"a": np.ones(2, complex)})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


def test_numbers_changed_since_tlx_wrote_them_are_refused(tmp_path):
    write_tensors(tmp_path, TENSORS)
    path = tmp_path / "model.safetensors"
    full, rng = path.read_bytes(), np.random.default_rng(0)
    start = len(full) - sum(tensor.nbytes for tensor in TENSORS.values())
    for place in rng.integers(start, len(full), 20):
        content = bytearray(full)
        content[place] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"is damaged: its tensors .*{CHECKSUM}"):
            read_tensors(tmp_path)
    # Swapped names are refused too.
    path.write_bytes(full.replace(b"a.weight", b"c.weight"))
    with pytest.raises(ValueError, match="is damaged: its tensors"):
        read_tensors(tmp_path)


def write_index(folder, document):
    (folder / "model.safetensors.index.json").write_text(
        document if isinstance(document, str) else json.dumps(document)
    )


A, B = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))


def test_the_index_decides_between_two_copies_of_a_tensor(tmp_path):
    for first, second in ((A, B), (B, A)):
        save_file({"a": np.zeros(2, np.float32), "x": np.ones(1, np.float32)}, tmp_path / first)
        save_file({"a": np.ones(2, np.float32), "y": np.ones(1, np.float32)}, tmp_path / second)
        write_index(tmp_path, {"weight_map": {"a": first, "x": first, "y": second}})
        np.testing.assert_array_equal(read_tensors(tmp_path)["a"], [0, 0])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"a": B, "b": B}, rf"index.json states that tensor 'a' is in {B}, but no shard contains it"),
        ({"a": B, "b": A}, rf"index.json states that tensor 'a' is in {B}, but it is in {A}"),
        ({"a": A, "b": B, "c": B}, rf"index.json states that tensor 'c' is in {B}, but no shard contains it"),
        ({"a": A}, None),
        ({"b": B}, None),
    ],
)
def test_an_index_that_contradicts_its_shards_is_refused(names, message, tmp_path):
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / A)
    save_file({"b": np.zeros(2, np.float32)}, tmp_path / B)
    write_index(tmp_path, {"metadata": {"total_size": 16}, "weight_map": names})
    if message is None:  # A file that the index does not name is not part of the checkpoint.
        assert read_tensors(tmp_path).keys() == names.keys()
    else:
        with pytest.raises(ValueError, match=message):
            read_tensors(tmp_path)


def test_a_tensor_that_the_index_does_not_name_is_refused(tmp_path):
    save_file({"a": np.zeros(2, np.float32), "head.weight": np.zeros(2, np.float32)}, tmp_path / A)
    write_index(tmp_path, {"weight_map": {"a": A}})
    with pytest.raises(
        ValueError, match=rf"{A} contains tensor 'head.weight', which model.safetensors.index.json does not"
    ):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "weight_map is missing; expected an object, each value the name of a file"),
        ({"weight_map": {}}, "has an empty weight_map; expected"),
        ({"weight_map": [1]}, "weight_map is [1]; expected an object"),
        ({"weight_map": {"a": 1}}, "weight_map.a is 1; expected the name of a file"),
        ({"weight_map": {"a": [A]}}, "expected the name of a file"),
        ({"weight_map": {"a": None}}, "weight_map.a is null; expected the name of a file"),
        ([], "the document is []; expected an object with 'weight_map'"),
        ("{", "is not JSON: Expecting property name"),
        ("", "is empty; expected JSON"),
        ('{"weight_map":' * 100_000, "is nested too deeply"),
        (f'{{"weight_map": {{"a": "{A}", "a": "{B}"}}}}', "the key 'a' occurs twice"),
        ({"weight_map": {"a": "../elsewhere.safetensors"}}, "outside of the checkpoint's directory"),
        ({"weight_map": {"a": "x/../../elsewhere.safetensors"}}, "outside of the checkpoint's directory"),
        ({"weight_map": {"a": "/elsewhere.safetensors"}}, "outside of the checkpoint's directory"),
        ({"weight_map": {"a": "..\\elsewhere.safetensors"}}, "outside of the checkpoint's directory"),
        ({"weight_map": {"a": "C:\\elsewhere.safetensors"}}, "outside of the checkpoint's directory"),
        ({"weight_map": {"a": "a\0b.safetensors"}}, "outside of the checkpoint's directory"),
        ({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}, "tlx reads .safetensors files only"),
        ({"weight_map": {"a": ""}}, "tlx reads .safetensors files only"),
    ],
)
def test_an_invalid_index_or_one_that_leads_elsewhere_is_refused(document, message, tmp_path):
    folder = tmp_path / "x" / "y"
    folder.mkdir(parents=True)
    for place in (folder, tmp_path / "x", tmp_path):
        save_file({"a": np.zeros(2, np.float32)}, place / "elsewhere.safetensors")
    write_index(folder, document)
    with pytest.raises(ValueError) as error:
        read_tensors(folder)
    assert str(error.value).startswith(f"{folder / 'model.safetensors.index.json'}") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_may_be_links_as_in_the_hub_s_cache(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "blobs" / "0123")
    os.symlink("../blobs/0123", tmp_path / "snapshot" / A)
    write_index(tmp_path / "snapshot", {"weight_map": {"a": A}})
    assert read_tensors(tmp_path / "snapshot").keys() == {"a"}


def test_one_file_comes_before_an_index_as_in_transformers(tmp_path):
    shard(tmp_path)
    write_tensors(tmp_path, {"only": TENSORS["b.weight"]})
    assert read_tensors(tmp_path).keys() == {"only"}


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


@pytest.mark.parametrize("place", ["pytorch_model.bin", "a.pth", "a.pt"])
def test_a_pickle_is_refused_without_opening(tmp_path, place):
    (tmp_path / place).write_bytes(pickle.dumps(Trap()))
    refused = [(read_tensors, tmp_path), (load_pretrained, tmp_path), (load_pretrained, tmp_path / place)]
    for read, source in refused:
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            read(source)
        subject = f"{source} is a pickle" if source.is_file() else f"{source} contains {place}, a pickle"
        for part in (subject, "tlx reads safetensors only", "convert it once: python -c "):
            assert part in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parity
def test_the_command_in_the_refusal_of_a_pickle_converts_it(tmp_path):
    import torch

    torch.save({"a": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "a.pth")
    with pytest.raises(ValueError) as error:
        read_tensors(tmp_path)
    command = str(error.value).partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", command], check=True)
    np.testing.assert_array_equal(read_tensors(tmp_path)["a"], np.arange(6.0).reshape(2, 3).T)


def test_a_pickle_in_shards_is_refused_with_the_way_to_convert_it(tmp_path):
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(ValueError) as error:
        read_tensors(tmp_path)
    assert f"AutoModel.from_pretrained('{tmp_path}').save_pretrained(NEW_DIRECTORY)" in str(error.value)


def test_a_config_must_be_there_be_json_and_name_its_type(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="model_type is missing"):
        read_config(tmp_path)
