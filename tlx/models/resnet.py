"""Residual networks (He et al., 2016), with the stride in the 3x3 convolution (ResNet v1.5; Goyal et al., 2017).

ResNeXt (Xie et al., 2017) and Wide ResNet (Zagoruyko and Komodakis, 2016) are settings of the same network.

Stages: `stem`, `blocks/00` ... (a residual block each), `pool`, `head`. Shapes: B batch, I height, J width of an image,
C channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    batch_norm,
    conv,
    declare_conv,
    declare_dense,
    declare_norm,
    declare_statistics,
    dense,
    example,
    he_out,
    max_pool,
    mean_halves,
    stochastic_depth,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.image_stages import mean_pool, nested, sides_of
from tlx.models.inputs import refuse_unread
from tlx.models.sizes import check_ranges
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Field, Model, Stage

# The channels of a block over those of its inner convolutions, where it has a bottleneck.
REDUCTION = 4
# The paths of the layers of a block below its own, apart from the shortcut.
LAYERS = ("first", "second", "third")
# The layers of a stage, in the order of the numbers of their noise, after that of stochastic depth.
SALTS = ("stem", *LAYERS, "shortcut", *(f"stem/{name}" for name in LAYERS[:2]))
POSITIVE = ("size", "channels", "stem", "widths", "depths", "widening", "groups", "epsilon")


@dataclass(frozen=True, kw_only=True)
class ResNet(Architecture):
    """A residual network; the default is ResNet-50.

    ResNet-18 and 34 have `widths=(64, 128, 256, 512)`, `bottleneck=False` and the depths (2, 2, 2, 2) and (3, 4, 6, 3);
    ResNet-101 and 152 the depths (3, 4, 23, 3) and (3, 8, 36, 3). ResNeXt-50 32x4d has `widening=2, groups=32`,
    ResNeXt-101 32x8d `widening=4, groups=32`, and Wide ResNet-50-2 `widening=2`.

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        stem: The channels after the first convolution.
        widths: The channels of the blocks of each group. The first block of a group halves the image, except in the
            first group.
        depths: The number of blocks of each group.
        bottleneck: Whether a block has a 3x3 convolution between two 1x1 convolutions with a quarter of the channels;
            otherwise it has two 3x3 convolutions.
        widening: The channels of the 3x3 convolution of a bottleneck over a quarter of the channels of the block.
        groups: The number of groups of channels that the 3x3 convolution of a bottleneck convolves separately.
        early_stride: Whether the first 1x1 convolution of a bottleneck halves the image, as in the paper; otherwise the
            3x3 convolution does (v1.5).
        halve_first: Whether the first group halves the image too.
        deep_stem: Whether the stem has three 3x3 convolutions instead of a 7x7 convolution, the first two with half of
            the channels (ResNet-D; He et al., 2019).
        average_shortcut: Whether a shortcut halves the image by the mean over 2x2 pixels, not by a stride (ResNet-D).
        activation: The activation after the stem and after each block. Within a block it is ReLU, as in
            `transformers`.
        epsilon: The number added to the variance by batch norm.
        momentum: The share of the old running statistics of batch norm in the new ones.
        stochastic_depth: The rate in the last block. It falls linearly to 0 in the first block.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.resnet:ResNetFormat",
        "tlx.weights.formats.resnet_torch:ResNetTimm",
        "tlx.weights.formats.resnet_torch:ResNetTorchvision",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    channels: int = 3
    stem: int = 64
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    widening: int = 1
    groups: int = 1
    early_stride: bool = False
    halve_first: bool = False
    deep_stem: bool = False
    average_shortcut: bool = False
    activation: str = "relu"
    epsilon: float = 1e-5
    momentum: float = 0.9
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("momentum", "stochastic_depth"))
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(
                f"widths {self.widths} and depths {self.depths} differ in length; expected one width and one depth for "
                "each group of blocks"
            )
        if self.bottleneck and any(width % REDUCTION for width in self.widths):
            raise ValueError(f"widths {self.widths} are not all multiples of {REDUCTION}, as a bottleneck requires")
        if not self.bottleneck and (self.widening, self.groups) != (1, 1):
            raise ValueError(
                f"widening={self.widening}, groups={self.groups} are for bottleneck=True; expected 1 and 1 for other "
                "blocks"
            )
        if wrong := [width for width in self.widths if width // REDUCTION * self.widening % self.groups]:
            raise ValueError(
                f"a block of {wrong[0]} channels has {wrong[0] // REDUCTION * self.widening} inner channels; expected "
                f"a multiple of groups={self.groups}: change widening, groups or widths"
            )
        if self.early_stride and not self.bottleneck:
            raise ValueError("early_stride is for bottleneck=True: other blocks have no 1x1 convolution")
        if self.deep_stem and self.stem % 2:
            raise ValueError(f"stem is {self.stem}; expected an even number of channels with deep_stem=True")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the mean of the last activations."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((*sides_of(self.size), self.channels), "float32")}

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


class Layer(NamedTuple):
    """A convolution with its norm."""

    name: str
    size: int
    inputs: int
    outputs: int
    stride: int = 1
    groups: int = 1


def stem_layers(config: ResNet) -> tuple[Layer, ...]:
    """Return the convolutions of the stem; the path of the last is that of the stem itself."""
    if not config.deep_stem:
        return (Layer("stem", 7, config.channels, config.stem, 2),)
    half = config.stem // 2
    first, second, _ = LAYERS
    return (
        Layer(f"stem/{first}", 3, config.channels, half, 2),
        Layer(f"stem/{second}", 3, half, half),
        Layer("stem", 3, half, config.stem),
    )


class Block(NamedTuple):
    """A residual block: its convolutions, and the one of its shortcut; None where the shortcut is its input."""

    layers: tuple[Layer, ...]
    shortcut: Layer | None


def blocks(config: ResNet) -> Iterator[Block]:
    """Yield the residual blocks of the network."""
    inputs = config.stem
    for group, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        for n in range(depth):
            stride = 2 if n == 0 and (group > 0 or config.halve_first) else 1
            changes = inputs != width or stride != 1
            shortcut = Layer("shortcut", 1, inputs, width, stride) if changes else None
            yield Block(tuple(layers(config, inputs, width, stride)), shortcut)
            inputs = width


def layers(config: ResNet, inputs: int, width: int, stride: int) -> Iterator[Layer]:
    """Yield the convolutions of a block, without the shortcut."""
    first, second, third = LAYERS
    if not config.bottleneck:
        yield Layer(first, 3, inputs, width, stride)
        yield Layer(second, 3, width, width)
        return
    inner = width // REDUCTION * config.widening
    early, late = (stride, 1) if config.early_stride else (1, stride)
    yield Layer(first, 1, inputs, inner, early)
    yield Layer(second, 3, inner, inner, late, config.groups)
    yield Layer(third, 1, inner, width)


def declared(layer: Layer) -> tuple[Tree, Tree]:
    """Return the parameters and the statistics that a convolution with its norm declares."""
    kernel = declare_conv(layer.size, layer.inputs, layer.outputs, he_out, bias=False, groups=layer.groups)
    return kernel | {"norm": declare_norm(layer.outputs)}, {"norm": declare_statistics(layer.outputs)}


def chain(config: ResNet, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""
    act = ACTIVATIONS[config.activation]

    def normed(layer: Layer, params: Tree, stats: Tree, x: Array, context: Context) -> tuple[Array, Tree]:
        """Return the normalised convolution, with the zeros on both sides that torch adds, and its statistics."""
        salt, pads = SALTS.index(layer.name) + 1, layer.size // 2
        y = conv(params, x, context, salt, stride=layer.stride, padding=pads, groups=layer.groups)
        y, norm = batch_norm(
            params["norm"], stats["norm"], y, context, epsilon=config.epsilon, momentum=config.momentum, unbiased=True
        )
        return y, {"norm": norm}

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, ("image",))
        hidden = as_dtype(example(carry, "image", (*sides_of(config.size), config.channels)), context)
        new: Tree = {}
        for layer in starts:
            name = layer.name.removeprefix("stem").lstrip("/")
            leaves, moments = (params[name], stats[name]) if name else (params, stats)
            hidden, moved = normed(layer, leaves, moments, hidden, context)
            hidden, new = act(hidden), new | ({name: moved} if name else moved)
        return {"hidden": max_pool(hidden, 3, stride=2, padding=1)}, new

    def residual(block: Block, rate: float) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            x = y = carry["hidden"]
            new: Tree = {}
            for layer in block.layers:
                y = y if layer is block.layers[0] else jax.nn.relu(y)
                y, new[layer.name] = normed(layer, params[layer.name], stats[layer.name], y, context)
            if (way := block.shortcut) is not None:
                if config.average_shortcut and way.stride > 1:
                    x, way = mean_halves(x), way._replace(stride=1)
                x, new[way.name] = normed(way, params[way.name], stats[way.name], x, context)
            return carry | {"hidden": act(x + stochastic_depth(y, rate, context, 0))}, new

        return apply

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": dense(params, carry["pooled"], context, 1).astype(jnp.float32)}, stats

    starts = stem_layers(config)
    every = list(blocks(config))
    params, stats = declare(starts, every)
    stages = [Stage("stem", stem)]
    for n, block in enumerate(every):
        rate = config.stochastic_depth * n / max(len(every) - 1, 1)
        stages.append(Stage(f"blocks/{n:02d}", residual(block, rate)))
    stages.append(Stage("pool", mean_pool, "pooled"))
    if head is not None:
        params["head"] = declare_dense(config.widths[-1], head.outputs, ("width", None))
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), params, stats, config, head)


def declare(starts: tuple[Layer, ...], every: list[Block]) -> tuple[Tree, Tree]:
    """Return the parameters and the statistics of the network below its head."""
    params, stats = (nested({layer.name: declared(layer)[part] for layer in starts}) for part in (0, 1))
    pairs = [
        {layer.name: declared(layer) for layer in (*block.layers, *filter(None, [block.shortcut]))} for block in every
    ]
    for tree, part in ((params, 0), (stats, 1)):
        tree["blocks"] = {
            f"{n:02d}": {name: pair[part] for name, pair in by_name.items()} for n, by_name in enumerate(pairs)
        }
    return params, stats
