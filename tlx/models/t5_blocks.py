"""The blocks of T5: pre-norm, without biases, with a learned bias of the scores by the distance of two tokens.

A `config` is the record of `T5`. Shapes: B batch, S tokens of the text, T tokens of the decoder, W width, H heads.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tlx.layers import (
    ACTIVATIONS,
    Init,
    attention,
    bottleneck,
    declare_attention,
    declare_dense,
    declare_norm,
    dense,
    dropout,
    relative_bias,
    rms_norm,
)
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


def encode(config: Any, params: Tree, table: Tree, carry: Carry, context: Context) -> Array:
    """Run one block of the encoder: [B, S, W] -> [B, S, W]."""
    x = mix(config, params["attention"], table, carry, context, causal=False)
    return finish(config, params, x, context)


def decode(config: Any, params: Tree, table: Tree, carry: Carry, context: Context) -> Array:
    """Run one block of the decoder: [B, T, W] -> [B, T, W]."""
    x = mix(config, params["attention"], table, carry, context, causal=True)
    layer = params["cross"]["attention"]
    # The same layers as above in one stage, with other noise.
    apart = context if context.key is None else context._replace(key=jax.random.fold_in(context.key, 1))
    normed = rms_norm(layer["norm"], x, config.epsilon)
    mixed = attention(
        layer,
        normed,
        carry["memory_mask"],
        heads=config.heads,
        memory=carry["memory"],
        scale=1.0,
        rate=config.dropout,
        context=apart,
        salt=0,
    )
    x = x + dropout(mixed, config.dropout, apart, 1)
    return finish(config, params, x, context)


def mix(config: Any, layer: Tree, table: Tree, carry: Carry, context: Context, *, causal: bool) -> Array:
    """Return the hidden states after the self-attention of a block."""
    x, rate = carry["hidden"], config.dropout
    tokens = x.shape[1]
    bias = relative_bias(table, tokens, tokens, both=not causal, furthest=config.furthest)
    mixed = attention(
        layer,
        rms_norm(layer["norm"], x, config.epsilon),
        carry["mask"],
        heads=config.heads,
        causal=causal,
        bias=bias,
        scale=1.0,
        rate=rate,
        context=context,
        salt=0,
    )
    mixed = dropout(mixed, rate, context, 1)
    return x + (mixed + bottleneck(layer["adapter"], mixed, context, INNER) if "adapter" in layer else mixed)


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
