"""BERT (Devlin et al., 2019) and models of the same form: MiniLM, RoBERTa, DistilBERT, ELECTRA.

Stages: `stem`, `blocks/00` ..., `pool` (where the family has one), `head`. Shapes: B batch, T tokens, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.layers import ACTIVATIONS, declare_dense, declare_embedding, declare_norm, dense, dropout, normal
from tlx.models.base import Architecture
from tlx.models.heads import Head, PerToken, Pooled, Span, Vocabulary
from tlx.models.sizes import check_ranges, counted
from tlx.models.text_stages import (
    DOWN,
    UP,
    check_text_fields,
    closed,
    declare_block,
    declare_words,
    embed_text,
    encode,
    first_tanh,
    label_mean,
    resize_rows,
)
from tlx.trees import Tree
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

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken, Span, Vocabulary)
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
        check_text_fields(self)

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


# The salt of the noise of the projection of narrow embeddings.
PROJECT = 14


def pooled(config: Bert, head: Head | None) -> bool:
    """Return whether the chain has a dense `pool` stage.

    As in `transformers`, BERT has one for the whole text, RoBERTa only without a head.
    """
    if config.pooling == "mean" or isinstance(head, PerToken | Vocabulary):
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
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": declare_block(config) for n in range(config.depth)}}
    if pooled(config, head):
        params["pool"] = declare_dense(config.width, config.width, ("width", None), init)
    if isinstance(head, Vocabulary):
        params["head"] = declare_words(config, rows)
    elif head is not None:
        params["head"] = {"output": declare_dense(config.width, head.outputs, ("width", None), init)}
        if config.family != "bert" and config.pooling == "first" and not isinstance(head, PerToken):
            params["head"]["dense"] = declare_dense(config.width, config.width, ("width", None), init)
    return params


def chain(config: Bert, head: Head | None) -> Model:
    """Build the chain of stages, with the sequence classifier of the family or one linear layer over every token."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        counted_positions = config.family == "roberta"
        hidden, mask = embed_text(config, params, carry, context, types=config.types, counted=counted_positions)
        if "project" in params:
            hidden = dense(params["project"], hidden, context, PROJECT)
        return {"hidden": hidden, "mask": mask}, stats

    def block(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"hidden": encode(config, params, carry["hidden"], carry["mask"], context)}, stats

    def classifier(params: Tree, carry: Carry, context: Context) -> Array:
        return classify(config, params, carry, context)

    stages = [Stage("stem", stem, others=("mask",)), *(Stage(f"blocks/{n:02d}", block) for n in range(config.depth))]
    pooler = first_tanh if pooled(config, head) else None
    # DistilBERT has no separate dropout rate for the head on tokens.
    rate = config.dropout if config.family == "distilbert" and isinstance(head, PerToken) else config.head_dropout
    # RoBERTa and ELECTRA predict words with the same activation whatever that of their blocks is.
    words = "gelu" if config.family in ("roberta", "electra") else config.activation
    return Model(closed(config, head, stages, pooler, classifier, rate, words), declare(config, head), {}, config, head)


def unread(config: Bert) -> int:
    """Return the number of first position embeddings that no token reads: RoBERTa counts from pad + 1."""
    return config.pad + 1 if config.family == "roberta" else 0


def classify(config: Bert, params: Tree, carry: Carry, context: Context) -> Array:
    """Compute the sequence classification head of the family: [B, outputs]."""
    if config.family == "bert":
        return label_mean(params, carry["pooled"], config.head_dropout, context)
    first = carry["hidden"][:, 0]
    if config.family == "distilbert":
        inner = ACTIVATIONS["relu"](dense(params["dense"], first, context, UP))
    else:
        inner = dense(params["dense"], dropout(first, config.head_dropout, context, 0), context, UP)
        inner = jnp.tanh(inner) if config.family == "roberta" else ACTIVATIONS["gelu"](inner)
    return dense(params["output"], dropout(inner, config.head_dropout, context, 1), context, DOWN)
