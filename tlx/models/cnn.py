"""A small convolutional network with batch norm, for images of about 28x28.

Stages: `stem`, `blocks/00` ... (each convolution, norm, relu and a halving), `pool`, `head`.
Shapes: B batch, I height, J width, C channels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

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
    dropout,
    example,
    he,
    max_pool,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.sizes import check_ranges
from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Field, Model, Stage


@dataclass(frozen=True, kw_only=True)
class Cnn(Architecture):
    """A small convolutional network.

    Attributes:
        size: The side of the image.
        channels: The channels of the image.
        widths: The channels after each halving.
        dense: The width of the hidden layer over the flattened image; None averages over places instead.
        dropout: The dropout rate of the pooled features.
        momentum: The momentum of the running statistics of batch norm.
    """

    size: int = 28
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    dense: int | None = 128
    dropout: float = 0.25
    momentum: float = 0.9

    def __post_init__(self) -> None:
        check_ranges(self, ("size", "channels", "widths", "dense"), ("dropout", "momentum"))
        if not self.widths:
            raise ValueError("widths is empty; expected at least one number, one for each convolution")
        if self.size < 2 ** len(self.widths):
            raise ValueError(
                f"size {self.size} cannot be halved {len(self.widths)} times (once for each entry of widths); use a "
                "larger size or fewer widths"
            )

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((self.size, self.size, self.channels), "float32")}


def chain(config: Cnn, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def layer(params: Tree, stats: Tree, x: Array, context: Context) -> tuple[Carry, Tree]:
        y = conv(params, x, context, 1)
        normed, norm = batch_norm(params["norm"], stats["norm"], y, context, momentum=config.momentum)
        return {"hidden": max_pool(ACTIVATIONS["relu"](normed))}, {"norm": norm}

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        image = example(carry, "image", (config.size, config.size, config.channels))
        return layer(params, stats, as_dtype(image, context), context)

    def block(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return layer(params, stats, carry["hidden"], context)

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = carry["hidden"]
        if config.dense is None:
            pooled = x.astype(jnp.float32).mean((1, 2)).astype(x.dtype)
        else:
            pooled = ACTIVATIONS["relu"](dense(params, x.reshape(x.shape[0], -1), context, 1))
        return carry | {"pooled": dropout(pooled, config.dropout, context, 0)}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": dense(params, carry["pooled"], context, 1).astype(jnp.float32)}, stats

    # A bias before batch norm would be subtracted again.
    convolutions = [declare_conv(3, a, b, bias=False) for a, b in pairwise((config.channels, *config.widths))]
    layers = [kernel | {"norm": declare_norm(width)} for kernel, width in zip(convolutions, config.widths, strict=True)]
    statistics = [{"norm": declare_statistics(width)} for width in config.widths]
    params, stats = staged(layers), staged(statistics)
    width = config.widths[-1]
    if config.dense is not None:
        side = config.size // 2 ** len(config.widths)
        params["pool"] = declare_dense(side * side * width, config.dense, ("width", "mlp"), he)
        width = config.dense
    stages = [Stage("stem", stem), *(Stage(f"blocks/{n:02d}", block) for n in range(len(layers) - 1))]
    stages.append(Stage("pool", pool, "pooled"))
    if head is not None:
        params["head"] = declare_dense(width, head.outputs, ("width", None))
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), params, stats, config, head)


def staged(layers: list[Tree]) -> Tree:
    """Return a tree with the first layer under `stem`, the others under `blocks/00` ..."""
    blocks = {f"{n:02d}": layer for n, layer in enumerate(layers[1:])}
    return {"stem": layers[0]} | ({"blocks": blocks} if blocks else {})
