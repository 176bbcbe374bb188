"""Tensors in files: safetensors, whole or sharded, read without running anything that a checkpoint brings."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tlx.documents import check, read_json
from tlx.documents.models import ANY, form
from tlx.documents.reading import FETCH

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` as a dict; FileNotFoundError or ValueError say what is wrong with it."""
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no {CONFIG}; a Hugging Face directory has one")
    document = read_json(path, ANY)
    return check(document, form(document["model_type"]), path, FETCH)


def tensor_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory. Raises where there are only pickles, or nothing."""
    if (directory / INDEX).is_file():
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        files = [directory / name for name in sorted(set(index["weight_map"].values()))]
        if missing := [path.name for path in files if not path.is_file()]:
            raise FileNotFoundError(f"{directory}: {INDEX} names {', '.join(missing)}, which is not there")
        return files
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
    if pickles:
        raise ValueError(
            f"{directory} holds {pickles[0]}, a pickle, which can run code when it is opened; tlx reads safetensors "
            "only. Where you trust the file, convert it once: transformers' "
            f"AutoModel.from_pretrained({str(directory)!r}).save_pretrained(NEW_DIRECTORY)"
        )
    raise FileNotFoundError(f"{directory} holds no {WEIGHTS}")


def read_tensors(directory: Path) -> dict[str, np.ndarray]:
    """Every tensor by its foreign name, floating ones as float32."""
    tensors: dict[str, np.ndarray] = {}
    for path in tensor_files(directory):
        tensors |= read_file(path)
    return tensors


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of one safetensors file; ValueError for one that is cut short or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    check_length(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}; fetch it again") from None
    return {
        name: tensor if np.issubdtype(tensor.dtype, np.integer) or tensor.dtype == bool else tensor.astype(np.float32)
        for name, tensor in tensors.items()
    }


def check_length(path: Path) -> None:
    """ValueError where a file is shorter than its own header says."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(length) if length < size else b""
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged: its header cannot be read ({size} bytes); fetch it again") from None
    wanted = 8 + length + max(ends, default=0)
    if size != wanted:
        raise ValueError(f"{path} is cut short: it has {size} bytes, its header describes {wanted}; fetch it again")


def write_tensors(directory: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes `model.safetensors`, whole (see `write_file`)."""
    write_file(directory / WEIGHTS, tensors)


def write_file(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file so that a reader sees the old file or the new one, never a half."""
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    partial = path.with_name(f".{path.name}.partial")
    try:
        save_file(arrays, partial, metadata={"format": "pt"})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
