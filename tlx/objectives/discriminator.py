"""Small networks of terms, and the discriminator between two streams."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from tlx.layers import dense, he
from tlx.objectives.base import mean_over
from tlx.trees import Tree
from tlx.types import Array, Key, View

# About the smallest number of float32, by which may be divided.
SMALLEST = 1e-37


def perceptron(name: str, widths: Sequence[int], key: Key) -> dict[str, Array]:
    """Return new leaves, by path, of dense layers between the `widths`, of which the first is that of the inputs."""
    leaves = {}
    for number, (before, after) in enumerate(pairwise(widths)):
        layer_key = jax.random.fold_in(key, number)
        leaves[f"{name}/{number}/kernel"] = he(layer_key, (before, after))
        leaves[f"{name}/{number}/bias"] = jnp.zeros(after)
    return leaves


def perceive(params: Tree, x: Array) -> Array:
    """Apply a `perceptron`, with a relu between its layers: [B, W] -> [B, K]."""
    *hidden, last = (params[str(number)] for number in range(len(params)))
    for layer in hidden:
        x = jax.nn.relu(dense(layer, x))
    return dense(last, x)


def discriminator(name: str, inputs: int, width: int, key: Key) -> dict[str, Array]:
    """Return new leaves, by path, of a network of two hidden layers and one output."""
    return perceptron(name, (inputs, width, width, 1), key)


def discriminate(params: Tree, x: Array) -> Array:
    """Return the logit of the first stream: [B, W] -> [B]."""
    return perceive(params, x)[:, 0]


def domain_risk(
    view: View, first: str, second: str, logits: Mapping[str, Array], counts: Mapping[str, Array] | None = None
) -> tuple[Array, Array]:
    """Return the risk of a discriminator and its accuracy.

    The risk is the mean cross-entropy of the `logits` [B] by stream, that an example is of the stream `first`. Either
    stream counts one half, and an example as `counts` [B] says.
    """
    risk, right = jnp.zeros(()), jnp.zeros(())
    for stream, sign in ((first, 1.0), (second, -1.0)):
        # log(1 + exp(-z)) of the logit z of being what it is.
        each = jax.nn.softplus(-sign * logits[stream])
        risk += 0.5 * mean_over(view, stream, each if counts is None else counts[stream] * each)
        right += 0.5 * mean_over(view, stream, (sign * logits[stream] > 0).astype(jnp.float32))
    return risk, right


def effective_share(weights: Array) -> Array:
    """Return the effective share of the examples, (sum w)^2 / (N sum w^2), of weights [N]; 0 where all are 0."""
    # Of weights whose largest is 1, for the squares of small ones are no numbers any more.
    relative = weights / jnp.maximum(weights.max(), SMALLEST)
    return relative.sum() ** 2 / (len(weights) * jnp.maximum((relative**2).sum(), SMALLEST))


def relative_to_mean(weights: Array, every: Array) -> Array:
    """Return `weights` over the mean of `every` weight of the whole batch."""
    return weights / jnp.maximum(every.mean(), SMALLEST)


def check_width(width: int, who: str) -> None:
    """Raise ValueError for a width below 1."""
    if width < 1:
        raise ValueError(f"{who}: width is {width}; it is 1 or more")
