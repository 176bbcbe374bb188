"""BERT (Devlin et al., 2019) and models of the same form: MiniLM, RoBERTa, DistilBERT, ELECTRA.

Stages: `stem`, `blocks/00` ..., `pool` (where the family has one), `head`. Shapes: B batch, T tokens, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

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
    declare_embedding,
    declare_norm,
    dense,
    dropout,
    embed,
    feed_forward,
    layer_norm,
    normal,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head, PerToken, Pooled
from tlx.models.inputs import beside_ids, check_length, check_rows, placed, refuse_unread, token_ids
from tlx.models.sizes import check_ranges, counted
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Field, Model, Stage

POSITIVE = ("vocabulary", "width", "depth", "heads", "mlp", "positions", "embedding", "epsilon")


@dataclass(frozen=True, kw_only=True)
class Bert(Architecture):
    """A member of the BERT family.

    Attributes:
        family: "bert", "roberta", "distilbert" or "electra". It decides the names, the head and the positions.
        embedding: The width of the embeddings; None for `width`.
        pooling: "mean" puts a linear head on the mean over the tokens that are not padding, as sentence encoders are
            trained; "first" is the head of the family on the first token, which `transformers` opens.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.bert:BertFormat",)

    family: str = "bert"
    vocabulary: int = 30522
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    positions: int = 512
    types: int = 2
    embedding: int | None = None
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    head_dropout: float = 0.1
    pad: int = 0
    deviation: float = 0.02
    pooling: str = "first"

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "attention_dropout", "head_dropout"))
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; change one of the two")
        check_choice("pooling", self.pooling, ("first", "mean"))
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages.

        Raises:
            ValueError: The head is per token and pooling is "mean", which is for a head of the whole text.
        """
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"input_ids": Field((None,), "int32", self.pad)}

    def count(self, head: Head | None) -> int:
        return counted(declare, self, head)

    def longest_text(self) -> int:
        """Return the number of tokens that have positions: RoBERTa keeps the first rows for padding."""
        return self.positions - unread(self)

    def embedding_rows(self) -> Mapping[str, int]:
        return {"input_ids": self.vocabulary, "token_type_ids": self.types}

    def resized(self, size: int) -> Self:
        return replace(self, positions=size)

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the position rows that tokens read, resized linearly; None for other leaves than the positions."""
        return resize_rows(array, size, unread(self)) if path.startswith("stem/positions") else None


READS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
# The salts of the noise of the dense layers, apart from those of the attention (10 to 13) and of the other dropouts.
UP, DOWN, PROJECT, POOL, INNER, OUTER = 14, 15, 14, 14, 16, 18


def pooled(config: Bert, head: Head | None) -> bool:
    """Return whether the chain has a dense `pool` stage.

    As in `transformers`, BERT has one for the whole text, RoBERTa only without a head.
    """
    if config.pooling == "mean" or isinstance(head, PerToken):
        return False
    return config.family == "bert" or (config.family == "roberta" and head is None)


def declare(config: Bert, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init = normal(config.deviation)
    rows = config.embedding or config.width
    stem: Tree = {
        "words": declare_embedding(config.vocabulary, rows, init=init),
        "positions": declare_embedding(config.positions, rows, None, init),
        "norm": declare_norm(rows),
    }
    if config.types:
        stem["types"] = declare_embedding(config.types, rows, None, init)
    if rows != config.width:
        stem["project"] = declare_dense(rows, config.width, (None, "width"), init)
    block = {
        "attention": declare_attention(config.width, config.heads, init) | {"norm": declare_norm(config.width)},
        "mlp": {
            "up": declare_dense(config.width, config.mlp, ("width", "mlp"), init),
            "down": declare_dense(config.mlp, config.width, ("mlp", "width"), init),
            "norm": declare_norm(config.width),
        },
    }
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": block for n in range(config.depth)}}
    if pooled(config, head):
        params["pool"] = declare_dense(config.width, config.width, ("width", None), init)
    if head is not None:
        params["head"] = {"output": declare_dense(config.width, head.outputs, ("width", None), init)}
        if config.family != "bert" and config.pooling == "first" and not isinstance(head, PerToken):
            params["head"]["dense"] = declare_dense(config.width, config.width, ("width", None), init)
    return params


def chain(config: Bert, head: Head | None) -> Model:
    """Build the chain of stages, with the sequence classifier of the family or one linear layer over every token."""
    per_token = isinstance(head, PerToken)
    if per_token and config.pooling == "mean":
        raise ValueError(
            f"pooling='mean' requires a head for the whole text, but the head is {head}: set pooling='first'"
        )

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, READS)
        ids = token_ids(carry, config.vocabulary)
        mask = beside_ids(carry, "attention_mask", ids, jnp.ones_like(ids))
        types = beside_ids(carry, "token_type_ids", ids, jnp.zeros_like(ids))
        if config.types:
            check_rows("token_type_ids", types, config.types, "token type embeddings")
        hidden = embed(params["words"], ids)
        places = carry.get("position_ids")
        if places is not None and ("prompt" in params or context.prefix):
            raise ValueError("a model with a learned prompt or prefix does not accept position_ids; remove them")
        if "prompt" in params:
            hidden, ids, mask, types = prompted(config, params["prompt"]["tokens"], hidden, ids, mask, types)
        check_length(config.longest_text(), ids.shape[1] + context.prefix)
        places = positions(config, ids, context.prefix, "prompt" in params) if places is None else placed(places, ids)
        check_rows("position_ids", places, config.positions, "position embeddings")
        hidden += embed(params["positions"], places)
        if config.types:
            hidden += embed(params["types"], types)
        hidden = dropout(
            as_dtype(layer_norm(params["norm"], hidden, config.epsilon), context), config.dropout, context, 0
        )
        if "project" in params:
            hidden = dense(params["project"], hidden, context, PROJECT)
        return {"hidden": hidden, "mask": mask}, stats

    def block(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"hidden": encode(config, params, carry["hidden"], carry["mask"], context)}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        if config.pooling == "mean":
            return carry | {"pooled": token_mean(carry["hidden"], carry["mask"])}, stats
        return carry | {"pooled": jnp.tanh(dense(params, carry["hidden"][:, 0], context, POOL))}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        logits = label_tokens if per_token else classify
        return carry | {"logits": logits(config, params, carry, context).astype(jnp.float32)}, stats

    stages = [Stage("stem", stem, others=("mask",)), *(Stage(f"blocks/{n:02d}", block) for n in range(config.depth))]
    if pooled(config, head) or config.pooling == "mean":
        stages.append(Stage("pool", pool, "pooled", joins="after"))
    if head is not None:
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), declare(config, head), {}, config, head)


def positions(config: Bert, ids: Array, prefix: int = 0, prompt: bool = False) -> Array:
    """Return the positions of the tokens, [T] or [B, T].

    Positions count from 0, but in RoBERTa from pad + 1 over the tokens that are not padding. Learned keys before the
    tokens take the first `prefix` positions. With a `prompt` among the embeddings RoBERTa counts padding too. Both are
    as in `transformers`, where adapters of peft are trained.
    """
    if config.family != "roberta":
        return jnp.arange(prefix, prefix + ids.shape[1])
    if prompt:
        return jnp.arange(ids.shape[1]) + config.pad + 1 + prefix
    real = (ids != config.pad).astype(jnp.int32)
    return (jnp.cumsum(real, axis=1) + prefix) * real + config.pad


def encode(config: Bert, params: Tree, x: Array, mask: Array, context: Context) -> Array:
    """Run one post-norm transformer block: [B, T, W] -> [B, T, W]."""
    mixed = attention(
        params["attention"], x, mask, heads=config.heads, rate=config.attention_dropout, context=context, salt=0
    )
    mixed = dropout(mixed, config.dropout, context, 1)
    if "adapter" in params["attention"]:
        mixed = mixed + bottleneck(params["attention"]["adapter"], mixed, context, INNER)
    x = layer_norm(params["attention"]["norm"], x + mixed, config.epsilon)
    mlp = params["mlp"]
    hidden = feed_forward(mlp, x, ACTIVATIONS[config.activation], context)
    hidden = dropout(hidden, config.dropout, context, 2)
    if "adapter" in mlp:
        hidden = hidden + bottleneck(mlp["adapter"], hidden, context, OUTER)
    x = x + hidden
    if "adapter" in params:
        x = x + bottleneck(params["adapter"], layer_norm(mlp["norm"], x, config.epsilon), context, OUTER)
    return layer_norm(mlp["norm"], x, config.epsilon)


def prompted(
    config: Bert, prompt: Array, hidden: Array, ids: Array, mask: Array, types: Array
) -> tuple[Array, Array, Array, Array]:
    """Put a learned `prompt` [P, W] before the word embeddings [B, T, W] (Lester et al., 2021).

    Returns the embeddings, ids, mask and types of P + T tokens. The tokens of the prompt are attended to, have type 0,
    and are not padding.
    """
    batch, count = ids.shape[0], len(prompt)
    rows = jnp.broadcast_to(prompt.astype(hidden.dtype), (batch, *prompt.shape))
    hidden = jnp.concatenate([rows, hidden], axis=1)
    # Any id except that of padding: only the positions of RoBERTa depend on it.
    values = {"ids": config.pad + 1, "mask": 1, "types": 0}
    ids, mask, types = (
        jnp.concatenate([jnp.full((batch, count), values[name], array.dtype), array], axis=1)
        for name, array in (("ids", ids), ("mask", mask), ("types", types))
    )
    return hidden, ids, mask, types


def unread(config: Bert) -> int:
    """Return the number of first position embeddings that no token reads: RoBERTa counts from pad + 1."""
    return config.pad + 1 if config.family == "roberta" else 0


def token_mean(hidden: Array, mask: Array) -> Array:
    """Average over tokens where `mask` [B, T] is 1, in float32: [B, T, W] -> [B, W] (Reimers and Gurevych, 2019)."""
    weight = mask.astype(jnp.float32)[..., None]
    total = (hidden.astype(jnp.float32) * weight).sum(1)
    return (total / jnp.maximum(weight.sum(1), 1.0)).astype(hidden.dtype)


def classify(config: Bert, params: Tree, carry: Carry, context: Context) -> Array:
    """Compute the sequence classification head of the family, or a linear head on the mean: [B, outputs]."""
    if config.family == "bert" or config.pooling == "mean":
        return dense(params["output"], dropout(carry["pooled"], config.head_dropout, context, 0), context, DOWN)
    first = carry["hidden"][:, 0]
    if config.family == "distilbert":
        inner = ACTIVATIONS["relu"](dense(params["dense"], first, context, UP))
    else:
        inner = dense(params["dense"], dropout(first, config.head_dropout, context, 0), context, UP)
        inner = jnp.tanh(inner) if config.family == "roberta" else ACTIVATIONS["gelu"](inner)
    return dense(params["output"], dropout(inner, config.head_dropout, context, 1), context, DOWN)


def label_tokens(config: Bert, params: Tree, carry: Carry, context: Context) -> Array:
    """Apply one linear layer to every token of the text, as `BertForTokenClassification`: [B, T, outputs]."""
    # DistilBERT has no separate dropout rate for this head.
    rate = config.dropout if config.family == "distilbert" else config.head_dropout
    return dense(params["output"], dropout(carry["hidden"][:, context.prompt :], rate, context, 0), context, DOWN)


def resize_rows(array: np.ndarray, size: int, unread: int = 0) -> np.ndarray:
    """Resize the rows of `array` [P, W] to `size` rows, linearly: [`size`, W].

    The first `unread` rows are unchanged. Raises ValueError if `size` leaves no row that is read.
    """
    if size <= unread:
        raise ValueError(
            f"resize is {size}; expected {unread + 1} or more, because this model reads its positions from {unread} on"
        )
    resized_rows = jax.image.resize(array[unread:], (size - unread, array.shape[1]), "linear")
    return np.concatenate([array[:unread], np.asarray(resized_rows)])
