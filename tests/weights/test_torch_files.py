"""The restricted reader of torch's files: arrays as torch reads them, and nothing but tensors."""

import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from tlx.weights.torch_files import MAGIC, VERSION, read_torch

MACHINE = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Named:
    """Pickles as a call of the function `module.name`."""

    def __init__(self, call, *arguments):
        self.parts = (call, arguments)

    def __reduce__(self):
        return self.parts


def write(path, document, keys=(), after=b"", magic=MAGIC, machine=MACHINE):
    stream = io.BytesIO()
    for value in (magic, VERSION, machine, document, list(keys)):
        pickle.dump(value, stream, protocol=2)
    path.write_bytes(stream.getvalue() + after)
    return path


@pytest.mark.parity
def test_tensors_are_those_of_torch(tmp_path):
    import torch

    whole = torch.arange(24.0).reshape(2, 3, 4)
    tensors = OrderedDict(
        whole=whole,
        part=whole[1, :, 1::2],
        turned=whole.transpose(0, 2),
        count=torch.tensor(7),
        empty=torch.zeros(0, 3),
    )
    tensors |= {name: torch.ones(3, dtype=getattr(torch, name)) for name in ("float64", "float16", "int32", "bool")}
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    read = read_torch(tmp_path / "a.pth")
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.numpy().dtype
        np.testing.assert_array_equal(read[name], tensor.numpy())


def test_a_function_is_never_called(tmp_path):
    file = write(tmp_path / "a.pth", Named(os.system, "exit 1"))
    with pytest.raises(ValueError, match=r"a\.pth names posix\.system; expected a dict of tensors only"):
        read_torch(file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"document": {"a": 1}}, "more than a dict of tensors"),
        ({"document": {}, "keys": ["0"]}, "the list of its storages"),
        ({"document": {}, "magic": 5}, "it begins with 5"),
        ({"document": {}, "machine": {"little_endian": False}}, "it begins with"),
    ],
    ids=str,
)
def test_another_form_is_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        read_torch(write(tmp_path / "a.pth", **arguments))


@pytest.mark.parity
def test_a_file_that_is_cut_short_is_refused(tmp_path):
    import torch

    torch.save({"a": torch.arange(24.0)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pth").read_bytes()
    for length in (*range(0, len(content) - 1, 7), len(content) - 1):
        (tmp_path / "a.pth").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.pth is damaged or has another form"):
            read_torch(tmp_path / "a.pth")


@pytest.mark.parity
@pytest.mark.parametrize("field", ["offset", "strides", "shape"])
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, monkeypatch, field):
    import torch

    from tlx.weights import torch_files

    torch.save({"a": torch.arange(6.0).reshape(2, 3)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    values = {"offset": 1, "strides": (4, 1), "shape": (3, 3)}
    right = torch_files.rebuilt

    def rebuilt(*arguments):
        return right(*arguments)._replace(**{field: values[field]})

    monkeypatch.setattr(torch_files, "rebuilt", rebuilt)
    with pytest.raises(ValueError, match="tensor 'a' ends at element"):
        read_torch(tmp_path / "a.pth")
