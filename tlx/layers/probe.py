"""Pooling by attention: one learned query reads all tokens (Lee et al., 2019; as in SigLIP, Zhai et al., 2023).

Shapes: B batch, T tokens, W width.
"""

from collections.abc import Callable

import jax.numpy as jnp

from tlx.layers.basic import layer_norm
from tlx.layers.declare import Init, declare_dense, declare_norm, normal
from tlx.layers.dense import dense
from tlx.layers.transformer import KeyValue, attend, feed_forward, split_heads
from tlx.trees import Tree
from tlx.types import Array, Context, Param

# The salts of the noise of the projections, apart from those of the feed-forward layer.
PROJECT, OUTPUT = 10, 13


def declare_probe(width: int, units: int, init: Init = normal()) -> Tree:
    """Declare the parameters of `probe_tokens`, with `units` in the feed-forward layer."""
    return {
        "query": Param((width,), ("width",), init),
        # Query, key and value beside each other, as torch stores them.
        "project": declare_dense(width, 3 * width, ("width", "heads"), init),
        "output": declare_dense(width, width, ("heads", "width"), init),
        "norm": declare_norm(width),
        "up": declare_dense(width, units, ("width", "mlp"), init),
        "down": declare_dense(units, width, ("mlp", "width"), init),
    }


def probe_tokens(
    params: Tree, x: Array, activation: Callable[[Array], Array], context: Context, *, heads: int, epsilon: float
) -> Array:
    """Compute y + feed_forward(norm(y)), where y is the attention of the learned query to the tokens.

    Args:
        params: As declared by `declare_probe`.
        x: The hidden states, [B, T, W].
        activation: The activation of the feed-forward layer.
        context: The context of the layers.
        heads: The number of heads.
        epsilon: The number added to the variance by the norm.

    Returns:
        [B, W].
    """
    batch, _, width = x.shape
    query = jnp.broadcast_to(params["query"].astype(x.dtype), (batch, 1, width))
    query = dense(params["project"], query, context, PROJECT)[..., :width]
    key, value = jnp.split(dense(params["project"], x, context, PROJECT)[..., width:], 2, axis=-1)
    mixed = attend(split_heads(query, heads), KeyValue(split_heads(key, heads), split_heads(value, heads)))
    y = dense(params["output"], mixed, context, OUTPUT)
    return (y + feed_forward(params, layer_norm(params["norm"], y, epsilon), activation, context))[:, 0]
