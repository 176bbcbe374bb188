"""Vision transformers: ViT (Dosovitskiy et al., 2021), DeiT (Touvron et al., 2021), DINOv2 (Oquab et al., 2023).

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
    attention,
    bottleneck,
    constant,
    conv,
    declare_attention,
    declare_dense,
    declare_norm,
    dense,
    dropout,
    example,
    feed_forward,
    layer_norm,
    normal,
    stochastic_depth,
    zeros,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.inputs import refuse_unread
from tlx.models.sizes import check_ranges, counted
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Field, Model, Param, Stage

# The salts of the noise of the dense layers, apart from those of the attention (10 to 13) and of the other dropouts.
UP, DOWN, INNER, OUTER = 14, 15, 16, 18
FAMILIES = ("vit", "deit", "dinov2")
POSITIVE = ("size", "patch", "channels", "width", "depth", "heads", "mlp", "epsilon")


@dataclass(frozen=True, kw_only=True)
class Vit(Architecture):
    """A member of the ViT family.

    Attributes:
        family: "vit", "deit" or "dinov2". It decides the names, the extra tokens, the pooler and the head.
        size: The side of the image, or (height, width). Only whole patches are read.
        gated: Whether the feed-forward layer is SwiGLU with `mlp` units.
        layer_scale: The initial scale of the residual branches; None for no scale.
        distilled: Whether the head of a DeiT has two classifiers, over the class and the distillation token, and
            averages their logits (`DeiTForImageClassificationWithTeacher`). Otherwise it reads the class token only.
        pooler: Whether a ViT or DeiT without a head ends in the dense layer and tanh of `transformers`. Otherwise
            `pooled` is the class token.
        stochastic_depth: The rate in the last block. It falls linearly to 0 in the first block.
    """

    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.vit:VitFormat",)

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
    epsilon: float = 1e-12
    layer_scale: float | None = None
    distilled: bool = False
    pooler: bool = True
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
                f"an image of size {self.size} is smaller than one patch of size {self.patch}; reduce the patch size"
            )
        if self.distilled and self.family != "deit":
            raise ValueError(f"distilled requires the family 'deit', not {self.family!r}")

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
    return 2 if config.family == "deit" else 1


def pooled(config: Vit, head: Head | None) -> bool:
    """Return whether the chain has a `pool` stage: as in `transformers`, only without a head, and never in DINOv2."""
    return config.pooler and head is None and config.family != "dinov2"


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
        "class": token,
        "positions": Param((extra(config) + rows * columns, width), (None, "width"), init),
    }
    if config.family == "deit":
        stem["distillation"] = token
    block: Tree = {
        "attention": declare_attention(width, config.heads, init, config.qkv_bias) | {"norm": declare_norm(width)},
        "mlp": {
            "up": declare_dense(width, config.mlp * (2 if config.gated else 1), ("width", "mlp"), init),
            "down": declare_dense(config.mlp, width, ("mlp", "width"), init),
            "norm": declare_norm(width),
        },
    }
    if config.layer_scale is not None:
        for branch in block.values():
            branch["scale"] = Param((width,), ("width",), constant(config.layer_scale))
    params: Tree = {"stem": stem, "blocks": {f"{n:02d}": block for n in range(config.depth)}}
    params["norm"] = declare_norm(width)
    if pooled(config, head):
        params["pool"] = declare_dense(width, width, ("width", None), init)
    if head is not None:
        features = 2 * width if config.family == "dinov2" else width
        heads = ("output", "distillation") if config.distilled else ("output",)
        params["head"] = {name: declare_dense(features, head.outputs, ("width", None), init) for name in heads}
    return params


def chain(config: Vit, head: Head | None) -> Model:
    """Build the chain of stages, with the image classifier of the family."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, ("image",))
        image = as_dtype(example(carry, "image", (*sides(config), config.channels)), context)
        patches = conv(params["patch"], image, context, 1, stride=config.patch, padding="VALID")
        batch, *_, width = patches.shape
        names = ("class", "distillation") if config.family == "deit" else ("class",)
        tokens = [jnp.broadcast_to(as_dtype(params[name], context), (batch, 1, width)) for name in names]
        hidden = jnp.concatenate([*tokens, patches.reshape(batch, -1, width)], axis=1)
        hidden += as_dtype(params["positions"], context)[None]
        if "prompt" in params:
            # After the extra tokens and without a position, as in visual prompt tuning (Jia et al., 2022).
            prompt = as_dtype(params["prompt"]["tokens"], context)
            extra_tokens, patch_tokens = hidden[:, : len(names)], hidden[:, len(names) :]
            hidden = jnp.concatenate(
                [extra_tokens, jnp.broadcast_to(prompt, (batch, *prompt.shape)), patch_tokens], axis=1
            )
        return {"hidden": dropout(hidden, config.dropout, context, 0)}, stats

    def block(rate: float) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            return carry | {"hidden": encode(config, rate, params, carry["hidden"], context)}, stats

        return apply

    def norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = layer_norm(params, carry["hidden"], config.epsilon)
        return carry | {"hidden": hidden, "pooled": hidden[:, 0]}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"pooled": jnp.tanh(dense(params, carry["pooled"], context, UP))}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": classify(config, params, carry["hidden"], context).astype(jnp.float32)}, stats

    rates = np.linspace(0.0, config.stochastic_depth, config.depth)
    stages = [Stage("stem", stem)]
    stages += [Stage(f"blocks/{n:02d}", block(float(rate))) for n, rate in enumerate(rates)]
    stages.append(Stage("norm", norm, joins="before", others=("pooled",)))
    if pooled(config, head):
        stages.append(Stage("pool", pool, "pooled", joins="after"))
    if head is not None:
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), declare(config, head), {}, config, head)


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
    mixed = attention(layer, normed, None, heads=config.heads, rate=config.attention_dropout, context=context, salt=0)
    x = branch(layer, mixed, 1)
    mlp = params["mlp"]
    normed = layer_norm(mlp["norm"], x, config.epsilon)
    activation = ACTIVATIONS["silu" if config.gated else config.activation]
    x = branch(mlp, feed_forward(mlp, normed, activation, context, fused=config.gated), 3)
    return x + bottleneck(params["adapter"], x, context, OUTER) if "adapter" in params else x


def classify(config: Vit, params: Tree, hidden: Array, context: Context) -> Array:
    """Compute the image classification head of the family: [B, T, W] -> [B, outputs]."""
    if config.family == "dinov2":
        mean = hidden[:, 1:].astype(jnp.float32).mean(1).astype(hidden.dtype)
        return dense(params["output"], jnp.concatenate([hidden[:, 0], mean], axis=-1), context, UP)
    logits = dense(params["output"], hidden[:, 0], context, UP)
    return (logits + dense(params["distillation"], hidden[:, 1], context, DOWN)) / 2 if config.distilled else logits


def resize_positions(config: Vit, array: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resize the position embeddings [T, W] of `config` to images of another `size`: float32 [T', W].

    The embeddings of the extra tokens are unchanged. The interpolation over the grid is bicubic as in `torch` (Keys,
    1981, with a = -0.75, edges repeated, half-pixel centres, no smoothing). `transformers` does the same for images of
    another size.
    """
    new_grid = grid(replace(config, size=size))
    rows, columns = (bicubic(old, new) for old, new in zip(grid(config), new_grid, strict=True))
    array = np.asarray(array, np.float64)
    extra_rows, places = array[: extra(config)], array[extra(config) :].reshape(*grid(config), -1)
    places = np.einsum("iI,jJ,IJW->ijW", rows, columns, places)
    return np.concatenate([extra_rows, places.reshape(-1, array.shape[1])]).astype(np.float32)


def bicubic(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """Return the matrix [new, old] that resamples a line of `old` points at `new` points."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first_neighbour = np.floor(centre).astype(int)
    matrix = np.zeros((new, old))
    for step in (-1, 0, 1, 2):
        x = np.abs(centre - first_neighbour - step)
        near, far = ((a + 2) * x - (a + 3)) * x * x + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        matrix[np.arange(new), np.clip(first_neighbour + step, 0, old - 1)] += np.where(x <= 1, near, far)
    return matrix
