"""Inception v3 (Szegedy et al., 2016), without the auxiliary classifier.

Stages: `stem` (five convolutions and two poolings), `blocks/00` to `blocks/10` (a block of parallel branches each),
`pool`, `head`. Shapes: B batch, I height, J width of an image, C channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from tlx.layers import average_pool, conv, declare_conv, declare_norm, declare_statistics, max_pool, normal
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.image_stages import (
    check_sides,
    head_stage,
    image_field,
    mean_pool,
    nested,
    read_image,
    torch_norm,
)
from tlx.models.sizes import check_ranges
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Stage

# The smallest side that leaves a pixel for the last block.
SMALLEST = 75
# The deviation of the initial kernels.
DEVIATION = 0.1
# All numbers of channels are multiples of it.
UNIT = 16
# Pixels normalised with ImageNet's mean and deviation become pixels from -1 to 1: the factor and the summand.
SCALES = tuple(2 * deviation for deviation in (0.229, 0.224, 0.225))
SHIFTS = tuple(2 * mean - 1 for mean in (0.485, 0.456, 0.406))


class InceptionLayer(NamedTuple):
    """A convolution with its norm: its name in the branch, the sides of its kernel, and its channels.

    `padded` is False if no zeros are added around the image. `beside` is True if the layer reads the same input as the
    layer before it, whose outputs come first.
    """

    name: str
    sides: tuple[int, int]
    outputs: int
    stride: int = 1
    padded: bool = True
    beside: bool = False


# The layers of each branch of a block, by the name of the branch.
Branches = Mapping[str, tuple[InceptionLayer, ...]]
POOL = "pool"


def square(name: int, side: int, outputs: int, stride: int = 1) -> InceptionLayer:
    """Return a layer with a square kernel; with a stride of 2 no zeros are added around the image."""
    return InceptionLayer(str(name), (side, side), outputs, stride, stride == 1)


def wide(name: int, outputs: int) -> InceptionLayer:
    return InceptionLayer(str(name), (1, 7), outputs)


def tall(name: int, outputs: int) -> InceptionLayer:
    return InceptionLayer(str(name), (7, 1), outputs)


def split(name: int, outputs: int) -> tuple[InceptionLayer, InceptionLayer]:
    """Return a 1x3 and a 3x1 layer side by side."""
    return InceptionLayer(f"{name}a", (1, 3), outputs), InceptionLayer(f"{name}b", (3, 1), outputs, beside=True)


def first_group(pool: int) -> Branches:
    """Return the branches of a block at 1/8 of the image's size, with `pool` channels after the pooling."""
    return {
        "1x1": (square(1, 1, 64),),
        "5x5": (square(1, 1, 48), square(2, 5, 64)),
        "3x3dbl": (square(1, 1, 64), square(2, 3, 96), square(3, 3, 96)),
        POOL: (square(1, 1, pool),),
    }


def second_group(inner: int) -> Branches:
    """Return the branches of a block at 1/16 of the image's size."""
    double = (square(1, 1, inner), tall(2, inner), wide(3, inner), tall(4, inner), wide(5, 192))
    return {
        "1x1": (square(1, 1, 192),),
        "7x7": (square(1, 1, inner), wide(2, inner), tall(3, 192)),
        "7x7dbl": double,
        POOL: (square(1, 1, 192),),
    }


FIRST_HALVING: Branches = {
    "3x3": (square(1, 3, 384, 2),),
    "3x3dbl": (square(1, 1, 64), square(2, 3, 96), square(3, 3, 96, 2)),
    POOL: (),
}
SECOND_HALVING: Branches = {
    "3x3": (square(1, 1, 192), square(2, 3, 320, 2)),
    "7x7x3": (square(1, 1, 192), wide(2, 192), tall(3, 192), square(4, 3, 192, 2)),
    POOL: (),
}
THIRD_GROUP: Branches = {
    "1x1": (square(1, 1, 320),),
    "3x3": (square(1, 1, 384), *split(2, 384)),
    "3x3dbl": (square(1, 1, 448), square(2, 3, 384), *split(3, 384)),
    POOL: (square(1, 1, 192),),
}
STEM = (
    InceptionLayer("first", (3, 3), 32, 2, False),
    InceptionLayer("second", (3, 3), 32, 1, False),
    InceptionLayer("third", (3, 3), 64),
    InceptionLayer("fourth", (1, 1), 80),
    InceptionLayer("fifth", (3, 3), 192, 1, False),
)
# The layers of the stem that pooling follows.
POOLED = ("third", "fifth")
BLOCKS = (
    *map(first_group, (32, 64, 64)),
    FIRST_HALVING,
    *map(second_group, (128, 160, 160, 192)),
    SECOND_HALVING,
    THIRD_GROUP,
    THIRD_GROUP,
)


@dataclass(frozen=True, kw_only=True)
class InceptionV3(Architecture):
    """An Inception v3.

    The auxiliary classifier of the paper serves training only, and tlx does not have it.

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        unit: The channels of all layers, as a multiple of 1/16 of those of the paper; 16 is the network of the paper.
        transform_input: Whether the images are normalised with ImageNet's mean and deviation and the network was
            trained on pixels from -1 to 1, which the stem then computes: the setting of torchvision's weights.
        dropout: The dropout rate before the head.
        epsilon: The number added to the variance by batch norm.
        momentum: The share of the old running statistics of batch norm in the new ones.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.inception:InceptionTimm",
        "tlx.weights.formats.inception:InceptionTorchvision",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 299
    channels: int = 3
    unit: int = UNIT
    transform_input: bool = False
    dropout: float = 0.5
    epsilon: float = 1e-3
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_ranges(self, ("size", "channels", "unit", "epsilon"), ("dropout", "momentum"))
        check_sides(self, SMALLEST)
        if self.transform_input and self.channels != len(SCALES):
            raise ValueError(
                f"transform_input is for images with {len(SCALES)} channels; this network reads {self.channels}: set "
                "transform_input=False"
            )

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the mean of the last activations."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return image_field(self)

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


class Placed(NamedTuple):
    """A layer in its network: its path, and the channels that it reads and returns."""

    path: str
    layer: InceptionLayer
    inputs: int
    outputs: int


def placed(config: InceptionV3) -> Iterator[Placed]:
    """Yield the layers of the network."""

    def scaled(layer: InceptionLayer) -> int:
        return layer.outputs // UNIT * config.unit

    channels = config.channels
    for layer in STEM:
        yield Placed(f"stem/{layer.name}", layer, channels, scaled(layer))
        channels = scaled(layer)
    for n, branches in enumerate(BLOCKS):
        total = 0
        for branch, layers in branches.items():
            inputs, before = channels, channels
            for layer in layers:
                # Only the last layers of a branch are side by side.
                inputs, before = (inputs if layer.beside else before), scaled(layer)
                yield Placed(f"blocks/{n:02d}/{branch}/{layer.name}", layer, inputs, before)
            total += before * (2 if layers and layers[-1].beside else 1)
        channels = total


def chain(config: InceptionV3, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def basic(layer: InceptionLayer, params: Tree, stats: Tree, x: Array, context: Context) -> tuple[Array, Tree]:
        padding = [side // 2 if layer.padded else 0 for side in layer.sides]
        y, new = torch_norm(config, params, stats, conv(params, x, stride=layer.stride, padding=padding), context)
        return jax.nn.relu(y), new

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = read_image(config, carry, context)
        new: Tree = {}
        if config.transform_input:
            x = x * jnp.asarray(SCALES, x.dtype) + jnp.asarray(SHIFTS, x.dtype)
        for layer in STEM:
            x, new[layer.name] = basic(layer, params[layer.name], stats[layer.name], x, context)
            x = max_pool(x, 3, stride=2) if layer.name in POOLED else x
        return {"hidden": x}, new

    def block(branches: Branches) -> Any:
        halves = not branches[POOL]

        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            outputs = []
            new: Tree = {name: {} for name, layers in branches.items() if layers}
            for branch, layers in branches.items():
                x = y = carry["hidden"]
                if branch == POOL:
                    y = max_pool(x, 3, stride=2) if halves else average_pool(x, 3, stride=1, padding=1)
                for layer in layers:
                    if layer.beside:
                        outputs.append(y)
                    else:
                        x = y
                    leaves, moments = params[branch][layer.name], stats[branch][layer.name]
                    y, new[branch][layer.name] = basic(layer, leaves, moments, x, context)
                outputs.append(y)
            return {"hidden": jnp.concatenate(outputs, -1)}, new

        return apply

    params, stats, width = {}, {}, 0
    for layer in placed(config):
        kernel = declare_conv(layer.layer.sides, layer.inputs, layer.outputs, normal(DEVIATION), bias=False)
        params[layer.path] = kernel | {"norm": declare_norm(layer.outputs)}
        stats[layer.path] = {"norm": declare_statistics(layer.outputs)}
    width = features(config)
    stages = [Stage("stem", stem)]
    stages += [Stage(f"blocks/{n:02d}", block(branches)) for n, branches in enumerate(BLOCKS)]
    stages += [Stage("pool", mean_pool, "pooled"), *head_stage(params, width, head, config.dropout)]
    return Model(tuple(stages), nested(params), nested(stats), config, head)


def features(config: InceptionV3) -> int:
    """Return the channels of the last activations."""
    last = [layer for layer in placed(config) if layer.path.startswith(f"blocks/{len(BLOCKS) - 1:02d}/")]
    ends = {layer.path.split("/")[2]: layer for layer in last}
    return sum(layer.outputs * (2 if layer.layer.beside else 1) for layer in ends.values())
