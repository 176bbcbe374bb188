"""MPNet (Song et al., 2020), the backbone of many sentence encoders: BERT with a bias by the distance of two tokens.

Stages: `stem`, `blocks/00` ..., `pool` (without a head, or for the mean over tokens), `head`. Shapes: B batch,
T tokens, N buckets, H heads.

All blocks share one table of biases [N, H]. A stage reads only the parameters under its name, so the table belongs to
the stem, which passes it on as the output `relative`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.layers import declare_dense, declare_embedding, declare_norm, dense, dropout, normal, relative_bias
from tlx.models.base import Architecture
from tlx.models.heads import Head, PerToken, Pooled, Span
from tlx.models.sizes import check_ranges, counted
from tlx.models.text_stages import (
    DOWN,
    UP,
    check_text_fields,
    closed,
    declare_block,
    embed_text,
    encode,
    first_tanh,
    resize_rows,
)
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Stage

POSITIVE = ("vocabulary", "width", "depth", "heads", "mlp", "positions", "epsilon")
# `transformers` has both numbers in its code: config.json cannot change them.
BUCKETS, PAD = 32, 1


@dataclass(frozen=True, kw_only=True)
class MPNet(Architecture):
    """An MPNet encoder: relative positions shared by all blocks, positions from the padding, no token types.

    Attributes:
        pooling: "mean" puts a linear head on the mean over the tokens that are not padding, as sentence encoders are
            trained; "first" is the head of `transformers` on the first token.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken, Span)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.mpnet:MPNetFormat",)

    vocabulary: int = 30527
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    positions: int = 512
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pad: int = PAD
    deviation: float = 0.02
    pooling: str = "first"

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "attention_dropout"))
        check_text_fields(self)
        if self.pad != PAD:
            raise ValueError(f"MPNet has pad={self.pad}; expected {PAD}: its positions count from that id of padding")

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
        """Return the number of tokens that have positions: the first rows are for padding."""
        return self.positions - PAD - 1

    def embedding_rows(self) -> Mapping[str, int]:
        return {"input_ids": self.vocabulary}

    def has_attention_maps(self) -> bool:
        # The scores have a bias.
        return False

    def resized(self, size: int) -> Self:
        return replace(self, positions=size)

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the position rows that tokens read, resized linearly; None for other leaves than the positions."""
        return resize_rows(array, size, PAD + 1) if path.startswith("stem/positions") else None


def pooled(config: MPNet, head: Head | None) -> bool:
    """Return whether the chain has a dense `pool` stage: as in `transformers`, only without a head."""
    return head is None and config.pooling == "first"


def declare(config: MPNet, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init, width = normal(config.deviation), config.width
    stem: Tree = {
        "words": declare_embedding(config.vocabulary, width, init=init),
        "positions": declare_embedding(config.positions, width, None, init),
        "norm": declare_norm(width),
        "relative": declare_embedding(BUCKETS, config.heads, None, init),
    }
    stem["relative"]["embedding"] = stem["relative"]["embedding"]._replace(axes=(None, "heads"))
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": declare_block(config) for n in range(config.depth)}}
    if pooled(config, head):
        params["pool"] = declare_dense(width, width, ("width", None), init)
    if head is not None:
        params["head"] = {"output": declare_dense(width, head.outputs, ("width", None), init)}
        if config.pooling == "first" and not isinstance(head, PerToken):
            params["head"]["dense"] = declare_dense(width, width, ("width", None), init)
    return params


def chain(config: MPNet, head: Head | None) -> Model:
    """Build the chain of stages, with the sequence classifier of MPNet or one linear layer over every token."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden, mask = embed_text(config, params, carry, context, counted=True)
        # Every entry of a carry has one row for each example, so that a batch can be divided between any two stages.
        table = jnp.asarray(params["relative"]["embedding"])
        relative = jnp.broadcast_to(table, (len(hidden), *table.shape))
        return {"hidden": hidden, "mask": mask, "relative": relative}, stats

    def block(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        tokens = carry["hidden"].shape[1]
        bias = relative_bias({"embedding": carry["relative"][0]}, tokens, tokens, both=True)
        return carry | {"hidden": encode(config, params, carry["hidden"], carry["mask"], context, bias)}, stats

    def classifier(params: Tree, carry: Carry, context: Context) -> Array:
        first = dropout(carry["hidden"][:, 0], config.dropout, context, 0)
        inner = jnp.tanh(dense(params["dense"], first, context, UP))
        return dense(params["output"], dropout(inner, config.dropout, context, 1), context, DOWN)

    stages = [Stage("stem", stem, others=("mask", "relative"))]
    stages += [Stage(f"blocks/{n:02d}", block) for n in range(config.depth)]
    pooler = first_tanh if pooled(config, head) else None
    every = closed(config, head, stages, pooler, classifier, config.dropout)
    return Model(every, declare(config, head), {}, config, head)
