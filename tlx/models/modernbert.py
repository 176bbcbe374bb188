"""ModernBERT (Warner et al., 2024): pre-norm blocks with rotary positions, most of them with local attention.

Stages: `stem`, `blocks/00` ..., `norm`, `pool` (for the mean over tokens), `head`. Shapes: B batch, T tokens, W width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp

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
    layer_norm,
    normal,
    rotary_angles,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head, PerToken, Pooled, Span
from tlx.models.inputs import beside_ids, check_length, refuse_unread, token_ids
from tlx.models.sizes import check_ranges, counted
from tlx.models.text_stages import (
    DOWN,
    INNER,
    OUTER,
    UP,
    check_activation,
    check_text_fields,
    prompted,
    token_mean,
)
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Stage

POSITIVE = (
    "vocabulary", "width", "depth", "heads", "mlp", "positions", "every", "window", "base", "local_base", "epsilon",
)  # fmt: skip
READS = ("input_ids", "attention_mask")


@dataclass(frozen=True, kw_only=True)
class ModernBert(Architecture):
    """A ModernBERT encoder.

    Attributes:
        every: Every `every`-th block, from the first one on, attends to all tokens; the others attend locally.
        window: A token of a local block attends to window // 2 tokens on each side.
        base: The base of the rotary frequencies in blocks that attend to all tokens.
        local_base: That of local blocks.
        head_activation: The activation of the head's hidden layer.
        norm_bias, attention_bias, mlp_bias, head_bias: Whether these layers have a bias.
        pooling: The input of the head for the whole text: the "first" token, or the "mean" over the tokens that are not
            padding. `transformers` has both.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled, PerToken, Span)
    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.modernbert:ModernBertFormat",)

    vocabulary: int = 50368
    width: int = 768
    depth: int = 22
    heads: int = 12
    mlp: int = 1152
    positions: int = 8192
    every: int = 3
    window: int = 128
    base: float = 160000.0
    local_base: float = 10000.0
    activation: str = "gelu"
    head_activation: str = "gelu"
    epsilon: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    head_dropout: float = 0.0
    pad: int = 50283
    deviation: float = 0.02
    pooling: str = "first"

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "attention_dropout", "mlp_dropout", "head_dropout"))
        check_text_fields(self)
        check_activation(self.head_activation)
        if self.width // self.heads % 2:
            raise ValueError(
                f"width {self.width} and heads {self.heads} leave {self.width // self.heads} numbers for a head; "
                "expected an even number, because rotary positions turn pairs of numbers"
            )

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
        return {"input_ids": self.vocabulary}

    def has_attention_maps(self) -> bool:
        # Queries and keys are rotated, and local blocks have a window.
        return False

    def resized(self, size: int) -> Self:
        return replace(self, positions=size)


def declare(config: ModernBert, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init, width = normal(config.deviation), config.width
    params: Tree = {
        "stem": {
            "words": declare_embedding(config.vocabulary, width, init=init),
            "norm": declare_norm(width, config.norm_bias),
        },
        "blocks": {f"{n:02d}": declared(config, n) for n in range(config.depth)},
        "norm": declare_norm(width, config.norm_bias),
    }
    if head is not None:
        params["head"] = {
            "dense": declare_dense(width, width, ("width", None), init, config.head_bias),
            "norm": declare_norm(width, config.norm_bias),
            "output": declare_dense(width, head.outputs, ("width", None), init),
        }
    return params


def declared(config: ModernBert, number: int) -> Tree:
    """Return the parameters of block `number`; the first block has no norm before its attention."""
    init, width = normal(config.deviation), config.width
    bias = config.attention_bias
    mixing = declare_attention(width, config.heads, init, bias, output_bias=bias)
    if number > 0:
        mixing["norm"] = declare_norm(width, config.norm_bias)
    return {
        "attention": mixing,
        "mlp": {
            # The activated part and the part that it multiplies, beside each other.
            "up": declare_dense(width, 2 * config.mlp, ("width", "mlp"), init, config.mlp_bias),
            "down": declare_dense(config.mlp, width, ("mlp", "width"), init, config.mlp_bias),
            "norm": declare_norm(width, config.norm_bias),
        },
    }


def chain(config: ModernBert, head: Head | None) -> Model:
    """Build the chain of stages, with the head of ModernBERT on the text or on every token."""
    per_token, mean = isinstance(head, PerToken), config.pooling == "mean" and not isinstance(head, PerToken)

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, READS)
        ids = token_ids(carry, config.vocabulary)
        mask = beside_ids(carry, "attention_mask", ids, jnp.ones_like(ids))
        hidden = embed(params["words"], ids)
        if "prompt" in params:
            hidden, ids, mask, _ = prompted(config.pad, params["prompt"]["tokens"], hidden, ids, mask, ids)
        check_length(config.positions, ids.shape[1] + context.prefix)
        normed = as_dtype(layer_norm(params["norm"], hidden, config.epsilon), context)
        return {"hidden": dropout(normed, config.dropout, context, 0), "mask": mask}, stats

    def block(local: bool) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            return carry | {"hidden": encode(config, local, params, carry["hidden"], carry["mask"], context)}, stats

        return apply

    def norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"hidden": layer_norm(params, carry["hidden"], config.epsilon)}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"pooled": token_mean(carry["hidden"], carry["mask"])}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = carry["pooled"] if mean else carry["hidden"][:, context.prompt :] if per_token else carry["hidden"][:, 0]
        inner = ACTIVATIONS[config.head_activation](dense(params["dense"], x, context, UP))
        inner = dropout(layer_norm(params["norm"], inner, config.epsilon), config.head_dropout, context, 0)
        return carry | {"logits": dense(params["output"], inner, context, DOWN).astype(jnp.float32)}, stats

    stages = [Stage("stem", stem, others=("mask",))]
    stages += [Stage(f"blocks/{n:02d}", block(n % config.every > 0)) for n in range(config.depth)]
    stages.append(Stage("norm", norm, joins="before"))
    if mean:
        stages.append(Stage("pool", pool, "pooled", joins="after"))
    if head is not None:
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), declare(config, head), {}, config, head)


def encode(config: ModernBert, local: bool, params: Tree, x: Array, mask: Array, context: Context) -> Array:
    """Run one pre-norm block, with attention to near tokens only if `local`: [B, T, W] -> [B, T, W]."""
    layer, mlp, places = params["attention"], params["mlp"], jnp.arange(x.shape[1])
    angles = rotary_angles(places, config.width // config.heads, base=config.local_base if local else config.base)
    visible = mask > 0
    if local:
        visible = visible[:, None] & (abs(places[:, None] - places) <= config.window // 2)
    normed = layer_norm(layer["norm"], x, config.epsilon) if "norm" in layer else x
    rate = config.attention_dropout
    mixed = attention(layer, normed, visible, heads=config.heads, rotary=angles, rate=rate, context=context, salt=0)
    mixed = dropout(mixed, rate, context, 1)
    x = x + (mixed + bottleneck(layer["adapter"], mixed, context, INNER) if "adapter" in layer else mixed)
    hidden, gate = jnp.split(dense(mlp["up"], layer_norm(mlp["norm"], x, config.epsilon), context, UP), 2, axis=-1)
    inner = dropout(ACTIVATIONS[config.activation](hidden) * gate, config.mlp_dropout, context, 2)
    hidden = dense(mlp["down"], inner, context, DOWN)
    x = x + (hidden + bottleneck(mlp["adapter"], hidden, context, OUTER) if "adapter" in mlp else hidden)
    return x + bottleneck(params["adapter"], x, context, OUTER) if "adapter" in params else x
