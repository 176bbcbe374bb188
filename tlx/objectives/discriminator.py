"""Small networks of terms, and the discriminator between two streams."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp

from tlx.layers import dense, he
from tlx.objectives.base import mean_over
from tlx.trees import Tree
from tlx.types import Array, Key, View

# About the smallest normal number of float32: a smaller divisor overflows.
SMALLEST = 1e-37


def perceptron(name: str, widths: Sequence[int], key: Key) -> dict[str, Array]:
    """Return the new leaves, by path, of dense layers between the `widths`; the first width is that of the inputs."""
    leaves = {}
    for number, (before, after) in enumerate(pairwise(widths)):
        layer_key = jax.random.fold_in(key, number)
        leaves[f"{name}/{number}/kernel"] = he(layer_key, (before, after))
        leaves[f"{name}/{number}/bias"] = jnp.zeros(after)
    return leaves


def perceive(params: Tree, x: Array) -> Array:
    """Apply a `perceptron`, with a ReLU between its layers: [B, W] -> [B, K]."""
    *hidden, last = (params[str(number)] for number in range(len(params)))
    for layer in hidden:
        x = jax.nn.relu(dense(layer, x))
    return dense(last, x)


def discriminator(name: str, inputs: int, width: int, key: Key) -> dict[str, Array]:
    """Return the new leaves, by path, of a network with two hidden layers and one output."""
    return perceptron(name, (inputs, width, width, 1), key)


def discriminate(params: Tree, x: Array) -> Array:
    """Return the logit of the first stream: [B, W] -> [B]."""
    return perceive(params, x)[:, 0]


def domain_risk(
    view: View, first: str, second: str, logits: Mapping[str, Array], counts: Mapping[str, Array] | None = None
) -> tuple[Array, Array]:
    """Return the risk and the accuracy of a discriminator.

    Args:
        view: the view of the current step.
        first: the stream of the positive class.
        second: the stream of the negative class.
        logits: by stream, the logits [B] that an example belongs to `first`.
        counts: by stream, the weight of each example [B]; None weights all equally.

    Returns:
        The mean cross-entropy, in which either stream has the weight one half, and the accuracy, both scalars.
    """
    risk, accuracy = jnp.zeros(()), jnp.zeros(())
    for stream, sign in ((first, 1.0), (second, -1.0)):
        # log(1 + exp(-z)), with z the logit of the correct stream.
        losses = jax.nn.softplus(-sign * logits[stream])
        risk += 0.5 * mean_over(view, stream, losses if counts is None else counts[stream] * losses)
        accuracy += 0.5 * mean_over(view, stream, (sign * logits[stream] > 0).astype(jnp.float32))
    return risk, accuracy


def effective_share(weights: Array) -> Array:
    """Return the effective share of the examples, (sum w)^2 / (N sum w^2), of weights [N]; 0 where all are 0."""
    # Scaled to a largest weight of 1, because the squares of small weights underflow.
    relative = weights / jnp.maximum(weights.max(), SMALLEST)
    return relative.sum() ** 2 / (len(weights) * jnp.maximum((relative**2).sum(), SMALLEST))


def relative_to_mean(weights: Array, every: Array) -> Array:
    """Return `weights` [B] divided by the mean of `every`, the weights of the whole batch."""
    return weights / jnp.maximum(every.mean(), SMALLEST)


def check_width(width: int, who: str) -> None:
    """Raise ValueError for a width below 1."""
    if width < 1:
        raise ValueError(f"{who}: width is {width}; expected 1 or more")
