"""Windows of an image, for attention within each window (Liu et al., 2021; v2: Liu et al., 2022).

Shapes: B batch, I height, J width of an image, C channels, N windows of an image, S the side of a window, T = S * S
tokens of a window, H heads.
"""

import numpy as np
from jax import numpy as jnp

from tlx.types import Array

# The logarithm of a distance in a window is scaled so that the furthest distance of the pretrained window is near 1.
SPAN = 8


def split_windows(x: Array, side: int, shift: int) -> Array:
    """Divide images into windows: [B, I, J, C] -> [B * N, T, C].

    Zeros below and on the right complete the windows. The image is then moved up and left by `shift` pixels; those that
    leave it come back on the other side.
    """
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % side), (0, -width % side), (0, 0)))
    x = jnp.roll(x, (-shift, -shift), (1, 2)) if shift else x
    rows, columns = x.shape[1] // side, x.shape[2] // side
    x = x.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
    return x.reshape(batch * rows * columns, side * side, channels)


def join_windows(x: Array, sides: tuple[int, int], side: int, shift: int) -> Array:
    """Put windows together to images of `sides` (height, width): the inverse of `split_windows`, [B, I, J, C]."""
    (height, width), channels = sides, x.shape[-1]
    rows, columns = -(-height // side), -(-width // side)
    x = x.reshape(-1, rows, columns, side, side, channels).swapaxes(2, 3)
    x = x.reshape(-1, rows * side, columns * side, channels)
    x = jnp.roll(x, (shift, shift), (1, 2)) if shift else x
    return x[:, :height, :width]


def window_mask(sides: tuple[int, int], side: int, shift: int, lowest: float) -> np.ndarray | None:
    """Return the numbers added to the scores of shifted windows: 0 between neighbours in the image, else `lowest`.

    Args:
        sides: (height, width) of the image.
        side: The side of a window.
        shift: The number of pixels by which the windows are shifted.
        lowest: The number between pixels that are neighbours only because the image was rolled.

    Returns:
        float32[N, 1, T, T]; None without a shift.
    """
    if not shift:
        return None
    padded = [-(-length // side) * side for length in sides]
    parts = []
    for length in padded:
        places = np.arange(length)
        parts.append((places >= length - side).astype(int) + (places >= length - shift))
    region = parts[0][:, None] * 3 + parts[1]
    rows, columns = (length // side for length in padded)
    region = region.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side * side)
    apart = region[:, None, :] != region[:, :, None]
    return np.where(apart, np.float32(lowest), np.float32(0))[:, None]


def relative_places(side: int) -> np.ndarray:
    """Return the row of a table of (2 S - 1) ** 2 distances for each pair of tokens of a window: integers [T, T]."""
    rows, columns = (axis.reshape(-1) for axis in np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    down, right = (axis[:, None] - axis[None, :] + side - 1 for axis in (rows, columns))
    return down * (2 * side - 1) + right


def log_distances(side: int, pretrained: int = 0) -> np.ndarray:
    """Return sign(d) log2(1 + 8 |d|) / 3 for the distances d of a window (Liu et al., 2022, equation 4).

    Args:
        side: The side of the window.
        pretrained: The side of the window in pretraining, to which the distances are relative; 0 for `side`.

    Returns:
        float32[(2 S - 1) ** 2, 2]: down and right, in the order of `relative_places`.
    """
    distances = np.arange(1 - side, side, dtype=np.float32)
    if furthest := (pretrained or side) - 1:
        distances = distances / np.float32(furthest)
    distances = distances * np.float32(SPAN)
    scaled = np.sign(distances) * np.log2(np.abs(distances) + np.float32(1)) / np.float32(np.log2(SPAN))
    return np.stack(np.meshgrid(scaled, scaled, indexing="ij"), -1).reshape(-1, 2).astype(np.float32)
