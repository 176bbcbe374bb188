"""GPT-2 (Radford et al., 2019): a decoder of pre-norm blocks with learned positions.

Stages: `stem`, `blocks/00` ..., `norm`, `pool` (for the whole text), `head`. Shapes: B batch, T tokens, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np

from tlx.layers import (
    as_dtype,
    declare_attention,
    declare_dense,
    declare_embedding,
    declare_norm,
    dropout,
    embed,
    layer_norm,
    normal,
)
from tlx.models.base import Architecture
from tlx.models.decoder_stages import OTHERS, causal_attention, closed, declare_head, decode, embed_tokens
from tlx.models.heads import Head, PerToken, Pooled, Vocabulary
from tlx.models.inputs import check_rows
from tlx.models.sizes import check_ranges, counted
from tlx.models.text_stages import check_activation, resize_rows
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Stage

POSITIVE = ("vocabulary", "width", "depth", "heads", "mlp", "positions", "epsilon")
RATES = ("dropout", "attention_dropout", "residual_dropout", "head_dropout")


@dataclass(frozen=True, kw_only=True)
class Gpt2(Architecture):
    """A GPT-2 decoder.

    Attributes:
        scaled: Whether the scores of the attention are divided by the root of the size of a head.
        scaled_by_layer: Whether the scores of block n (from 0) are divided by n + 1 too.
        dropout: The dropout rate of the embeddings.
        residual_dropout: That of the outputs of attention and feed-forward layers.
        head_dropout: That before a linear layer on every token.
        pad: The id of padding. The head of a whole text reads the last token that the mask has and that is not
            padding; None if the tokens have no such id.
        tied: Whether the kernel of the head over the vocabulary is the embedding of the words.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken, Vocabulary)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.gpt2:Gpt2Format",)

    vocabulary: int = 50257
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    positions: int = 1024
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    scaled: bool = True
    scaled_by_layer: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    head_dropout: float = 0.1
    pad: int | None = None
    tied: bool = True
    deviation: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, RATES)
        check_activation(self.activation)
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; change one of the two")

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"input_ids": Field((None,), "int32", self.pad or 0)}

    def count(self, head: Head | None) -> int:
        return counted(declare, self, head)

    def longest_text(self) -> int:
        return self.positions

    def embedding_rows(self) -> Mapping[str, int]:
        return {"input_ids": self.vocabulary}

    def key_shape(self) -> tuple[int, int]:
        return self.heads, self.width // self.heads

    def has_attention_maps(self) -> bool:
        # A token sees no later token.
        return False

    def resized(self, size: int) -> Self:
        return replace(self, positions=size)

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the position rows resized linearly; None for other leaves than the positions."""
        return resize_rows(array, size) if path.startswith("stem/positions") else None


def declare(config: Gpt2, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init, width = normal(config.deviation), config.width
    params: Tree = {
        "stem": {
            "words": declare_embedding(config.vocabulary, width, init=init),
            "positions": declare_embedding(config.positions, width, None, init),
        },
        "blocks": {f"{n:02d}": declare_block(config) for n in range(config.depth)},
        "norm": declare_norm(width),
    }
    return params | declare_head(config, head)


def declare_block(config: Gpt2) -> Tree:
    """Declare the parameters of a block; the layers that add to the hidden states begin smaller in deeper networks."""
    init, width = normal(config.deviation), config.width
    last = normal(config.deviation * (2 * config.depth) ** -0.5)
    mixing = declare_attention(width, config.heads, init)
    return {
        "attention": mixing
        | {"output": declare_dense(width, width, ("heads", "width"), last), "norm": declare_norm(width)},
        "mlp": {
            "up": declare_dense(width, config.mlp, ("width", "mlp"), init),
            "down": declare_dense(config.mlp, width, ("mlp", "width"), last),
            "norm": declare_norm(width),
        },
    }


def chain(config: Gpt2, head: Head | None) -> Model:
    """Build the chain of stages."""

    def norm(params: Tree, x: Array) -> Array:
        return layer_norm(params, x, config.epsilon)

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden, rest = embed_tokens(config, params, carry, context)
        check_rows("position_ids", rest["places"], config.positions, "position embeddings")
        hidden = as_dtype(hidden + embed(params["positions"], rest["places"]), context)
        return {"hidden": dropout(hidden, config.dropout, context, 0)} | rest, stats

    def block(number: int) -> Any:
        scale = ((config.width // config.heads) ** -0.5 if config.scaled else 1.0) / number

        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            mix = partial(
                causal_attention,
                carry=carry,
                context=context,
                rate=config.attention_dropout,
                heads=config.heads,
                scale=scale,
            )
            rate = config.residual_dropout
            return decode(params, carry, context, mix=mix, norm=norm, activation=config.activation, rate=rate), stats

        return apply

    stages = [Stage("stem", stem, others=OTHERS)]
    for n in range(config.depth):
        stages.append(Stage(f"blocks/{n:02d}", block(n + 1 if config.scaled_by_layer else 1)))
    return Model(closed(config, head, stages, norm), declare(config, head), {}, config, head)
