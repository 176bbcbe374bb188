"""Names and shapes of the tensors of single layers of torch. See `tlx.weights.expected`."""

from collections.abc import Iterator

Shape = tuple[int, ...]
Shapes = Iterator[tuple[str, Shape]]


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    """Yield the tensors of a torch `Linear`."""
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def norm(name: str, width: int) -> Shapes:
    """Yield the tensors of a torch `LayerNorm` or `GroupNorm`."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def convolution(name: str, inputs: int, outputs: int, size: int, bias: bool = True) -> Shapes:
    """Yield the tensors of a torch `Conv2d`; `inputs` is the number of channels of a group."""
    yield f"{name}.weight", (outputs, inputs, size, size)
    if bias:
        yield f"{name}.bias", (outputs,)
