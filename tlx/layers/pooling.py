"""Pooling over images and sequences, channels last.

On a CPU, XLA computes the gradient of a maximum slowly. Here the place of the maximum of each window is found first;
then every input adds up the gradients of the windows that chose it.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.layers.basic import as_wide
from tlx.layers.conv import Padding, padding_of
from tlx.layers.cpu_conv import Window, image_from_phases, moved, shifted
from tlx.types import Array

# The size and the step of a window along every axis, the batch and the channels too, and the padding of every axis.
Windows = tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]


def windows_of(x: Array, size: int, stride: int | None, padding: Padding) -> Windows:
    """Return how windows move over `x`; its first axis is the batch, its last the channels."""
    axes, step = x.ndim - 2, size if stride is None else stride
    inner = padding_of(padding, axes)
    window, strides = (1, *[size] * axes, 1), (1, *[step] * axes, 1)
    pads = lax.padtype_to_pads(x.shape, window, strides, inner) if isinstance(inner, str) else [(0, 0), *inner, (0, 0)]
    return window, strides, tuple((before, after) for before, after in pads)


def max_pool(x: Array, size: int = 2, *, stride: int | None = None, padding: Padding = "VALID") -> Array:
    """Return the maximum over windows along the inner axes of [B, ..., C].

    `size` is the side of a window. The windows do not overlap by default. `padding` is as in `conv`; padding is never
    the maximum. The gradient belongs to the first of several equal maxima, as in torch.
    """
    return largest(windows_of(x, size, stride, padding), x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def largest(windows: Windows, x: Array) -> Array:
    """Return the maximum of each window."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *windows)


def forward(windows: Windows, x: Array) -> tuple[Array, tuple[Array, Array]]:
    y = largest(windows, x)
    return y, (x, y)


def backward(windows: Windows, arrays: tuple[Array, Array], slope: Array) -> tuple[Array]:
    """Return the gradient of the inputs."""

    def native(x: Array, y: Array, slope: Array) -> Array:
        return jax.vjp(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, *windows), x)[1](slope)[0]

    ours = partial(gradient_on_cpu, windows) if arrays[0].ndim == 4 else native
    return (lax.platform_dependent(*arrays, slope, cpu=ours, default=native),)


largest.defvjp(forward, backward)


def gradient_on_cpu(windows: Windows, x: Array, y: Array, slope: Array) -> Array:
    """Return the gradient of images [B, I, J, C] whose windows have the maxima `y`."""
    (_, *size, _), (_, *stride, _), (_, *padding, _) = windows
    window = Window((size[0], size[1]), (stride[0], stride[1]), (padding[0], padding[1]))
    low = jnp.asarray(-jnp.inf, x.dtype)
    padded = lax.pad(x, low, ((0, 0, 0), *((*zeros, 0) for zeros in padding), (0, 0, 0)))
    # Small numbers make the pass over the windows three times as fast.
    kind = jnp.int8 if math.prod(size) <= np.iinfo(np.int8).max else jnp.int32
    chosen = jnp.full(y.shape, -1, kind)
    places = list(enumerate(shifted(window._replace(padding=((0, 0), (0, 0))), padded, y.shape)))
    for number, inputs in reversed(places):
        chosen = jnp.where(inputs == y, jnp.asarray(number, kind), chosen)
    chosen = lax.optimization_barrier(chosen)

    def of_place(place: tuple[int, int], offsets: tuple[int, int], counts: list[int]) -> Array:
        number = place[0] * size[1] + place[1]
        wide = as_wide(moved(slope, offsets, counts))
        return jnp.where(moved(chosen, offsets, counts) == number, wide, 0)

    return image_from_phases(window, x, of_place)


def average_pool(x: Array, size: int = 2, *, stride: int | None = None, padding: Padding = "VALID") -> Array:
    """Return the mean over windows, which are as in `max_pool`; padded zeros count, as in torch."""
    windows = windows_of(x, size, stride, padding)
    wide = as_wide(x)
    total = lax.reduce_window(wide, np.zeros((), wide.dtype), lax.add, *windows)
    return (total / math.prod(windows[0])).astype(x.dtype)
