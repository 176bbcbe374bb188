"""How a parameter of ours is called, and laid out, in a foreign checkpoint."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

LAYOUTS: dict[str, tuple[int, ...] | None] = {
    "same": None,
    "transpose": (1, 0),  # a torch Linear is (out, in), our kernel (in, out)
    "convolution": (2, 3, 1, 0),  # a torch Conv2d is (out, in, height, width), our kernel (height, width, in, out)
}


class Name(NamedTuple):
    """`ours` is a path, `foreign` the tensor's name without the backbone's prefix; `head` marks what follows the
    backbone and carries no prefix in a foreign file; `squeeze` tells of leading axes of size one that we drop."""

    ours: str
    foreign: str
    layout: str = "same"
    head: bool = False
    squeeze: int = 0


def inward(name: Name, tensor: np.ndarray) -> np.ndarray:
    """A foreign tensor in our layout."""
    order = LAYOUTS[name.layout]
    tensor = tensor.reshape(tensor.shape[name.squeeze :]) if name.squeeze else tensor
    return tensor if order is None else np.transpose(tensor, order)


def outward(name: Name, array: np.ndarray) -> np.ndarray:
    """The inverse of `inward`."""
    order = LAYOUTS[name.layout]
    array = array if order is None else np.transpose(array, np.argsort(order))
    return np.ascontiguousarray(array.reshape((1,) * name.squeeze + array.shape))


def dense_names(ours: str, foreign: str, *, bias: bool = True, head: bool = False) -> Iterable[Name]:
    yield Name(f"{ours}/kernel", f"{foreign}.weight", "transpose", head)
    if bias:
        yield Name(f"{ours}/bias", f"{foreign}.bias", "same", head)


def norm_names(ours: str, foreign: str) -> Iterable[Name]:
    yield Name(f"{ours}/scale", f"{foreign}.weight")
    yield Name(f"{ours}/bias", f"{foreign}.bias")
