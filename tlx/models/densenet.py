"""DenseNet (Huang et al., 2017): each layer reads the outputs of all layers before it in its group.

Stages: `stem`, `blocks/00` ... (a dense layer each), between them `transitions/00` ..., `norm`, `pool`, `head`.
Shapes: B batch, I height, J width of an image, C channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp

from tlx.layers import (
    average_pool,
    conv,
    declare_conv,
    declare_norm,
    declare_statistics,
    dropout,
    he,
    max_pool,
)
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

POSITIVE = ("size", "channels", "stem", "growth", "bottleneck", "depths", "epsilon")


@dataclass(frozen=True, kw_only=True)
class DenseNet(Architecture):
    """A densely connected network; the default is DenseNet-121.

    DenseNet-169 and 201 have the depths (6, 12, 32, 32) and (6, 12, 48, 32); DenseNet-161 has `stem=96`, `growth=48`
    and the depths (6, 12, 36, 24).

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        stem: The channels after the first convolution.
        growth: The channels that each layer adds.
        bottleneck: The channels between the two convolutions of a layer, as a multiple of `growth`.
        depths: The number of layers of each group. Between groups the channels and the image are halved.
        dropout: The dropout rate of the channels that a layer adds.
        epsilon: The number added to the variance by batch norm.
        momentum: The share of the old running statistics of batch norm in the new ones.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.densenet:DenseNetTimm",
        "tlx.weights.formats.densenet:DenseNetTorchvision",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    channels: int = 3
    stem: int = 64
    growth: int = 32
    bottleneck: int = 4
    depths: tuple[int, ...] = (6, 12, 24, 16)
    dropout: float = 0.0
    epsilon: float = 1e-5
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "momentum"))
        if not self.depths:
            raise ValueError("depths is empty; expected at least one number, one for each group of layers")
        # The stem halves the image twice and rounds up; each transition rounds down.
        check_sides(self, 4 * 2 ** (len(self.depths) - 1) - 3)

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the mean of the last activations."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return image_field(self)

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


class Part(NamedTuple):
    """A dense layer or a transition: its name, its place among the foreign names, and the channels that it reads."""

    name: str
    group: int
    number: int
    inputs: int

    @property
    def transition(self) -> bool:
        """Return whether the part is a transition."""
        return self.name.startswith("transitions")


def parts(config: DenseNet) -> Iterator[Part]:
    """Yield the dense layers and the transitions of the network."""
    channels, number = config.stem, 0
    for group, depth in enumerate(config.depths):
        for n in range(depth):
            yield Part(f"blocks/{number:02d}", group, n, channels)
            channels, number = channels + config.growth, number + 1
        if group < len(config.depths) - 1:
            yield Part(f"transitions/{group:02d}", group, 0, channels)
            channels //= 2


def features(config: DenseNet) -> int:
    """Return the channels of the last activations."""
    last = list(parts(config))[-1]
    return last.inputs + config.growth


def chain(config: DenseNet, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def normed(params: Tree, stats: Tree, x: Array, context: Context) -> tuple[Array, Tree]:
        y, new = torch_norm(config, params, stats, x, context)
        return jax.nn.relu(y), new

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = conv(params, read_image(config, carry, context), stride=2, padding=3)
        y, stats = normed(params, stats, x, context)
        return {"hidden": max_pool(y, 3, stride=2, padding=1)}, stats

    def layer(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden, new = carry["hidden"], {}
        y, new["first"] = normed(params["first"], stats["first"], hidden, context)
        y, new["second"] = normed(params["second"], stats["second"], conv(params["first"], y), context)
        added = dropout(conv(params["second"], y, padding=1), config.dropout, context, 0)
        return {"hidden": jnp.concatenate([hidden, added], -1)}, new

    def transition(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        y, stats = normed(params, stats, carry["hidden"], context)
        return {"hidden": average_pool(conv(params, y))}, stats

    def norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        y, new = normed({"norm": params}, {"norm": stats}, carry["hidden"], context)
        return {"hidden": y}, new["norm"]

    every, width = list(parts(config)), features(config)
    params, stats = declare(config, every)
    stages = [Stage("stem", stem)]
    stages += [Stage(part.name, transition if part.transition else layer) for part in every]
    stages += [Stage("norm", norm, joins="before"), Stage("pool", mean_pool, "pooled")]
    params["norm"], stats["norm"] = declare_norm(width), declare_statistics(width)
    stages += head_stage(params, width, head)
    return Model(tuple(stages), nested(params), nested(stats), config, head)


def declare(config: DenseNet, every: list[Part]) -> tuple[Tree, Tree]:
    """Return the parameters and the statistics of the stem, the layers and the transitions by their paths."""
    stem = declare_conv(7, config.channels, config.stem, he, bias=False) | {"norm": declare_norm(config.stem)}
    params: dict[str, Any] = {"stem": stem}
    widths = {"stem": config.stem}
    for part in every:
        if part.transition:
            convolutions = {part.name: (1, part.inputs, part.inputs // 2)}
        else:
            inner = config.growth * config.bottleneck
            convolutions = {
                f"{part.name}/first": (1, part.inputs, inner),
                f"{part.name}/second": (3, inner, config.growth),
            }
        for path, (side, inputs, outputs) in convolutions.items():
            # The norm is before the convolution, so it has the channels that the convolution reads.
            params[path] = declare_conv(side, inputs, outputs, he, bias=False) | {"norm": declare_norm(inputs)}
            widths[path] = inputs
    return params, {path: {"norm": declare_statistics(width)} for path, width in widths.items()}
