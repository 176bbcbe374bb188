"""Positions of patches: embeddings resized to another grid, and rotary angles.

Shapes: I height, J width of a grid, W width, F rotated part of a head.
"""

import jax.numpy as jnp
import numpy as np

from tlx.layers import Angles

Grid = tuple[int, int]


def resize_grid(array: np.ndarray, old: Grid, new: Grid, *, smooth: bool = False) -> np.ndarray:
    """Resize the embeddings of a grid bicubically, as `interpolate` of torch: [I * J, W] -> float64[I' * J', W].

    Args:
        array: The embeddings, row by row.
        old: The grid of `array`.
        new: The grid of the result.
        smooth: Whether a smaller grid is smoothed (`antialias`).
    """
    matrix = smooth_bicubic if smooth else bicubic
    rows, columns = (matrix(before, after) for before, after in zip(old, new, strict=True))
    places = np.asarray(array, np.float64).reshape(*old, -1)
    return np.einsum("iI,jJ,IJW->ijW", rows, columns, places).reshape(-1, array.shape[-1])


def bicubic(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """Return the matrix [new, old] that resamples a line of `old` points at `new` points (Keys, 1981).

    Edges are repeated, the points are the centres of pixels, and nothing is smoothed.
    """
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first_neighbour = np.floor(centre).astype(int)
    matrix = np.zeros((new, old))
    for step in (-1, 0, 1, 2):
        distance = np.abs(centre - first_neighbour - step)
        matrix[np.arange(new), np.clip(first_neighbour + step, 0, old - 1)] += kernel(distance, a)
    return matrix


def smooth_bicubic(old: int, new: int, a: float = -0.5) -> np.ndarray:
    """Return the matrix [new, old] of bicubic resampling whose kernel covers 4 points of the coarser line.

    The weights outside the line are dropped, and the others are scaled to the sum 1, as in Pillow and torch.
    """
    width = max(old / new, 1.0)
    centre = (np.arange(new) + 0.5) * old / new
    start = np.maximum(np.trunc(centre - 2 * width + 0.5), 0)
    stop = np.minimum(np.trunc(centre + 2 * width + 0.5), old)
    points = np.arange(old)
    weights = kernel(np.abs(points - centre[:, None] + 0.5) / width, a)
    weights = np.where((points >= start[:, None]) & (points < stop[:, None]), weights, 0)
    return weights / weights.sum(-1, keepdims=True)


def kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """Return the cubic convolution kernel at a distance of 0 or more (Keys, 1981, equation 15)."""
    x = distance
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def patch_angles(grid: Grid, first: int, size: int, base: float) -> Angles:
    """Return the rotary angles of the tokens of an image (DINOv3, Simeoni et al., 2025).

    The place of a patch is its centre, from -1 to 1 along each side. One half of the pairs of a head turns with its
    row, the other with its column.

    Args:
        grid: The number of patches along the height and the width.
        first: The number of tokens before those of the patches, which are not rotated.
        size: The dimensions of a head, a multiple of 4.
        base: The base of the frequencies base ** (-4 n / size).

    Returns:
        Cosine and sine, float32[first + I * J, F].
    """
    frequencies = 1 / np.float32(base) ** np.arange(0, 1, 4 / size, dtype=np.float32)
    rows, columns = (2 * (np.arange(count, dtype=np.float32) + np.float32(0.5)) / count - 1 for count in grid)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
    angles = np.float32(2 * np.pi) * places[:, :, None] * frequencies
    angles = np.tile(angles.reshape(len(places), -1), 2)
    angles = np.concatenate([np.zeros((first, size), np.float32), angles])
    return Angles(jnp.asarray(np.cos(angles)), jnp.asarray(np.sin(angles)))
