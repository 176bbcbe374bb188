"""The header of a safetensors file: the place of each tensor. Every field is checked before any tensor is read.

A file is 8 bytes (the length of the header, little-endian), the header (JSON), and the numbers. The header has an entry
for each tensor: `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`, offsets counted from the header's end.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlx.files.documents import parse_json

METADATA = "__metadata__"
# The limit of the format.
LONGEST = 100_000_000
# NumPy takes 64 axes, and an array without numbers must not have one that is too long for it.
MOST_AXES, LONGEST_AXIS = 32, 2**48
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of a float32; NumPy has no such type
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
FLOATS = ("F16", "BF16", "F32", "F64")


class Extent(NamedTuple):
    """The type, shape and place of a tensor: `start` and `stop` count bytes from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Header(NamedTuple):
    """The tensors of a file by name, and the metadata strings of its writer."""

    tensors: dict[str, Extent]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        ValueError: The header is cut short, is not the JSON of the format, names a tensor twice, has a dtype that tlx
            does not read, or has offsets that do not cover the rest of the file exactly once.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST):
            announced = f", {length} bytes according to its first 8 bytes" if size >= 8 else ""
            raise ValueError(f"{path} is damaged: its header cannot be read ({size} bytes{announced}); fetch it again")
        content = stream.read(length)
    document = parse_json(content, f"{path} is damaged: its header", remedy="fetch it again")
    metadata = document.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise damaged(path, f"{METADATA} is {short(metadata)}, expected an object of strings")
    tensors = {name: extent(path, name, entry, 8 + length) for name, entry in document.items()}
    check_cover(path, tensors, 8 + length, size)
    return Header(tensors, metadata)


def extent(path: Path, name: str, entry: object, begin: int) -> Extent:
    """Check and return the entry of one tensor; its data start after byte `begin`."""
    if not isinstance(entry, dict):
        raise damaged(path, f"tensor {name!r} has the entry {short(entry)}, expected dtype, shape and data_offsets")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(
            f"{path}: tensor {name!r} has the dtype {short(dtype)}; tlx reads {', '.join(DTYPES)}. Save the model in "
            "float32 or bfloat16 with the library that wrote it"
        )
    if not naturals(shape) or len(shape) > MOST_AXES or any(length > LONGEST_AXIS for length in shape):
        raise damaged(
            path,
            f"tensor {name!r} has the shape {short(shape)}, expected a list of at most {MOST_AXES} whole numbers >= 0",
        )
    if not naturals(offsets) or len(offsets) != 2:
        raise damaged(path, f"tensor {name!r} has the data_offsets {short(offsets)}, expected [start, stop] in bytes")
    start, stop = offsets
    expected_bytes = math.prod(shape) * DTYPES[dtype].itemsize
    if stop - start != expected_bytes:
        raise damaged(
            path,
            f"tensor {name!r} has the data_offsets {offsets}, {stop - start} bytes; expected {expected_bytes} bytes "
            f"for {dtype} {short(shape)}",
        )
    return Extent(dtype, tuple(shape), begin + start, begin + stop)


def check_cover(path: Path, tensors: dict[str, Extent], begin: int, size: int) -> None:
    """Raise ValueError unless the tensors cover each byte from `begin` to the end of the file exactly once."""
    end, last = begin, ""
    for name, span in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if span.start != end:
            problem = "overlaps" if span.start < end else f"leaves {span.start - end} bytes unused after"
            raise damaged(path, f"tensor {name!r} at byte {span.start - begin} {problem} {last!r}")
        end, last = span.stop, name
    if size < end:
        raise ValueError(f"{path} is cut short: it has {size} bytes, but its header describes {end}; fetch it again")
    if size > end:
        raise damaged(path, f"it has {size} bytes, but its header describes {end}")


def header_bytes(arrays: Mapping[str, tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> bytes:
    """Return the header of a file with `arrays` (each with the name of its type) in this order, after its length."""
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    start = 0
    for name, (dtype, array) in arrays.items():
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    content = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)


def short(value: object, length: int = 60) -> str:
    """Return a value for an error message, on one line of at most `length` characters."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."


def damaged(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged: {reason}; fetch it again")
