"""Big Transfer (BiT): residual networks with group norm and weight standardisation (Kolesnikov et al., 2020).

Stages: `stem`, `blocks/00` ... (a residual block each), `norm` (with pre-activation), `pool`, `head`. Shapes: B batch,
I height, J width of an image, C channels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.layers import (
    ACTIVATIONS,
    as_dtype,
    as_wide,
    conv,
    declare_conv,
    declare_dense,
    declare_norm,
    dense,
    example,
    group_norm,
    he_out,
    max_pool,
    stochastic_depth,
)
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.image_stages import check_sides, sides_of
from tlx.models.inputs import refuse_unread
from tlx.models.sizes import check_ranges
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Field, Model, Stage

# The channels of a block over those of its inner convolutions, which are rounded to a multiple of `DIVISOR`.
REDUCTION, DIVISOR = 4, 8
# The number added to the variance of a kernel before its root is taken.
EPSILON = 1e-8
LAYERS = ("first", "second", "third")
POSITIVE = ("size", "channels", "stem", "widths", "depths", "groups")


@dataclass(frozen=True, kw_only=True)
class BiT(Architecture):
    """A BiT network; the default is a BiT-50 as its authors published it.

    Attributes:
        size: The side of the image, or (height, width). The weights do not depend on it.
        channels: The channels of the image.
        stem: The channels after the first convolution.
        widths: The channels of the blocks of each group, multiples of 8. The first block of a group halves the image,
            except in the first group.
        depths: The number of blocks of each group.
        preactivation: Whether norm and activation come before each convolution (He et al., 2016); otherwise after it,
            as in the convolutions before a hybrid vision transformer.
        padding: "same" pads a convolution as TensorFlow does, with the odd zero last; "even" pads both sides alike, as
            PyTorch does.
        padded_pool: Whether zeros complete the windows of the pooling in the stem.
        groups: The number of groups of channels that are normalised together.
        activation: The activation after each norm.
        stochastic_depth: The rate in the last block. It falls linearly to 0 in the first block.
    """

    formats: ClassVar[tuple[str, ...]] = (
        "tlx.weights.formats.bit:BitFormat",
        "tlx.weights.formats.bit_timm:BitTimm",
    )
    any_size: ClassVar[bool] = True

    size: int | tuple[int, int] = 224
    channels: int = 3
    stem: int = 64
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    preactivation: bool = True
    padding: Literal["same", "even"] = "same"
    padded_pool: bool = True
    groups: int = 32
    activation: str = "relu"
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, POSITIVE, ("stochastic_depth",))
        if not 0 < len(self.widths) == len(self.depths) <= 4:
            raise ValueError(
                f"widths {self.widths} and depths {self.depths}; expected one width and one depth for each group of "
                "blocks, and at most 4 groups"
            )
        if any(width % DIVISOR for width in self.widths):
            raise ValueError(f"widths {self.widths} are not all multiples of {DIVISOR}")
        normed = {self.stem, *self.widths, *map(inner_width, self.widths)}
        if wrong := sorted(width for width in normed if width % self.groups):
            raise ValueError(f"{wrong[0]} channels are not a multiple of groups {self.groups}; change one of the two")
        if self.padding == "same" and not self.padded_pool:
            # The windows of the pooling have 3 places on half of the sides.
            check_sides(self, 5)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head over the mean of the last activations."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {"image": Field((*sides_of(self.size), self.channels), "float32")}

    def resized(self, size: int) -> Self:
        return replace(self, size=size)


class BitBlock(NamedTuple):
    """A residual block from `inputs` to `width` channels with `inner` between; `first` of its group or not."""

    inputs: int
    inner: int
    width: int
    stride: int
    first: bool


def inner_width(width: int) -> int:
    """Return the channels of the inner convolutions: about a quarter, as a multiple of 8 not below 90 % of it."""
    share = width / REDUCTION
    rounded = max(DIVISOR, int(share + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded + DIVISOR if rounded < 0.9 * share else rounded


def blocks(config: BiT) -> Iterator[BitBlock]:
    """Yield the residual blocks of the network."""
    inputs = config.stem
    for group, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
        for n in range(depth):
            yield BitBlock(inputs, inner_width(width), width, 2 if n == 0 and group > 0 else 1, n == 0)
            inputs = width


def declare(config: BiT, head: Head | None) -> Tree:
    """Return the tree of declared parameters."""
    last = config.widths[-1]
    params: Tree = {
        "stem": declare_conv(7, config.channels, config.stem, he_out, bias=False),
        "blocks": {f"{n:02d}": declared(config, block) for n, block in enumerate(blocks(config))},
    }
    if config.preactivation:
        params["norm"] = declare_norm(last)
    else:
        params["stem"]["norm"] = declare_norm(config.stem)
    if head is not None:
        params["head"] = declare_dense(last, head.outputs, ("width", None))
    return params


def declared(config: BiT, block: BitBlock) -> Tree:
    """Return the parameters of a block. The norm of a convolution is that before it, with pre-activation, or after."""
    steps = ((1, block.inputs, block.inner), (3, block.inner, block.inner), (1, block.inner, block.width))
    params: Tree = {}
    for name, (size, inputs, outputs) in zip(LAYERS, steps, strict=True):
        norm = declare_norm(inputs if config.preactivation else outputs)
        params[name] = declare_conv(size, inputs, outputs, he_out, bias=False) | {"norm": norm}
    if block.first:
        params["shortcut"] = declare_conv(1, block.inputs, block.width, he_out, bias=False)
        if not config.preactivation:
            params["shortcut"]["norm"] = declare_norm(block.width)
    return params


def standardised(params: Tree) -> Tree:
    """Return a convolution whose kernel has the mean 0 and the variance 1 for each output (Qiao et al., 2019)."""
    kernel = as_wide(jnp.asarray(params["kernel"]))
    centred = kernel - kernel.mean((0, 1, 2))
    return {"kernel": centred * lax.rsqrt((centred * centred).mean((0, 1, 2)) + EPSILON)}


def convolve(config: BiT, params: Tree, x: Array, stride: int = 1) -> Array:
    """Convolve with a standardised kernel and the padding of the network."""
    even = params["kernel"].shape[0] // 2
    return conv(standardised(params), x, stride=stride, padding="SAME" if config.padding == "same" else even)


def activated(config: BiT, params: Tree, x: Array) -> Array:
    """Return the activation of the normalised input; `params` hold the norm of a convolution."""
    return ACTIVATIONS[config.activation](group_norm(params["norm"], x, config.groups))


def before(config: BiT, block: BitBlock, params: Tree, x: Array, way: Callable[[Array], Array]) -> Array:
    """Run a block with norm and activation before each convolution; `way` is applied to the residual branch."""
    first, second, third = (params[name] for name in LAYERS)
    y = activated(config, first, x)
    x = convolve(config, params["shortcut"], y, block.stride) if block.first else x
    y = convolve(config, first, y)
    y = convolve(config, second, activated(config, second, y), block.stride)
    return x + way(convolve(config, third, activated(config, third, y)))


def after(config: BiT, block: BitBlock, params: Tree, x: Array, way: Callable[[Array], Array]) -> Array:
    """Run a block with norm and activation after each convolution; `way` is applied to the residual branch."""
    first, second, third = (params[name] for name in LAYERS)
    y = activated(config, first, convolve(config, first, x))
    y = activated(config, second, convolve(config, second, y, block.stride))
    y = group_norm(third["norm"], convolve(config, third, y), config.groups)
    if block.first:
        leaves = params["shortcut"]
        x = group_norm(leaves["norm"], convolve(config, leaves, x, block.stride), config.groups)
    return ACTIVATIONS[config.activation](x + way(y))


def chain(config: BiT, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        refuse_unread(carry, ("image",))
        image = as_dtype(example(carry, "image", (*sides_of(config.size), config.channels)), context)
        x = convolve(config, params, image, 2)
        if config.padding == "even":
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        if "norm" in params:
            x = activated(config, params, x)
        return {"hidden": max_pool(completed(x) if config.padded_pool else x, 3, stride=2)}, stats

    def residual(block: BitBlock, rate: float) -> Any:
        run = before if config.preactivation else after

        def apply(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
            hidden = run(config, block, params, carry["hidden"], lambda y: stochastic_depth(y, rate, context, 0))
            return carry | {"hidden": hidden}, stats

        return apply

    def norm(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"hidden": activated(config, {"norm": params}, carry["hidden"])}, stats

    def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = carry["hidden"]
        return carry | {"pooled": as_wide(hidden).mean((1, 2)).astype(hidden.dtype)}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": dense(params, carry["pooled"], context, 1).astype(jnp.float32)}, stats

    every = list(blocks(config))
    stages = [Stage("stem", stem)]
    for n, (block, rate) in enumerate(zip(every, np.linspace(0.0, config.stochastic_depth, len(every)), strict=True)):
        stages.append(Stage(f"blocks/{n:02d}", residual(block, float(rate))))
    stages += [Stage("norm", norm, joins="before")] if config.preactivation else []
    stages.append(Stage("pool", pool, "pooled"))
    if head is not None:
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), declare(config, head), {}, config, head)


def completed(x: Array) -> Array:
    """Return [B, I, J, C] with zeros around it that complete windows of 3 with a step of 2; the odd zero is last."""
    pads = [(0, 0)]
    for length in x.shape[1:3]:
        total = max((-(-length // 2) - 1) * 2 + 3 - length, 0)
        pads.append((total // 2, total - total // 2))
    return jnp.pad(x, [*pads, (0, 0)])
