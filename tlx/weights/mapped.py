"""Tensors that stay in their file until a part of them is read, for models that no host has room for.

A file is mapped into memory once. The pages that were read count as memory of the process until `release` gives them
back to the system, which keeps the file.
"""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
from jax import numpy as jnp

from tlx.weights.header import DTYPES, Extent

HALVES = {"BF16": np.dtype(jnp.bfloat16), "F16": np.dtype("<f2")}


def map_file(path: Path) -> np.memmap:
    """Return the bytes of a file that is not empty, without reading them."""
    return np.memmap(path, np.uint8, "r")


def stored_in(content: np.memmap, extent: Extent) -> np.ndarray:
    """Return a tensor of a mapped file in its stored type (bfloat16 as its 16 bits), without reading it."""
    return content[extent.start : extent.stop].view(DTYPES[extent.dtype]).reshape(extent.shape)


def is_half(array: Any) -> bool:
    """Return whether the numbers of an array are floats of 16 bits."""
    return array.dtype.itemsize == 2 and bool(jnp.issubdtype(array.dtype, jnp.floating))


def widened(array: Any) -> Any:
    """Return floats of 16 bits as float32, and other arrays unchanged."""
    return array.astype(np.float32) if is_half(array) else array


def release(array: Any) -> None:
    """Give the pages of a mapped array back to the system, where it has such a call; reading them again is allowed."""
    while isinstance(array, np.ndarray):
        content = getattr(array, "_mmap", None)
        if isinstance(content, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            content.madvise(mmap.MADV_DONTNEED)
            return
        array = array.base
