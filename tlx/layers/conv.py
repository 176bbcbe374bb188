"""Convolutions over images and sequences, channels last.

Shapes: B batch, I height, J width of an image, or I steps of a sequence, C channels, R rank.

A convolution reads the adapters `lora` and `ia3` of its sub-dict, as `layers.dense` does. `lora/a` has the shape of the
kernel with R outputs. With groups of channels, `a @ b` is added to the kernel, seen as a matrix with a row for each
place and each input channel of a group.
"""

from collections.abc import Sequence

from jax import lax

from tlx.layers.cpu_conv import Window, convolve
from tlx.layers.dense import STILL, column_norms
from tlx.layers.noise import dropout
from tlx.trees import Tree
from tlx.types import Array, Context

Padding = str | int | Sequence[int | tuple[int, int]]


def each_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Return one number for each axis that a kernel slides over."""
    return (value,) * axes if isinstance(value, int) else tuple(value)


def padding_of(padding: Padding, axes: int) -> str | list[tuple[int, int]]:
    """Return the padding as `lax` takes it: a name, or the number of zeros before and after the input on each axis."""
    if isinstance(padding, str):
        return padding
    sides = [padding] * axes if isinstance(padding, int) else list(padding)
    return [(side, side) if isinstance(side, int) else (side[0], side[1]) for side in sides]


def conv(
    params: Tree,
    x: Array,
    context: Context = STILL,
    salt: int = 0,
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Array:
    """Convolve over one or two axes: [B, I, J, C] -> [B, I', J', C'], or [B, I, C] -> [B, I', C'].

    Args:
        params: `kernel` [height, width, C / groups, C'], or [width, C / groups, C'], optionally `bias` [C'], and
            adapters.
        x: The input.
        context: The context of the dropout before LoRA.
        salt: The number of this layer's noise, different for each layer of a stage.
        stride: The step of the kernel, one number or one for each axis.
        padding: "SAME" (as many outputs as inputs at a stride of 1; JAX puts the odd zero last), "VALID" (none), or the
            number of zeros on both sides: one number, one for each axis, or (before, after) for each axis. torch's
            `padding=p` is `p` here at any stride, where "SAME" is not.
        groups: The number of groups of channels that are convolved separately; C for a depthwise convolution.
        dilation: The distance between inputs that neighbouring places of the kernel read.
    """
    kernel = params["kernel"]
    window = window_of(x.shape, kernel.shape, stride, padding, dilation, groups)

    def convolved(x: Array, kernel: Array) -> Array:
        kernel = kernel.astype(x.dtype)
        # A sequence is an image of height 1.
        return convolve(window, x, kernel) if x.ndim == 4 else convolve(window, x[:, None], kernel[None])[:, 0]

    ia3 = params.get("ia3", {})
    if "input" in ia3:
        x = x * ia3["input"].astype(x.dtype)
    y = convolved(x, kernel)
    if "lora" in params:
        lora = params["lora"]
        dropped = dropout(x, lax.stop_gradient(lora["dropout"]), context, salt) if "dropout" in lora else x
        a, b, scale = (lora[name].astype(x.dtype) for name in ("a", "b", "scale"))
        # Within groups the inputs of a row of `b` differ from group to group; the product is as small as the kernel.
        y = y + (convolved(dropped, a) @ b * scale if groups == 1 else convolved(dropped, a @ b * scale))
        if "magnitude" in lora:
            y = y * (lora["magnitude"] / column_norms(lora, kernel)).astype(x.dtype)
    y = y + params["bias"].astype(x.dtype) if "bias" in params else y
    return y * ia3["output"].astype(x.dtype) if "output" in ia3 else y


def window_of(
    shape: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: int | Sequence[int],
    padding: Padding,
    dilation: int | Sequence[int],
    groups: int,
) -> Window:
    """Return how a kernel of shape `kernel` moves over an input of shape `shape`; the arguments are those of `conv`."""
    axes = len(kernel) - 2
    sizes, strides, distances = kernel[:axes], each_axis(stride, axes), each_axis(dilation, axes)
    zeros = padding_of(padding, axes)
    if isinstance(zeros, str):
        reach = [(size - 1) * distance + 1 for size, distance in zip(sizes, distances, strict=True)]
        zeros = lax.padtype_to_pads(shape[1:-1], reach, strides, zeros)
    first: tuple[int, ...] = (1,) * (2 - axes)
    size, step, distance = ((*first, *values) for values in (sizes, strides, distances))
    sides = [(0, 0)] * (2 - axes) + [(before, after) for before, after in zeros]
    return Window((size[0], size[1]), (step[0], step[1]), (sides[0], sides[1]), (distance[0], distance[1]), groups)
