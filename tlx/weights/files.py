"""Read and write tensors in safetensors files, whole or sharded. No file of a checkpoint is ever executed."""

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from tlx.files.documents import check, read_json
from tlx.files.documents.checks import Mapped, Record, Text
from tlx.files.documents.models import ANY, GENERATION, TIMM, form
from tlx.files.documents.reading import FETCH
from tlx.trees import Json
from tlx.weights.header import DTYPES, Extent, header_bytes, read_header, short
from tlx.weights.mapped import HALVES, map_file, release, stored_in

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")
INDEX_FORM = Record({"weight_map": Mapped(Text(description="the name of a file"))})
# The key in the header of files that tlx writes, for the hash of their tensors.
CHECKSUM = "tlx_sha256"


def read_config(directory: Path) -> Json:
    """Return `config.json` as a dict; that of timm has no `model_type`.

    Raises FileNotFoundError if it is missing, ValueError if it is invalid.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} has no {CONFIG}; expected a Hugging Face directory, which contains this file"
        )
    document = read_json(path)
    if "model_type" not in document and "architecture" in document:
        return check(document, TIMM, path, FETCH)
    check(document, ANY, path, FETCH)
    return check(document, form(document["model_type"]), path, FETCH)


def with_generation(document: Json, directory: Path, fields: Iterable[str]) -> Json:
    """Return a config.json with the `fields` that a generation_config.json in the same directory replaces.

    As in `transformers`, that file alone then says which words are forced. The first word of the decoder stays that of
    config.json where that file states none.

    Raises ValueError if that file has a field of another form.
    """
    path = directory / GENERATION_CONFIG
    if not (names := tuple(fields)) or not path.is_file():
        return document
    stated = read_json(path, GENERATION, remedy=FETCH)
    forced = {name: stated.get(name) for name in names if name.startswith("forced_") or stated.get(name) is not None}
    return document | forced


def tensor_files(directory: Path) -> dict[str, Path]:
    """Return the file of every tensor of a checkpoint, by the tensor's name; `directory` may be a file of tensors.

    If both exist, `model.safetensors` is read and not the index, as in `transformers`. The index decides which shard a
    tensor is read from.

    Raises:
        FileNotFoundError: There are no weights, or a shard that the index names is missing.
        ValueError: There are only pickles, a file is damaged, or the index and the shards contradict each other.
    """
    if directory.is_file():
        return dict.fromkeys(read_header(directory).tensors, directory)
    if (directory / WEIGHTS).is_file():
        return dict.fromkeys(read_header(directory / WEIGHTS).tensors, directory / WEIGHTS)
    if (directory / INDEX).is_file():
        return indexed_files(directory / INDEX)
    if reason := pickled(directory):
        raise ValueError(reason)
    raise FileNotFoundError(f"{directory} holds no {WEIGHTS}")


def pickled(place: Path) -> str | None:
    """Return why the pickle at `place`, or in the directory `place`, is not read, and the command that converts it.

    None where there is no pickle.
    """
    pickles = sorted(path.name for pattern in PICKLES for path in place.glob(pattern))
    if any(place.match(pattern) for pattern in PICKLES):
        file, subject = place, f"{place} is a pickle"
    elif pickles:
        file, subject = place / pickles[0], f"{place} contains {pickles[0]}, a pickle"
    else:
        return None
    if file.suffix == ".json":
        command = f"transformers.AutoModel.from_pretrained({str(place)!r}).save_pretrained(NEW_DIRECTORY)"
    else:
        command = (
            'python -c "import torch, safetensors.torch as s; '
            f"t = torch.load({str(file)!r}, map_location='cpu', weights_only=True); "
            f's.save_file({{n: t[n].contiguous() for n in t}}, {str(file.parent / WEIGHTS)!r})"'
        )
    return (
        f"{subject}, which can run code when it is opened; tlx reads safetensors only. If you trust the file, convert "
        f"it once: {command}"
    )


def indexed_files(index: Path) -> dict[str, Path]:
    """Return the shard of every tensor in an index. Raises ValueError if index and shards contradict each other."""
    names = read_index(index)
    shards = {name: index.parent / name for name in sorted(set(names.values()))}
    if missing := [name for name, path in shards.items() if not path.is_file()]:
        raise FileNotFoundError(f"{index} names the missing file {', '.join(missing)}; fetch the missing files")
    shard_tensors = {name: read_header(path).tensors.keys() for name, path in shards.items()}
    for tensor, shard in sorted(names.items()):
        if tensor not in shard_tensors[shard]:
            holders = [name for name in shard_tensors if tensor in shard_tensors[name]]
            where = f"it is in {', '.join(holders)}" if holders else "no shard contains it"
            raise ValueError(
                f"{index} states that tensor {tensor!r} is in {shard}, but {where}; fetch the checkpoint again"
            )
    for shard, tensors in shard_tensors.items():
        if extra := sorted(tensors - names.keys()):
            more = f" and {len(extra) - 1} more" if len(extra) > 1 else ""
            raise ValueError(
                f"{shards[shard]} contains tensor {extra[0]!r}{more}, which {index.name} does not name; fetch the "
                "checkpoint again, or remove the extra tensors from the shard"
            )
    return {tensor: shards[shard] for tensor, shard in names.items()}


def read_index(path: Path) -> dict[str, str]:
    """Return the `weight_map` of an index: the name of the shard by the name of the tensor."""
    names = read_json(path, INDEX_FORM, remedy=f"fetch it again, or save all tensors in one {WEIGHTS}")["weight_map"]
    if not names:
        raise ValueError(f"{path} has an empty weight_map; expected a file for every tensor; fetch it again")
    for tensor, shard in names.items():
        windows = PureWindowsPath(shard)
        if windows.anchor or PurePosixPath(shard).is_absolute() or ".." in windows.parts or "\0" in shard:
            raise ValueError(
                f"{path} maps tensor {tensor!r} to {short(shard)}, outside of the checkpoint's directory; expected the "
                "name of a file in the same directory. Do not use this checkpoint unless you trust its source"
            )
        if not shard.endswith(".safetensors"):
            raise ValueError(f"{path} maps tensor {tensor!r} to {short(shard)}; tlx reads .safetensors files only")
    return names


def read_tensors(directory: Path, mapped: bool = False) -> dict[str, np.ndarray]:
    """Return every tensor by its foreign name; `mapped` is as in `read_file`."""
    files = tensor_files(directory)
    tensors: dict[str, np.ndarray] = {}
    for path in sorted(set(files.values())):
        tensors |= read_file(path, [name for name, file in files.items() if file == path], mapped)
    return tensors


def read_file(path: Path, names: Iterable[str] | None = None, mapped: bool = False) -> dict[str, np.ndarray]:
    """Return the tensors of one safetensors file.

    Args:
        path: The file.
        names: The tensors; None for all.
        mapped: Whether the tensors stay in the file until a part of them is read (see `tlx.weights.mapped`). Floats of
            16 bits then keep their type; otherwise floating point tensors are float32.

    Raises:
        ValueError: The file is cut short, damaged, or was changed since tlx wrote it.
    """
    header = read_header(path)
    wanted_names = header.tensors.keys() if names is None else set(names)
    tensors: dict[str, np.ndarray] = {}
    digest = hashlib.sha256()
    checked = CHECKSUM in header.metadata
    with path.open("rb") as stream:
        content = map_file(path) if mapped else None
        for name in sorted(header.tensors):
            extent = header.tensors[name]
            if name in wanted_names or checked:
                stored = read_stored(stream, extent) if content is None else stored_in(content, extent)
                if checked:
                    add(digest, name, extent.dtype, stored)
                if name in wanted_names:
                    half = mapped and extent.dtype in HALVES
                    tensors[name] = stored.view(HALVES[extent.dtype]) if half else as_numbers(stored, extent)
                release(stored)
    if checked and digest.hexdigest() != header.metadata[CHECKSUM]:
        raise ValueError(
            f"{path} is damaged: its tensors differ from those that tlx wrote (hash {digest.hexdigest()[:12]}, "
            f"expected {short(header.metadata[CHECKSUM][:12])}); fetch it again. If you changed it on purpose, write "
            f"it without the metadata entry {CHECKSUM!r}"
        )
    return tensors


def read_stored(stream: Any, extent: Extent) -> np.ndarray:
    """Read a tensor in its stored type (bfloat16 as its 16 bits)."""
    stream.seek(extent.start)
    stored = np.fromfile(stream, DTYPES[extent.dtype], math.prod(extent.shape))
    if stored.size != math.prod(extent.shape):
        raise ValueError(f"{stream.name} became shorter while tlx was reading it; fetch it again")
    return stored.reshape(extent.shape)


def as_numbers(stored: np.ndarray, extent: Extent) -> np.ndarray:
    """Return a stored floating point tensor as float32; whole numbers and booleans stay unchanged."""
    if extent.dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    if stored.dtype.kind != "f":
        return stored
    with np.errstate(over="ignore"):  # `check_values` names the tensor that float32 cannot hold
        return stored.astype(np.float32, copy=False)


def add(digest: Any, name: str, dtype: str, stored: np.ndarray) -> None:
    """Add a tensor to a hash."""
    digest.update(f"{name} {dtype} {list(stored.shape)}\n".encode())
    digest.update(np.ascontiguousarray(stored).reshape(-1).view(np.uint8).data)


def write_tensors(directory: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write `model.safetensors` (see `write_file`)."""
    write_file(directory / WEIGHTS, tensors)


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file atomically: a reader sees the old file or the new one.

    The header holds a hash of the tensors, which `read_file` compares. Equal tensors result in equal bytes.
    """
    arrays = {name: stored_as(name, tensors[name]) for name in sorted(tensors)}
    digest = hashlib.sha256()
    for name, (dtype, array) in arrays.items():
        add(digest, name, dtype, array)
    metadata = {"format": "pt", CHECKSUM: digest.hexdigest()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as stream:
            # The widest first, so that every tensor is aligned to its item size.
            order = sorted(arrays, key=lambda name: (-arrays[name][1].itemsize, name))
            stream.write(header_bytes({name: arrays[name] for name in order}, metadata))
            for name in order:
                stream.write(np.ascontiguousarray(arrays[name][1]).reshape(-1).view(np.uint8).data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def stored_as(name: str, tensor: Any) -> tuple[str, np.ndarray]:
    """Return the name of the type of an array in the format, and the array in little-endian order."""
    array = np.asarray(tensor, order="C")
    if array.dtype.name == "bfloat16":
        return "BF16", array.view(np.uint16)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    dtype = next((dtype for dtype, candidate in DTYPES.items() if candidate == array.dtype and dtype != "BF16"), None)
    if dtype is None:
        raise ValueError(f"tensor {name!r} has the type {array.dtype}; expected {', '.join(DTYPES)}")
    return dtype, array
