"""Names and shapes of the tensors that the classes of EfficientNet in `transformers` read.

Like `tlx.weights.expected`, these lists are independent of the names in `tlx.models`.
"""

import math
from collections.abc import Iterator

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
