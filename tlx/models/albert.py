"""ALBERT (Lan et al., 2020): narrow embeddings, and layers that run several times with the same parameters.

Stages: `stem`, `blocks/00` ... (one for each group of layers), `pool`, `head`. Shapes: B batch, T tokens, W width,
E width of the embeddings.

A stage reads only the parameters under its name, so layers that share parameters are one stage: `blocks/00` runs all
passes through the layers of the first group. Copies of the parameters in one stage for each pass would have to be tied
in every tuning, checkpoint and optimiser; and freezing, layer-wise learning rates and gradual unfreezing cannot treat
two passes through the same parameters differently. The hidden states after every layer of every pass are taps:
`pass_00`, `pass_01` ... are outputs of the stage beside `hidden`. Each pass has its own noise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import numpy as np

from tlx.layers import attention, declare_dense, declare_embedding, declare_norm, dense, normal
from tlx.models.base import Architecture
from tlx.models.heads import Head, PerToken, Pooled, Span
from tlx.models.sizes import check_ranges, total
from tlx.models.text_stages import (
    after_attention,
    check_text_fields,
    closed,
    declare_block,
    embed_text,
    first_tanh,
    label_mean,
    resize_rows,
)
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Stage

POSITIVE = (
    "vocabulary", "embedding", "width", "depth", "groups", "layers", "heads", "mlp", "positions", "types", "epsilon",
)  # fmt: skip
# The salt of the noise of the projection of the embeddings.
PROJECT = 14


@dataclass(frozen=True, kw_only=True)
class Albert(Architecture):
    """An ALBERT encoder.

    Attributes:
        embedding: The width of the embeddings, E.
        depth: The number of passes; each pass runs the layers of one group.
        groups: The number of groups of layers. The passes are divided among the groups in order.
        layers: The number of layers of a group.
        pooling: "mean" puts a linear head on the mean over the tokens that are not padding; "first" is the head of
            `transformers` on the pooler of the first token.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken, Span)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.albert:AlbertFormat",)

    vocabulary: int = 30000
    embedding: int = 128
    width: int = 4096
    depth: int = 12
    groups: int = 1
    layers: int = 1
    heads: int = 64
    mlp: int = 16384
    positions: int = 512
    types: int = 2
    activation: str = "gelu_new"
    epsilon: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0
    head_dropout: float = 0.1
    pad: int = 0
    deviation: float = 0.02
    pooling: str = "first"

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "attention_dropout", "head_dropout"))
        check_text_fields(self)
        if self.groups > self.depth:
            raise ValueError(f"Albert has groups={self.groups}; expected at most depth={self.depth}, a pass for each")

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages.

        Raises:
            ValueError: The head is per token and pooling is "mean", which is for a head of the whole text.
        """
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"input_ids": Field((None,), "int32", self.pad)}

    def count(self, head: Head | None) -> int:
        return total(declare(self, head))

    def longest_text(self) -> int:
        return self.positions

    def embedding_rows(self) -> Mapping[str, int]:
        return {"input_ids": self.vocabulary, "token_type_ids": self.types}

    def has_attention_maps(self) -> bool:
        # A stage holds several passes.
        return False

    def resized(self, size: int) -> Self:
        return replace(self, positions=size)

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the position rows, resized linearly; None for other leaves than the positions."""
        return resize_rows(array, size) if path.startswith("stem/positions") else None


def pooled(config: Albert, head: Head | None) -> bool:
    """Return whether the chain has a dense `pool` stage, which a head on every token does not read."""
    return config.pooling == "first" and not isinstance(head, PerToken)


def passes(config: Albert) -> list[range]:
    """Return for each group the numbers of the layers that its passes run, counted over the whole network."""
    groups = [int(n / (config.depth / config.groups)) for n in range(config.depth)]
    counts = [groups.count(group) * config.layers for group in range(config.groups)]
    return [range(sum(counts[:group]), sum(counts[: group + 1])) for group in range(config.groups)]


def declare(config: Albert, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init, width = normal(config.deviation), config.width
    stem: Tree = {
        "words": declare_embedding(config.vocabulary, config.embedding, init=init),
        "positions": declare_embedding(config.positions, config.embedding, None, init),
        "types": declare_embedding(config.types, config.embedding, None, init),
        "norm": declare_norm(config.embedding),
        "project": declare_dense(config.embedding, width, (None, "width"), init),
    }
    group = {"layers": {f"{n:02d}": declare_block(config) for n in range(config.layers)}}
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": group for n in range(config.groups)}}
    if pooled(config, head):
        params["pool"] = declare_dense(width, width, ("width", None), init)
    if head is not None:
        params["head"] = {"output": declare_dense(width, head.outputs, ("width", None), init)}
    return params


def chain(config: Albert, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden, mask = embed_text(config, params, carry, context, types=config.types)
        return {"hidden": dense(params["project"], hidden, context, PROJECT), "mask": mask}, stats

    def group(numbers: range) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            hidden, states = carry["hidden"], {}
            for number in numbers:
                layer = params["layers"][f"{number % config.layers:02d}"]
                hidden = encode(config, layer, hidden, carry["mask"], pass_context(context, number))
                states[pass_name(number)] = hidden
            return carry | states | {"hidden": hidden}, stats

        return apply

    def classifier(params: Tree, carry: Carry, context: Context) -> Array:
        return label_mean(params, carry["pooled"], config.head_dropout, context)

    stages = [Stage("stem", stem, others=("mask",))]
    stages += [
        Stage(f"blocks/{n:02d}", group(numbers), others=tuple(map(pass_name, numbers)))
        for n, numbers in enumerate(passes(config))
    ]
    pooler = first_tanh if pooled(config, head) else None
    every = closed(config, head, stages, pooler, classifier, config.head_dropout)
    return Model(every, declare(config, head), {}, config, head)


def pass_name(number: int) -> str:
    """Return the name of the hidden states after layer `number` of the whole network."""
    return f"pass_{number:02d}"


def pass_context(context: Context, number: int) -> Context:
    """Return the context of layer `number`, whose noise differs from that of the other passes."""
    return context if context.key is None else context._replace(key=jax.random.fold_in(context.key, number))


def encode(config: Albert, params: Tree, x: Array, mask: Array, context: Context) -> Array:
    """Run one post-norm layer without dropout after its feed-forward layer: [B, T, W] -> [B, T, W]."""
    rate = config.attention_dropout
    mixed = attention(params["attention"], x, mask, heads=config.heads, rate=rate, context=context)
    return after_attention(config, params, x, mixed, context, 0.0)
