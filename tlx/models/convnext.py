"""ConvNeXt: convolutional networks with the plan of vision transformers (Liu et al., 2022; v2: Woo et al., 2023).

Stages: `stem`, `blocks/00` ... (a residual block each; the first block of a group halves the image), `norm` (of the
mean over places), `head`. Shapes: B batch, I height, J width of an image, C channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    as_wide,
    constant,
    conv,
    declare_conv,
    declare_dense,
    declare_norm,
    dense,
    example,
    layer_norm,
    normal,
    stochastic_depth,
    zeros,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.image_stages import sides_of
from tlx.models.inputs import refuse_unread
from tlx.models.sizes import check_ranges
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Field, Model, Param, Stage

# The side of the depthwise convolution, and the units of the feed-forward layer over the channels of the block.
KERNEL, RATIO = 7, 4
# The epsilon of every norm except the last one, and of response normalisation.
EPSILON = 1e-6
# The salts of the noise of the dense layers, as in `tlx.layers.transformer`.
UP, DOWN = 14, 15
POSITIVE = ("size", "patch", "channels", "widths", "depths", "layer_scale", "epsilon", "deviation")


@dataclass(frozen=True, kw_only=True)
class ConvNeXt(Architecture):
    """A ConvNeXt; the default is ConvNeXt-T. Version 2 has `layer_scale=None, response_norm=True`.

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        patch: The side of the patches of the stem. Only whole patches are read.
        channels: The channels of the image.
        widths: The channels of the blocks of each group. The first block of a group halves the image, except in the
            first group.
        depths: The number of blocks of each group.
        activation: The activation of the feed-forward layers.
        layer_scale: The initial scale of the residual branches; None for no scale.
        response_norm: Whether the feed-forward layer has global response normalisation, as in version 2.
        epsilon: The number added to the variance by the last norm; it is 1e-6 in all others, as in `transformers`.
        stochastic_depth: The rate in the last block. It falls linearly to 0 in the first block.
        deviation: The standard deviation of the initial weights.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.convnext:ConvNeXtFormat",
        "tlx.weights.formats.convnext_torch:ConvNeXtTimm",
        "tlx.weights.formats.convnext_torch:ConvNeXtTorchvision",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    patch: int = 4
    channels: int = 3
    widths: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    activation: str = "gelu"
    layer_scale: float | None = 1e-6
    response_norm: bool = False
    epsilon: float = 1e-12
    stochastic_depth: float = 0.0
    deviation: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("stochastic_depth",))
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(
                f"widths {self.widths} and depths {self.depths} differ in length; expected one width and one depth for "
                "each group of blocks"
            )
        if min(sides_of(self.size)) < (least := self.patch * 2 ** (len(self.widths) - 1)):
            raise ValueError(
                f"an image of size {self.size} is too small for {len(self.widths)} groups of blocks; expected at least "
                f"{least} pixels on each side"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the normed mean of the last activations."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((*sides_of(self.size), self.channels), "float32")}

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


class ConvNeXtBlock(NamedTuple):
    """A residual block of `width` channels; `inputs` is the number before it where it halves the image, else None."""

    width: int
    inputs: int | None


def blocks(config: ConvNeXt) -> Iterator[ConvNeXtBlock]:
    """Yield the residual blocks of the network."""
    for group, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        for n in range(depth):
            yield ConvNeXtBlock(width, config.widths[group - 1] if group > 0 and n == 0 else None)


def declare(config: ConvNeXt, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init = normal(config.deviation)
    first, last = config.widths[0], config.widths[-1]
    params: Tree = {
        "stem": {"patch": declare_conv(config.patch, config.channels, first, init), "norm": declare_norm(first)},
        "blocks": {f"{n:02d}": declared(config, block) for n, block in enumerate(blocks(config))},
        "norm": declare_norm(last),
    }
    if head is not None:
        params["head"] = declare_dense(last, head.outputs, ("width", None), init)
    return params


def declared(config: ConvNeXt, block: ConvNeXtBlock) -> Tree:
    """Return the parameters of a block."""
    init, width = normal(config.deviation), block.width
    params: Tree = {
        "depthwise": declare_conv(KERNEL, width, width, init, groups=width),
        "norm": declare_norm(width),
        "mlp": {
            "up": declare_dense(width, RATIO * width, ("width", "mlp"), init),
            "down": declare_dense(RATIO * width, width, ("mlp", "width"), init),
        },
    }
    if block.inputs is not None:
        params["halve"] = declare_conv(2, block.inputs, width, init) | {"norm": declare_norm(block.inputs)}
    if config.response_norm:
        # Under zeros the layer returns its input.
        params["mlp"]["response"] = {name: Param((RATIO * width,), ("mlp",), zeros) for name in ("scale", "bias")}
    if config.layer_scale is not None:
        params["scale"] = Param((width,), ("width",), constant(config.layer_scale))
    return params


def chain(config: ConvNeXt, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, ("image",))
        image = as_dtype(example(carry, "image", (*sides_of(config.size), config.channels)), context)
        hidden = conv(params["patch"], image, stride=config.patch, padding="VALID")
        return {"hidden": layer_norm(params["norm"], hidden, EPSILON)}, stats

    def block(rate: float) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            x = carry["hidden"]
            if "halve" in params:
                x = conv(params["halve"], layer_norm(params["halve"]["norm"], x, EPSILON), stride=2, padding="VALID")
            y = branch(config, params, x, context)
            return carry | {"hidden": x + stochastic_depth(y, rate, context, 0)}, stats

        return apply

    def norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = carry["hidden"]
        mean = as_wide(hidden).mean((1, 2)).astype(hidden.dtype)
        return carry | {"pooled": layer_norm(params, mean, config.epsilon)}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": dense(params, carry["pooled"], context, 1).astype(jnp.float32)}, stats

    rates = np.linspace(0.0, config.stochastic_depth, sum(config.depths))
    stages = [Stage("stem", stem)]
    stages += [Stage(f"blocks/{n:02d}", block(float(rate))) for n, rate in enumerate(rates)]
    stages.append(Stage("norm", norm, "pooled", joins="before"))
    if head is not None:
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), declare(config, head), {}, config, head)


def branch(config: ConvNeXt, params: Tree, x: Array, context: Context) -> Array:
    """Compute the residual branch of a block: [B, I, J, C] -> [B, I, J, C]."""
    y = conv(params["depthwise"], x, padding=KERNEL // 2, groups=x.shape[-1])
    y = layer_norm(params["norm"], y, EPSILON)
    mlp = params["mlp"]
    y = ACTIVATIONS[config.activation](dense(mlp["up"], y, context, UP))
    if "response" in mlp:
        y = response_norm(mlp["response"], y)
    y = dense(mlp["down"], y, context, DOWN)
    return y * params["scale"].astype(y.dtype) if "scale" in params else y


def response_norm(params: Tree, x: Array) -> Array:
    """Compute x + scale x n + bias, where n is the norm of each channel over its mean (Woo et al., 2023, section 3.1).

    Args:
        params: `scale` and `bias` [C].
        x: The activations, [B, I, J, C]. The norms are float32.

    Returns:
        [B, I, J, C].
    """
    wide = as_wide(x)
    square = (wide * wide).sum((1, 2), keepdims=True)
    # The root of 0 has no slope; a channel without any response has the slope 0, as in torch.
    silent = square == 0
    norms = jnp.where(silent, 0, lax.sqrt(jnp.where(silent, 1, square)))
    ratio = norms / (norms.mean(-1, keepdims=True) + EPSILON)
    return (wide * ratio * params["scale"] + params["bias"] + wide).astype(x.dtype)
