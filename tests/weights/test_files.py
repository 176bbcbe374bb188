"""Files of tensors: what is damaged or dangerous is refused with a message that says what to do."""

import json
import pickle
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from tlx.weights.files import read_config, read_tensors, write_tensors

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b.weight": np.ones(4, np.float32)}


def test_what_is_written_is_read(tmp_path):
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


def test_shards_are_read_as_one(tmp_path):
    shard(tmp_path)
    assert read_tensors(tmp_path).keys() == TENSORS.keys()


def test_a_missing_shard_is_named(tmp_path):
    shard(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"index.json names model-00002-of-00002.safetensors, which is not there"
    ):
        read_tensors(tmp_path)


def test_a_truncated_file_says_how_much_is_missing(tmp_path):
    write_tensors(tmp_path, TENSORS)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError) as error:
        read_tensors(tmp_path)
    assert str(error.value) == (
        f"{path} is cut short: it has {len(whole) - 5} bytes, its header describes {len(whole)}; fetch it again"
    )


@pytest.mark.parametrize("content", [b"", b"\x05", b"\xff" * 8 + b"nonsense", b"\x04\0\0\0\0\0\0\0[{}]"])
def test_a_broken_header_is_damage(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged: its header cannot be read")):
        read_tensors(tmp_path)


def test_a_pickle_is_refused_unopened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError) as error:
        read_tensors(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} holds pytorch_model.bin, a pickle, which can run code when it is opened; tlx reads safetensors "
        "only. Where you trust the file, convert it once: transformers' "
        f"AutoModel.from_pretrained('{tmp_path}').save_pretrained(NEW_DIRECTORY)"
    )


def test_a_config_must_be_there_be_json_and_name_its_type(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="model_type is missing"):
        read_config(tmp_path)
