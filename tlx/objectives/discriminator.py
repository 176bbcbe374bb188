"""A small network that tells two streams apart."""

import jax
import jax.numpy as jnp

from tlx.layers import dense, he
from tlx.trees import Tree
from tlx.types import Array, Key


def discriminator(name: str, inputs: int, width: int, key: Key) -> dict[str, Array]:
    """Fresh leaves of a network of two hidden layers and one output, by path."""
    leaves = {}
    for number, (before, after) in enumerate(((inputs, width), (width, width), (width, 1))):
        own = jax.random.fold_in(key, number)
        leaves[f"{name}/{number}/kernel"] = he(own, (before, after))
        leaves[f"{name}/{number}/bias"] = jnp.zeros(after)
    return leaves


def discriminate(params: Tree, x: Array) -> Array:
    """The logit of the first stream: [B, W] -> [B]."""
    for number in ("0", "1"):
        x = jax.nn.relu(dense(params[number], x))
    return dense(params["2"], x)[:, 0]


def check_width(width: int, who: str) -> None:
    """ValueError for a width that is none."""
    if width < 1:
        raise ValueError(f"{who}: width is {width}; it is 1 or more")
