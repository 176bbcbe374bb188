"""The layers of transformers: self-attention and cross-attention, masks, biases, grouped heads, a cache for decoding,
and feed-forward layers. Rotary positions are in `rotary`.

Shapes: B batch, T query tokens, S key tokens, P prefix, W width, H heads, G heads of the keys and values
(H is a multiple of G), D head size.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tlx.layers.basic import as_wide
from tlx.layers.dense import STILL, dense
from tlx.layers.noise import dropout
from tlx.layers.rotary import Angles, rotate
from tlx.trees import Tree
from tlx.types import Array, Context

# The salts of the dense layers' noise, apart from the other salts of a stage.
SALTS = {"query": 10, "key": 11, "value": 12, "output": 13, "up": 14, "down": 15, "gate": 20}
# Shorter vectors have no direction, as in torch.
SHORTEST = 1e-12
# Norms each head of queries or keys [B, H, T, D] with its parameters.
HeadNorm = Callable[[Tree, Array], Array]


class KeyValue(NamedTuple):
    """The keys and values of attention, `key` and `value` [B, G, S, D]."""

    key: Array
    value: Array


class Cache(NamedTuple):
    """The keys and values [B, G, S, D] of the tokens that were decoded so far: the first `length` of S places."""

    key: Array
    value: Array
    length: Array


def split_heads(x: Array, heads: int) -> Array:
    """Split the last axis into heads: [B, T, H D] -> [B, H, T, D]."""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).transpose(0, 2, 1, 3)


def queries(
    params: Tree, x: Array, *, heads: int, rotary: Angles | None, norm: HeadNorm | None = None, context: Context
) -> Array:
    """Project the tokens `x` [B, T, W] to queries [B, H, T, D]."""
    query = split_heads(dense(params["query"], x, context, SALTS["query"]), heads)
    query = query if norm is None else norm(params["query"]["norm"], query)
    return query if rotary is None else rotate(query, rotary)


def keys_and_values(
    params: Tree,
    memory: Array,
    *,
    heads: int,
    rotary: Angles | None = None,
    norm: HeadNorm | None = None,
    context: Context = STILL,
) -> KeyValue:
    """Project a `memory` [B, S, W] to the keys and values [B, G, S, D] of `heads` heads.

    A decoder calls this once for the states of its encoder and passes the result to `attention_to` at every step.
    """
    key, value = (split_heads(dense(params[name], memory, context, SALTS[name]), heads) for name in ("key", "value"))
    key = key if norm is None else norm(params["key"]["norm"], key)
    return KeyValue(key if rotary is None else rotate(key, rotary), value)


def attention(
    params: Tree,
    x: Array,
    mask: Array | None = None,
    *,
    heads: int,
    key_heads: int | None = None,
    memory: Array | None = None,
    causal: bool = False,
    bias: Array | None = None,
    rotary: Angles | None = None,
    norm: HeadNorm | None = None,
    cosine: Array | None = None,
    scale: float | None = None,
    cap: float | None = None,
    rate: float = 0.0,
    context: Context = STILL,
    salt: int = 0,
) -> Array:
    """Compute multi-head attention (Vaswani et al., 2017) of `x` to itself or to a `memory`.

    Args:
        params: The dense layers `query`, `key`, `value` and `output`. If it holds `prefix`, its `key` and `value`
            [P, G D] come before those of the tokens (Li and Liang, 2021).
        x: The hidden states, [B, T, W].
        mask: [B, S] or [B, T, S], True or above 0 if a token may be attended to; None for all.
        heads: The number of heads.
        key_heads: The number of heads of the keys and values, each shared by H / G heads (Ainslie et al., 2023).
        memory: The hidden states that are attended to, [B, S, W]; None for `x`.
        causal: Whether a token sees no later token. The last query token sees the last key token.
        bias: The array added to the scores, of a shape that broadcasts to [B, H, T, S].
        rotary: The angles of the tokens of `x`, for self-attention.
        norm: The norm of each head of queries and keys before they are rotated, with the parameters `query/norm` and
            `key/norm`.
        cosine: The factor [H, 1, 1] of cosine attention: the scores are cosines of queries and keys times this factor
            (Liu et al., 2022); None for dot products.
        scale: The factor of the scores of dot products; None for D ** -0.5.
        cap: The largest score: each becomes cap * tanh(score / cap); None for no limit.
        rate: The dropout rate of the attention probabilities.
        context: The context of the layers, with the key of the noise.
        salt: The number of this dropout, different for each dropout of a stage.

    Returns:
        [B, T, W]. Scores and softmax are float32.
    """
    query = queries(params, x, heads=heads, rotary=rotary, norm=norm, context=context)
    source = x if memory is None else memory
    keys = keys_and_values(params, source, heads=key_heads or heads, rotary=rotary, norm=norm, context=context)
    if cosine is not None:
        factor = cosine.astype(query.dtype)
        query, keys, scale = directions(query) * factor, keys._replace(key=directions(keys.key)), 1.0
    return answered(params, query, keys, mask, causal, bias, scale, rate, context, salt, cap)


def attention_to(
    params: Tree,
    x: Array,
    keys: KeyValue,
    mask: Array | None = None,
    *,
    heads: int,
    causal: bool = False,
    bias: Array | None = None,
    rotary: Angles | None = None,
    scale: float | None = None,
    rate: float = 0.0,
    context: Context = STILL,
    salt: int = 0,
) -> Array:
    """Compute `attention` to keys and values that are projected already: [B, T, W] -> [B, T, W]."""
    query = queries(params, x, heads=heads, rotary=rotary, context=context)
    return answered(params, query, keys, mask, causal, bias, scale, rate, context, salt)


def answered(
    params: Tree,
    query: Array,
    keys: KeyValue,
    mask: Array | None,
    causal: bool,
    bias: Array | None,
    scale: float | None,
    rate: float,
    context: Context,
    salt: int,
    cap: float | None = None,
) -> Array:
    """Compute the output of `attention` from the projected `query` and `keys`."""
    visible = visibility(mask, query.shape[2], keys.key.shape[2], causal)
    if "prefix" in params:
        keys, visible, bias = prefixed(params["prefix"], keys, visible, bias)
    mixed = attend(query, keys, visible, bias=bias, scale=scale, cap=cap, rate=rate, context=context, salt=salt)
    return dense(params["output"], mixed, context, SALTS["output"])


def attention_step(
    params: Tree,
    x: Array,
    cache: Cache,
    mask: Array | None = None,
    *,
    heads: int,
    bias: Array | None = None,
    rotary: Angles | None = None,
    norm: HeadNorm | None = None,
    scale: float | None = None,
    cap: float | None = None,
    context: Context = STILL,
) -> tuple[Array, Cache]:
    """Compute causal attention of the next tokens to the tokens in the `cache` and to themselves.

    Args:
        params: As in `attention`.
        x: The hidden states of the next tokens, [B, T, W]: the whole prompt at first, then one token at a time.
        cache: The keys and values of the tokens so far.
        mask: [B, S] or [B, T, S] over the places of the cache, above 0 if a token may be attended to.
        heads: The number of heads; the cache has the number of key heads.
        bias: As in `attention`, over the S places of the cache.
        rotary: The angles of the next tokens, at their places in the text.
        norm: As in `attention`.
        scale: As in `attention`.
        cap: As in `attention`.
        context: As in `attention`.

    Returns:
        The output [B, T, W] (NaN if the cache has too few places), and the cache with the next tokens.
    """
    query = queries(params, x, heads=heads, rotary=rotary, norm=norm, context=context)
    new_keys = keys_and_values(params, x, heads=cache.key.shape[1], rotary=rotary, norm=norm, context=context)
    place = (0, 0, cache.length, 0)
    keys = KeyValue(
        *(lax.dynamic_update_slice(*cached_and_new, place) for cached_and_new in zip(cache[:2], new_keys, strict=True))
    )
    tokens, places = x.shape[1], keys.key.shape[2]
    earlier = (jnp.arange(places) <= cache.length + jnp.arange(tokens)[:, None])[None, None]
    unmasked = visibility(mask, tokens, places, False)
    visible = earlier if unmasked is None else earlier & unmasked
    length = cache.length + tokens
    extended = Cache(*keys, length)
    visible_keys: Array | None = visible
    if "prefix" in params:
        keys, visible_keys, bias = prefixed(params["prefix"], keys, visible, bias)
    mixed = attend(query, keys, visible_keys, bias=bias, scale=scale, cap=cap, context=context)
    output = dense(params["output"], mixed, context, SALTS["output"])
    # The update above would silently write over the last places.
    return jnp.where(length > places, jnp.nan, output), extended


def directions(x: Array) -> Array:
    """Return vectors along the last axis of `x` divided by their length; a vector of zeros stays one, without a slope
    of its length."""
    wide = as_wide(x)
    square = (wide * wide).sum(-1, keepdims=True)
    return (wide * lax.rsqrt(jnp.maximum(square, SHORTEST**2))).astype(x.dtype)


def empty_cache(batch: int, tokens: int, heads: int, size: int, dtype: str = "float32") -> Cache:
    """Return a cache with places for `tokens` tokens of `heads` heads of keys and values of `size` numbers."""
    zeros = jnp.zeros((batch, heads, tokens, size), dtype)
    return Cache(zeros, zeros, jnp.int32(0))


def visibility(mask: Array | None, tokens: int, places: int, causal: bool) -> Array | None:
    """Return booleans that broadcast to [B, H, T, S], True if a token is seen; None if all are seen."""
    visible = None if mask is None else mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    if visible is not None and visible.dtype != bool:
        visible = visible > 0
    if not causal:
        return visible
    earlier = jnp.arange(places) <= places - tokens + jnp.arange(tokens)[:, None]
    return earlier[None, None] if visible is None else visible & earlier


def prefixed(
    prefix: Tree, keys: KeyValue, visible: Array | None, bias: Array | None
) -> tuple[KeyValue, Array | None, Array | None]:
    """Put learned keys and values [P, G D] before those of the tokens; every token sees them, without a bias."""
    batch, heads, _, _ = keys.key.shape
    rows = {name: split_heads(jnp.asarray(leaf)[None].astype(keys.key.dtype), heads) for name, leaf in prefix.items()}
    learned = {name: jnp.broadcast_to(array, (batch, *array.shape[1:])) for name, array in rows.items()}
    keys = KeyValue(*(jnp.concatenate([learned[name], getattr(keys, name)], axis=2) for name in ("key", "value")))
    padding = [(0, 0)] * 3 + [(rows["key"].shape[2], 0)]
    visible = None if visible is None else jnp.pad(visible, padding, constant_values=True)
    return keys, visible, None if bias is None else jnp.pad(bias, padding[4 - bias.ndim :])


def attend(
    query: Array,
    keys: KeyValue,
    visible: Array | None = None,
    *,
    bias: Array | None = None,
    scale: float | None = None,
    cap: float | None = None,
    rate: float = 0.0,
    context: Context = STILL,
    salt: int = 0,
) -> Array:
    """Compute scaled dot-product attention: query [B, H, T, D], keys and values [B, G, S, D] -> [B, T, H D].

    `visible`, of a shape that broadcasts to [B, H, T, S], is True if a token is seen.
    """
    batch, heads, tokens, size = query.shape
    groups, places = keys.key.shape[1:3]
    # Scaling the query and adding the mask touch less than scaling and selecting scores, forward and backward.
    query = query * (size**-0.5 if scale is None else scale)
    wide = jnp.float64 if query.dtype == jnp.float64 else jnp.float32
    if groups == heads:
        scores = jnp.einsum("BHTD,BHSD->BHTS", query, keys.key, preferred_element_type=wide)
    else:
        query = query.reshape(batch, groups, heads // groups, tokens, size)
        scores = jnp.einsum("BGRTD,BGSD->BGRTS", query, keys.key, preferred_element_type=wide)
        scores = scores.reshape(batch, heads, tokens, places)
    if cap is not None:
        scores = cap * jnp.tanh(scores / cap)
    if bias is not None:
        scores = scores + jnp.asarray(bias, wide)
    if visible is not None:
        scores = scores + jnp.asarray(jnp.where(visible, 0.0, jnp.finfo(jnp.float32).min), wide)
    probabilities = dropout(jax.nn.softmax(scores, -1), rate, context, salt).astype(query.dtype)
    if groups == heads:
        mixed = jnp.einsum("BHTS,BHSD->BHTD", probabilities, keys.value)
    else:
        probabilities = probabilities.reshape(batch, groups, heads // groups, tokens, places)
        mixed = jnp.einsum("BGRTS,BGSD->BGRTD", probabilities, keys.value).reshape(batch, heads, tokens, size)
    return mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, heads * size)


def relative_bias(
    params: Tree, tokens: int, places: int, *, both: bool, furthest: int = 128, start: Array | int = 0
) -> Array:
    """Return the bias of T5 by the distance between two tokens (Raffel et al., 2020): [1, H, T, S].

    Args:
        params: `embedding` [buckets, H].
        tokens: T, the number of query tokens.
        places: S, the number of key tokens.
        both: Whether tokens look both ways (an encoder), or back only.
        furthest: Larger distances share one bucket.
        start: The place of the first query token, in decoding.
    """
    distance = jnp.arange(places) - start - jnp.arange(tokens)[:, None]
    buckets = relative_buckets(distance, params["embedding"].shape[0], both=both, furthest=furthest)
    return jnp.asarray(params["embedding"])[buckets].transpose(2, 0, 1)[None]


def relative_buckets(distance: Array, buckets: int, *, both: bool, furthest: int) -> Array:
    """Return the bucket of each distance: half of the buckets count exactly, the rest grow logarithmically up to
    `furthest`."""
    first: Array | int = 0
    if both:
        buckets //= 2
        first = jnp.where(distance > 0, buckets, 0)
        distance = abs(distance)
    else:
        distance = -jnp.minimum(distance, 0)
    exact = buckets // 2
    share = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(furthest / exact)
    large = jnp.minimum(exact + (share * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return first + jnp.where(distance < exact, distance, large)


def feed_forward(
    params: Tree, x: Array, activation: Callable[[Array], Array], context: Context = STILL, *, fused: bool = False
) -> Array:
    """Compute down(activation(up(x))): [..., W] -> [..., W].

    With a layer `gate` it is down(activation(gate(x)) up(x)), as in Llama and T5 1.1 (Shazeer, 2020).

    Args:
        params: The dense layers `up`, `down` and optionally `gate`.
        x: The hidden states.
        activation: The activation function.
        context: The context of the layers.
        fused: Whether the gate is the first half of the outputs of `up`, as in DINOv2.
    """
    inner = dense(params["up"], x, context, SALTS["up"])
    if fused:
        gate, inner = jnp.split(inner, 2, axis=-1)
        inner = activation(gate) * inner
    elif "gate" in params:
        inner = activation(dense(params["gate"], x, context, SALTS["gate"])) * inner
    else:
        inner = activation(inner)
    return dense(params["down"], inner, context, SALTS["down"])
