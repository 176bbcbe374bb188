"""Swin transformers: attention within shifted windows (Liu et al., 2021; v2: Liu et al., 2022).

Stages: `stem`, `blocks/00` ... (a transformer block each; the first block of a group halves the image), `norm`, `head`.
Shapes: B batch, I height, J width of an image, C channels, N windows of an image, T tokens of a window, H heads.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    as_wide,
    attention,
    bottleneck,
    constant,
    conv,
    declare_attention,
    declare_conv,
    declare_dense,
    declare_norm,
    dense,
    dropout,
    example,
    feed_forward,
    join_windows,
    layer_norm,
    log_distances,
    normal,
    relative_places,
    split_windows,
    stochastic_depth,
    window_mask,
    zeros,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.image_stages import sides_of
from tlx.models.inputs import refuse_unread
from tlx.models.sizes import check_ranges
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Field, Model, Param, Stage

FAMILIES = ("swin", "swinv2")
# The hidden units of the layer that computes the position bias of version 2, and the largest bias.
UNITS, LARGEST = 512, 16.0
# The epsilon of the norms of the stem and of the layers that halve the image.
EPSILON = 1e-5
# The scores of version 2 are cosines times at most this factor; the learned factor begins at 10.
MOST = 100.0
# The number added to the scores between pixels that are no neighbours, by family, as in `transformers`.
APART = {"swin": -100.0, "swinv2": -200.0}
# The salts of the noise of adapters and dense layers, apart from those of the attention.
INNER, OUTER = 16, 18
POSITIVE = ("size", "patch", "channels", "width", "depths", "heads", "window", "mlp_ratio", "epsilon", "deviation")


@dataclass(frozen=True, kw_only=True)
class Swin(Architecture):
    """A Swin transformer; the default is Swin-T.

    Attributes:
        family: "swin" or "swinv2". Version 2 has its norms after the branches, cosine attention, and a position bias
            that a small network computes from the logarithms of distances.
        size: The side of the image, or (height, width). The weights do not depend on it. Zeros below and on the right
            complete patches and windows.
        patch: The side of the patches of the stem.
        channels: The channels of the image.
        width: The channels of the first group. Each further group has twice the channels and half the sides.
        depths: The number of blocks of each group. Every second block shifts its windows by half a window.
        heads: The number of heads of each group.
        window: The side of a window. A group whose image is not larger has one window, without a shift.
        pretrained_windows: The side of a window in pretraining for each group of a "swinv2", to which distances are
            relative; 0, or no number at all, for the side of its window.
        mlp_ratio: The units of the feed-forward layer over the channels.
        activation: The activation of the feed-forward layers.
        qkv_bias: Whether query, key and value have a bias; the key of version 2 never has one.
        epsilon: The number added to the variance by the norms of the blocks and the last norm.
        dropout: The dropout rate of the embeddings and of each branch.
        attention_dropout: The dropout rate of the attention probabilities.
        stochastic_depth: The rate in the last block. It falls linearly to 0 in the first block.
        deviation: The standard deviation of the initial weights.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.swin:SwinFormat",
        "tlx.weights.formats.swin_torch:SwinTimm",
        "tlx.weights.formats.swin_torch:SwinTorchvision",
    )
    any_size: ClassVar[bool] = True

    family: str = "swin"
    size: int | tuple[int, int] = 224
    patch: int = 4
    channels: int = 3
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    pretrained_windows: tuple[int, ...] = ()
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    qkv_bias: bool = True
    epsilon: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.1
    deviation: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("dropout", "attention_dropout", "stochastic_depth"))
        if self.family not in FAMILIES:
            raise ValueError(f"there is no family {self.family!r}{near_miss(self.family, FAMILIES)}")
        if not self.depths or len(self.heads) != len(self.depths):
            raise ValueError(
                f"depths {self.depths} and heads {self.heads} differ in length; expected one depth and one number of "
                "heads for each group of blocks"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")
        for group, heads in enumerate(self.heads):
            if (width := self.width * 2**group) % heads:
                raise ValueError(f"the width {width} of group {group} is not a multiple of its {heads} heads")
        check_windows(self)

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the mean of the last hidden states."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((*sides_of(self.size), self.channels), "float32")}

    def has_attention_maps(self) -> bool:
        # A token attends to its window only.
        return False

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


class WindowBlock(NamedTuple):
    """A transformer block.

    Attributes:
        width: The channels.
        heads: The number of heads.
        sides: (height, width) of its image in patches.
        window: The side of its windows.
        shift: The number of patches by which the windows are shifted.
        pretrained: The side of the windows in pretraining, or 0.
        halves: Whether the block first halves the image.
    """

    width: int
    heads: int
    sides: tuple[int, int]
    window: int
    shift: int
    pretrained: int
    halves: bool


def check_windows(config: Swin) -> None:
    """Raise ValueError for windows that do not fit the image of a group."""
    windows = config.pretrained_windows
    if windows and config.family == "swin":
        raise ValueError(f"pretrained_windows={windows} is for the family 'swinv2', not 'swin'")
    if (windows and len(windows) != len(config.depths)) or any(side < 0 or side == 1 for side in windows):
        raise ValueError(
            f"pretrained_windows={windows}; expected one number for each of the {len(config.depths)} groups of blocks: "
            "2 or more, or 0 for the side of the windows"
        )
    for group in range(len(config.depths)):
        least = room(config, group)
        # The table of version 1 has a row for each distance of a whole window.
        if least < (1 if config.family == "swinv2" else config.window):
            raise ValueError(
                f"an image of size {config.size} leaves group {group} of the blocks {least} patches on its shorter "
                f"side; expected at least {1 if config.family == 'swinv2' else config.window}: use a larger image, a "
                "smaller window or fewer groups"
            )


def room(config: Swin, group: int) -> int:
    """Return the number of patches that limits the windows of a group, as in `transformers`."""
    if config.family == "swinv2":
        # It counts whole patches along the height.
        return sides_of(config.size)[0] // config.patch // 2**group
    return min(grid(config, group))


def grid(config: Swin, group: int) -> tuple[int, int]:
    """Return (height, width) of the image of a group in patches."""
    height, width = (-(-length // (config.patch * 2**group)) for length in sides_of(config.size))
    return height, width


def blocks(config: Swin) -> Iterator[WindowBlock]:
    """Yield the blocks of the network."""
    pretrained = config.pretrained_windows or (0,) * len(config.depths)
    for group, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        least = room(config, group)
        window, shift = min(config.window, least), 0 if least <= config.window else config.window // 2
        for n in range(depth):
            halves = group > 0 and n == 0
            width = config.width * 2**group
            yield WindowBlock(width, heads, grid(config, group), window, shift * (n % 2), pretrained[group], halves)


def declare(config: Swin, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    init, last = normal(config.deviation), config.width * 2 ** (len(config.depths) - 1)
    params: Tree = {
        "stem": {
            "patch": declare_conv(config.patch, config.channels, config.width, init),
            "norm": declare_norm(config.width),
        },
        "blocks": {f"{n:02d}": declared(config, block) for n, block in enumerate(blocks(config))},
        "norm": declare_norm(last),
    }
    if head is not None:
        params["head"] = declare_dense(last, head.outputs, ("width", None), init)
    return params


def declared(config: Swin, block: WindowBlock) -> Tree:
    """Return the parameters of a block."""
    init, width, second = normal(config.deviation), block.width, config.family == "swinv2"
    units = int(config.mlp_ratio * width)
    mixing = declare_attention(width, block.heads, init, config.qkv_bias)
    if second:
        mixing["key"].pop("bias", None)
        mixing["factor"] = Param((block.heads, 1, 1), ("heads", None, None), constant(math.log(10)))
        mixing["positions"] = {
            "up": declare_dense(2, UNITS, (None, None), init),
            "down": declare_dense(UNITS, block.heads, (None, "heads"), init, bias=False),
        }
    else:
        rows = (2 * config.window - 1) ** 2
        mixing["positions"] = {"table": Param((rows, block.heads), (None, "heads"), zeros)}
    params: Tree = {
        "attention": mixing | {"norm": declare_norm(width)},
        "mlp": {
            "up": declare_dense(width, units, ("width", "mlp"), init),
            "down": declare_dense(units, width, ("mlp", "width"), init),
            "norm": declare_norm(width),
        },
    }
    if block.halves:
        inputs = 2 * width
        kernel = declare_dense(inputs, width, (None, "width"), init, bias=False)
        params["halve"] = kernel | {"norm": declare_norm(width if second else inputs)}
    return params


def chain(config: Swin, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, ("image",))
        image = as_dtype(example(carry, "image", (*sides_of(config.size), config.channels)), context)
        below, right = (-length % config.patch for length in sides_of(config.size))
        image = jnp.pad(image, ((0, 0), (0, below), (0, right), (0, 0)))
        hidden = conv(params["patch"], image, stride=config.patch, padding="VALID")
        return {"hidden": dropout(layer_norm(params["norm"], hidden, EPSILON), config.dropout, context, 0)}, stats

    def encoded(block: WindowBlock, rate: float) -> Any:
        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            hidden = carry["hidden"]
            if "halve" in params:
                hidden = halve(config, params["halve"], hidden, context)
            return carry | {"hidden": encode(config, block, rate, params, hidden, context)}, stats

        return apply

    def norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = layer_norm(params, carry["hidden"], config.epsilon)
        return carry | {"hidden": hidden, "pooled": as_wide(hidden).mean((1, 2)).astype(hidden.dtype)}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": dense(params, carry["pooled"], context, 1).astype(jnp.float32)}, stats

    every = list(blocks(config))
    rates = np.linspace(0.0, config.stochastic_depth, len(every))
    stages = [Stage("stem", stem)]
    stages += [
        Stage(f"blocks/{n:02d}", encoded(block, float(rate)))
        for n, (block, rate) in enumerate(zip(every, rates, strict=True))
    ]
    stages.append(Stage("norm", norm, joins="before", others=("pooled",)))
    if head is not None:
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), declare(config, head), {}, config, head)


def halve(config: Swin, params: Tree, x: Array, context: Context) -> Array:
    """Merge each 2x2 patches: [B, I, J, C] -> [B, I / 2, J / 2, 2 C]. Zeros complete an odd side."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    x = jnp.concatenate([x[:, row::2, column::2] for column in range(2) for row in range(2)], -1)
    if config.family == "swinv2":
        return layer_norm(params["norm"], dense(params, x, context, OUTER + 2), EPSILON)
    return dense(params, layer_norm(params["norm"], x, EPSILON), context, OUTER + 2)


def encode(config: Swin, block: WindowBlock, rate: float, params: Tree, x: Array, context: Context) -> Array:
    """Run one transformer block with stochastic depth at `rate`: [B, I, J, C] -> [B, I, J, C].

    The norm comes before the branch in version 1, and after it in version 2.
    """

    def before(leaves: Tree, y: Array) -> Array:
        return layer_norm(leaves["norm"], y, config.epsilon) if config.family == "swin" else y

    def branch(leaves: Tree, y: Array, salt: int) -> Array:
        y = dropout(y, config.dropout, context, salt)
        if "adapter" in leaves:
            y = y + bottleneck(leaves["adapter"], y, context, INNER)
        y = layer_norm(leaves["norm"], y, config.epsilon) if config.family == "swinv2" else y
        return x + stochastic_depth(y, rate, context, salt + 1)

    x = branch(params["attention"], mix_windows(config, block, params, before(params["attention"], x), context), 1)
    mlp = params["mlp"]
    x = branch(mlp, feed_forward(mlp, before(mlp, x), ACTIVATIONS[config.activation], context), 3)
    return x + bottleneck(params["adapter"], x, context, OUTER) if "adapter" in params else x


def mix_windows(config: Swin, block: WindowBlock, params: Tree, x: Array, context: Context) -> Array:
    """Compute the attention within the windows of a block: [B, I, J, C] -> [B, I, J, C]."""
    layer = params["attention"]
    tokens = split_windows(x, block.window, block.shift)
    bias = position_bias(block, layer["positions"])
    mask = window_mask(block.sides, block.window, block.shift, APART[config.family])
    if mask is not None:
        bias = jnp.tile(bias + jnp.asarray(mask, bias.dtype), (x.shape[0], 1, 1, 1))
    factor = layer.get("factor")
    if factor is not None:
        factor = jnp.exp(jnp.minimum(factor, math.log(MOST)))
    # Each window has separate noise, from its place in the global batch.
    context = context._replace(offset=context.offset * (tokens.shape[0] // x.shape[0]))
    rate = config.attention_dropout
    mixed = attention(layer, tokens, heads=block.heads, bias=bias, cosine=factor, rate=rate, context=context, salt=0)
    return join_windows(mixed, block.sides, block.window, block.shift)


def position_bias(block: WindowBlock, params: Tree) -> Array:
    """Return the bias of the scores by the distance of two tokens of a window: float32[1, H, T, T]."""
    if "table" in params:
        table = jnp.asarray(params["table"])
    else:
        kernel = params["up"]["kernel"]
        distances = jnp.asarray(log_distances(block.window, block.pretrained), as_wide(kernel).dtype)
        hidden = jax.nn.relu(dense(params["up"], distances))
        table = LARGEST * jax.nn.sigmoid(dense(params["down"], hidden))
    return table[relative_places(block.window)].transpose(2, 0, 1)[None]
