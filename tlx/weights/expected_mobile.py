"""Names and shapes of the tensors that the classes of EfficientNet and MobileNetV2 in `transformers` read.

Like `tlx.weights.expected`, these lists are independent of the names in `tlx.models`.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

from tlx.trees import Json

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def batch_norm(name: str, width: int) -> Shapes:
    """Yield the tensors of a torch `BatchNorm2d`."""
    for tensor in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{tensor}", (width,)
    yield f"{name}.num_batches_tracked", ()


def multiple(channels: float, divisor: int, smallest: int) -> int:
    """Return a number of channels as a multiple of `divisor`, at least 90 % of `channels`."""
    number = max(smallest, int(channels + divisor / 2) // divisor * divisor)
    return number if number >= 0.9 * channels else number + divisor


def efficientnet_backbone(document: Json) -> Shapes:
    """Yield the tensors of `EfficientNetModel`."""

    def scaled(channels: int) -> int:
        divisor = document["depth_divisor"]
        return multiple(channels * document["width_coefficient"], divisor, divisor)

    inputs = scaled(32)
    yield "embeddings.convolution.weight", (inputs, document["num_channels"], 3, 3)
    yield from batch_norm("embeddings.batchnorm", inputs)
    number = 0
    for group, repeats in enumerate(document["num_block_repeats"]):
        outputs, kernel = scaled(document["out_channels"][group]), document["kernel_sizes"][group]
        ratio = document["expand_ratios"][group]
        for _ in range(math.ceil(document["depth_coefficient"] * repeats)):
            block, inner = f"encoder.blocks.{number}", inputs * ratio
            if ratio != 1:
                yield f"{block}.expansion.expand_conv.weight", (inner, inputs, 1, 1)
                yield from batch_norm(f"{block}.expansion.expand_bn", inner)
            yield f"{block}.depthwise_conv.depthwise_conv.weight", (inner, 1, kernel, kernel)
            yield from batch_norm(f"{block}.depthwise_conv.depthwise_norm", inner)
            narrow = max(1, int(inputs * document["squeeze_expansion_ratio"]))
            for name, before, after in (("reduce", inner, narrow), ("expand", narrow, inner)):
                yield f"{block}.squeeze_excite.{name}.weight", (after, before, 1, 1)
                yield f"{block}.squeeze_excite.{name}.bias", (after,)
            yield f"{block}.projection.project_conv.weight", (outputs, inner, 1, 1)
            yield from batch_norm(f"{block}.projection.project_bn", outputs)
            inputs, number = outputs, number + 1
    yield "encoder.top_conv.weight", (document["hidden_dim"], inputs, 1, 1)
    yield from batch_norm("encoder.top_bn", document["hidden_dim"])


def mobilenet_backbone(document: Json) -> Shapes:
    """Yield the tensors of `MobileNetV2Model`."""
    divisor, smallest = document["depth_divisible_by"], document["min_depth"]

    def scaled(channels: float, factor: float) -> int:
        return multiple(round(channels * factor), divisor, smallest)

    def layer(name: str, inputs: int, outputs: int, size: int) -> Shapes:
        yield f"{name}.convolution.weight", (outputs, inputs, size, size)
        yield from batch_norm(f"{name}.normalization", outputs)

    factor = document["depth_multiplier"]
    groups = ((16, 1), (24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1))
    widths = [scaled(width, factor) for width, count in groups for _ in range(count)]
    stem = scaled(32, factor)
    yield from layer("conv_stem.first_conv", document["num_channels"], stem, 3)
    if not document["first_layer_is_expansion"]:
        yield from layer("conv_stem.expand_1x1", stem, stem, 1)
    yield from layer("conv_stem.conv_3x3", 1, stem, 3)
    yield from layer("conv_stem.reduce_1x1", stem, widths[0], 1)
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        inner = scaled(inputs, document["expand_ratio"])
        yield from layer(f"layer.{number}.expand_1x1", inputs, inner, 1)
        yield from layer(f"layer.{number}.conv_3x3", 1, inner, 3)
        yield from layer(f"layer.{number}.reduce_1x1", inner, outputs, 1)
    yield from layer("conv_1x1", widths[-1], mobilenet_top(document), 1)


def mobilenet_top(document: Json) -> int:
    """Return the channels of the last convolution of `MobileNetV2Model`."""
    factor = document["depth_multiplier"]
    if document["finegrained_output"] and factor < 1:
        return 1280
    return multiple(round(1280 * factor), document["depth_divisible_by"], document["min_depth"])
