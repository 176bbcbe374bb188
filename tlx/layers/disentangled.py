"""Disentangled attention (He et al., 2021): contents and distances of tokens have separate scores; as in DeBERTa.

Shapes: B batch, T tokens, W width, H heads, D head size, N span of the distances; a table has 2 N rows.
"""

import math
from collections.abc import Collection

import jax.numpy as jnp
import numpy as np

from tlx.layers.declare import Init, declare_attention, declare_dense, normal
from tlx.layers.dense import STILL, dense
from tlx.layers.noise import dropout
from tlx.layers.transformer import answered, keys_and_values, queries, split_heads
from tlx.trees import Tree
from tlx.types import Array, Context

# The salts of the noise: of the table, and of the two dense layers of the distances.
TABLE, POSITION_KEY, POSITION_QUERY = 3, 21, 22


def declare_disentangled(
    width: int, heads: int, terms: Collection[str] = (), shared: bool = True, init: Init = normal()
) -> Tree:
    """Declare the parameters of `disentangled_attention`.

    Args:
        width: The width of the hidden states and of the table.
        heads: The number of heads.
        terms: The scores of distances, "c2p" (content to position) and "p2c" (position to content).
        shared: Whether the layers `key` and `query` project the table too, instead of `position_key` and
            `position_query`.
        init: The initialiser of the kernels.
    """
    params = declare_attention(width, heads, init)
    for term, name in (("c2p", "position_key"), ("p2c", "position_query")):
        if term in terms and not shared:
            params[name] = declare_dense(width, width, ("width", "heads"), init)
    return params


def disentangled_attention(
    params: Tree,
    x: Array,
    mask: Array,
    table: Array | None,
    places: np.ndarray,
    *,
    heads: int,
    terms: Collection[str] = (),
    table_rate: float = 0.0,
    rate: float = 0.0,
    context: Context = STILL,
) -> Array:
    """Compute self-attention whose scores have terms for the distance of two tokens (He et al., 2021, equation 4).

    Args:
        params: As declared by `declare_disentangled`.
        x: The hidden states, [B, T, W].
        mask: [B, T], above 0 for tokens that are not padding. Padding attends to all tokens alike.
        table: The embeddings of distances, [2 N, W]; None for scores of the contents alone.
        places: The row of the table for each query and key, [T, T].
        heads: The number of heads.
        terms: The scores of distances, "c2p" and "p2c". All scores are divided by sqrt(D (1 + number of terms)).
        table_rate: The dropout rate of the table.
        rate: The dropout rate of the attention probabilities.
        context: The context of the layers.

    Returns:
        [B, T, W].
    """
    real = mask > 0
    # Padding has no scores, so that no gradient flows through those that the mask replaces, as in `transformers`.
    query = jnp.where(real[:, None, :, None], queries(params, x, heads=heads, rotary=None, context=context), 0)
    keys = keys_and_values(params, x, heads=heads, context=context)
    scale = (query.shape[-1] * (1 + len(terms))) ** -0.5
    bias = None
    if table is not None and terms:
        # One noise for the whole batch, so that it does not depend on how devices share the batch.
        rows = dropout(table[None].astype(x.dtype), table_rate, context._replace(offset=0), TABLE)
        bias = jnp.zeros((), jnp.float32)
        if "c2p" in terms:
            layer = params["position_key" if "position_key" in params else "key"]
            projected = split_heads(dense(layer, rows, context, POSITION_KEY), heads)[0]
            scores = jnp.einsum("BHTD,HND->BHTN", query, projected, preferred_element_type=jnp.float32)
            bias = bias + jnp.take_along_axis(scores, places[None, None], -1)
        if "p2c" in terms:
            layer = params["position_query" if "position_query" in params else "query"]
            projected = split_heads(dense(layer, rows, context, POSITION_QUERY), heads)[0]
            scores = jnp.einsum("BHSD,HND->BHSN", keys.key, projected, preferred_element_type=jnp.float32)
            bias = bias + jnp.take_along_axis(scores, places.T[None, None], -1).swapaxes(-1, -2)
        bias = jnp.where(real[:, None, :, None], bias, 0) * scale
    visible = real[:, None] & real[:, :, None]
    return answered(params, query, keys, visible, False, bias, scale, rate, context, 0)


def distance_places(tokens: int, span: int, furthest: int | None = None) -> np.ndarray:
    """Return the row of a table of 2 `span` rows for each query and key: integers [T, T].

    Args:
        tokens: T, the number of tokens.
        span: N. Row N is the distance 0; queries after their key have larger rows.
        furthest: Distances in both directions share rows logarithmically up to this one (see `log_buckets`); None for a
            row for each distance below N.
    """
    distance = np.arange(tokens)[:, None] - np.arange(tokens)
    if furthest is not None:
        distance = log_buckets(distance, span, furthest)
    return np.clip(distance + span, 0, 2 * span - 1)


def log_buckets(distance: np.ndarray, buckets: int, furthest: int) -> np.ndarray:
    """Return signed buckets: distances up to `buckets` / 2 count exactly, the rest grow logarithmically.

    As `make_log_bucket_position` of `transformers`, in float32.
    """
    middle = buckets // 2
    size = np.maximum(abs(distance), max(middle - 1, 1)).astype(np.float32)
    share = np.log(size / np.float32(middle)) / np.float32(math.log((furthest - 1) / middle))
    far = np.ceil(share * np.float32(middle - 1)) + middle
    return np.where(abs(distance) <= middle, distance, far * np.sign(distance)).astype(np.int32)
