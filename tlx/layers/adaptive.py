"""Pooling to a fixed number of places, and to half of them.

Shapes: B batch, I height, J width, P places along an axis, C channels.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.layers.basic import as_wide
from tlx.types import Array


@lru_cache
def shares(length: int, places: int) -> np.ndarray:
    """Return [places, length], the share of each input in the mean at each place.

    Place p averages the inputs from floor(p length / places) to ceil((p + 1) length / places), as torch's
    `adaptive_avg_pool2d`. Neighbouring places share inputs where `places` does not divide `length`.
    """
    matrix = np.zeros((places, length))
    for place in range(places):
        start, stop = place * length // places, -(-(place + 1) * length // places)
        matrix[place, start:stop] = 1 / (stop - start)
    return matrix


def adaptive_average_pool(x: Array, sides: tuple[int, int]) -> Array:
    """Average [B, I, J, C] over `sides` places along both axes: [B, P, P', C]; the input itself if it has these sides.

    A side may be larger than that of the input, whose values are then repeated.
    """
    if x.shape[1:3] == sides:
        return x
    wide = as_wide(x)
    rows, columns = (jnp.asarray(shares(n, p), wide.dtype) for n, p in zip(x.shape[1:3], sides, strict=True))
    # The precision of the means of the other layers, also where the device multiplies matrices in fewer bits.
    pooled = jnp.einsum("pi,bijc,qj->bpqc", rows, wide, columns, precision=lax.Precision.HIGHEST)
    return pooled.astype(x.dtype)


def mean_halves(x: Array) -> Array:
    """Average [B, I, J, C] over 2x2 windows that do not overlap; the last window of an odd side has only one pixel."""
    sides = x.shape[1:3]
    rows, columns = (-(-side // 2) for side in sides)
    wide = as_wide(x)
    padded = jnp.pad(wide, [(0, 0), (0, sides[0] % 2), (0, sides[1] % 2), (0, 0)])
    total = padded.reshape(x.shape[0], rows, 2, columns, 2, x.shape[3]).sum((2, 4))
    height, width = (np.minimum(2, side - 2 * np.arange(-(-side // 2))) for side in sides)
    pixels = height[:, None, None] * width[:, None]
    return (total / jnp.asarray(pixels, wide.dtype)).astype(x.dtype)
