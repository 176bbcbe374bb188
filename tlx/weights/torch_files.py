"""Read the tensors of a file that torch has saved, without torch and without running what the file names.

The file is a pickle, which can call any function when it is opened. This reader allows the three names that a dict of
tensors needs and refuses every other one, but tlx uses it for pinned files alone, whose sha256 is known.

The form is the one of torch before 1.6, without an archive: five pickles (a magic number, the version, the machine, the
dict, the keys of the storages), then for each storage its number of elements (int64) and the elements.
"""

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype(bool),
}


class Storage(NamedTuple):
    """The numbers of one or several tensors, which follow the pickles."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """The part of a storage that a tensor holds."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def rebuilt(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *rest: Any) -> Tensor:
    """Return the description of a tensor, with the arguments of torch's `_rebuild_tensor_v2`."""
    return Tensor(storage, offset, tuple(shape), tuple(strides))


class Restricted(pickle.Unpickler):
    """An unpickler that knows dicts of tensors and nothing else."""

    def __init__(self, stream: Any, path: Path):
        super().__init__(stream)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return rebuilt
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise ValueError(f"{self.path} names {module}.{name}; expected a dict of tensors only. Do not use this file")

    def persistent_load(self, identity: Any) -> Storage:
        if not (isinstance(identity, tuple) and len(identity) == 6 and identity[0] == "storage"):
            refuse(self.path, f"a storage is described by {str(identity)[:60]!r}")
        _, dtype, key, _, size, view = identity
        if view is not None or not isinstance(dtype, np.dtype):
            refuse(self.path, f"storage {key!r} is a view or has no type")
        return Storage(str(key), dtype, int(size))


def refuse(path: Path, reason: str) -> NoReturn:
    raise ValueError(f"{path} is damaged or has another form: {reason}; fetch it again")


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors of a pinned file of torch by name.

    Raises:
        ValueError: The file has another form, names anything but tensors, or is cut short.
    """
    content = path.read_bytes()
    stream = io.BytesIO(content)
    try:
        magic, version, machine, tensors, keys = (Restricted(stream, path).load() for _ in range(5))
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError, TypeError, AttributeError, UnicodeError) as error:
        refuse(path, " ".join(str(error).split())[:80])
    if (magic, version) != (MAGIC, VERSION) or not machine.get("little_endian"):
        refuse(path, f"it begins with {str(magic)[:40]}, version {version}")
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        refuse(path, "it holds more than a dict of tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    if not isinstance(keys, list) or set(keys) != storages.keys():
        refuse(path, "the list of its storages is not that of its tensors")
    numbers: dict[str, np.ndarray] = {}
    start = stream.tell()
    for key in keys:
        dtype, size = storages[key].dtype, storages[key].size
        start += 8
        stated = int.from_bytes(content[start - 8 : start], "little")
        if stated != size or len(content) - start < size * dtype.itemsize:
            refuse(path, f"storage {key!r} has {stated} elements, expected {size}")
        numbers[key] = np.frombuffer(content, dtype, size, start)
        start += size * dtype.itemsize
    return {name: part(path, name, tensor, numbers[tensor.storage.key]) for name, tensor in tensors.items()}


def part(path: Path, name: str, tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    """Return the array of a tensor, which must lie within its storage."""
    positive = all(isinstance(n, int) and n >= 0 for n in (tensor.offset, *tensor.shape, *tensor.strides))
    if not positive or len(tensor.shape) != len(tensor.strides):
        refuse(path, f"tensor {name!r} has the shape {tensor.shape} and the strides {tensor.strides}")
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, storage.dtype)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if last >= storage.size:
        refuse(path, f"tensor {name!r} ends at element {last} of {storage.size}")
    steps = [step * storage.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, steps, writeable=False).copy()
