"""MobileNetV2 (Sandler et al., 2018) and MobileNetV3 (Howard et al., 2019).

The stages are those of `tlx.models.inverted`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Self

from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.image_stages import sides_of
from tlx.models.inverted import (
    Convolution,
    Inverted,
    Network,
    Squeeze,
    Zeros,
    chain,
    check_activation,
    check_lengths,
    rounded,
)
from tlx.models.sizes import check_ranges
from tlx.types import Field, Model

SHARES = ("momentum", "dropout", "stochastic_depth")


@dataclass(frozen=True, kw_only=True)
class MobileNetV2(Architecture):
    """A MobileNetV2.

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        width_multiplier: The factor of all numbers of channels, which become multiples of `divisor`.
        stem: The channels after the first convolution.
        widths: The channels of the blocks of each group.
        depths: The number of blocks of each group.
        strides: The stride of the first block of each group.
        expansion: The inner channels of a block over its input channels.
        expand_first: Whether the first block has a convolution that expands, to as many channels as it reads.
        top: The channels of the last convolution.
        scaled_top: Whether a width multiplier below 1 applies to `top`.
        divisor: The numbers of channels are multiples of it.
        smallest: The least number of channels.
        output_stride: The side of the image over that of the last activations: strides beyond it become dilations.
        activation: The activation of all layers.
        padding: "same" (the zeros of TensorFlow at any size), "both" (equal zeros on both sides, as in torch), or
            "even" (the zeros of TensorFlow for even sizes, at every size).
        epsilon: The number added to the variance by batch norm.
        momentum: The share of the old running statistics of batch norm in the new ones.
        dropout: The rate before the head.
        stochastic_depth: The rate after the last block. It grows linearly from 0 in the first block.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.mobilenet:MobileNetV2Format",
        "tlx.weights.formats.mobile_layouts:MobileNetV2Timm",
        "tlx.weights.formats.mobile_layouts:MobileNetV2Torchvision",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    channels: int = 3
    width_multiplier: float = 1.0
    stem: int = 32
    widths: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expansion: float = 6.0
    expand_first: bool = False
    top: int = 1280
    scaled_top: bool = False
    divisor: int = 8
    smallest: int = 8
    output_stride: int = 32
    activation: str = "relu6"
    padding: Zeros = "same"
    epsilon: float = 1e-3
    momentum: float = 0.99
    dropout: float = 0.2
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        groups = ("widths", "depths", "strides")
        sizes = ("stem", "top", "divisor", "smallest", "output_stride", "expansion", "width_multiplier", "epsilon")
        check_ranges(self, ("size", "channels", *groups, *sizes), SHARES)
        check_lengths(self, groups)
        check_activation(self.activation)

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the mean of the last activations."""
        return chain(network_2(self), self, head, (*sides_of(self.size), self.channels))

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((*sides_of(self.size), self.channels), "float32")}

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


def scaled(config: MobileNetV2, channels: float, multiplier: float | None = None) -> int:
    """Return a number of channels after a multiplier, by default that of the network."""
    multiplier = config.width_multiplier if multiplier is None else multiplier
    return rounded(round(channels * multiplier), config.divisor, config.smallest)


def blocks_2(config: MobileNetV2) -> Iterator[Inverted]:
    """Yield the blocks of a MobileNetV2."""
    inputs, reached, dilation = scaled(config, config.stem), 2, 1
    for group, depth in enumerate(config.depths):
        outputs = scaled(config, config.widths[group])
        for n in range(depth):
            stride, dilated = config.strides[group] if n == 0 else 1, 1
            if reached == config.output_stride:
                # The stride of this block dilates the blocks after it.
                stride, dilated, dilation = 1, dilation, dilation * stride
            reached *= stride
            first = group == n == 0
            inner = inputs if first else scaled(config, inputs, config.expansion)
            layers = (
                Convolution("expand", 1, inputs, inner, activation=config.activation, momentum=config.momentum),
                Convolution(
                    "middle", 3, inner, inner, stride, inner, dilated, config.activation, config.padding,
                    config.momentum,
                ),
                Convolution("project", 1, inner, outputs, momentum=config.momentum),
            )  # fmt: skip
            residual = not first and stride == 1 and inputs == outputs
            yield Inverted(layers[1:] if first and not config.expand_first else layers, None, residual)
            inputs = outputs


def network_2(config: MobileNetV2) -> Network:
    """Return the layers of a MobileNetV2."""
    every = tuple(blocks_2(config))
    unscaled = config.width_multiplier < 1 and not config.scaled_top
    top = config.top if unscaled else scaled(config, config.top)
    act = {"activation": config.activation, "momentum": config.momentum}
    stem = Convolution("stem", 3, config.channels, scaled(config, config.stem), 2, zeros=config.padding, **act)  # type: ignore[arg-type]
    last = Convolution("top", 1, every[-1].layers[-1].outputs, top, **act)  # type: ignore[arg-type]
    return Network(stem, every, last, 0, config.epsilon, config.dropout, config.stochastic_depth)


@dataclass(frozen=True, kw_only=True)
class MobileNetV3(Architecture):
    """A MobileNetV3; the default is the large one. `VARIANTS` has "large" and "small".

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        width_multiplier: The factor of the channels of stem, blocks and top, which become multiples of `divisor`.
        stem: The channels after the first convolution.
        kernels: The side of the kernel of each block.
        inner: The inner channels of each block.
        widths: The channels after each block.
        squeezed: Whether each block has squeeze and excitation, with a quarter of its inner channels.
        hard: Whether the activation of each block is hard swish; otherwise it is ReLU.
        strides: The stride of each block.
        top: The channels of the last convolution.
        hidden: The units of the dense layer before the head, which no multiplier applies to.
        divisor: The numbers of channels are multiples of it.
        padding: "both" (equal zeros on both sides, as in torch), "same" (the zeros of TensorFlow at any size), or
            "even" (the zeros of TensorFlow for even sizes, at every size).
        epsilon: The number added to the variance by batch norm.
        momentum: The share of the old running statistics of batch norm in the new ones.
        dropout: The rate before the head.
        stochastic_depth: The rate after the last block. It grows linearly from 0 in the first block.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.mobile_layouts:MobileNetV3Timm",
        "tlx.weights.formats.mobile_layouts:MobileNetV3Torchvision",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    channels: int = 3
    width_multiplier: float = 1.0
    stem: int = 16
    kernels: tuple[int, ...] = (3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5)
    inner: tuple[int, ...] = (16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960)
    widths: tuple[int, ...] = (16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160)
    squeezed: tuple[bool, ...] = (False,) * 3 + (True,) * 3 + (False,) * 4 + (True,) * 5
    hard: tuple[bool, ...] = (False,) * 6 + (True,) * 9
    strides: tuple[int, ...] = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1)
    top: int = 960
    hidden: int = 1280
    divisor: int = 8
    padding: Zeros = "both"
    epsilon: float = 1e-3
    momentum: float = 0.99
    dropout: float = 0.2
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        numbers = ("kernels", "inner", "widths", "strides")
        sizes = ("stem", "top", "hidden", "divisor", "width_multiplier", "epsilon")
        check_ranges(self, ("size", "channels", *numbers, *sizes), SHARES)
        check_lengths(self, (*numbers, "squeezed", "hard"))

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the hidden units."""
        return chain(network_3(self), self, head, (*sides_of(self.size), self.channels))

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((*sides_of(self.size), self.channels), "float32")}

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


def blocks_3(config: MobileNetV3) -> Iterator[Inverted]:
    """Yield the blocks of a MobileNetV3."""

    def width(channels: float) -> int:
        return rounded(channels * config.width_multiplier, config.divisor)

    inputs = width(config.stem)
    rows = zip(config.kernels, config.inner, config.widths, config.squeezed, config.hard, config.strides, strict=True)
    for kernel, expanded, after, squeezed, hard, stride in rows:
        inner, outputs, act = width(expanded), width(after), "hardswish" if hard else "relu"
        layers = (
            Convolution("expand", 1, inputs, inner, activation=act, momentum=config.momentum),
            Convolution("middle", kernel, inner, inner, stride, inner, 1, act, config.padding, config.momentum),
            Convolution("project", 1, inner, outputs, momentum=config.momentum),
        )
        squeeze = Squeeze(rounded(inner // 4, config.divisor), "relu", "hardsigmoid") if squeezed else None
        yield Inverted(layers if inner != inputs else layers[1:], squeeze, stride == 1 and inputs == outputs)
        inputs = outputs


def network_3(config: MobileNetV3) -> Network:
    """Return the layers of a MobileNetV3."""
    every = tuple(blocks_3(config))
    stem, top = (rounded(width * config.width_multiplier, config.divisor) for width in (config.stem, config.top))
    first = Convolution("stem", 3, config.channels, stem, 2, 1, 1, "hardswish", config.padding, config.momentum)
    last = Convolution("top", 1, every[-1].layers[-1].outputs, top, activation="hardswish", momentum=config.momentum)
    return Network(first, every, last, config.hidden, config.epsilon, config.dropout, config.stochastic_depth)


VARIANTS: Mapping[str, MobileNetV3] = MappingProxyType({
    "large": MobileNetV3(),
    "small": MobileNetV3(
        kernels=(3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 5),
        inner=(16, 72, 88, 96, 240, 240, 120, 144, 288, 576, 576),
        widths=(16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96),
        squeezed=(True, False, False) + (True,) * 8,
        hard=(False,) * 3 + (True,) * 8,
        strides=(2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1),
        top=576,
        hidden=1024,
    ),
})  # fmt: skip
