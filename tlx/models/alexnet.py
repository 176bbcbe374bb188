"""AlexNet in its form for one device (Krizhevsky, 2014), as in torchvision.

Stages: `stem`, `blocks/00` ... (a convolution each), `pool`, `hidden/00` ... (a hidden layer of the classifier each),
`head`. Shapes: B batch, I height, J width of an image, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Self

import jax

from tlx.layers import conv, declare_conv, max_pool
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.image_stages import (
    check_sides,
    declare_hidden,
    flat_pool,
    head_stage,
    hidden_stages,
    image_field,
    nested,
    read_image,
)
from tlx.models.sizes import check_ranges
from tlx.trees import Tree
from tlx.types import Carry, Context, Field, Model, Stage


class AlexNetLayer(NamedTuple):
    """A convolution: the side of its kernel, its step, the zeros on each side, and whether pooling follows."""

    side: int
    stride: int
    padding: int
    pools: bool


LAYERS = (
    AlexNetLayer(11, 4, 2, True),
    AlexNetLayer(5, 1, 2, True),
    AlexNetLayer(3, 1, 1, False),
    AlexNetLayer(3, 1, 1, False),
    AlexNetLayer(3, 1, 1, True),
)
# The smallest side that leaves a pixel after the last pooling.
SMALLEST = 63


@dataclass(frozen=True, kw_only=True)
class AlexNet(Architecture):
    """An AlexNet with five convolutions.

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        widths: The channels of the five convolutions.
        grid: The places along each axis that the last activations are averaged to, before the classifier.
        hidden: The widths of the hidden layers of the classifier.
        dropout: The dropout rate before each hidden layer.
    """

    formats: ClassVar[tuple[str, ...]] = ("tlx.weights.formats.alexnet:AlexNetTorchvision",)
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    channels: int = 3
    widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256)
    grid: int = 6
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, ("size", "channels", "widths", "grid", "hidden"), ("dropout",))
        check_sides(self, SMALLEST)

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the last hidden layer."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return image_field(self)

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


def names(config: AlexNet) -> list[str]:
    """Return the names of the stages of the convolutions."""
    return ["stem", *(f"blocks/{n:02d}" for n in range(len(config.widths) - 1))]


def chain(config: AlexNet, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def stage(name: str, layer: AlexNetLayer) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            x = carry["hidden"] if name != "stem" else read_image(config, carry, context)
            y = jax.nn.relu(conv(params, x, stride=layer.stride, padding=layer.padding))
            return {"hidden": max_pool(y, 3, stride=2) if layer.pools else y}, stats

        return apply

    every = list(zip(names(config), LAYERS, strict=True))
    channels = pairwise((config.channels, *config.widths))
    params = {name: declare_conv(layer.side, a, b) for (name, layer), (a, b) in zip(every, channels, strict=True)}
    features = config.widths[-1] * config.grid**2
    params |= declare_hidden(features, config.hidden)
    stages = [Stage(name, stage(name, layer)) for name, layer in every]
    stages += [flat_pool(config.grid), *hidden_stages(config.hidden, config.dropout, first=True)]
    stages += head_stage(params, config.hidden[-1] if config.hidden else features, head)
    return Model(tuple(stages), nested(params), {}, config, head)
