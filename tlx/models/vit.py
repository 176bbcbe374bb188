"""Vision transformers: ViT (Dosovitskiy et al., 2021), DeiT (Touvron et al., 2021), DINOv2 (Oquab et al., 2023), also
with registers (Darcet et al., 2024), DINOv3 (Simeoni et al., 2025), and the images' side of SigLIP (Zhai et al., 2023).

Stages: `stem`, `blocks/00` ..., `norm`, `pool` (where the family has one), `head`. Shapes: B batch, T tokens, W width,
I height, J width of an image, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    as_wide,
    attention,
    bottleneck,
    constant,
    conv,
    declare_attention,
    declare_dense,
    declare_norm,
    declare_probe,
    dense,
    dropout,
    example,
    feed_forward,
    layer_norm,
    normal,
    probe_tokens,
    stochastic_depth,
    zeros,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.inputs import refuse_unread
from tlx.models.positions import patch_angles, resize_grid
from tlx.models.sizes import check_ranges, counted
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Field, Model, Param, Stage

# The salts of the noise of the dense layers, apart from those of the attention (10 to 13) and of the other dropouts.
UP, DOWN, INNER, OUTER = 14, 15, 16, 18
# The tokens before the patches that are learned and have a position, by family.
TOKENS = {
    "vit": ("class",),
    "deit": ("class", "distillation"),
    "dinov2": ("class",),
    "dinov2_with_registers": ("class",),
    "dinov3_vit": ("class",),
    "siglip": (),
}
FAMILIES = tuple(TOKENS)
# The head of these families reads the class token and the mean over the patches.
DINO = ("dinov2", "dinov2_with_registers", "dinov3_vit")
POSITIVE = ("size", "patch", "channels", "width", "depth", "heads", "mlp", "epsilon", "rotary")


@dataclass(frozen=True, kw_only=True)
class Vit(Architecture):
    """A member of the ViT family.

    Attributes:
        family: "vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit" or "siglip". It decides the names, the
            positions, the extra tokens, the pooler and the head.
        size: The side of the image, or (height, width). Only whole patches are read.
        gated: Whether the feed-forward layer is gated, with `mlp` units: by SiLU in DINOv2, by `activation` in DINOv3.
        qkv_bias: Whether query, key and value have a bias.
        key_bias: Whether the key has one where query and value have it.
        layer_scale: The initial scale of the residual branches; None for no scale.
        distilled: Whether the head of a DeiT has two classifiers, over the class and the distillation token, and
            averages their logits (`DeiTForImageClassificationWithTeacher`). Otherwise it reads the class token only.
        pooler: Whether a ViT or DeiT without a head ends in the dense layer and tanh of `transformers`, a SigLIP in
            attention by a learned query. Otherwise `pooled` is the class token; in SigLIP, the mean over the tokens.
        registers: The number of learned tokens without a position, between the class token and the patches.
        rotary: The base of the rotary angles of DINOv3, which has no position embeddings.
        stochastic_depth: The rate in the last block. It falls linearly to 0 in the first block.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.vit:VitFormat",
        "tlx.weights.formats.dinov3:Dinov3Format",
        "tlx.weights.formats.siglip:SiglipFormat",
        "tlx.weights.formats.vit_timm:VitTimm",
    )

    family: str = "vit"
    size: int | tuple[int, int] = 224
    patch: int = 16
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    activation: str = "gelu"
    gated: bool = False
    qkv_bias: bool = True
    key_bias: bool = True
    epsilon: float = 1e-12
    layer_scale: float | None = None
    distilled: bool = False
    pooler: bool = True
    registers: int = 0
    rotary: float = 100.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0
    deviation: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "attention_dropout", "stochastic_depth"))
        if self.family not in FAMILIES:
            raise ValueError(f"no family {self.family!r}{near_miss(self.family, FAMILIES)}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}; change one of the two")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")
        if min(sides(self)) < self.patch:
            raise ValueError(
                f"an image of size {self.size} is smaller than one patch of size {self.patch}; use a larger image, or "
                "a smaller patch"
            )
        if self.distilled and self.family != "deit":
            raise ValueError(f"distilled requires the family 'deit', not {self.family!r}")
        if self.registers and self.family not in DINO[1:]:
            raise ValueError(f"registers requires the family {' or '.join(map(repr, DINO[1:]))}, not {self.family!r}")
        if self.registers < 0:
            raise ValueError(f"registers={self.registers}; expected 0 or more tokens")
        if self.family == "dinov3_vit" and self.width // self.heads % 4:
            raise ValueError(
                f"width {self.width} with {self.heads} heads gives a head {self.width // self.heads} dimensions; the "
                "rotary positions of a dinov3_vit need a multiple of 4"
            )

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with the image classifier of the family as the head."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((*sides(self), self.channels), "float32")}

    def count(self, head: Head | None) -> int:
        return counted(declare, self, head)

    def resized(self, size: int) -> Self:
        return replace(self, size=size)

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the grid of positions resized bicubically; None for other leaves than the positions."""
        return resize_positions(self, array, size) if path.startswith("stem/positions") else None

    def has_attention_maps(self) -> bool:
        # The scores of rotated queries and keys are not their plain products.
        return self.family != "dinov3_vit"

    def attention_input(self, params: Tree, x: Array) -> Array:
        return layer_norm(params["norm"], x, self.epsilon)


def sides(config: Vit) -> tuple[int, int]:
    """Return (height, width) of an image."""
    return (config.size, config.size) if isinstance(config.size, int) else config.size


def grid(config: Vit) -> tuple[int, int]:
    """Return the number of whole patches along the height and the width."""
    height, width = sides(config)
    return height // config.patch, width // config.patch


def extra(config: Vit) -> int:
    """Return the number of tokens before those of the patches."""
    return len(TOKENS[config.family]) + config.registers


def pooled(config: Vit, head: Head | None) -> bool:
    """Return whether the chain has a `pool` stage: as in `transformers`, only without a head, and in no DINO."""
    return config.pooler and head is None and config.family not in DINO


def declare(config: Vit, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init, width = normal(config.deviation), config.width
    rows, columns = grid(config)
    token = Param((width,), ("width",), init)
    stem: Tree = {
        "patch": {
            "kernel": Param((config.patch, config.patch, config.channels, width), (None, None, None, "width"), init),
            "bias": Param((width,), ("width",), zeros),
        },
    } | dict.fromkeys(TOKENS[config.family], token)
    if config.family != "dinov3_vit":
        places = len(TOKENS[config.family]) + rows * columns
        stem["positions"] = Param((places, width), (None, "width"), init)
    if config.registers:
        stem["registers"] = Param((config.registers, width), (None, "width"), init)
    block = declare_block(config)
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": block for n in range(config.depth)}}
    params["norm"] = declare_norm(width)
    if pooled(config, head):
        siglip = config.family == "siglip"
        params["pool"] = (
            declare_probe(width, config.mlp, init) if siglip else declare_dense(width, width, ("width", None), init)
        )
    if head is not None:
        features = 2 * width if config.family in DINO else width
        heads = ("output", "distillation") if config.distilled else ("output",)
        params["head"] = {name: declare_dense(features, head.outputs, ("width", None), init) for name in heads}
    return params


def declare_block(config: Vit) -> Tree:
    """Return the parameters of a block."""
    init, width = normal(config.deviation), config.width
    fused = config.gated and config.family != "dinov3_vit"
    block: Tree = {
        "attention": declare_attention(width, config.heads, init, config.qkv_bias) | {"norm": declare_norm(width)},
        "mlp": {
            "up": declare_dense(width, config.mlp * (2 if fused else 1), ("width", "mlp"), init),
            "down": declare_dense(config.mlp, width, ("mlp", "width"), init),
            "norm": declare_norm(width),
        },
    }
    if config.gated and not fused:
        block["mlp"]["gate"] = declare_dense(width, config.mlp, ("width", "mlp"), init)
    if not config.key_bias:
        block["attention"]["key"].pop("bias", None)
    if config.layer_scale is not None:
        for branch in block.values():
            branch["scale"] = Param((width,), ("width",), constant(config.layer_scale))
    return block


def chain(config: Vit, head: Head | None) -> Model:
    """Build the chain of stages, with the image classifier of the family."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, ("image",))
        image = as_dtype(example(carry, "image", (*sides(config), config.channels)), context)
        patches = conv(params["patch"], image, context, 1, stride=config.patch, padding="VALID")
        batch, *_, width = patches.shape
        names = TOKENS[config.family]
        tokens = [jnp.broadcast_to(as_dtype(params[name], context), (batch, 1, width)) for name in names]
        hidden = jnp.concatenate([*tokens, patches.reshape(batch, -1, width)], axis=1)
        if "positions" in params:
            hidden += as_dtype(params["positions"], context)[None]
        if "registers" in params:
            hidden = inserted(hidden, as_dtype(params["registers"], context), len(names))
        if "prompt" in params:
            # After the extra tokens and without a position, as in visual prompt tuning (Jia et al., 2022).
            hidden = inserted(hidden, as_dtype(params["prompt"]["tokens"], context), extra(config))
        return {"hidden": dropout(hidden, config.dropout, context, 0)}, stats

    def block(rate: float) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            return carry | {"hidden": encode(config, rate, params, carry["hidden"], context)}, stats

        return apply

    def norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = layer_norm(params, carry["hidden"], config.epsilon)
        pooled = hidden[:, 0] if TOKENS[config.family] else as_wide(hidden).mean(1).astype(hidden.dtype)
        return carry | {"hidden": hidden, "pooled": pooled}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        if config.family == "siglip":
            act, heads, epsilon = ACTIVATIONS[config.activation], config.heads, config.epsilon
            features = probe_tokens(params, carry["hidden"], act, context, heads=heads, epsilon=epsilon)
            return carry | {"pooled": features}, stats
        return carry | {"pooled": jnp.tanh(dense(params, carry["pooled"], context, UP))}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": classify(config, params, carry, context).astype(jnp.float32)}, stats

    rates = np.linspace(0.0, config.stochastic_depth, config.depth)
    stages = [Stage("stem", stem)]
    stages += [Stage(f"blocks/{n:02d}", block(float(rate))) for n, rate in enumerate(rates)]
    stages.append(Stage("norm", norm, joins="before", others=("pooled",)))
    if pooled(config, head):
        stages.append(Stage("pool", pool, "pooled", joins="after"))
    if head is not None:
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), declare(config, head), {}, config, head)


def inserted(hidden: Array, tokens: Array, place: int) -> Array:
    """Return the hidden states [B, T, W] with learned `tokens` [N, W] inserted before the token at `place`."""
    learned = jnp.broadcast_to(tokens, (len(hidden), *tokens.shape))
    return jnp.concatenate([hidden[:, :place], learned, hidden[:, place:]], axis=1)


def encode(config: Vit, rate: float, params: Tree, x: Array, context: Context) -> Array:
    """Run one pre-norm transformer block with stochastic depth at `rate`: [B, T, W] -> [B, T, W]."""

    def branch(leaves: Tree, y: Array, salt: int) -> Array:
        y = dropout(y, config.dropout, context, salt)
        if "adapter" in leaves:
            y = y + bottleneck(leaves["adapter"], y, context, INNER)
        y = y * leaves["scale"].astype(y.dtype) if "scale" in leaves else y
        return x + stochastic_depth(y, rate, context, salt + 1)

    layer = params["attention"]
    normed = layer_norm(layer["norm"], x, config.epsilon)
    angles = None
    if config.family == "dinov3_vit":
        rows, columns = grid(config)
        angles = patch_angles((rows, columns), x.shape[1] - rows * columns, config.width // config.heads, config.rotary)
    rate_inside = config.attention_dropout
    mixed = attention(layer, normed, heads=config.heads, rotary=angles, rate=rate_inside, context=context, salt=0)
    x = branch(layer, mixed, 1)
    mlp = params["mlp"]
    normed = layer_norm(mlp["norm"], x, config.epsilon)
    fused = config.gated and "gate" not in mlp
    activation = ACTIVATIONS["silu" if fused else config.activation]
    x = branch(mlp, feed_forward(mlp, normed, activation, context, fused=fused), 3)
    return x + bottleneck(params["adapter"], x, context, OUTER) if "adapter" in params else x


def classify(config: Vit, params: Tree, carry: Carry, context: Context) -> Array:
    """Compute the image classification head of the family: [B, outputs]."""
    hidden = carry["hidden"]
    if config.family in DINO:
        mean = hidden[:, extra(config) :].astype(jnp.float32).mean(1).astype(hidden.dtype)
        return dense(params["output"], jnp.concatenate([hidden[:, 0], mean], axis=-1), context, UP)
    features = hidden[:, 0] if TOKENS[config.family] else carry["pooled"]
    logits = dense(params["output"], features, context, UP)
    return (logits + dense(params["distillation"], hidden[:, 1], context, DOWN)) / 2 if config.distilled else logits


def resize_positions(config: Vit, array: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize the position embeddings [T, W] of `config` to images of another `size`: float32 [T', W].

    The embeddings of the extra tokens are unchanged. The interpolation over the grid is bicubic; with registers it is
    smoothed. `transformers` does the same for images of another size.
    """
    old, new, extra_rows = grid(config), grid(replace(config, size=size)), len(TOKENS[config.family])
    places = resize_grid(array[extra_rows:], old, new, smooth=config.family == "dinov2_with_registers")
    return np.concatenate([array[:extra_rows], places]).astype(np.float32)
