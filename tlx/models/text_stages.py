"""Parts that text encoders share: embeddings, post-norm blocks, the mean over tokens, learned tokens before the text.

A `config` is the record of an architecture with the fields of `Bert` that a function reads. Shapes: B batch, T tokens,
P learned tokens, W width, E width of the embeddings, H heads.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.config import check_choice
from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    attention,
    bottleneck,
    declare_attention,
    declare_dense,
    declare_norm,
    dense,
    dropout,
    embed,
    feed_forward,
    layer_norm,
    normal,
    unembed,
    zeros,
)
from tlx.models.heads import Head, PerToken, Span, Vocabulary
from tlx.models.inputs import beside_ids, check_length, check_rows, placed, refuse_unread, token_ids
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Param, Stage

READS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
# The salts of the noise of the dense layers, apart from those of the attention (10 to 13) and of the other dropouts.
UP, DOWN, POOL, INNER, OUTER, GATE = 14, 15, 14, 16, 18, 20


def check_text_fields(config: Any) -> None:
    """Raise ValueError for heads that do not divide the width, and for an unknown pooling or activation."""
    if config.width % config.heads:
        raise ValueError(f"width {config.width} is not a multiple of heads {config.heads}; change one of the two")
    check_choice("pooling", config.pooling, ("first", "mean"))
    check_activation(config.activation)


def check_activation(name: str) -> None:
    """Raise ValueError for the name of an activation that does not exist."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}{near_miss(name, ACTIVATIONS)}")


def check_pooling(config: Any, head: Head | None) -> None:
    """Raise ValueError for a head per token on the mean over tokens."""
    if isinstance(head, PerToken | Vocabulary) and config.pooling == "mean":
        raise ValueError(
            f"pooling='mean' requires a head for the whole text, but the head is {head}: set pooling='first'"
        )


def embed_text(
    config: Any, params: Tree, carry: Carry, context: Context, *, types: int = 0, counted: bool = False
) -> tuple[Array, Array]:
    """Embed the tokens of the inputs, with their positions and types.

    Args:
        config: The record of the architecture.
        params: `words`, `positions` and `norm`; with `types`, `types` too; optionally a `prompt`.
        carry: The inputs.
        context: The context of the stage.
        types: The number of token types, 0 for none.
        counted: Whether positions count from pad + 1 over the tokens that are not padding, as in RoBERTa.

    Returns:
        The normed embeddings [B, T, E] and the attention mask [B, T].

    Raises:
        ValueError: An input is missing, unread, too long, or has an index without a row.
    """
    refuse_unread(carry, READS)
    ids = token_ids(carry, config.vocabulary)
    mask = beside_ids(carry, "attention_mask", ids, jnp.ones_like(ids))
    kinds = beside_ids(carry, "token_type_ids", ids, jnp.zeros_like(ids))
    if types:
        check_rows("token_type_ids", kinds, types, "token type embeddings")
    hidden = embed(params["words"], ids)
    places = carry.get("position_ids")
    if places is not None and ("prompt" in params or context.prefix):
        raise ValueError("a model with a learned prompt or prefix does not accept position_ids; remove them")
    if "prompt" in params:
        hidden, ids, mask, kinds = prompted(config.pad, params["prompt"]["tokens"], hidden, ids, mask, kinds)
    check_length(config.longest_text(), ids.shape[1] + context.prefix)
    if places is None:
        places = positions(ids, config.pad if counted else None, context.prefix, "prompt" in params)
    else:
        places = placed(places, ids)
    check_rows("position_ids", places, config.positions, "position embeddings")
    hidden += embed(params["positions"], places)
    if types:
        hidden += embed(params["types"], kinds)
    normed = as_dtype(layer_norm(params["norm"], hidden, config.epsilon), context)
    return dropout(normed, config.dropout, context, 0), mask


def positions(ids: Array, pad: int | None, prefix: int = 0, prompt: bool = False) -> Array:
    """Return the positions of the tokens `ids` [B, T], as [T] or [B, T].

    Positions count from 0, but with a `pad` from pad + 1 over the tokens that are not padding, as in RoBERTa and MPNet.
    Learned keys before the tokens take the first `prefix` positions. With a `prompt` among the embeddings padding
    counts too. Both are as in `transformers`, where adapters of peft are trained.
    """
    if pad is None:
        return jnp.arange(prefix, prefix + ids.shape[1])
    if prompt:
        return jnp.arange(ids.shape[1]) + pad + 1 + prefix
    real = (ids != pad).astype(jnp.int32)
    return (jnp.cumsum(real, axis=1) + prefix) * real + pad


def declare_block(config: Any) -> Tree:
    """Declare the parameters of a post-norm transformer block."""
    init = normal(config.deviation)
    return {
        "attention": declare_attention(config.width, config.heads, init) | {"norm": declare_norm(config.width)},
        "mlp": {
            "up": declare_dense(config.width, config.mlp, ("width", "mlp"), init),
            "down": declare_dense(config.mlp, config.width, ("mlp", "width"), init),
            "norm": declare_norm(config.width),
        },
    }


def encode(config: Any, params: Tree, x: Array, mask: Array, context: Context, bias: Array | None = None) -> Array:
    """Run one post-norm transformer block: [B, T, W] -> [B, T, W].

    `bias`, of a shape that broadcasts to [B, H, T, T], is added to the scores of the attention.
    """
    rate, salt = config.attention_dropout, 0
    mixed = attention(
        params["attention"], x, mask, heads=config.heads, bias=bias, rate=rate, context=context, salt=salt
    )
    return after_attention(config, params, x, mixed, context, config.dropout)


def after_attention(config: Any, params: Tree, x: Array, mixed: Array, context: Context, rate: float) -> Array:
    """Run the part of a post-norm block after the attention: [B, T, W] -> [B, T, W].

    `mixed` is the output of the attention for `x`; `rate` is the dropout rate after the feed-forward layer.
    """
    mixed = dropout(mixed, config.dropout, context, 1)
    if "adapter" in params["attention"]:
        mixed = mixed + bottleneck(params["attention"]["adapter"], mixed, context, INNER)
    x = layer_norm(params["attention"]["norm"], x + mixed, config.epsilon)
    mlp = params["mlp"]
    hidden = feed_forward(mlp, x, ACTIVATIONS[config.activation], context)
    hidden = dropout(hidden, rate, context, 2)
    if "adapter" in mlp:
        hidden = hidden + bottleneck(mlp["adapter"], hidden, context, OUTER)
    x = x + hidden
    if "adapter" in params:
        x = x + bottleneck(params["adapter"], layer_norm(mlp["norm"], x, config.epsilon), context, OUTER)
    return layer_norm(mlp["norm"], x, config.epsilon)


def prompted(
    pad: int, prompt: Array, hidden: Array, ids: Array, mask: Array, types: Array
) -> tuple[Array, Array, Array, Array]:
    """Put a learned `prompt` [P, W] before the word embeddings [B, T, W] (Lester et al., 2021).

    Returns the embeddings, ids, mask and types of P + T tokens. The tokens of the prompt are attended to, have type 0,
    and are not padding.
    """
    batch, count = ids.shape[0], len(prompt)
    rows = jnp.broadcast_to(prompt.astype(hidden.dtype), (batch, *prompt.shape))
    hidden = jnp.concatenate([rows, hidden], axis=1)
    # Any id except that of padding: only positions that count from pad + 1 depend on it.
    values = {"ids": pad + 1, "mask": 1, "types": 0}
    ids, mask, types = (
        jnp.concatenate([jnp.full((batch, count), values[name], array.dtype), array], axis=1)
        for name, array in (("ids", ids), ("mask", mask), ("types", types))
    )
    return hidden, ids, mask, types


def token_mean(hidden: Array, mask: Array) -> Array:
    """Average over tokens where `mask` [B, T] is 1, in float32: [B, T, W] -> [B, W] (Reimers and Gurevych, 2019)."""
    weight = mask.astype(jnp.float32)[..., None]
    total = (hidden.astype(jnp.float32) * weight).sum(1)
    return (total / jnp.maximum(weight.sum(1), 1.0)).astype(hidden.dtype)


def first_tanh(params: Tree, hidden: Array, context: Context) -> Array:
    """Compute tanh(dense) of the first token, the pooler of BERT: [B, T, W] -> [B, W]."""
    return jnp.tanh(dense(params, hidden[:, 0], context, POOL))


def label_tokens(params: Tree, hidden: Array, rate: float, context: Context) -> Array:
    """Apply one linear layer to every token of the text, as `BertForTokenClassification`: [B, T, W] -> [B, T, outputs].

    Tokens of a learned prompt get no outputs. `rate` is the dropout rate before the layer.
    """
    return dense(params["output"], dropout(hidden[:, context.prompt :], rate, context, 0), context, DOWN)


def label_mean(params: Tree, pooled: Array, rate: float, context: Context) -> Array:
    """Apply one linear layer to the features of a text: [B, W] -> [B, outputs]."""
    return dense(params["output"], dropout(pooled, rate, context, 0), context, DOWN)


def declare_words(config: Any, rows: int) -> Tree:
    """Declare the head of masked language modelling: a dense layer to the width `rows` of the embeddings, its norm, and
    a bias for each word. The last kernel is the embedding of the words."""
    return {
        "dense": declare_dense(config.width, rows, ("width", None), normal(config.deviation)),
        "norm": declare_norm(rows),
        "bias": Param((config.vocabulary,), ("vocabulary",), zeros),
    }


def predict_words(params: Tree, hidden: Array, activation: str, epsilon: float, context: Context) -> Array:
    """Return the logits of every token over the words, as BERT predicts masked words: [B, T, W] -> [B, T, V].

    Tokens of a learned prompt get no logits. `params` has the embedding of the words under `shared`.
    """
    inner = ACTIVATIONS[activation](dense(params["dense"], hidden[:, context.prompt :], context, UP))
    inner = layer_norm(params["norm"], inner, epsilon)
    return unembed(params["shared"]["stem"]["words"], inner) + params["bias"].astype(inner.dtype)


def closed(
    config: Any,
    head: Head | None,
    stages: Iterable[Stage],
    pooler: Callable[[Tree, Array, Context], Array] | None,
    classify: Callable[[Tree, Carry, Context], Array],
    rate: float,
    words: str = "gelu",
) -> tuple[Stage, ...]:
    """Return the chain of an encoder: its `stages`, `pool` where it has one, and `head`.

    Args:
        config: The record of the architecture, with `pooling`.
        head: The head; None for the bare encoder.
        stages: The stages up to the last hidden states.
        pooler: The dense pooler, of the hidden states [B, T, W]; None for none. The mean over tokens replaces it.
        classify: The head of the family, from the carry.
        rate: The dropout rate before the linear head on every token, or on the mean.
        words: The activation of the head over the vocabulary.

    Raises:
        ValueError: The head is per token and pooling is "mean".
    """
    check_pooling(config, head)
    mean, per_token = config.pooling == "mean", isinstance(head, PerToken)
    if isinstance(head, Span) and getattr(config, "family", "") != "distilbert":
        # As in `transformers`: only DistilBERT drops features before the scores of spans.
        rate = 0.0

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        if mean or pooler is None:
            return carry | {"pooled": token_mean(carry["hidden"], carry["mask"])}, stats
        return carry | {"pooled": pooler(params, carry["hidden"], context)}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        if isinstance(head, Vocabulary):
            logits = predict_words(params, carry["hidden"], words, config.epsilon, context)
        elif per_token:
            logits = label_tokens(params, carry["hidden"], rate, context)
        else:
            logits = label_mean(params, carry["pooled"], rate, context) if mean else classify(params, carry, context)
        return carry | {"logits": logits.astype(jnp.float32)}, stats

    chain = list(stages)
    if mean or pooler is not None:
        chain.append(Stage("pool", pool, "pooled", joins="after"))
    if head is not None:
        reads = ("stem/words",) if isinstance(head, Vocabulary) else ()
        chain.append(Stage("head", classifier, "logits", reads=reads))
    return tuple(chain)


def resize_rows(array: np.ndarray, size: int, unread: int = 0) -> np.ndarray:
    """Resize the rows of `array` [N, W] to `size` rows, linearly: [`size`, W].

    The first `unread` rows are unchanged. Raises ValueError if `size` leaves no row that is read.
    """
    if size <= unread:
        raise ValueError(
            f"resize is {size}; expected {unread + 1} or more, because this model reads its positions from {unread} on"
        )
    resized_rows = jax.image.resize(array[unread:], (size - unread, array.shape[1]), "linear")
    return np.concatenate([array[:unread], np.asarray(resized_rows)])
