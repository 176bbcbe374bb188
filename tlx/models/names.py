"""Names and layouts of our parameters in foreign checkpoints."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

# Before the path of a statistic, which no parameter has.
STATS = "stats:"
LAYOUTS: dict[str, tuple[int, ...] | None] = {
    "same": None,
    "transpose": (1, 0),  # a torch Linear is (out, in), our kernel (in, out)
    "Conv1D": None,  # a dense layer of GPT-2 in `transformers` is (in, out), as our kernel
    "convolution": (2, 3, 1, 0),  # a torch Conv2d is (out, in, height, width), our kernel (height, width, in, out)
    "grouped": (2, 3, 1, 0),  # the same with groups of channels: both have the inputs of one group
    "line": (2, 1, 0),  # a torch Conv1d is (out, in, length), our kernel (length, in, out)
    "pointwise": (2, 3, 1, 0),  # a torch Conv2d of one pixel, our kernel (in, out) of a dense layer
}


class Name(NamedTuple):
    """The name and layout of one parameter in a foreign checkpoint.

    Attributes:
        ours: Our path.
        foreign: The name of the tensor, without the prefix of the backbone.
        layout: The layout of the tensor, one of `LAYOUTS`.
        head: Whether the tensor belongs to the head, whose names have no prefix in a foreign file.
        squeeze: The number of leading axes of size one that we drop.
        fold: The sizes of the trailing axes that we fold into the axis before them.
        part: The number of our part of a tensor that holds several parameters, and the number of its parts.
        axis: The axis of the tensor that `part` divides: the first one, or the last one (-1).
        others: Further names of the tensor in other files, which are read where a file lacks the first one.
        absent: The number that fills the parameter where a file has no such tensor; None if every file has it.
    """

    ours: str
    foreign: str
    layout: str = "same"
    head: bool = False
    squeeze: int = 0
    fold: tuple[int, ...] = ()
    part: tuple[int, int] = (0, 1)
    others: tuple[str, ...] = ()
    axis: int = 0
    absent: float | None = None


def inward(name: Name, tensor: np.ndarray) -> np.ndarray:
    """Return a foreign tensor, or our part of it, in our layout."""
    order = LAYOUTS[name.layout]
    number, parts = name.part
    if parts > 1:
        size = tensor.shape[name.axis] // parts
        piece = slice(number * size, (number + 1) * size)
        tensor = tensor[..., piece] if name.axis == -1 else tensor[piece]
    tensor = tensor.reshape(*tensor.shape[: -len(name.fold) - 1], -1) if name.fold else tensor
    tensor = tensor.reshape(tensor.shape[name.squeeze :]) if name.squeeze else tensor
    tensor = tensor if order is None else np.transpose(tensor, order)
    return tensor[0, 0] if name.layout == "pointwise" else tensor


def outward(name: Name, array: np.ndarray) -> np.ndarray:
    """Return our array in the foreign layout: the inverse of `inward`, without the other parts of the tensor."""
    order = LAYOUTS[name.layout]
    array = array[None, None] if name.layout == "pointwise" else array
    array = array if order is None else np.transpose(array, np.argsort(order))
    array = array.reshape(*array.shape[:-1], -1, *name.fold) if name.fold else array
    return np.ascontiguousarray(array.reshape((1,) * name.squeeze + array.shape))


def tensors_of(names: Iterable[Name], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the foreign tensors of our `arrays` by name; the parts of a tensor are joined."""
    parts: dict[tuple[str, int], dict[int, np.ndarray]] = {}
    for name in names:
        parts.setdefault((name.foreign, name.axis), {})[name.part[0]] = outward(name, arrays[name.ours])
    return {
        foreign: np.concatenate([by_number[n] for n in sorted(by_number)], axis) if len(by_number) > 1 else by_number[0]
        for (foreign, axis), by_number in parts.items()
    }


def dense_names(ours: str, foreign: str, *, bias: bool = True, head: bool = False) -> Iterable[Name]:
    yield Name(f"{ours}/kernel", f"{foreign}.weight", "transpose", head)
    if bias:
        yield Name(f"{ours}/bias", f"{foreign}.bias", "same", head)


def conv_names(ours: str, foreign: str, *, bias: bool = True) -> Iterable[Name]:
    yield Name(f"{ours}/kernel", f"{foreign}.weight", "convolution")
    if bias:
        yield Name(f"{ours}/bias", f"{foreign}.bias")


def norm_names(ours: str, foreign: str, *, bias: bool = True) -> Iterable[Name]:
    yield Name(f"{ours}/scale", f"{foreign}.weight")
    if bias:
        yield Name(f"{ours}/bias", f"{foreign}.bias")


def statistics_names(ours: str, foreign: str) -> Iterable[Name]:
    """Yield the names of a batch norm: its parameters, and its running statistics."""
    yield from norm_names(ours, foreign)
    yield Name(f"{STATS}{ours}/mean", f"{foreign}.running_mean")
    yield Name(f"{STATS}{ours}/variance", f"{foreign}.running_var")
