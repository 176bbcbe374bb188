"""The blocks of BART and mBART: self-attention, in the decoder attention to the encoder too, and a feed-forward layer.

A norm follows the sum of each part and its input (post-norm, BART), or precedes each part (pre-norm, mBART). A `config`
is the record of `Bart`. Shapes: B batch, S tokens of the text, T tokens of the decoder, W width, H heads.
"""

from typing import Any

import jax

from tlx.layers import (
    ACTIVATIONS,
    KeyValue,
    attention,
    attention_to,
    bottleneck,
    declare_attention,
    declare_dense,
    declare_norm,
    dense,
    dropout,
    keys_and_values,
    layer_norm,
    normal,
)
from tlx.layers.dense import STILL
from tlx.models.decoder_stages import causal_attention
from tlx.models.text_stages import DOWN, INNER, OUTER, UP
from tlx.trees import Tree
from tlx.types import Array, Carry, Context

EPSILON = 1e-5


def declare_block(config: Any, decoder: bool) -> Tree:
    """Return the parameters of a block of the encoder or of the decoder."""
    width, init = config.width, normal(config.deviation)
    heads, inner = (config.decoder_heads, config.decoder_mlp) if decoder else (config.heads, config.mlp)

    def mixing() -> Tree:
        return declare_attention(width, heads, init) | {"norm": declare_norm(width)}

    mlp = {
        "up": declare_dense(width, inner, ("width", "mlp"), init),
        "down": declare_dense(inner, width, ("mlp", "width"), init),
        "norm": declare_norm(width),
    }
    # The path of both attentions ends in `attention`, so that one pattern of a tuning matches the layers of both.
    return {"attention": mixing()} | ({"cross": {"attention": mixing()}} if decoder else {}) | {"mlp": mlp}


def encode(config: Any, params: Tree, carry: Carry, context: Context) -> Carry:
    """Return the carry with the hidden states [B, S, W] after one block of the encoder."""
    layer, x = params["attention"], carry["hidden"]
    settings: dict[str, Any] = {"heads": config.heads, "rate": config.attention_dropout, "context": context}
    mixed = attention(layer, read(config, layer, x), carry["mask"], **settings)
    x = added(config, layer, x, mixed, context)
    return carry | {"hidden": finish(config, params, x, context)}


def decode(config: Any, params: Tree, carry: Carry, context: Context) -> Carry:
    """Return the carry with the hidden states [B, T, W] after one block of the decoder.

    The entries `cache` and `memory_keys` of the carry are as in `t5_blocks.decode`.
    """
    layer, x, rate = params["attention"], carry["hidden"], config.attention_dropout
    settings: dict[str, Any] = {"heads": config.decoder_heads, "rate": rate}
    mixed, cache = causal_attention(layer, read(config, layer, x), carry, context, **settings)
    x = added(config, layer, x, mixed, context)
    layer = params["cross"]["attention"]
    # The same layers as above in one stage, with other noise.
    apart = context if context.key is None else context._replace(key=jax.random.fold_in(context.key, 1))
    keys = carry.get("memory_keys")
    keys = memory_keys(config, params, carry["memory"], apart) if keys is None else keys
    mixed = attention_to(layer, read(config, layer, x), keys, carry["memory_mask"], context=apart, **settings)
    x = added(config, layer, x, mixed, apart)
    entries = {} if cache is None else {"cache": cache, "memory_keys": keys}
    return carry | {"hidden": finish(config, params, x, context)} | entries


def memory_keys(config: Any, params: Tree, memory: Array, context: Context = STILL) -> KeyValue:
    """Return the keys and values of the `memory` [B, S, W] for one block of the decoder, which decoding computes once.

    `params` are the parameters of the block.
    """
    return keys_and_values(params["cross"]["attention"], memory, heads=config.decoder_heads, context=context)


def read(config: Any, layer: Tree, x: Array) -> Array:
    """Return what a part of a block reads of the hidden states `x`: their norm in a pre-norm block."""
    return layer_norm(layer["norm"], x, EPSILON) if config.norm_first else x


def added(config: Any, layer: Tree, x: Array, change: Array, context: Context) -> Array:
    """Return the hidden states after an attention with the output `change`."""
    change = dropout(change, config.dropout, context, 1)
    x = x + (change + bottleneck(layer["adapter"], change, context, INNER) if "adapter" in layer else change)
    return x if config.norm_first else layer_norm(layer["norm"], x, EPSILON)


def finish(config: Any, params: Tree, x: Array, context: Context) -> Array:
    """Return the hidden states after the feed-forward layer of a block."""
    mlp = params["mlp"]
    inner = ACTIVATIONS[config.activation](dense(mlp["up"], read(config, mlp, x), context, UP))
    hidden = dense(mlp["down"], dropout(inner, config.mlp_dropout, context, 2), context, DOWN)
    hidden = dropout(hidden, config.dropout, context, 3)
    x = x + (hidden + bottleneck(mlp["adapter"], hidden, context, OUTER) if "adapter" in mlp else hidden)
    if config.norm_first:
        return x + bottleneck(params["adapter"], x, context, OUTER) if "adapter" in params else x
    if "adapter" in params:
        x = x + bottleneck(params["adapter"], layer_norm(mlp["norm"], x, EPSILON), context, OUTER)
    return layer_norm(mlp["norm"], x, EPSILON)
