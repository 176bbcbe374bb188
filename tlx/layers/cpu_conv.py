"""Convolutions over images that a CPU computes fast.

On a CPU, XLA computes depthwise convolutions, several kernels at once, and the gradients of kernels slowly. Here a
convolution of single pixels or of separate patches is a product of matrices, a depthwise convolution is a sum of
shifted products, and one of 3x3 pixels and many channels saves products (see `winograd`). Several kernels at once, and
the gradients of other kernels, are products of matrices over the inputs of each output. The shapes decide when the
program is traced. Other convolutions and other devices use the convolution of XLA.
`benchmarks/convolutions.py` measures all of them.

Shapes: B batch, I height, J width of an image, C channels; outputs have primes.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from tlx.layers import winograd
from tlx.layers.basic import as_wide
from tlx.layers.dense import product as matrix_product
from tlx.layers.pieces import summed
from tlx.types import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")
Pair = tuple[int, int]
# The inputs of the outputs that are taken together have at most this number of bytes.
TOGETHER = 6 * 2**20
# Fewer channels are copied together with their neighbours.
FEW = 8


class Window(NamedTuple):
    """How a kernel moves over an image: the `size` of the kernel and the `stride` and `dilation` of each axis, the
    numbers of zeros before and after each axis in `padding`, and the number of `groups` of channels."""

    size: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair = (1, 1)
    groups: int = 1

    @property
    def is_plain(self) -> bool:
        """Return whether there is neither padding, dilation nor a group of channels."""
        return self.padding == ((0, 0), (0, 0)) and self.dilation == (1, 1) and self.groups == 1


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(window: Window, x: Array, kernel: Array) -> Array:
    """Convolve [B, I, J, C] with a kernel [height, width, C / groups, C'] -> [B, I', J', C']."""
    return lax.platform_dependent(x, kernel, cpu=partial(on_cpu, window), default=partial(native, window))


def forward(window: Window, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(window, x, kernel), (x, kernel)


def backward(window: Window, inputs: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    """Return the gradients of the image and of the kernel. A compiler drops one that nothing reads."""
    both = partial(gradients_on_cpu, window), partial(native_gradients, window)
    return lax.platform_dependent(*inputs, slope, cpu=both[0], default=both[1])


convolve.defvjp(forward, backward)


def native(window: Window, x: Array, kernel: Array) -> Array:
    """Return the convolution of XLA."""
    return lax.conv_general_dilated(
        x, kernel, window.stride, window.padding, rhs_dilation=window.dilation, dimension_numbers=LAYOUT,
        feature_group_count=window.groups,
    )  # fmt: skip


def native_gradients(window: Window, x: Array, kernel: Array, slope: Array) -> tuple[Array, Array]:
    """Return the gradients of the convolution of XLA."""
    return jax.vjp(partial(native, window), x, kernel)[1](slope)


def on_cpu(window: Window, x: Array, kernel: Array) -> Array:
    """Return the convolution by the way that is fast for its shapes."""
    if is_depthwise(window, x, kernel):
        return depthwise(window, x, kernel)
    if is_patches(window):
        patches = patches_of(window, x)
        return matrix_product(patches, kernel.reshape(-1, kernel.shape[-1])).astype(x.dtype)
    return dense(window)(x, kernel)


def gradients_on_cpu(window: Window, x: Array, kernel: Array, slope: Array) -> tuple[Array, Array]:
    """Return the gradients of the image and of the kernel by the way that is fast for their shapes."""
    if is_depthwise(window, x, kernel):
        return depthwise_image_gradient(window, x, kernel, slope), depthwise_kernel_gradient(window, x, kernel, slope)
    if window.groups > 1:
        return native_gradients(window, x, kernel, slope)
    if is_patches(window):
        matrix = kernel.reshape(-1, kernel.shape[-1])
        patches = patches_of(window, x)
        # A sum over one axis, because XLA transposes an input for a sum over several.
        by_kernel = patches.reshape(-1, patches.shape[-1]).T @ slope.reshape(-1, slope.shape[-1])
        return image_of(window, matrix_product(slope, matrix.T), x.shape), by_kernel.reshape(kernel.shape)
    return dense_gradients(window)(x, kernel, slope)


def is_depthwise(window: Window, x: Array, kernel: Array) -> bool:
    """Return whether every output channel has one input channel, and the reverse."""
    return 1 < window.groups == x.shape[-1] == kernel.shape[-1]


def is_patches(window: Window) -> bool:
    """Return whether no input has more than one product with each output channel."""
    return window.is_plain and all(size <= stride for size, stride in zip(window.size, window.stride, strict=True))


def is_winograd(window: Window, x: Array, kernel: Array) -> bool:
    """Return whether the convolution is computed tile by tile (see `winograd`)."""
    plain = window.stride == window.dilation == (1, 1) and window.groups == 1
    return plain and window.size == (3, 3) and winograd.is_faster(x, kernel)


def patches_of(window: Window, x: Array) -> Array:
    """Return the inputs of every output [B, I', J', height * width * C], for separate patches."""
    rows, columns = outputs_of(window, x.shape)
    (height, width), (down, right) = window.size, window.stride
    if (height, width) == (1, 1):
        return x[:, : rows * down : down, : columns * right : right]
    room = (0, rows * down - x.shape[1], 0), (0, columns * right - x.shape[2], 0)
    whole = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *room, (0, 0, 0)))
    cells = whole.reshape(x.shape[0], rows, down, columns, right, x.shape[3])[:, :, :height, :, :width]
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], rows, columns, -1)


def image_of(window: Window, patches: Array, shape: tuple[int, ...]) -> Array:
    """Return the image [B, I, J, C] of separate patches, the transpose of `patches_of`; zeros lie between patches."""
    (height, width), (down, right) = window.size, window.stride
    batch, rows, columns = patches.shape[:3]
    cells = patches.reshape(batch, rows, columns, height, width, shape[3]).transpose(0, 1, 3, 2, 4, 5)
    gaps = (0, down - height, 0), (0, right - width, 0)
    zero = jnp.zeros((), patches.dtype)
    cells = lax.pad(cells, zero, ((0, 0, 0), (0, 0, 0), gaps[0], (0, 0, 0), gaps[1], (0, 0, 0)))
    whole = cells.reshape(batch, rows * down, columns * right, shape[3])
    rest = (0, shape[1] - rows * down, 0), (0, shape[2] - columns * right, 0)
    return lax.pad(whole, zero, ((0, 0, 0), *rest, (0, 0, 0)))


def outputs_of(window: Window, shape: tuple[int, ...]) -> Pair:
    """Return the height and the width of the outputs for an image [B, I, J, C]."""
    rows, columns = (
        (side + sum(zeros) - dilation * (size - 1) - 1) // stride + 1
        for side, zeros, dilation, size, stride in zip(
            shape[1:3], window.padding, window.dilation, window.size, window.stride, strict=True
        )
    )
    return rows, columns


def shifted(window: Window, x: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """Yield for each place of the kernel the inputs that it multiplies [B, I', J', C]."""
    padded = with_zeros(window, x)
    lengths = [(count - 1) * stride + 1 for count, stride in zip(shape[1:3], window.stride, strict=True)]
    for row, column in product(*map(range, window.size)):
        top, left = row * window.dilation[0], column * window.dilation[1]
        ends = (x.shape[0], top + lengths[0], left + lengths[1], x.shape[3])
        yield lax.slice(padded, (0, top, left, 0), ends, (1, *window.stride, 1))


def with_zeros(window: Window, x: Array) -> Array:
    """Return the image with its padding."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*zeros, 0) for zeros in window.padding), (0, 0, 0)))


def depthwise(window: Window, x: Array, kernel: Array) -> Array:
    """Return a depthwise convolution: the sum of shifted images, each times a weight for each channel."""
    shape = (x.shape[0], *outputs_of(window, x.shape), x.shape[3])
    weights = as_wide(kernel).reshape(-1, x.shape[3])
    parts = shifted(window, as_wide(x), shape)
    return sum(part * weight for part, weight in zip(parts, weights, strict=True)).astype(x.dtype)


def depthwise_kernel_gradient(window: Window, x: Array, kernel: Array, slope: Array) -> Array:
    """Return the gradient of a depthwise kernel: a sum of products for each of its places.

    The rows of the outputs are taken one after another. A row is small enough for the caches of the processor, and all
    places of the kernel read it there.
    """
    padded, wide = with_zeros(window, as_wide(x)), as_wide(slope)
    strip = Window(window.size, window.stride, ((0, 0), (0, 0)), window.dilation)
    height = window.dilation[0] * (window.size[0] - 1) + 1

    def add(row: Array, sums: Array) -> Array:
        inputs = lax.dynamic_slice_in_dim(padded, row * window.stride[0], height, 1)
        outputs = lax.dynamic_slice_in_dim(wide, row, 1, 1)
        return sums + jnp.stack([(part * outputs).sum((0, 1, 2)) for part in shifted(strip, inputs, outputs.shape)])

    start = jnp.zeros((window.size[0] * window.size[1], x.shape[3]), wide.dtype)
    return lax.fori_loop(0, slope.shape[1], add, start).reshape(kernel.shape).astype(kernel.dtype)


def depthwise_image_gradient(window: Window, x: Array, kernel: Array, slope: Array) -> Array:
    """Return the gradient of the image of a depthwise convolution."""
    wide, weights = as_wide(slope), as_wide(kernel)[:, :, 0]
    return image_from_phases(window, x, lambda place, *where: moved(wide, *where) * weights[place])


def image_from_phases(window: Window, x: Array, of_place: Callable[[Pair, Pair, list[int]], Array]) -> Array:
    """Return the gradient of an image `x` as a sum over the places of a window.

    The rows of the image are taken in as many phases as the stride is long: all rows of a phase are read by the same
    rows of the window. The same holds for the columns.

    Args:
        window: How the window moves.
        x: The image [B, I, J, C].
        of_place: Returns what a place of the window adds to a phase, from the place, the first row and column of the
            outputs, and the number of rows and columns (see `moved`).
    """
    counts = [-(-side // stride) for side, stride in zip(x.shape[1:3], window.stride, strict=True)]
    zero = as_wide(jnp.zeros((x.shape[0], *counts, x.shape[3]), x.dtype))
    phases = [
        sum((of_place(place, offsets, counts) for place, offsets in places(window, phase)), zero)
        for phase in product(range(window.stride[0]), range(window.stride[1]))
    ]
    down, right = window.stride
    cells = jnp.stack(phases).reshape(down, right, *zero.shape).transpose(2, 3, 0, 4, 1, 5)
    whole = cells.reshape(x.shape[0], counts[0] * down, counts[1] * right, x.shape[3])
    return whole[:, : x.shape[1], : x.shape[2]].astype(x.dtype)


def places(window: Window, phase: Pair) -> Iterator[tuple[Pair, Pair]]:
    """Yield the places of the kernel that multiply the inputs of a phase, with the offset of their outputs."""
    axes = []
    for axis in range(2):
        ahead = [
            (place, phase[axis] + window.padding[axis][0] - place * window.dilation[axis])
            for place in range(window.size[axis])
        ]
        stride = window.stride[axis]
        axes.append([(place, offset // stride) for place, offset in ahead if offset % stride == 0])
    for (row, down), (column, right) in product(*axes):
        yield (row, column), (down, right)


def moved(x: Array, offsets: Pair, counts: list[int]) -> Array:
    """Return `x` from the row and the column `offsets` on, in a number of rows and columns; zeros outside."""
    edges = [
        (-offset, offset + count - side, 0) for side, offset, count in zip(x.shape[1:3], offsets, counts, strict=True)
    ]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))


@cache
def dense(window: Window) -> Callable[[Array, Array], Array]:
    """Return the convolution of XLA for one kernel; for several kernels at once, a product of matrices.

    XLA would turn several kernels into groups of channels, which are slow on a CPU.
    """
    if window.groups > 1:
        return partial(native, window)

    @custom_vmap
    def one(x: Array, kernel: Array) -> Array:
        if is_winograd(window, x, kernel):
            return winograd.convolve(window.padding, x, kernel)
        return native(window, x, kernel)

    @one.def_vmap
    def several(count: int, batched: tuple[bool, bool], x: Array, kernel: Array) -> tuple[Array, bool]:
        if batched[1]:
            return jax.vmap(partial(by_columns, window), (0 if batched[0] else None, 0))(x, kernel), True
        together = one(x.reshape(-1, *x.shape[2:]), kernel)
        return together.reshape(count, -1, *together.shape[1:]), True

    return one


def by_columns(window: Window, x: Array, kernel: Array) -> Array:
    """Return the convolution as one product of matrices: the inputs of each output times the kernel."""
    columns = columns_of(window, x, outputs_of(window, x.shape))
    return matrix_product(columns, kernel.reshape(-1, kernel.shape[-1]))


def kernel_gradient_by_columns(window: Window, x: Array, slope: Array) -> Array:
    """Return the gradient of a kernel as products of matrices, for a few images at a time."""
    (_, rows, columns, outputs), (height, width) = slope.shape, window.size
    inputs = height * width * x.shape[3]

    def part(images: Array, slopes: Array) -> Array:
        read = lax.optimization_barrier(columns_of(window, images, (rows, columns)))
        # One merged axis, because XLA transposes an input for a sum over several. bfloat16 is added up in float32.
        pair = read.reshape(-1, inputs), slopes.reshape(-1, outputs)
        return lax.dot_general(*pair, (((0,), (0,)), ((), ())), preferred_element_type=as_wide(x).dtype)

    most = TOGETHER // (rows * columns * inputs * x.dtype.itemsize)
    total = summed(part, most, x, slope)
    return total.reshape(height, width, x.shape[3], outputs).astype(x.dtype)


def columns_of(window: Window, x: Array, outputs: Pair) -> Array:
    """Return the inputs of every output [B, I', J', height * width * C]."""
    if x.shape[3] >= FEW:
        return jnp.concatenate([*shifted(window, x, (len(x), *outputs, x.shape[3]))], -1)
    # Short runs of channels are slow to copy, so the columns of the kernel come first, and then its rows.
    across, down = along(window, 1), along(window, 0)
    wide = jnp.concatenate([*shifted(across, x, (len(x), x.shape[1], outputs[1], x.shape[3]))], -1)
    wide = lax.optimization_barrier(wide)
    return jnp.concatenate([*shifted(down, wide, (len(x), *outputs, wide.shape[3]))], -1)


def along(window: Window, axis: int) -> Window:
    """Return the window that moves like `window` along one axis, and is one input high or wide along the other."""

    def other(values: tuple[Any, Any], still: Any) -> tuple[Any, Any]:
        return (values[0], still) if axis == 0 else (still, values[1])

    return Window(
        other(window.size, 1), other(window.stride, 1), other(window.padding, (0, 0)), other(window.dilation, 1)
    )


@cache
def dense_gradients(window: Window) -> Callable[[Array, Array, Array], tuple[Array, Array]]:
    """Return the gradients of the convolution of XLA for one kernel; for several runs at once, products of matrices."""

    @custom_vmap
    def one(x: Array, kernel: Array, slope: Array) -> tuple[Array, Array]:
        if is_winograd(window, x, kernel):
            return (
                winograd.image_gradient(window.padding, x, kernel, slope),
                winograd.kernel_gradient(window.padding, x, slope),
            )
        by_image = jax.vjp(lambda x: native(window, x, kernel), x)[1](slope)[0]
        return by_image, kernel_gradient_by_columns(window, x, slope)

    @one.def_vmap
    def several(
        count: int, batched: tuple[bool, bool, bool], x: Array, kernel: Array, slope: Array
    ) -> tuple[tuple[Array, Array], tuple[bool, bool]]:
        def by_matrices(x: Array, kernel: Array, slope: Array) -> tuple[Array, Array]:
            return jax.vjp(partial(by_columns, window), x, kernel)[1](slope)

        axes = tuple(0 if has_runs else None for has_runs in batched)
        return jax.vmap(by_matrices, axes)(x, kernel, slope), (True, True)

    return one
