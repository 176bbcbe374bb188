"""Convolutions with kernels of 3x3 at a stride of 1 by minimal filtering (Winograd, 1980; Lavin and Gray, 2016).

A tile of 4x4 inputs gives 2x2 outputs. Its inputs are added up in 16 ways, and so are the entries of the kernel; the
sums of each pair are multiplied as matrices. These are 16 products with the channels instead of 36. Few bands of images
are taken at a time, so that their sums stay in the caches of the processor.

Shapes: B batch, I height, J width of an image, C channels; outputs have primes; N bands of images, T tiles.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax.numpy as jnp
from jax import lax

from tlx.layers.pieces import mapped, summed
from tlx.types import Array

Padding = tuple[tuple[int, int], tuple[int, int]]
# An array for each of the 4x4 sums.
Grid = list[list[Array]]
# With fewer channels the sums cost more than the products save.
LEAST_CHANNELS = 32
# The sums of the inputs that are taken together have about this number of bytes.
TOGETHER = 24 * 2**20


def is_faster(x: Array, kernel: Array) -> bool:
    """Return whether a convolution of these types and channels is faster in this way than by XLA on a CPU."""
    return x.dtype in (jnp.float32, jnp.float64) and min(kernel.shape[2:]) >= LEAST_CHANNELS


def convolve(padding: Padding, x: Array, kernel: Array) -> Array:
    """Convolve [B, I, J, C] with a kernel [3, 3, C, C'] -> [B, I', J', C']."""
    return multiplied(padding, x, over_grid([[*row] for row in kernel], kernel_sums))


def image_gradient(padding: Padding, x: Array, kernel: Array, slope: Array) -> Array:
    """Return the gradient of the image [B, I, J, C] of a convolution: that of `slope` with the turned kernel."""
    turned = over_grid([[*row[::-1]] for row in kernel[::-1]], kernel_sums)
    (top, bottom), (left, right) = padding
    if max(top, bottom, left, right) <= 2:
        return multiplied(((2 - top, 2 - bottom), (2 - left, 2 - right)), slope, turned, transposed=True)
    whole = multiplied(((2, 2), (2, 2)), slope, turned, transposed=True)
    return whole[:, top : top + x.shape[1], left : left + x.shape[2]]


def multiplied(padding: Padding, x: Array, kernel: Grid, transposed: bool = False) -> Array:
    """Convolve [B, I, J, C] with the sums of a kernel, [C, C'] each, or [C', C] if they are `transposed`."""
    rows, columns = (side + sum(zeros) - 2 for side, zeros in zip(x.shape[1:3], padding, strict=True))
    outputs = kernel[0][0].shape[0 if transposed else 1]
    product = partial(lax.dot_general, dimension_numbers=(((1,), (1 if transposed else 0,)), ((), ())))
    bands, tiles = bands_of(padding, x, (rows, columns), outputs)
    inner = (2 * tiles[0], 2 * tiles[1])

    def part(images: Array) -> Array:
        # The barriers keep XLA from computing a sum again for each row of a product. The sums keep their axes up to
        # there, because XLA computes them twice as fast without the division of a row number.
        sums = pairwise(flat, lax.optimization_barrier(input_sums(images)))
        products = lax.optimization_barrier(pairwise(product, sums, kernel))
        cells = over_grid(pairwise(lambda a: a.reshape(-1, *tiles, outputs), products), output_sums)
        return jnp.stack([jnp.stack(line, 3) for line in cells], 2).reshape(-1, *inner, outputs)

    done = mapped(part, TOGETHER // bytes_of_sums(tiles, bands, outputs), bands)
    return done.reshape(len(x), -1, inner[1], outputs)[:, :rows, :columns]


def kernel_gradient(padding: Padding, x: Array, slope: Array) -> Array:
    """Return the gradient of the kernel [3, 3, C, C'] of a convolution."""
    _, rows, columns, outputs = slope.shape
    bands, tiles = bands_of(padding, x, (rows, columns), outputs)
    height = 2 * tiles[0] * (len(bands) // len(x))
    whole = jnp.pad(slope, ((0, 0), (0, height - rows), (0, 2 * tiles[1] - columns), (0, 0)))

    def part(images: Array, slopes: Array) -> Grid:
        sums = lax.optimization_barrier((input_sums(images), both_axes(slopes, slope_sums)))
        return pairwise(lambda a, b: flat(a).T @ flat(b), *sums)

    most = TOGETHER // bytes_of_sums(tiles, bands, outputs)
    total = summed(part, most, bands, whole.reshape(len(bands), -1, *whole.shape[2:]))
    return jnp.stack([jnp.stack(line) for line in over_grid(total, transposed_kernel_sums)])


def bands_of(padding: Padding, x: Array, outputs: tuple[int, int], channels: int) -> tuple[Array, tuple[int, int]]:
    """Return the inputs of bands of outputs, with their padding, and the number of tiles along both axes of a band.

    Args:
        padding: The zeros before and after each axis.
        x: The images.
        outputs: The height and the width of the outputs.
        channels: The number of channels of the outputs.
    """
    rows, columns = (-(-side // 2) for side in outputs)
    count = min(rows, max(1, bytes_of_sums((rows, columns), x, channels) // TOGETHER))
    height = -(-rows // count)
    count = -(-rows // height)
    edges = [
        (before, 2 * tiles + 2 - side - before, 0)
        for (before, _), tiles, side in zip(padding, (height * count, columns), x.shape[1:3], strict=True)
    ]
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    # Neighbouring bands share two lines of inputs.
    starts = range(0, 2 * height * count, 2 * height)
    bands = jnp.stack([padded[:, start : start + 2 * height + 2] for start in starts], 1) if count > 1 else padded
    return bands.reshape(-1, 2 * height + 2, *padded.shape[2:]), (height, columns)


def bytes_of_sums(tiles: tuple[int, int], x: Array, channels: int) -> int:
    """Return the size of the sums of an image, or of its products with a kernel, whichever is larger."""
    return 16 * tiles[0] * tiles[1] * max(x.shape[-1], channels) * int(x.dtype.itemsize)


def input_sums(x: Array) -> Grid:
    """Return the sums of the inputs of the tiles."""
    return both_axes(x, neighbour_sums)


def both_axes(x: Array, sums: Callable[[Array, Array, int], list[Array]]) -> Grid:
    """Return `sums` of the even and the odd rows, and then of the columns."""
    lines = sums(x[:, 0::2], x[:, 1::2], 1)
    return [sums(line[:, :, 0::2], line[:, :, 1::2], 2) for line in lines]


def flat(x: Array) -> Array:
    """Return an array with one row for each tile [T, C]."""
    return x.reshape(-1, x.shape[-1])


def neighbour_sums(even: Array, odd: Array, axis: int) -> list[Array]:
    """Return the four sums of the lines 2t to 2t + 3 of each tile t along an axis."""
    count = even.shape[axis] - 1
    (first, third), (second, fourth) = (
        [lax.slice_in_dim(lines, start, start + count, axis=axis) for start in (0, 1)] for lines in (even, odd)
    )
    return [first - third, second + third, third - second, second - fourth]


def slope_sums(even: Array, odd: Array, axis: int) -> list[Array]:
    """Return the transpose of `output_sums`; the tiles do not overlap."""
    return [even, even + odd, even - odd, -odd]


def output_sums(a: Sequence[Array]) -> list[Array]:
    """Return the two outputs of four products."""
    return [a[0] + a[1] + a[2], a[1] - a[2] - a[3]]


def kernel_sums(a: Sequence[Array]) -> list[Array]:
    """Return the four sums of three entries of a kernel."""
    return [a[0], (a[0] + a[1] + a[2]) / 2, (a[0] - a[1] + a[2]) / 2, a[2]]


def transposed_kernel_sums(a: Sequence[Array]) -> list[Array]:
    """Return the transpose of `kernel_sums`."""
    return [a[0] + (a[1] + a[2]) / 2, (a[1] - a[2]) / 2, (a[1] + a[2]) / 2 + a[3]]


def over_grid(cells: Sequence[Sequence[Array]], sums: Callable[[Sequence[Array]], list[Array]]) -> Grid:
    """Return a grid of arrays with `sums` taken along its columns and then along its rows."""
    columns = [sums(column) for column in zip(*cells, strict=True)]
    return [sums(row) for row in zip(*columns, strict=True)]


def pairwise(combine: Callable[..., Array], *grids: Grid) -> Grid:
    """Return the grid of combinations of the arrays at the same places."""
    return [[combine(*arrays) for arrays in zip(*rows, strict=True)] for rows in zip(*grids, strict=True)]
