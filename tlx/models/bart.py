"""BART (Lewis et al., 2020) and mBART (Liu et al., 2020): an encoder and a decoder with learned positions.

Stages: `stem`, `encoder/00` ..., `encoder_norm` (mBART) or `memory` (BART), `decoder_stem`, `decoder/00` ..., `norm`
(mBART), `pool` (for a head on the text), `head`.
Shapes: B batch, S tokens of the text, T tokens of the decoder, W width, V words.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.config import check_choice
from tlx.layers import (
    as_dtype,
    declare_dense,
    declare_embedding,
    declare_norm,
    dense,
    dropout,
    embed,
    layer_norm,
    normal,
    unembed,
    zeros,
)
from tlx.models.bart_blocks import EPSILON, declare_block, decode, encode
from tlx.models.base import Architecture
from tlx.models.encoder_decoder import READS, decoder_inputs, pool, shift_right
from tlx.models.heads import Head, Pooled, Vocabulary
from tlx.models.inputs import beside_ids, check_length, check_rows, refuse_unread, token_ids
from tlx.models.sizes import check_ranges, counted
from tlx.models.text_stages import DOWN, UP, check_activation, prompted, resize_rows
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Param, Stage

POSITIVE = (
    "vocabulary", "width", "depth", "decoder_depth", "heads", "decoder_heads", "mlp", "decoder_mlp", "positions",
)  # fmt: skip
RATES = ("dropout", "attention_dropout", "mlp_dropout", "head_dropout")
FAMILIES = ("bart", "mbart")
# The first rows of a table of positions, which no token reads.
UNREAD = 2


@dataclass(frozen=True, kw_only=True)
class Bart(Architecture):
    """A BART model (family "bart": post-norm blocks) or an mBART model ("mbart": pre-norm blocks and last norms).

    Both heads read the decoder. It reads `decoder_input_ids`: the target, shifted right by one. Without them it reads
    `input_ids`: BART shifts them right behind `start`; mBART rotates them (`rotate_right`).

    Attributes:
        depth: The number of blocks of the encoder.
        heads: The number of heads in the encoder.
        mlp: The number of inner units in the encoder.
        decoder_depth, decoder_heads, decoder_mlp: The same of the decoder.
        positions: The largest number of tokens of a text; the tables of positions have two more rows.
        embeddings_scaled: Whether the embeddings of the words are multiplied by the root of the width.
        mlp_dropout: The dropout rate of the inner units.
        head_dropout: That before both layers of a head on the text.
        end: The word that ends a text; a head on the text reads the decoder at its last place.
        start: The first word that the decoder reads. mBART has one for each language; None until one is chosen.
        forced_first: The first new word of a generated text; None for a free choice.
        forced_last: The word at the last place of a generated text of the largest length; None for a free choice.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, Vocabulary)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.bart:BartFormat",)

    family: str = "bart"
    vocabulary: int = 50265
    width: int = 768
    depth: int = 6
    decoder_depth: int = 6
    heads: int = 12
    decoder_heads: int = 12
    mlp: int = 3072
    decoder_mlp: int = 3072
    positions: int = 1024
    activation: str = "gelu"
    embeddings_scaled: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    head_dropout: float = 0.0
    pad: int = 1
    end: int = 2
    start: int | None = 2
    forced_first: int | None = None
    forced_last: int | None = 2
    deviation: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, RATES)
        check_choice("family", self.family, FAMILIES)
        check_activation(self.activation)
        for name in ("heads", "decoder_heads"):
            if self.width % getattr(self, name):
                raise ValueError(
                    f"width {self.width} is not a multiple of {name} {getattr(self, name)}; change one of the two"
                )
        if self.family == "bart" and self.start is None:
            raise ValueError("Bart has family='bart' and start=None; expected the first word of the decoder, start=2")
        for name in ("start", "forced_first", "forced_last"):
            if getattr(self, name) is not None:
                check_rows(name, getattr(self, name), self.vocabulary, "words")

    @property
    def norm_first(self) -> bool:
        """Return whether a norm precedes each part of a block, and a last norm follows each stack."""
        return self.family == "mbart"

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"input_ids": Field((None,), "int32", self.pad)}

    def count(self, head: Head | None) -> int:
        return counted(declare, self, head)

    def longest_text(self) -> int:
        return self.positions

    def embedding_rows(self) -> Mapping[str, int]:
        return {"input_ids": self.vocabulary, "decoder_input_ids": self.vocabulary}

    def resized(self, size: int) -> Self:
        return replace(self, positions=size)

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the position rows of one stack, resized linearly; None for other leaves than the positions."""
        return resize_rows(array, size + UNREAD, UNREAD) if "stem/positions" in path else None

    def key_shape(self) -> tuple[int, int]:
        return self.decoder_heads, self.width // self.decoder_heads

    def first_word(self) -> int:
        """Return the first word that the decoder reads. Raises ValueError if no language is chosen."""
        if self.start is None:
            raise ValueError(
                "the model has start=None, no first word for its decoder; write the token of the language that it "
                "writes as decoder_start_token_id into config.json"
            )
        return self.start

    def forced_words(self) -> tuple[int | None, int | None]:
        return self.forced_first, self.forced_last

    def has_attention_maps(self) -> bool:
        # The two stacks have different masks.
        return False


def rotate_right(ids: Array, pad: int) -> Array:
    """Return the words of each text `ids` [B, T] shifted right by one, with its last word at the first place.

    The last word is the one at the place n - 1 of a text with n words that are not `pad`, as in `transformers`: with
    padding on the right, mBART's mark of the language or the end of the text. Negative numbers, which mark words
    without a loss, become `pad`.
    """
    ids = jnp.where(ids < 0, pad, ids)
    last = jnp.take_along_axis(ids, (ids != pad).sum(1, keepdims=True) - 1, axis=1)
    return jnp.concatenate([last, ids[:, :-1]], axis=1)


def declare(config: Bart, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    width, init = config.width, normal(config.deviation)

    def places() -> Tree:
        rows = declare_embedding(config.positions + UNREAD, width, None, init)
        return {"positions": rows, "norm": declare_norm(width)}

    params: Tree = {
        "stem": {"words": declare_embedding(config.vocabulary, width, init=init)} | places(),
        "encoder": {f"{n:02d}": declare_block(config, False) for n in range(config.depth)},
        "decoder_stem": places(),
        "decoder": {f"{n:02d}": declare_block(config, True) for n in range(config.decoder_depth)},
    }
    if config.norm_first:
        params |= {"encoder_norm": declare_norm(width), "norm": declare_norm(width)}
    if isinstance(head, Pooled):
        params["head"] = {
            "dense": declare_dense(width, width, ("width", None), init),
            "output": declare_dense(width, head.outputs, ("width", None), init),
        }
    return params


def chain(config: Bart, head: Head | None) -> Model:
    """Build the chain of stages. As in T5, the blocks of both stacks have the same depths from their tops down."""
    top = max(config.depth, config.decoder_depth) + 1

    def blocks_of(stack: str, count: int, run: Any) -> list[Stage]:
        def block(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            return run(config, params, carry, context), stats

        return [Stage(f"{stack}/{n:02d}", block, depth=top - count + n) for n in range(count)]

    stages = [
        Stage("stem", stem_of(config, head), others=("mask",), depth=0),
        *blocks_of("encoder", config.depth, encode),
        end_of_encoder(config, top),
        Stage("decoder_stem", decoder_stem_of(config), others=("mask",), depth=0, reads=("stem/words",)),
        *blocks_of("decoder", config.decoder_depth, decode),
    ]
    if config.norm_first:
        stages.append(Stage("norm", last_norm, joins="before", depth=top))
    if isinstance(head, Pooled):
        stages.append(Stage("pool", pool, "pooled", joins="after", depth=top + 1))
    if head is not None:
        words = isinstance(head, Vocabulary)
        stages.append(
            Stage("head", head_of(config, head), "logits", depth=top + 2, reads=("stem/words",) if words else ())
        )
    # Training does not move the bias of the words, as in `transformers`, so it is no parameter.
    bias = {"head": {"bias": Param((config.vocabulary,), ("vocabulary",), zeros)}}
    stats = bias if isinstance(head, Vocabulary) else {}
    return Model(tuple(stages), declare(config, head), stats, config, head)


def embedded(config: Bart, words: Tree, ids: Array) -> Array:
    """Return the embeddings of the words `ids` [B, T]: [B, T, W]."""
    hidden = embed(words, ids)
    return hidden * config.width**0.5 if config.embeddings_scaled else hidden


def with_places(config: Bart, params: Tree, hidden: Array, places: Array, context: Context) -> Array:
    """Return the embeddings [B, T, W] with those of their `places`, normed."""
    hidden = layer_norm(params["norm"], hidden + embed(params["positions"], places + UNREAD), EPSILON)
    return dropout(as_dtype(hidden, context), config.dropout, context, 0)


def stem_of(config: Bart, head: Head | None) -> Any:
    """Return the stage that checks the inputs and embeds the words of the text."""

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, READS)
        ids = token_ids(carry, config.vocabulary)
        mask = beside_ids(carry, "attention_mask", ids, jnp.ones_like(ids))
        kept = decoder_inputs(config, head, carry, ids, mask, shifted)
        hidden = embedded(config, params["words"], ids)
        if "prompt" in params:
            hidden, ids, mask, _ = prompted(config.pad, params["prompt"]["tokens"], hidden, ids, mask, ids)
        check_length(config.positions, ids.shape[1])
        hidden = with_places(config, params, hidden, jnp.arange(ids.shape[1]), context)
        return {"hidden": hidden, "mask": mask} | kept, stats

    def shifted(ids: Array) -> Array:
        if config.family == "mbart":
            return rotate_right(ids, config.pad)
        return shift_right(ids, config.first_word(), config.pad)

    return apply


def decoder_stem_of(config: Bart) -> Any:
    """Return the stage that embeds the words of the decoder. While a text is written, `decoder_position_ids` [B, T]
    has the places of the words."""

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        ids, places = carry["decoder_input_ids"], carry.get("decoder_position_ids")
        if places is None:
            check_length(config.positions, ids.shape[1])
            places = jnp.arange(ids.shape[1])
        hidden = embedded(config, params["shared"]["stem"]["words"], ids)
        hidden = with_places(config, params, hidden, places, context)
        return carry | {"hidden": hidden, "mask": carry["decoder_attention_mask"]}, stats

    return apply


def last_norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
    """Compute the last norm of a stack of mBART."""
    return carry | {"hidden": layer_norm(params, carry["hidden"], EPSILON)}, stats


def end_of_encoder(config: Bart, depth: int) -> Stage:
    """Return the stage that keeps the states of the encoder as the `memory` [B, S, W] of the decoder, in mBART after
    the last norm."""

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        if config.norm_first:
            carry, stats = last_norm(params, stats, carry, context)
        return carry | {"memory": carry["hidden"], "memory_mask": carry["mask"]}, stats

    if config.norm_first:
        return Stage("encoder_norm", apply, joins="before", others=("memory",), depth=depth)
    return Stage("memory", apply, "memory", joins="before", depth=depth)


def head_of(config: Bart, head: Head) -> Any:
    """Return the stage that computes the logits."""
    rate = config.head_dropout

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        if isinstance(head, Vocabulary):
            logits = unembed(params["shared"]["stem"]["words"], carry["hidden"]).astype(jnp.float32) + stats["bias"]
        else:
            inner = jnp.tanh(dense(params["dense"], dropout(carry["pooled"], rate, context, 0), context, UP))
            logits = dense(params["output"], dropout(inner, rate, context, 1), context, DOWN)
        return carry | {"logits": logits.astype(jnp.float32)}, stats

    return apply
