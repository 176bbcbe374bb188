"""DeBERTa v2 and v3 (He et al., 2021; 2023): attention with separate scores for contents and distances.

Stages: `stem`, `blocks/00` ..., `pool` (for the mean over tokens), `head`. Shapes: B batch, T tokens, W width,
E width of the embeddings, N span of the distances, K size of the convolution's kernel.

All blocks share one table of embeddings of distances [2 N, W]. A stage reads only the parameters under its name, so the
table belongs to the stem, which passes it on as the output `relative`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.config import check_choice
from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    declare_dense,
    declare_disentangled,
    declare_embedding,
    declare_norm,
    dense,
    disentangled_attention,
    distance_places,
    dropout,
    embed,
    layer_norm,
    normal,
    zeros,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head, PerToken, Pooled, Span
from tlx.models.inputs import beside_ids, check_length, check_rows, refuse_unread, token_ids
from tlx.models.sizes import check_ranges, counted
from tlx.models.text_stages import (
    DOWN,
    UP,
    after_attention,
    check_activation,
    check_text_fields,
    closed,
    declare_block,
    prompted,
    resize_rows,
)
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Param, Stage

POSITIVE = (
    "vocabulary", "width", "depth", "heads", "mlp", "positions", "embedding", "furthest", "buckets", "epsilon",
    "kernel_groups",
)  # fmt: skip
SHARES = ("dropout", "attention_dropout", "pooler_dropout", "head_dropout")
READS = ("input_ids", "attention_mask", "token_type_ids")
# The salts of the noise of the projection of narrow embeddings and of the convolution.
PROJECT, CONVOLUTION = 14, 4


@dataclass(frozen=True, kw_only=True)
class DebertaV2(Architecture):
    """A DeBERTa encoder of version 2 or 3.

    Attributes:
        embedding: The width of the embeddings; None for `width`.
        positions_in_input: Whether embeddings of positions are added to those of words.
        relative: Whether the attention has scores for distances.
        terms: These scores: "c2p" (content to position), "p2c" (position to content).
        shared: Whether the layers of keys and queries project the distances too.
        furthest: The largest distance, None for `positions`.
        buckets: Distances share 2 `buckets` rows, logarithmically; None for a row for each distance.
        normed: Whether the table of distances has a norm.
        kernel: The size of the convolution over tokens beside the first block, an odd number; 0 for none.
        pooling: "mean" puts a linear head on the mean over the tokens that are not padding; "first" is the head of
            `transformers` on the first token.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken, Span)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.deberta_v2:DebertaV2Format",)

    vocabulary: int = 128100
    width: int = 1536
    depth: int = 24
    heads: int = 24
    mlp: int = 6144
    positions: int = 512
    types: int = 0
    embedding: int | None = None
    positions_in_input: bool = True
    relative: bool = False
    terms: tuple[str, ...] = ()
    shared: bool = False
    furthest: int | None = None
    buckets: int | None = None
    normed: bool = False
    kernel: int = 0
    kernel_groups: int = 1
    kernel_activation: str = "tanh"
    activation: str = "gelu"
    pooler_activation: str = "gelu"
    epsilon: float = 1e-7
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooler_dropout: float = 0.0
    head_dropout: float = 0.1
    pad: int = 0
    deviation: float = 0.02
    pooling: str = "first"

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, SHARES)
        check_text_fields(self)
        for activation in (self.kernel_activation, self.pooler_activation):
            check_activation(activation)
        for term in self.terms:
            check_choice("terms", term, ("c2p", "p2c"))
        if self.kernel < 0 or (self.kernel and self.kernel % 2 == 0):
            raise ValueError(f"DebertaV2 has kernel={self.kernel}; expected an odd number, or 0 for no convolution")
        if self.width % self.kernel_groups:
            raise ValueError(f"width {self.width} is not a multiple of kernel_groups {self.kernel_groups}")

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
        return self.positions

    def embedding_rows(self) -> Mapping[str, int]:
        return {"input_ids": self.vocabulary, "token_type_ids": self.types}

    def has_attention_maps(self) -> bool:
        # The scores have terms for distances.
        return False

    def resized(self, size: int) -> Self:
        return replace(self, positions=size, furthest=self.furthest or self.positions)

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the position rows, resized linearly; None for other leaves than the positions."""
        return resize_rows(array, size) if path.startswith("stem/positions") else None


def span(config: DebertaV2) -> int:
    """Return N, half of the number of rows of the table of distances."""
    return config.buckets or config.furthest or config.positions


def declare(config: DebertaV2, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init, width = normal(config.deviation), config.width
    rows = config.embedding or width
    stem: Tree = {"words": declare_embedding(config.vocabulary, rows, init=init), "norm": declare_norm(width)}
    if config.positions_in_input:
        stem["positions"] = declare_embedding(config.positions, rows, None, init)
    if config.types:
        stem["types"] = declare_embedding(config.types, rows, None, init)
    if rows != width:
        stem["project"] = declare_dense(rows, width, (None, "width"), init, bias=False)
    if config.relative:
        stem["relative"] = declare_embedding(2 * span(config), width, None, init)
    if config.normed:
        stem["relative_norm"] = declare_norm(width)
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": declared(config, n) for n in range(config.depth)}}
    if head is not None:
        params["head"] = {"output": declare_dense(width, head.outputs, ("width", None), init)}
        if config.pooling == "first" and not isinstance(head, PerToken):
            params["head"]["dense"] = declare_dense(width, width, ("width", None), init)
    return params


def declared(config: DebertaV2, number: int) -> Tree:
    """Return the parameters of block `number`; the first block has the convolution."""
    params, width, init = declare_block(config), config.width, normal(config.deviation)
    terms = config.terms if config.relative else ()
    mixing = declare_disentangled(width, config.heads, terms, config.shared, init)
    params["attention"] = mixing | {"norm": params["attention"]["norm"]}
    if config.kernel and number == 0:
        inputs = width // config.kernel_groups
        params["convolution"] = {
            "kernel": Param((config.kernel, inputs, width), (None, None, "width"), init),
            "bias": Param((width,), ("width",), zeros),
            "norm": declare_norm(width),
        }
    return params


def chain(config: DebertaV2, head: Head | None) -> Model:
    """Build the chain of stages, with the context pooler and a linear layer, or one linear layer over every token."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden, mask = embedded(config, params, carry, context)
        entries = {"hidden": hidden, "mask": mask}
        if config.relative:
            table = jnp.asarray(params["relative"]["embedding"])
            if config.normed:
                table = layer_norm(params["relative_norm"], table, config.epsilon)
            # A carry has one row for each example, so that a batch can be divided between any two stages.
            entries["relative"] = jnp.broadcast_to(as_dtype(table, context), (len(hidden), *table.shape))
        return entries, stats

    def block(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        table = carry["relative"][0] if config.relative else None
        return carry | {"hidden": encode(config, params, carry["hidden"], carry["mask"], table, context)}, stats

    def classifier(params: Tree, carry: Carry, context: Context) -> Array:
        first = dropout(carry["hidden"][:, 0], config.pooler_dropout, context, 0)
        inner = ACTIVATIONS[config.pooler_activation](dense(params["dense"], first, context, UP))
        return dense(params["output"], dropout(inner, config.head_dropout, context, 1), context, DOWN)

    stages = [Stage("stem", stem, others=("mask", "relative") if config.relative else ("mask",))]
    stages += [Stage(f"blocks/{n:02d}", block) for n in range(config.depth)]
    # The head on tokens has the dropout rate of the hidden states.
    rate = config.dropout if isinstance(head, PerToken) else config.head_dropout
    return Model(closed(config, head, stages, None, classifier, rate), declare(config, head), {}, config, head)


def embedded(config: DebertaV2, params: Tree, carry: Carry, context: Context) -> tuple[Array, Array]:
    """Return the normed embeddings [B, T, W], 0 for padding, and the attention mask [B, T]."""
    refuse_unread(carry, READS)
    ids = token_ids(carry, config.vocabulary)
    mask = beside_ids(carry, "attention_mask", ids, jnp.ones_like(ids))
    kinds = beside_ids(carry, "token_type_ids", ids, jnp.zeros_like(ids))
    if config.types:
        check_rows("token_type_ids", kinds, config.types, "token type embeddings")
    hidden = embed(params["words"], ids)
    if "prompt" in params:
        hidden, ids, mask, kinds = prompted(config.pad, params["prompt"]["tokens"], hidden, ids, mask, kinds)
    check_length(config.positions, ids.shape[1] + context.prefix)
    if config.positions_in_input:
        hidden += embed(params["positions"], jnp.arange(context.prefix, context.prefix + ids.shape[1]))
    if config.types:
        hidden += embed(params["types"], kinds)
    if "project" in params:
        hidden = dense(params["project"], hidden, context, PROJECT)
    hidden = layer_norm(params["norm"], hidden, config.epsilon) * mask[..., None].astype(hidden.dtype)
    return dropout(as_dtype(hidden, context), config.dropout, context, 0), mask


def encode(config: DebertaV2, params: Tree, x: Array, mask: Array, table: Array | None, context: Context) -> Array:
    """Run one post-norm block, with the convolution of the first block where it has one: [B, T, W] -> [B, T, W]."""
    furthest = (config.furthest or config.positions) if config.buckets else None
    mixed = disentangled_attention(
        params["attention"],
        x,
        mask,
        table,
        distance_places(x.shape[1], span(config), furthest),
        heads=config.heads,
        terms=config.terms,
        table_rate=config.dropout,
        rate=config.attention_dropout,
        context=context,
    )
    y = after_attention(config, params, x, mixed, context, config.dropout)
    return convolved(config, params["convolution"], x, y, mask, context) if "convolution" in params else y


def convolved(config: DebertaV2, params: Tree, x: Array, y: Array, mask: Array, context: Context) -> Array:
    """Return norm(y + activation(convolution(x))), 0 for padding: [B, T, W] -> [B, T, W].

    The convolution is over the tokens of the embeddings `x`; `y` is the output of the first block.
    """
    padding, kernel = (config.kernel - 1) // 2, params["kernel"].astype(x.dtype)
    out = lax.conv_general_dilated(
        x, kernel, (1,), [(padding, padding)], dimension_numbers=("NWC", "WIO", "NWC"),
        feature_group_count=config.kernel_groups,
    )  # fmt: skip
    real = mask[..., None] > 0
    out = jnp.where(real, out + params["bias"].astype(x.dtype), 0)
    out = ACTIVATIONS[config.kernel_activation](dropout(out, config.dropout, context, CONVOLUTION))
    return jnp.where(real, layer_norm(params["norm"], y + out, config.epsilon), 0)
