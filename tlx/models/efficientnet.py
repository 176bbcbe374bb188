"""EfficientNet (Tan and Le, 2019) and EfficientNet-Lite: inverted residual blocks, scaled in width, depth and size.

The stages are those of `tlx.models.inverted`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

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

GROUPS = ("widths", "depths", "kernels", "strides", "expansions")
POSITIVE = (
    "size", "channels", "width_multiplier", "depth_multiplier", "stem", *GROUPS, "top", "divisor", "squeeze", "epsilon",
)  # fmt: skip
SHARES = ("momentum", "dropout", "stochastic_depth")


@dataclass(frozen=True, kw_only=True)
class EfficientNet(Architecture):
    """An EfficientNet; the default is B0. `VARIANTS` has B0 to B7 and Lite0 to Lite4.

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        width_multiplier: The factor of all numbers of channels, which become multiples of `divisor`.
        depth_multiplier: The factor of the number of blocks of each group, rounded up.
        fixed_ends: Whether the factors leave the stem, the top and the depths of the first and the last group
            unchanged, as in EfficientNet-Lite.
        stem: The channels after the first convolution.
        widths: The channels of the blocks of each group.
        depths: The number of blocks of each group.
        kernels: The side of the kernels of each group.
        strides: The stride of the first block of each group.
        expansions: The inner channels of a block over its input channels.
        top: The channels of the last convolution.
        divisor: The numbers of channels are multiples of it.
        squeeze: The inner channels of squeeze and excitation over the input channels of the block; None for blocks
            without it.
        activation: The activation of all layers.
        padding: "same" (the zeros of TensorFlow at any size), "even" (those for even sizes, as in `transformers`), or
            "both" (equal zeros on both sides, as in torch).
        odd: With `padding="even"`, the numbers of the blocks that have equal zeros on both sides.
        epsilon: The number added to the variance by batch norm.
        momentum: The share of the old running statistics of batch norm in the new ones.
        expand_momentum: The same share in the first convolution of a block; None for `momentum`.
        dropout: The rate before the head.
        stochastic_depth: The rate after the last block. It grows linearly from 0 in the first block.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.efficientnet:EfficientNetFormat",
        "tlx.weights.formats.mobile_layouts:EfficientNetTimm",
        "tlx.weights.formats.mobile_layouts:EfficientNetTorchvision",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    channels: int = 3
    width_multiplier: float = 1.0
    depth_multiplier: float = 1.0
    fixed_ends: bool = False
    stem: int = 32
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    kernels: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    top: int = 1280
    divisor: int = 8
    squeeze: float | None = 0.25
    activation: str = "silu"
    padding: Zeros = "same"
    odd: tuple[int, ...] = ()
    epsilon: float = 1e-3
    momentum: float = 0.99
    expand_momentum: float | None = None
    dropout: float = 0.2
    stochastic_depth: float = 0.2

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, SHARES)
        if self.expand_momentum is not None and not 0 <= self.expand_momentum <= 1:
            raise ValueError(f"EfficientNet has expand_momentum={self.expand_momentum}; expected a number from 0 to 1")
        check_lengths(self, GROUPS)
        check_activation(self.activation)
        if even := [kernel for kernel in self.kernels if kernel % 2 == 0]:
            raise ValueError(f"EfficientNet has kernels={self.kernels}; expected odd numbers, not {even[0]}")
        if self.odd and self.padding != "even":
            raise ValueError(f"odd={self.odd} is for padding='even', not padding={self.padding!r}; remove odd")

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the mean of the last activations."""
        return chain(network(self), self, head, (*sides_of(self.size), self.channels))

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((*sides_of(self.size), self.channels), "float32")}

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


def scaled(config: EfficientNet, channels: int, fixed: bool = False) -> int:
    """Return a number of channels after the multiplier."""
    return channels if fixed else rounded(channels * config.width_multiplier, config.divisor)


def depths(config: EfficientNet) -> list[int]:
    """Return the number of blocks of each group after the multiplier."""
    ends = (0, len(config.depths) - 1) if config.fixed_ends else ()
    return [
        depth if group in ends else math.ceil(config.depth_multiplier * depth)
        for group, depth in enumerate(config.depths)
    ]


def blocks(config: EfficientNet) -> Iterator[Inverted]:
    """Yield the blocks of the network."""
    inputs, number = scaled(config, config.stem, config.fixed_ends), 0
    expand_momentum = config.momentum if config.expand_momentum is None else config.expand_momentum
    of_act: dict[str, Any] = {"activation": config.activation, "momentum": config.momentum}
    for group, depth in enumerate(depths(config)):
        outputs = scaled(config, config.widths[group])
        for n in range(depth):
            stride = config.strides[group] if n == 0 else 1
            inner = inputs * config.expansions[group]
            layers = [
                Convolution("expand", 1, inputs, inner, activation=config.activation, momentum=expand_momentum),
                Convolution(
                    "middle", config.kernels[group], inner, inner, stride, groups=inner,
                    zeros="both" if number in config.odd else config.padding, **of_act,
                ),
                Convolution("project", 1, inner, outputs, momentum=config.momentum),
            ]  # fmt: skip
            squeeze = None
            if config.squeeze is not None:
                squeeze = Squeeze(max(1, int(inputs * config.squeeze)), config.activation, "sigmoid")
            yield Inverted(tuple(layers if inner != inputs else layers[1:]), squeeze, n > 0)
            inputs, number = outputs, number + 1


def network(config: EfficientNet) -> Network:
    """Return the layers of the network."""
    every = tuple(blocks(config))
    of_act: dict[str, Any] = {"activation": config.activation, "momentum": config.momentum}
    stem = scaled(config, config.stem, config.fixed_ends)
    top = scaled(config, config.top, config.fixed_ends)
    return Network(
        stem=Convolution("stem", 3, config.channels, stem, 2, zeros=config.padding, **of_act),
        blocks=every,
        top=Convolution("top", 1, every[-1].layers[-1].outputs, top, **of_act),
        epsilon=config.epsilon,
        dropout=config.dropout,
        stochastic_depth=config.stochastic_depth,
    )


# The factors of width and depth, the side of the image and the rate of dropout.
_FULL = {
    "b0": (1.0, 1.0, 224, 0.2), "b1": (1.0, 1.1, 240, 0.2), "b2": (1.1, 1.2, 260, 0.3), "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4), "b5": (1.6, 2.2, 456, 0.4), "b6": (1.8, 2.6, 528, 0.5), "b7": (2.0, 3.1, 600, 0.5),
}  # fmt: skip
_LITE = {
    "lite0": (1.0, 1.0, 224, 0.2), "lite1": (1.0, 1.1, 240, 0.2), "lite2": (1.1, 1.2, 260, 0.3),
    "lite3": (1.2, 1.4, 280, 0.3), "lite4": (1.4, 1.8, 300, 0.3),
}  # fmt: skip


def _variants() -> Iterator[tuple[str, EfficientNet]]:
    for name, (width, depth, size, rate) in (_FULL | _LITE).items():
        base = EfficientNet(size=size, width_multiplier=width, depth_multiplier=depth, dropout=rate)
        yield name, replace(base, fixed_ends=True, squeeze=None, activation="relu6") if name in _LITE else base


VARIANTS: Mapping[str, EfficientNet] = MappingProxyType(dict(_variants()))
