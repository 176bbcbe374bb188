"""Llama (Touvron et al., 2023) and its relatives Mistral, Qwen2, Qwen3 and Gemma: decoders of pre-norm blocks with
rotary positions, RMS norm, grouped heads and a gated feed-forward layer.

Stages: `stem`, `blocks/00` ..., `norm`, `pool` (for the whole text), `head`. Shapes: B batch, T tokens, W width, D head
size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp

from tlx.layers import (
    Angles,
    as_dtype,
    declare_attention,
    declare_dense,
    declare_embedding,
    dynamic_frequencies,
    llama3_frequencies,
    normal,
    ones,
    rms_norm,
    rotary_angles,
    rotary_frequencies,
    yarn_factor,
    yarn_frequencies,
    zeros,
)
from tlx.models.base import Architecture
from tlx.models.decoder_stages import OTHERS, causal_attention, closed, declare_head, decode, embed_tokens
from tlx.models.heads import Head, PerToken, Pooled, Vocabulary
from tlx.models.sizes import check_ranges, counted
from tlx.models.text_stages import check_activation
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Param, Stage

POSITIVE = (
    "vocabulary", "width", "depth", "heads", "key_heads", "head_size", "mlp", "positions", "epsilon", "window", "base",
    "local_base", "score_size", "attention_cap", "logit_cap", "factor", "original", "low", "high", "fast", "slow",
    "turned",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Llama(Architecture):
    """A Llama decoder, or one of its relatives: they differ in the fields of this class.

    Attributes:
        family: The family whose class of `transformers` opens a saved model. It changes no computation.
        key_heads: The number of heads of the keys and values; `heads` is a multiple.
        head_size: The size of a head, an even number.
        query_bias: Whether queries, keys and values have a bias (Qwen2).
        output_bias, mlp_bias: Whether these layers have a bias.
        head_norm: Whether each head of queries and keys has an RMS norm before it is rotated (Qwen3, Gemma 3).
        shifted: Whether norms multiply by 1 + scale, as in Gemma, instead of by the scale.
        embeddings_scaled: Whether the embeddings are multiplied by the root of the width (Gemma).
        after_norms: Whether attention and feed-forward layers have a norm of their output too (Gemma 2 and 3).
        score_size: The scores of the attention are divided by the root of this number; None for `head_size`.
        attention_cap: The largest score: each becomes cap * tanh(score / cap); None for no limit (Gemma 2).
        logit_cap: The same for the logits over the vocabulary.
        window: In a local block a token sees this many tokens, itself included; None without local blocks.
        local: The numbers of the local blocks, from 0.
        base: The base of the rotary frequencies.
        local_base: That of local blocks; None for the frequencies of the others.
        scaling: How rotary frequencies are scaled for long texts.
        factor: The factor by which texts may be longer ("linear", "dynamic", "llama3", "yarn").
        original: The number of tokens of the pretraining ("llama3", "yarn"); None for `positions`.
        low, high: In "llama3", waves longer than original / low are scaled, those shorter than original / high are not.
        fast, slow: In "yarn", pairs that turn less than `slow` times in `original` tokens are scaled, those that turn
            more than `fast` times are not.
        whole: In "yarn", whether the range between is rounded to whole pairs.
        turned: In "yarn", the factor of cosine and sine; None for 0.1 ln(factor) + 1.
        head_dropout: The dropout rate before a linear layer on every token.
        pad: The id of padding. The head of a whole text reads the last token that the mask has and that is not
            padding; None if the tokens have no such id.
        tied: Whether the kernel of the head over the vocabulary is the embedding of the words.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken, Vocabulary)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.llama:LlamaFormat",)

    family: Literal["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"] = "llama"
    vocabulary: int = 32000
    width: int = 4096
    depth: int = 32
    heads: int = 32
    key_heads: int = 32
    head_size: int = 128
    mlp: int = 11008
    positions: int = 2048
    activation: str = "silu"
    epsilon: float = 1e-6
    query_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norm: bool = False
    shifted: bool = False
    embeddings_scaled: bool = False
    after_norms: bool = False
    score_size: int | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    window: int | None = None
    local: tuple[int, ...] = ()
    base: float = 10000.0
    local_base: float | None = None
    scaling: Literal["default", "linear", "dynamic", "llama3", "yarn"] = "default"
    factor: float = 1.0
    original: int | None = None
    low: float = 1.0
    high: float = 4.0
    fast: float = 32.0
    slow: float = 1.0
    whole: bool = True
    turned: float | None = None
    attention_dropout: float = 0.0
    head_dropout: float = 0.1
    pad: int | None = None
    tied: bool = False
    deviation: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("attention_dropout", "head_dropout"))
        check_activation(self.activation)
        if self.heads % self.key_heads:
            raise ValueError(
                f"heads {self.heads} is not a multiple of key_heads {self.key_heads}; change one of the two"
            )
        if self.head_size % 2:
            raise ValueError(
                f"head_size is {self.head_size}; expected an even number: rotary positions turn pairs of numbers"
            )
        if self.scaling == "dynamic" and self.head_size < 4:
            raise ValueError(f"head_size is {self.head_size}; expected 4 or more with scaling='dynamic'")
        if self.local and self.window is None:
            raise ValueError(
                f"local={self.local} names local blocks, but window is None; set window to a number of tokens"
            )

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"input_ids": Field((None,), "int32", self.pad or 0)}

    def count(self, head: Head | None) -> int:
        return counted(declare, self, head)

    def longest_text(self) -> int:
        """Return the number of tokens of the longest text; the other scalings count them in `positions` already."""
        return int(self.positions * (self.factor if self.scaling in ("linear", "dynamic") else 1))

    def embedding_rows(self) -> Mapping[str, int]:
        return {"input_ids": self.vocabulary}

    def key_shape(self) -> tuple[int, int]:
        return self.key_heads, self.head_size

    def has_attention_maps(self) -> bool:
        # Queries and keys are rotated, and a token sees no later token.
        return False

    def resized(self, size: int) -> Self:
        return replace(self, positions=size)


def declare_scale(config: Llama, size: int, axis: str | None = "width") -> Tree:
    """Declare the parameters of an RMS norm that begins as no change of the length."""
    return {"scale": Param((size,), (axis,), zeros if config.shifted else ones)}


def declare(config: Llama, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    params: Tree = {
        "stem": {"words": declare_embedding(config.vocabulary, config.width, init=normal(config.deviation))},
        "blocks": {f"{n:02d}": declare_block(config) for n in range(config.depth)},
        "norm": declare_scale(config, config.width),
    }
    return params | declare_head(config, head)


def declare_block(config: Llama) -> Tree:
    """Declare the parameters of a block."""
    init, width, bias = normal(config.deviation), config.width, config.mlp_bias
    norms = ("norm", "after") if config.after_norms else ("norm",)
    mixing = declare_attention(
        width,
        config.heads,
        init,
        config.query_bias,
        key_heads=config.key_heads,
        size=config.head_size,
        output_bias=config.output_bias,
    )
    if config.head_norm:
        for name in ("query", "key"):
            mixing[name]["norm"] = declare_scale(config, config.head_size, None)
    mlp: Tree = {
        "gate": declare_dense(width, config.mlp, ("width", "mlp"), init, bias),
        "up": declare_dense(width, config.mlp, ("width", "mlp"), init, bias),
        "down": declare_dense(config.mlp, width, ("mlp", "width"), init, bias),
    }
    return {
        name: layers | {norm: declare_scale(config, width) for norm in norms}
        for name, layers in (("attention", mixing), ("mlp", mlp))
    }


def chain(config: Llama, head: Head | None) -> Model:
    """Build the chain of stages."""

    def norm(params: Tree, x: Array) -> Array:
        scale = jnp.asarray(params["scale"])
        return rms_norm({"scale": 1.0 + scale if config.shifted else scale}, x, config.epsilon)

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden, rest = embed_tokens(config, params, carry, context)
        hidden = hidden * config.width**0.5 if config.embeddings_scaled else hidden
        return {"hidden": as_dtype(hidden, context)} | rest, stats

    def block(local: bool) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            mix = partial(
                causal_attention,
                carry=carry,
                context=context,
                window=config.window if local else None,
                rate=config.attention_dropout,
                heads=config.heads,
                key_heads=config.key_heads,
                rotary=angles(config, local, carry["places"]),
                norm=norm if config.head_norm else None,
                scale=(config.score_size or config.head_size) ** -0.5,
                cap=config.attention_cap,
            )
            return decode(params, carry, context, mix=mix, norm=norm, activation=config.activation), stats

        return apply

    kinds = {local: block(local) for local in (False, True)}
    stages = [Stage("stem", stem, others=OTHERS)]
    stages += [Stage(f"blocks/{n:02d}", kinds[n in config.local]) for n in range(config.depth)]
    return Model(closed(config, head, stages, norm, config.logit_cap), declare(config, head), {}, config, head)


def angles(config: Llama, local: bool, places: Array) -> Angles:
    """Return the rotary angles of the tokens at `places` [B, T], for a local block or another: [B, T, D]."""
    size, base, factor = config.head_size, config.base, config.factor
    if local and config.local_base is not None:
        return rotary_angles(places, size, frequencies=jnp.asarray(rotary_frequencies(size, config.local_base)))
    room, frequencies = config.original or config.positions, rotary_frequencies(size, base)
    if config.scaling == "dynamic":
        tokens = jnp.max(places) + 1
        return rotary_angles(
            places, size, frequencies=dynamic_frequencies(size, base, factor, config.positions, tokens)
        )
    if config.scaling == "linear":
        frequencies = frequencies / factor
    elif config.scaling == "llama3":
        frequencies = llama3_frequencies(frequencies, factor, config.low, config.high, room)
    elif config.scaling == "yarn":
        frequencies = yarn_frequencies(size, base, factor, config.fast, config.slow, room, config.whole)
    turns = rotary_angles(places, size, frequencies=jnp.asarray(frequencies))
    if config.scaling != "yarn":
        return turns
    length = yarn_factor(factor) if config.turned is None else config.turned
    return Angles(turns.cos * length, turns.sin * length)
