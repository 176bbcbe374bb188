"""Networks of inverted residual blocks (Sandler et al., 2018): EfficientNet and the MobileNets.

Stages: `stem`, `blocks/00` ... (a block each), `top` (the last convolution), `pool`, `head`. A block expands the
channels, convolves each channel separately, weights the channels by squeeze and excitation (Hu et al., 2018) where it
has that, and projects to fewer channels without an activation. Shapes: B batch, I height, J width of an image, C
channels.
"""

import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from tlx.layers import (
    ACTIVATIONS,
    Init,
    as_dtype,
    as_wide,
    batch_norm,
    conv,
    declare_conv,
    declare_dense,
    declare_norm,
    declare_statistics,
    dense,
    dropout,
    example,
    he_out,
    stochastic_depth,
)
from tlx.layers.conv import Padding
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.image_stages import check_sides
from tlx.models.inputs import refuse_unread
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Key, Model, Stage

# The layers of a stage, in the order of the numbers of their noise, after that of stochastic depth.
SALTS = ("", "stem", "expand", "middle", "project", "top", "reduce", "expand in squeeze")
# "same" is the rule of TensorFlow, which depends on the size of the input; "even" puts the zeros that it puts for an
# even size, at every size; "both" puts equal zeros on both sides, as torch does.
Zeros = Literal["same", "even", "both"]


class Convolution(NamedTuple):
    """A convolution with batch norm and an activation. `groups` equals `inputs` if each channel is convolved alone."""

    name: str
    size: int
    inputs: int
    outputs: int
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    activation: str = "linear"
    zeros: Zeros = "same"
    momentum: float = 0.9

    @property
    def padding(self) -> Padding:
        """Return the zeros around the input, as `conv` takes them."""
        if self.zeros == "same":
            return "SAME"
        side = (self.size - 1) // 2 * self.dilation
        return [(side - 1, side)] * 2 if self.zeros == "even" and self.stride > 1 else side


class Squeeze(NamedTuple):
    """Weights of the channels, computed from their means through `inner` channels; `gate` is the last activation."""

    inner: int
    activation: str
    gate: str


class Inverted(NamedTuple):
    """A block: its convolutions (the middle one by channels), its squeeze, and whether its input is added."""

    layers: tuple[Convolution, ...]
    squeeze: Squeeze | None
    residual: bool

    @property
    def middle(self) -> Convolution:
        """Return the convolution of the separate channels."""
        return self.layers[-2]


class Network(NamedTuple):
    """The layers of a network.

    Attributes:
        stem: The first convolution.
        blocks: The blocks.
        top: The convolution after the blocks.
        hidden: The units of a dense layer after the pooling; 0 for none.
        epsilon: The number added to the variance by batch norm.
        dropout: The rate before the head.
        stochastic_depth: The rate after the last block; it grows linearly from 0 in the first block.
    """

    stem: Convolution
    blocks: tuple[Inverted, ...]
    top: Convolution
    hidden: int = 0
    epsilon: float = 1e-3
    dropout: float = 0.0
    stochastic_depth: float = 0.0


def smallest_side(network: Network) -> int:
    """Return the smallest side, in pixels, of an image that no convolution refuses."""
    side = 1
    every = (network.stem, *(layer for block in network.blocks for layer in block.layers), network.top)
    for layer in reversed(every):
        zeros = layer.padding
        reach = (layer.size - 1) * layer.dilation + 1
        first = zeros if isinstance(zeros, int | str) else zeros[0]
        # "SAME" puts as many zeros as the places need.
        pads = reach - 1 if isinstance(first, str) else 2 * first if isinstance(first, int) else sum(first)
        side = max(1, (side - 1) * layer.stride + reach - pads)
    return side


def rounded(channels: float, divisor: int = 8, smallest: int | None = None) -> int:
    """Return `channels` as a multiple of `divisor`, at most 10 % below it. `smallest` is the
    lowest result, by default the divisor."""
    multiple = max(divisor if smallest is None else smallest, int(channels + divisor / 2) // divisor * divisor)
    return multiple + divisor if multiple < 0.9 * channels else multiple


def check_activation(name: str) -> None:
    """Raise ValueError for an unknown activation."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}{near_miss(name, ACTIVATIONS)}")


def check_lengths(config: Any, names: tuple[str, ...]) -> None:
    """Raise ValueError unless the fields `names` are tuples of one length, at least 1."""
    lengths = {name: len(getattr(config, name)) for name in names}
    if not min(lengths.values()) or len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"{type(config).__name__} has tuples of the lengths {listed}; expected equal lengths above 0")


def initial(layer: Convolution) -> Init:
    """Return the initialiser of He et al. (2015) with the outputs that one input reaches as fan out."""

    def init(key: Key, shape: tuple[int, ...]) -> Array:
        return math.sqrt(layer.groups) * he_out(key, shape)

    return init


def declared(layer: Convolution) -> tuple[Tree, Tree]:
    """Return the parameters and the statistics that a convolution with its norm declares."""
    kernel = declare_conv(layer.size, layer.inputs, layer.outputs, initial(layer), bias=False, groups=layer.groups)
    return kernel | {"norm": declare_norm(layer.outputs)}, {"norm": declare_statistics(layer.outputs)}


def declare(network: Network) -> tuple[Tree, Tree]:
    """Return the parameters and the statistics of the network below its head."""
    params, stats = {}, {}
    params["stem"], stats["stem"] = declared(network.stem)
    params["top"], stats["top"] = declared(network.top)
    params["blocks"], stats["blocks"] = {}, {}
    for n, block in enumerate(network.blocks):
        pairs = {layer.name: declared(layer) for layer in block.layers}
        inside = {name: pair[0] for name, pair in pairs.items()}
        if (squeeze := block.squeeze) is not None:
            channels = block.middle.outputs
            inside["squeeze"] = {
                "reduce": declare_conv(1, channels, squeeze.inner),
                "expand": declare_conv(1, squeeze.inner, channels),
            }
        params["blocks"][f"{n:02d}"] = inside
        stats["blocks"][f"{n:02d}"] = {name: pair[1] for name, pair in pairs.items()}
    if network.hidden:
        params["pool"] = declare_dense(network.top.outputs, network.hidden, ("width", "mlp"))
    return params, stats


def normed(
    layer: Convolution, epsilon: float, params: Tree, stats: Tree, x: Array, context: Context
) -> tuple[Array, Tree]:
    """Return the activation of the normalised convolution, and its statistics."""
    y = conv(
        params, x, context, SALTS.index(layer.name), stride=layer.stride, padding=layer.padding, groups=layer.groups,
        dilation=layer.dilation,
    )  # fmt: skip
    y, norm = batch_norm(
        params["norm"], stats["norm"], y, context, epsilon=epsilon, momentum=layer.momentum, unbiased=True
    )
    return ACTIVATIONS[layer.activation](y), {"norm": norm}


def squeezed(squeeze: Squeeze, params: Tree, x: Array, context: Context) -> Array:
    """Multiply every channel of `x` [B, I, J, C] by its weight."""
    mean = as_wide(x).mean((1, 2), keepdims=True).astype(x.dtype)
    inner = ACTIVATIONS[squeeze.activation](conv(params["reduce"], mean, context, SALTS.index("reduce")))
    gates = conv(params["expand"], inner, context, SALTS.index("expand in squeeze"))
    return x * ACTIVATIONS[squeeze.gate](gates)


def block_stage(block: Inverted, epsilon: float, rate: float) -> Any:
    """Return the function of the stage of a block."""

    def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = carry["hidden"]
        new: Tree = {}
        for layer in block.layers:
            x, new[layer.name] = normed(layer, epsilon, params[layer.name], stats[layer.name], x, context)
            if layer is block.middle and block.squeeze is not None:
                x = squeezed(block.squeeze, params["squeeze"], x, context)
        if block.residual:
            x = carry["hidden"] + stochastic_depth(x, rate, context, 0)
        return carry | {"hidden": x}, new

    return apply


def chain(network: Network, config: Architecture, head: Head | None, shape: tuple[int, int, int]) -> Model:
    """Build the chain of stages, with a linear head over the mean of the last activations.

    Args:
        network: The layers.
        config: The architecture.
        head: The head; None for the bare backbone.
        shape: (height, width, channels) of an image.

    Raises ValueError for an image that is too small for the convolutions.
    """
    check_sides(config, smallest_side(network))
    epsilon = network.epsilon

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, ("image",))
        image = as_dtype(example(carry, "image", shape), context)
        hidden, stats = normed(network.stem, epsilon, params, stats, image, context)
        return {"hidden": hidden}, stats

    def top(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden, stats = normed(network.top, epsilon, params, stats, carry["hidden"], context)
        return carry | {"hidden": hidden}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = carry["hidden"]
        pooled = as_wide(hidden).mean((1, 2)).astype(hidden.dtype)
        if network.hidden:
            pooled = ACTIVATIONS[network.top.activation](dense(params, pooled, context, 1))
        return carry | {"pooled": pooled}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        pooled = dropout(carry["pooled"], network.dropout, context, 0)
        return carry | {"logits": dense(params, pooled, context, 1).astype(jnp.float32)}, stats

    params, stats = declare(network)
    stages = [Stage("stem", stem)]
    for n, block in enumerate(network.blocks):
        rate = network.stochastic_depth * n / len(network.blocks)
        stages.append(Stage(f"blocks/{n:02d}", block_stage(block, epsilon, rate)))
    stages += [Stage("top", top), Stage("pool", pool, "pooled")]
    if head is not None:
        params["head"] = declare_dense(network.hidden or network.top.outputs, head.outputs, ("width", None))
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), params, stats, config, head)
