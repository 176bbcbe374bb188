"""The blocks of T5: pre-norm, without biases, with a learned bias of the scores by the distance of two tokens.

A `config` is the record of `T5`. Shapes: B batch, S tokens of the text, T tokens of the decoder, W width, H heads.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tlx.layers import (
    ACTIVATIONS,
    Cache,
    Init,
    KeyValue,
    attention,
    attention_step,
    attention_to,
    bottleneck,
    declare_attention,
    declare_dense,
    declare_norm,
    dense,
    dropout,
    keys_and_values,
    relative_bias,
    rms_norm,
)
from tlx.layers.dense import STILL
from tlx.models.text_stages import DOWN, GATE, INNER, OUTER, UP
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Param


def gaussian(deviation: float) -> Init:
    """Return a normal initialiser."""
    return lambda key, shape: deviation * jax.random.normal(key, shape, jnp.float32)


def declare_block(config: Any, first: bool, decoder: bool) -> Tree:
    """Return the parameters of a block; the first one of a stack has the table of the biases."""
    width, factor = config.width, config.factor
    init = gaussian(factor * width**-0.5)
    mixing = declare_mixing(config)
    if first:
        mixing["relative"] = {"embedding": Param((config.buckets, config.heads), (None, "heads"), init)}
    mlp: Tree = {
        "up": declare_dense(width, config.mlp, ("width", "mlp"), init, False),
        "down": declare_dense(config.mlp, width, ("mlp", "width"), gaussian(factor * config.mlp**-0.5), False),
        "norm": declare_norm(width, False),
    }
    if config.gated:
        mlp["gate"] = declare_dense(width, config.mlp, ("width", "mlp"), init, False)
    # The path of both attentions ends in `attention`, so that one pattern of a tuning matches the layers of both.
    return {"attention": mixing} | ({"cross": {"attention": declare_mixing(config)}} if decoder else {}) | {"mlp": mlp}


def declare_mixing(config: Any) -> Tree:
    """Return the parameters of an attention and its norm. Small queries replace a factor of the scores."""
    width, heads, size = config.width, config.heads, config.size
    layers = declare_attention(width, heads, bias=False, size=size, output_bias=False)
    deviations = dict.fromkeys(("key", "value"), width**-0.5)
    deviations |= {"query": (width * size) ** -0.5, "output": (heads * size) ** -0.5}
    for name, deviation in deviations.items():
        layers[name]["kernel"] = layers[name]["kernel"]._replace(init=gaussian(config.factor * deviation))
    return layers | {"norm": declare_norm(width, False)}


def encode(config: Any, params: Tree, table: Tree, carry: Carry, context: Context) -> Carry:
    """Return the carry with the hidden states [B, S, W] after one block of the encoder."""
    x, _ = mix(config, params["attention"], table, carry, context, causal=False)
    return carry | {"hidden": finish(config, params, x, context)}


def decode(config: Any, params: Tree, table: Tree, carry: Carry, context: Context) -> Carry:
    """Return the carry with the hidden states [B, T, W] after one block of the decoder.

    With a `cache` in the carry, the tokens are the next ones after those of the cache, `mask` has the places of the
    cache, and the carry gets the cache with the new tokens. The entry `memory_keys` has the keys and values of the
    memory for this block (see `memory_keys`); without it the block projects the memory, and beside a cache it writes
    the entry.
    """
    x, cache = mix(config, params["attention"], table, carry, context, causal=True)
    layer, rate = params["cross"]["attention"], config.dropout
    # The same layers as above in one stage, with other noise.
    apart = context if context.key is None else context._replace(key=jax.random.fold_in(context.key, 1))
    keys = carry.get("memory_keys")
    keys = memory_keys(config, params, carry["memory"], apart) if keys is None else keys
    normed = rms_norm(layer["norm"], x, config.epsilon)
    settings: dict[str, Any] = {"heads": config.heads, "scale": 1.0, "rate": rate, "context": apart, "salt": 0}
    x = x + dropout(attention_to(layer, normed, keys, carry["memory_mask"], **settings), rate, apart, 1)
    entries = {} if cache is None else {"cache": cache, "memory_keys": keys}
    return carry | {"hidden": finish(config, params, x, context)} | entries


def memory_keys(config: Any, params: Tree, memory: Array, context: Context = STILL) -> KeyValue:
    """Return the keys and values of the `memory` [B, S, W] for one block of the decoder, which decoding computes once.

    `params` are the parameters of the block.
    """
    return keys_and_values(params["cross"]["attention"], memory, heads=config.heads, context=context)


def mix(
    config: Any, layer: Tree, table: Tree, carry: Carry, context: Context, *, causal: bool
) -> tuple[Array, Cache | None]:
    """Return the hidden states after the self-attention of a block, and the cache of the carry with the new tokens."""
    x, cache, rate = carry["hidden"], carry.get("cache"), config.dropout
    normed, tokens = rms_norm(layer["norm"], x, config.epsilon), x.shape[1]
    settings: dict[str, Any] = {"heads": config.heads, "scale": 1.0, "context": context}
    first, places = (0, tokens) if cache is None else (cache.length, cache.key.shape[2])
    bias = relative_bias(table, tokens, places, both=not causal, furthest=config.furthest, start=first)
    if cache is None:
        settings |= {"causal": causal, "rate": rate, "salt": 0}
        mixed = attention(layer, normed, carry["mask"], bias=bias, **settings)
    else:
        mixed, cache = attention_step(layer, normed, cache, carry["mask"], bias=bias, **settings)
    mixed = dropout(mixed, rate, context, 1)
    return x + (mixed + bottleneck(layer["adapter"], mixed, context, INNER) if "adapter" in layer else mixed), cache


def finish(config: Any, params: Tree, x: Array, context: Context) -> Array:
    """Return the hidden states after the feed-forward layer of a block."""
    mlp, activation = params["mlp"], ACTIVATIONS[config.activation]
    normed = rms_norm(mlp["norm"], x, config.epsilon)
    inner = dense(mlp["up"], normed, context, UP)
    inner = activation(dense(mlp["gate"], normed, context, GATE)) * inner if config.gated else activation(inner)
    hidden = dense(mlp["down"], dropout(inner, config.dropout, context, 2), context, DOWN)
    hidden = dropout(hidden, config.dropout, context, 3)
    x = x + (hidden + bottleneck(mlp["adapter"], hidden, context, OUTER) if "adapter" in mlp else hidden)
    return x + bottleneck(params["adapter"], x, context, OUTER) if "adapter" in params else x
