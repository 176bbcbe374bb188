"""Work on a few images at a time, so that the arrays in between stay in the caches of the processor.

Shapes: N images, M pieces.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tlx.types import Array


def in_pieces(most: int, *arrays: Array) -> list[Array]:
    """Return arrays [N, ...] as [N / M, M, ...], with at most `most` images in a piece [:, m].

    Images that lie on several devices are cut along the first axis, so each device works on the images that it has.
    """
    count = len(arrays[0])
    together = max(n for n in range(1, count + 1) if count % n == 0 and n <= max(1, most))
    return [x.reshape(together, count // together, *x.shape[1:]) for x in arrays]


def piece(number: Array | int, pieces: Array) -> Array:
    """Return the images of one piece [N / M, ...]."""
    return lax.dynamic_index_in_dim(pieces, number, 1, keepdims=False)


def mapped(part: Callable[[Array], Array], most: int, x: Array) -> Array:
    """Return the outputs [N, ...] of `part` for images [N, ...], for at most `most` of them at a time."""
    (pieces,) = in_pieces(most, x)
    if pieces.shape[1] == 1:
        return part(x)
    shape = jax.eval_shape(part, pieces[:, 0])
    start = jnp.zeros((shape.shape[0], pieces.shape[1], *shape.shape[1:]), shape.dtype)

    def write(number: Array, done: Array) -> Array:
        return lax.dynamic_update_index_in_dim(done, part(piece(number, pieces)), number, 1)

    return lax.fori_loop(0, pieces.shape[1], write, start).reshape(-1, *shape.shape[1:])


def summed(part: Callable[..., Any], most: int, *arrays: Array) -> Any:
    """Return the sum of the outputs of `part` over pieces of the arrays [N, ...], with at most `most` images each."""
    pieces = in_pieces(most, *arrays)

    def of(number: Array | int) -> Any:
        return part(*map(partial(piece, number), pieces))

    def add(number: Array, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, of(number))

    return of(0) if pieces[0].shape[1] == 1 else lax.fori_loop(1, pieces[0].shape[1], add, of(0))
