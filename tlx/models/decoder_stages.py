"""Parts that decoders share: their inputs, pre-norm blocks with causal attention, and the heads.

A `config` is the record of an architecture with the fields of `Gpt2` that a function reads. Shapes: B batch, T tokens,
S places of a cache, W width, V words.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from tlx.layers import (
    ACTIVATIONS,
    Cache,
    attention,
    attention_step,
    bottleneck,
    declare_dense,
    dense,
    dropout,
    embed,
    feed_forward,
    normal,
    unembed,
)
from tlx.models.heads import Head, PerToken, Pooled, Vocabulary
from tlx.models.inputs import beside_ids, check_length, placed, refuse_unread, token_ids
from tlx.models.text_stages import DOWN, INNER, OUTER, label_tokens, prompted
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Stage

READS = ("input_ids", "attention_mask", "position_ids")
# The outputs of the stem that later stages read, beside the hidden states.
OTHERS = ("mask", "places", "last")

Norm = Callable[[Tree, Array], Array]
# Returns the output of the attention of a block for its normed input, and the cache with the new tokens.
Mix = Callable[[Tree, Array], tuple[Array, Cache | None]]


def embed_tokens(config: Any, params: Tree, carry: Carry, context: Context) -> tuple[Array, Carry]:
    """Embed the tokens of the inputs, after a learned prompt if there is one.

    Positions count from 0 over all tokens, padding included, as in `transformers`; `position_ids` replace them.

    Args:
        config: The record of the architecture.
        params: `words`, and optionally a `prompt`.
        carry: The inputs.
        context: The context of the stage.

    Returns:
        The embeddings [B, T, W], and the attention mask [B, T], the positions `places` [B, T] and the place `last` [B]
        of the last token that is not padding.

    Raises:
        ValueError: An input is missing, unread, too long, or has an index without a row.
    """
    refuse_unread(carry, READS)
    ids = token_ids(carry, config.vocabulary)
    mask = beside_ids(carry, "attention_mask", ids, jnp.ones_like(ids))
    hidden, places = embed(params["words"], ids), carry.get("position_ids")
    if places is not None and ("prompt" in params or context.prefix):
        raise ValueError("a model with a learned prompt or prefix does not accept position_ids; remove them")
    if "prompt" in params:
        pad = -1 if config.pad is None else config.pad
        hidden, ids, mask, _ = prompted(pad, params["prompt"]["tokens"], hidden, ids, mask, ids)
    check_length(config.longest_text(), ids.shape[1] + context.prefix)
    places = jnp.arange(ids.shape[1]) + context.prefix if places is None else placed(places, ids)
    # Every entry of a carry has one row for each example, so that a batch can be divided between any two stages.
    places = jnp.broadcast_to(places, ids.shape)
    return hidden, {"mask": mask, "places": places, "last": last_place(ids, mask, config.pad)}


def last_place(ids: Array, mask: Array, pad: int | None) -> Array:
    """Return the place of the last token that the mask has and that is not `pad`, 0 if there is none: [B, T] -> [B].

    It is the token that a `…ForSequenceClassification` of a decoder reads in `transformers`.
    """
    real = mask > 0 if pad is None else (mask > 0) & (ids != pad)
    return jnp.argmax(jnp.where(real, jnp.arange(ids.shape[1]), 0), axis=1)


def causal_attention(
    params: Tree, x: Array, carry: Carry, context: Context, *, window: int | None = None, rate: float, **settings: Any
) -> tuple[Array, Cache | None]:
    """Compute the attention of every token to itself and to earlier tokens.

    With a `cache` in the carry, the tokens of `x` are the next ones after those of the cache, and the mask has the S
    places of the cache.

    Args:
        params: The parameters of the attention.
        x: The normed hidden states, [B, T, W].
        carry: The carry of the block, with `mask` [B, T], or [B, S] beside a `cache`.
        context: The context of the block.
        window: The number of tokens that a token sees, itself included; None for all.
        rate: The dropout rate of the attention probabilities.
        settings: Further settings of `layers.attention` and `layers.attention_step`.

    Returns:
        The output [B, T, W], and the cache with the new tokens; None without a cache.
    """
    cache, mask = carry.get("cache"), carry["mask"]
    if window is not None:
        first = 0 if cache is None else cache.length
        start = first + jnp.arange(x.shape[1])[:, None] - window
        mask = (mask > 0)[:, None] & (jnp.arange(mask.shape[1]) > start)
    if cache is not None:
        settings.pop("key_heads", None)
        return attention_step(params, x, cache, mask, context=context, **settings)
    return attention(params, x, mask, causal=True, rate=rate, context=context, salt=0, **settings), None


def decode(
    params: Tree, carry: Carry, context: Context, *, mix: Mix, norm: Norm, activation: str, rate: float = 0.0
) -> Carry:
    """Run one pre-norm block: the carry with the new hidden states [B, T, W], and with the new cache if it has one.

    Args:
        params: `attention` and `mlp`, each with the `norm` of its input and optionally a norm `after` it.
        carry: The carry before the block.
        context: The context of the block.
        mix: The attention.
        norm: The norm.
        activation: The activation of the feed-forward layer.
        rate: The dropout rate of the outputs of attention and feed-forward layer.
    """

    def added(layer: Tree, x: Array, change: Array, number: int, salt: int) -> Array:
        change = norm(layer["after"], change) if "after" in layer else change
        change = dropout(change, rate, context, number)
        return x + (change + bottleneck(layer["adapter"], change, context, salt) if "adapter" in layer else change)

    layer, mlp, x = params["attention"], params["mlp"], carry["hidden"]
    mixed, cache = mix(layer, norm(layer["norm"], x))
    x = added(layer, x, mixed, 1, INNER)
    hidden = feed_forward(mlp, norm(mlp["norm"], x), ACTIVATIONS[activation], context)
    x = added(mlp, x, hidden, 2, OUTER)
    x = x + bottleneck(params["adapter"], x, context, OUTER) if "adapter" in params else x
    return carry | {"hidden": x} | ({} if cache is None else {"cache": cache})


def declare_head(config: Any, head: Head | None) -> Tree:
    """Declare the parameters of the head under `head`; none if the last kernel is the embedding of the words."""
    if head is None or (isinstance(head, Vocabulary) and config.tied):
        return {}
    axes = ("width", "vocabulary" if isinstance(head, Vocabulary) else None)
    init, bias = normal(config.deviation), isinstance(head, PerToken)
    return {"head": {"output": declare_dense(config.width, head.outputs, axes, init, bias)}}


def closed(
    config: Any, head: Head | None, stages: Sequence[Stage], norm: Norm, cap: float | None = None
) -> tuple[Stage, ...]:
    """Return the chain of a decoder: its `stages`, the last `norm`, `pool` for the whole text, and `head`.

    Args:
        config: The record of the architecture.
        head: The head; None for the bare decoder, whose features are those of the last token.
        stages: The stages up to the last block.
        norm: The norm.
        cap: The largest logit over the words: each becomes cap * tanh(logit / cap); None for no limit.
    """

    def last_norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"hidden": norm(params, carry["hidden"])}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = carry["hidden"]
        return carry | {"pooled": hidden[jnp.arange(len(hidden)), carry["last"]]}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        if isinstance(head, Vocabulary):
            logits = predict_next(config, params, carry["hidden"], context, cap)
        elif isinstance(head, PerToken):
            logits = label_tokens(params, carry["hidden"], config.head_dropout, context)
        else:
            logits = dense(params["output"], carry["pooled"], context, DOWN)
        return carry | {"logits": logits.astype(jnp.float32)}, stats

    chain = [*stages, Stage("norm", last_norm, joins="before")]
    if head is None or isinstance(head, Pooled):
        chain.append(Stage("pool", pool, "pooled", joins="after"))
    if head is not None:
        reads = ("stem/words",) if isinstance(head, Vocabulary) and config.tied else ()
        chain.append(Stage("head", classifier, "logits", reads=reads))
    return tuple(chain)


def predict_next(config: Any, params: Tree, hidden: Array, context: Context, cap: float | None) -> Array:
    """Return the logits of the token after each one, [B, T, W] -> [B, T, V]; tokens of a learned prompt get none."""
    hidden = hidden[:, context.prompt :]
    if config.tied:
        logits = unembed(params["shared"]["stem"]["words"], hidden)
    else:
        logits = dense(params["output"], hidden, context, DOWN)
    return logits if cap is None else cap * jnp.tanh(logits / cap)
