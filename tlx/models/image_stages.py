"""Parts that convolutional networks share: reading the image, batch norm as in torch, and the stages of the top.

Shapes: B batch, I height, J width, C channels.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from tlx.layers import (
    adaptive_average_pool,
    as_dtype,
    as_wide,
    batch_norm,
    declare_dense,
    dense,
    dropout,
    example,
    normal,
)
from tlx.models.heads import Head
from tlx.models.inputs import refuse_unread
from tlx.trees import Tree, flatten, nest
from tlx.types import Array, Carry, Context, Field, Stage

# The deviation of the initial kernels of hidden layers and classifiers, as in torchvision.
DEVIATION = 0.01


def sides_of(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of an image."""
    return (size, size) if isinstance(size, int) else size


def check_sides(config: Any, smallest: int) -> None:
    """Raise ValueError if a side of the image is too small for the convolutions and the pooling of a network."""
    if min(sides_of(config.size)) < smallest:
        raise ValueError(
            f"{type(config).__name__} has size={config.size!r}, but its layers need an image of at least "
            f"{smallest} x {smallest}; resize the images to that size or more, such as size={type(config).size}"
        )


def image_field(config: Any) -> dict[str, Field]:
    """Return the input of a network that reads images of `config.size` and `config.channels`."""
    return {"image": Field((*sides_of(config.size), config.channels), "float32")}


def read_image(config: Any, carry: Carry, context: Context) -> Array:
    """Return the images [B, I, J, C]. Raises ValueError if they are missing or have another shape."""
    refuse_unread(carry, ("image",))
    return as_dtype(example(carry, "image", (*sides_of(config.size), config.channels)), context)


def torch_norm(config: Any, params: Tree, stats: Tree, x: Array, context: Context) -> tuple[Array, Tree]:
    """Normalise as torch's `BatchNorm2d`, with `config.epsilon` and `config.momentum`.

    `params` and `stats` are those of the layer before the norm, which holds it as `norm`. Returns the normalised
    activations and the statistics of the layer.
    """
    y, norm = batch_norm(
        params["norm"], stats["norm"], x, context, epsilon=config.epsilon, momentum=config.momentum, unbiased=True
    )
    return y, {"norm": norm}


def mean_pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
    """Compute the mean over all places: `hidden` [B, I, J, C] -> `pooled` [B, C]."""
    hidden = carry["hidden"]
    return carry | {"pooled": as_wide(hidden).mean((1, 2)).astype(hidden.dtype)}, stats


def flat_pool(grid: int) -> Stage:
    """Return the stage that averages `hidden` [B, I, J, C] over a grid of places: `pooled` [B, C * grid * grid].

    The channels come first, in the order of torch.
    """

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        pooled = adaptive_average_pool(carry["hidden"], (grid, grid)).transpose(0, 3, 1, 2)
        return carry | {"pooled": pooled.reshape(pooled.shape[0], -1)}, stats

    return Stage("pool", pool, "pooled")


def hidden_stages(widths: Iterable[int], rate: float, first: bool) -> list[Stage]:
    """Return a stage for each hidden layer of a classifier: dense, ReLU, and dropout at `rate`, `first` or last."""

    def hidden(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = dropout(carry["pooled"], rate, context, 0) if first else carry["pooled"]
        y = jax.nn.relu(dense(params, x, context, 1))
        return carry | {"pooled": y if first else dropout(y, rate, context, 0)}, stats

    return [Stage(f"hidden/{n:02d}", hidden, "pooled") for n, _ in enumerate(widths)]


def declare_hidden(inputs: int, widths: Iterable[int]) -> Tree:
    """Declare the parameters of `hidden_stages` over `inputs` numbers, by the name of the stage."""
    params: Tree = {}
    for n, width in enumerate(widths):
        params[f"hidden/{n:02d}"] = declare_dense(inputs, width, ("width", "mlp"), normal(DEVIATION))
        inputs = width
    return params


def head_stage(params: Tree, inputs: int, head: Head | None, rate: float = 0.0) -> list[Stage]:
    """Return the stage of a linear head over `pooled` [B, inputs], and declare its parameters in `params`.

    The list is empty if there is no head. `rate` is that of the dropout before it.
    """

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = dropout(carry["pooled"], rate, context, 0)
        return carry | {"logits": dense(params, x, context, 1).astype(jnp.float32)}, stats

    if head is None:
        return []
    params["head"] = declare_dense(inputs, head.outputs, ("width", None), normal(DEVIATION))
    return [Stage("head", classifier, "logits")]


def nested(by_path: Tree) -> Tree:
    """Return a tree of layers from their parameters by the path of each layer."""
    return nest({f"{path}/{name}": leaf for path, layer in by_path.items() for name, leaf in flatten(layer).items()})
