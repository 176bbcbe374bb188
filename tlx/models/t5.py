"""T5 (Raffel et al., 2020): an encoder and a decoder of pre-norm blocks, with a learned bias of the scores by distance.

Stages: `stem`, `encoder/00` ..., `encoder_norm`, `decoder_stem`, `decoder/00` ..., `norm`, `pool` (for a head on the
text), `head`. A head on every token, and `encoder_only`, end the chain of hidden states at `encoder_norm`.
Shapes: B batch, S tokens of the text, T tokens of the decoder, W width, V words, H heads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from tlx.config import check_choice
from tlx.layers import (
    as_dtype,
    declare_dense,
    declare_embedding,
    declare_norm,
    dense,
    dropout,
    embed,
    rms_norm,
    unembed,
)
from tlx.models.base import Architecture
from tlx.models.encoder_decoder import READS, decoder_inputs, pool, shift_right
from tlx.models.heads import Head, PerToken, Pooled, Vocabulary
from tlx.models.inputs import beside_ids, refuse_unread, token_ids
from tlx.models.sizes import check_ranges, counted
from tlx.models.t5_blocks import declare_block, decode, encode, gaussian
from tlx.models.text_stages import DOWN, UP, check_activation, prompted
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Stage

POSITIVE = (
    "vocabulary", "width", "depth", "decoder_depth", "heads", "size", "mlp", "buckets", "furthest", "epsilon", "factor",
)  # fmt: skip
FAMILIES = ("t5", "mt5")
# The table of the biases of each stack belongs to its first block; the other blocks read it.
TABLE = "{}/00/attention/relative"


@dataclass(frozen=True, kw_only=True)
class T5(Architecture):
    """A T5 model: T5 1.0 and 1.1, Flan-T5, ByT5 (family "t5"), mT5 ("mt5").

    A head over the vocabulary, or on the text, reads the decoder; a head on every token reads the encoder. The decoder
    reads `decoder_input_ids`: the target, shifted right by one (`shift_right`). Without them it reads `input_ids`,
    shifted right.

    Attributes:
        depth: The number of blocks of the encoder.
        decoder_depth: The number of blocks of the decoder.
        size: The size of a head; heads * size may differ from the width.
        gated: Whether the feed-forward layer has a gate, as in T5 1.1.
        buckets: The number of buckets that distances between tokens fall into.
        furthest: Larger distances share one bucket.
        tied: Whether the last kernel is the embedding of the words, after the states are multiplied by width ** -0.5.
        end: The word that ends a text; a head on the text reads the decoder at its place.
        start: The first word that the decoder reads.
        factor: The factor of the deviations of the initial values.
        encoder_only: Whether the model without a head is the encoder alone.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken, Vocabulary)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.t5:T5Format",)

    family: str = "t5"
    vocabulary: int = 32128
    width: int = 512
    depth: int = 6
    decoder_depth: int = 6
    heads: int = 8
    size: int = 64
    mlp: int = 2048
    gated: bool = False
    activation: str = "relu"
    buckets: int = 32
    furthest: int = 128
    tied: bool = True
    epsilon: float = 1e-6
    dropout: float = 0.1
    head_dropout: float = 0.0
    pad: int = 0
    end: int = 1
    start: int = 0
    factor: float = 1.0
    encoder_only: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "head_dropout"))
        check_choice("family", self.family, FAMILIES)
        check_activation(self.activation)
        if self.family == "mt5" and self.tied:
            raise ValueError("T5 has family='mt5' and tied=True; expected tied=False: mT5 has a separate last layer")
        if self.buckets < 4 or self.furthest <= self.buckets // 2:
            raise ValueError(
                f"T5 has buckets={self.buckets} and furthest={self.furthest}; expected at least 4 buckets, and a "
                "largest distance above half their number"
            )

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages.

        Raises:
            ValueError: The head reads the decoder, and the model is the encoder only.
        """
        if self.encoder_only and isinstance(head, Pooled | Vocabulary):
            raise ValueError(
                f"the head {head} reads the decoder, but T5 has encoder_only=True; expected PerToken, no head, or "
                "encoder_only=False with the weights of a decoder"
            )
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"input_ids": Field((None,), "int32", self.pad)}

    def count(self, head: Head | None) -> int:
        return counted(declare, self, head)

    def embedding_rows(self) -> Mapping[str, int]:
        return {"input_ids": self.vocabulary, "decoder_input_ids": self.vocabulary}

    def key_shape(self) -> tuple[int, int] | None:
        return None if self.encoder_only else (self.heads, self.size)

    def first_word(self) -> int:
        return self.start

    def has_attention_maps(self) -> bool:
        # The scores have a bias.
        return False


def decodes(config: T5, head: Head | None) -> bool:
    """Return whether the chain has a decoder."""
    return not config.encoder_only and not isinstance(head, PerToken)


def declare(config: T5, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    width = config.width
    init = gaussian(config.factor * width**-0.5)
    words = declare_embedding(config.vocabulary, width, init=gaussian(config.factor))
    params: Tree = {
        "stem": {"words": words},
        "encoder": {f"{n:02d}": declare_block(config, n == 0, False) for n in range(config.depth)},
        "encoder_norm": declare_norm(width, False),
    }
    if decodes(config, head):
        params["decoder"] = {f"{n:02d}": declare_block(config, n == 0, True) for n in range(config.decoder_depth)}
        params["norm"] = declare_norm(width, False)
    if isinstance(head, Vocabulary):
        if not config.tied:
            output = declare_dense(width, config.vocabulary, ("width", "vocabulary"), init, False)
            params["head"] = {"output": output}
    elif head is not None:
        params["head"] = {"output": declare_dense(width, head.outputs, ("width", None), init)}
        if not isinstance(head, PerToken):
            params["head"]["dense"] = declare_dense(width, width, ("width", None), init)
    return params


def chain(config: T5, head: Head | None) -> Model:
    """Build the chain of stages.

    The blocks of both stacks get the same depths from their tops down: gradual unfreezing then reaches both stacks in
    parallel, as in the paper (section 3.5.1), and a depth that is frozen is frozen in both.
    """
    decoder = decodes(config, head)
    top = max(config.depth, config.decoder_depth if decoder else 0) + 1
    stages = [Stage("stem", stem_of(config, head), others=("mask",), depth=0)]
    stages += blocks_of(config, "encoder", config.depth, top)
    stages.append(
        Stage("encoder_norm", norm_of(config, decoder), joins="before", others=("memory",) * decoder, depth=top)
    )
    if decoder:
        # The decoder's words share the embedding, which is trained where the stem is.
        stages.append(Stage("decoder_stem", decoder_stem_of(config), others=("mask",), depth=0, reads=("stem/words",)))
        stages += blocks_of(config, "decoder", config.decoder_depth, top)
        stages.append(Stage("norm", norm_of(config, False), joins="before", depth=top))
    if isinstance(head, Pooled):
        stages.append(Stage("pool", pool, "pooled", joins="after", depth=top + 1))
    if head is not None:
        reads = ("stem/words",) if isinstance(head, Vocabulary) and config.tied else ()
        stages.append(Stage("head", head_of(config, head), "logits", depth=top + 2, reads=reads))
    return Model(tuple(stages), declare(config, head), {}, config, head)


def blocks_of(config: T5, stack: str, count: int, top: int) -> list[Stage]:
    """Return the blocks of one stack; `top` is the depth above its last block."""

    def block(first: bool) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            table = params["attention"]["relative"] if first else params["shared"][stack]["00"]["attention"]["relative"]
            run = decode if stack == "decoder" else encode
            return run(config, params, table, carry, context), stats

        return apply

    reads = (TABLE.format(stack),)
    return [
        Stage(f"{stack}/{n:02d}", block(n == 0), depth=top - count + n, reads=reads if n else ()) for n in range(count)
    ]


def stem_of(config: T5, head: Head | None) -> Any:
    """Return the stage that checks the inputs and embeds the words of the text."""

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, READS)
        ids = token_ids(carry, config.vocabulary)
        mask = beside_ids(carry, "attention_mask", ids, jnp.ones_like(ids))
        kept = decoder_inputs(config, head, carry, ids, mask, shifted) if decodes(config, head) else {}
        hidden = embed(params["words"], ids)
        if "prompt" in params:
            hidden, ids, mask, _ = prompted(config.pad, params["prompt"]["tokens"], hidden, ids, mask, ids)
        return {"hidden": dropout(as_dtype(hidden, context), config.dropout, context, 0), "mask": mask} | kept, stats

    def shifted(ids: Array) -> Array:
        return shift_right(ids, config.start)

    return apply


def decoder_stem_of(config: T5) -> Any:
    """Return the stage that embeds the words of the decoder."""

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = as_dtype(embed(params["shared"]["stem"]["words"], carry["decoder_input_ids"]), context)
        entries = {"hidden": dropout(hidden, config.dropout, context, 0), "mask": carry["decoder_attention_mask"]}
        return carry | entries, stats

    return apply


def norm_of(config: T5, memory: bool) -> Any:
    """Return the last norm of a stack, with its result as the `memory` [B, S, W] of the decoder."""

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = dropout(rms_norm(params, carry["hidden"], config.epsilon), config.dropout, context, 0)
        entries = {"memory": hidden, "memory_mask": carry["mask"]} if memory else {}
        return carry | {"hidden": hidden} | entries, stats

    return apply


def head_of(config: T5, head: Head) -> Any:
    """Return the stage that computes the logits."""
    rate = config.head_dropout

    def logits(params: Tree, carry: Carry, context: Context) -> Array:
        if isinstance(head, Vocabulary):
            if config.tied:
                return unembed(params["shared"]["stem"]["words"], carry["hidden"] * config.width**-0.5)
            return dense(params["output"], carry["hidden"], context, DOWN)
        if isinstance(head, PerToken):
            hidden = dropout(carry["hidden"][:, context.prompt :], rate, context, 0)
            return dense(params["output"], hidden, context, DOWN)
        inner = jnp.tanh(dense(params["dense"], dropout(carry["pooled"], rate, context, 0), context, UP))
        return dense(params["output"], dropout(inner, rate, context, 1), context, DOWN)

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": logits(params, carry, context).astype(jnp.float32)}, stats

    return apply
