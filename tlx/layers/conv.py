"""Convolutions and pooling over images and sequences, channels last.

Shapes: B batch, I height, J width of an image, or I steps of a sequence, C channels.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.layers.basic import as_wide
from tlx.trees import Tree
from tlx.types import Array

# The letters of the axes, by the number of axes that a kernel slides over.
LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}
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
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Array:
    """Convolve over one or two axes: [B, I, J, C] -> [B, I', J', C'], or [B, I, C] -> [B, I', C'].

    Args:
        params: `kernel` [height, width, C / groups, C'], or [width, C / groups, C'], and optionally `bias` [C'].
        x: The input.
        stride: The step of the kernel, one number or one for each axis.
        padding: "SAME" (as many outputs as inputs at a stride of 1; JAX puts the odd zero last), "VALID" (none), or the
            number of zeros on both sides: one number, one for each axis, or (before, after) for each axis. torch's
            `padding=p` is `p` here at any stride, where "SAME" is not.
        groups: The number of groups of channels that are convolved separately; C for a depthwise convolution.
        dilation: The distance between inputs that neighbouring places of the kernel read.
    """
    kernel = params["kernel"]
    axes = kernel.ndim - 2
    y = lax.conv_general_dilated(
        x,
        kernel.astype(x.dtype),
        each_axis(stride, axes),
        padding_of(padding, axes),
        rhs_dilation=each_axis(dilation, axes),
        dimension_numbers=LAYOUTS[axes],
        feature_group_count=groups,
    )
    return y + params["bias"].astype(x.dtype) if "bias" in params else y


def windows(
    x: Array, size: int, stride: int | None, padding: Padding
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    """Return window, step and zeros along every axis of `x`; its first axis is the batch, its last the channels."""
    axes, step = x.ndim - 2, size if stride is None else stride
    inner = padding_of(padding, axes)
    window, strides = (1, *[size] * axes, 1), (1, *[step] * axes, 1)
    if isinstance(inner, str):
        return window, strides, lax.padtype_to_pads(x.shape, window, strides, inner)
    return window, strides, [(0, 0), *inner, (0, 0)]


def max_pool(x: Array, size: int = 2, *, stride: int | None = None, padding: Padding = "VALID") -> Array:
    """Return the maximum over windows along the inner axes of [B, ..., C].

    `size` is the side of a window. The windows do not overlap by default. `padding` is as in `conv`; padding is never
    the maximum.
    """
    window, strides, pads = windows(x, size, stride, padding)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, pads)


def average_pool(x: Array, size: int = 2, *, stride: int | None = None, padding: Padding = "VALID") -> Array:
    """Return the mean over windows, which are as in `max_pool`; padded zeros count, as in torch."""
    window, strides, pads = windows(x, size, stride, padding)
    wide = as_wide(x)
    total = lax.reduce_window(wide, np.zeros((), wide.dtype), lax.add, window, strides, pads)
    return (total / math.prod(window)).astype(x.dtype)
