"""VGG (Simonyan and Zisserman, 2015), with and without batch norm.

Stages: `stem`, `blocks/00` ... (a convolution each), `pool`, `hidden/00` ... (a hidden layer of the classifier each),
`head`. Shapes: B batch, I height, J width of an image, C channels.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import jax

from tlx.layers import conv, declare_conv, declare_norm, declare_statistics, he_out, max_pool
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
    torch_norm,
)
from tlx.models.sizes import check_ranges
from tlx.trees import Tree
from tlx.types import Carry, Context, Field, Model, Stage


@dataclass(frozen=True, kw_only=True)
class Vgg(Architecture):
    """A VGG network; the default is VGG-16.

    VGG-11, 13 and 19 have the depths (1, 1, 2, 2, 2), (2, 2, 2, 2, 2) and (2, 2, 4, 4, 4).

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        widths: The channels of the convolutions of each group, after which the image is halved.
        depths: The number of convolutions of each group.
        normed: Whether batch norm follows each convolution.
        grid: The places along each axis that the last activations are averaged to, before the classifier.
        hidden: The widths of the hidden layers of the classifier.
        dropout: The dropout rate after each hidden layer.
        epsilon: The number added to the variance by batch norm.
        momentum: The share of the old running statistics of batch norm in the new ones.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.vgg:VggTimm",
        "tlx.weights.formats.vgg:VggTorchvision",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    channels: int = 3
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    normed: bool = False
    grid: int = 7
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5
    epsilon: float = 1e-5
    momentum: float = 0.9

    def __post_init__(self) -> None:
        positive = ("size", "channels", "widths", "depths", "grid", "hidden", "epsilon")
        check_ranges(self, positive, ("dropout", "momentum"))
        if not self.widths or len(self.widths) != len(self.depths):
            raise ValueError(
                f"widths {self.widths} and depths {self.depths} differ in length; expected one width and one depth for "
                "each group of convolutions"
            )
        check_sides(self, 2 ** len(self.widths))

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the last hidden layer."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return image_field(self)

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


class VggLayer(NamedTuple):
    """A convolution: the name of its stage, its channels, and whether the image is halved after it."""

    name: str
    inputs: int
    outputs: int
    halves: bool


def convolutions(config: Vgg) -> Iterator[VggLayer]:
    """Yield the convolutions of the network."""
    inputs, number = config.channels, -1
    for width, depth in zip(config.widths, config.depths, strict=True):
        for n in range(depth):
            name = "stem" if number < 0 else f"blocks/{number:02d}"
            yield VggLayer(name, inputs, width, n == depth - 1)
            inputs, number = width, number + 1


def chain(config: Vgg, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def stage(layer: VggLayer) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            x = carry["hidden"] if layer.name != "stem" else read_image(config, carry, context)
            y = conv(params, x, padding=1)
            if config.normed:
                y, stats = torch_norm(config, params, stats, y, context)
            y = jax.nn.relu(y)
            return {"hidden": max_pool(y) if layer.halves else y}, stats

        return apply

    params, stats = {}, {}
    stages = []
    for layer in convolutions(config):
        params[layer.name] = declare_conv(3, layer.inputs, layer.outputs, he_out)
        if config.normed:
            params[layer.name]["norm"] = declare_norm(layer.outputs)
            stats[layer.name] = {"norm": declare_statistics(layer.outputs)}
        stages.append(Stage(layer.name, stage(layer)))
    features = config.widths[-1] * config.grid**2
    params |= declare_hidden(features, config.hidden)
    stages += [flat_pool(config.grid), *hidden_stages(config.hidden, config.dropout, first=False)]
    stages += head_stage(params, config.hidden[-1] if config.hidden else features, head)
    return Model(tuple(stages), nested(params), nested(stats), config, head)
