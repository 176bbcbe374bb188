"""Multi-head self-attention.

Shapes: B batch, T tokens that ask, S tokens that are asked, P prefix, W width, H heads, D head size.
"""

import jax
import jax.numpy as jnp

from tlx.layers.dense import dense
from tlx.layers.noise import dropout
from tlx.trees import Tree
from tlx.types import Array, Context

# Where the noise of the four dense layers lies among a stage's salts.
SALTS = {"query": 10, "key": 11, "value": 12, "output": 13}


def attention(
    params: Tree,
    x: Array,
    mask: Array | None,
    *,
    heads: int,
    rate: float,
    context: Context,
    salt: int,
) -> Array:
    """Multi-head self-attention (Vaswani et al., 2017): [B, T, W] -> [B, T, W].

    `mask` [B, T] is 1 where a token may be attended to, None for all. Scores and softmax are float32. Where `params`
    holds `prefix`, its `key` and `value` [P, W] stand before those of the tokens (Li and Liang, 2021).
    """
    batch, tokens, width = x.shape
    own = {name: dense(params[name], x, context, SALTS[name]) for name in ("query", "key", "value")}
    if "prefix" in params:
        for name, rows in params["prefix"].items():
            before = jnp.broadcast_to(rows.astype(x.dtype), (batch, *rows.shape))
            own[name] = jnp.concatenate([before, own[name]], axis=1)
        if mask is not None:
            mask = jnp.concatenate([jnp.ones((batch, rows.shape[0]), mask.dtype), mask], axis=1)

    def split(y: Array) -> Array:
        return y.reshape(batch, -1, heads, width // heads).transpose(0, 2, 1, 3)

    query, key, value = (split(own[name]) for name in ("query", "key", "value"))
    # Scaling the query and adding the mask touch less than scaling and selecting scores, forward and backward.
    query = query * (width // heads) ** -0.5
    scores = jnp.einsum("BHTD,BHSD->BHTS", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = scores + jnp.where(mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min)
    probabilities = dropout(jax.nn.softmax(scores, -1), rate, context, salt).astype(x.dtype)
    mixed = jnp.einsum("BHTS,BHSD->BHTD", probabilities, value)
    mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, width)
    return dense(params["output"], mixed, context, SALTS["output"])
