"""The form of EfficientNet in `transformers`; its names in efficientnet_pytorch, timm and torchvision."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tlx.models.efficientnet import EfficientNet, blocks, depths, network
from tlx.models.heads import Head
from tlx.models.image_stages import sides_of
from tlx.models.names import Name, dense_names
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.inverted import biased_names, normed_names, places_of, timm_blocks, torchvision_block

FAMILIES = {"efficientnet": "efficientnet"}
TUPLES = {
    "widths": "out_channels",
    "depths": "num_block_repeats",
    "kernels": "kernel_sizes",
    "strides": "strides",
    "expansions": "expand_ratios",
}
FIELDS = {
    "channels": "num_channels",
    "size": "image_size",
    "width_multiplier": "width_coefficient",
    "depth_multiplier": "depth_coefficient",
    "divisor": "depth_divisor",
    "squeeze": "squeeze_expansion_ratio",
    "activation": "hidden_act",
    "epsilon": "batch_norm_eps",
    "dropout": "dropout_rate",
    "stochastic_depth": "drop_connect_rate",
} | TUPLES
# The settings of `EfficientNetConfig` that a config.json may leave out, where B0 has others.
USUAL: Json = {
    "width_coefficient": 2.0,
    "depth_coefficient": 3.1,
    "image_size": 600,
    "dropout_rate": 0.5,
    "hidden_act": "swish",
    "batch_norm_momentum": 0.99,
}
# The share that the class of `transformers` leaves to torch: it sets the momentum of the other norms only.
EXPAND_MOMENTUM = 0.9
# Entries of config.json for settings that the class of `transformers` does not have; the outputs are the same.
PADDING, MOMENTUM = "tlx_padding", "tlx_expand_momentum"
COUNT = "num_batches_tracked"
PARTS = {
    "expand": ("expansion.expand_conv", "expansion.expand_bn"),
    "middle": ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
    "project": ("projection.project_conv", "projection.project_bn"),
}
PACKAGE_PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "middle": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


class EfficientNetFormat(Format):
    """The form of `transformers` for the family."""

    families = FAMILIES
    unused = (rf".*\.{COUNT}", r"classifier\..*")

    def read(self, document: Json) -> EfficientNet:
        """Return an `EfficientNet` from config.json. Raises ValueError for settings that tlx does not cover."""
        stated = USUAL | {name: value for name, value in document.items() if value is not None}
        values: dict[str, Any] = {
            field: tuple(stated[foreign]) if isinstance(stated[foreign], list) else stated[foreign]
            for field, foreign in FIELDS.items()
            if foreign in stated
        }
        same = stated.get(PADDING) == "same"
        values |= {
            "padding": "same" if same else "even",
            "odd": () if same else tuple(stated.get("depthwise_padding", ())),
        }
        # transformers passes this number to torch, where it is the share of the new statistics.
        values["momentum"] = round(1 - stated["batch_norm_momentum"], 12)
        values["expand_momentum"] = stated.get(MOMENTUM, EXPAND_MOMENTUM)
        config = EfficientNet(**values)
        check(config, stated)
        return config

    def write(self, config: EfficientNet, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for settings without a foreign form, such as blocks without squeeze and excitation.
        """
        if reason := difference(config):
            raise ValueError(
                f"an EfficientNet with {reason} has no equivalent in transformers, so it cannot be saved in Hugging "
                "Face format"
            )
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        values |= {"in_channels": [config.stem, *config.widths[:-1]], "depthwise_padding": list(centred(config) or ())}
        values |= {"hidden_dim": network(config).top.outputs, "model_type": "efficientnet"}
        values["batch_norm_momentum"] = round(1 - config.momentum, 12)
        momentum = config.momentum if config.expand_momentum is None else config.expand_momentum
        kept = {name: value for name, value in document.items() if name not in (PADDING, MOMENTUM)}
        kept |= {PADDING: "same"} if config.padding == "same" else {}
        kept |= {MOMENTUM: momentum} if momentum != EXPAND_MOMENTUM else {}
        name = "EfficientNetModel" if head is None else "EfficientNetForImageClassification"
        return kept | values | {"architectures": [name]}

    def kind(self, config: EfficientNet) -> str:
        return "efficientnet"

    def prefix(self, config: EfficientNet) -> str:
        return "efficientnet."

    def names(self, config: EfficientNet, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        for ours, kernel, norm in modules(config):
            yield from normed_names(ours, kernel, norm)
        for n, block in enumerate(blocks(config)):
            if block.squeeze is not None:
                for part in ("reduce", "expand"):
                    place = f"blocks/{n:02d}/squeeze/{part}"
                    yield from biased_names(place, f"encoder.blocks.{n}.squeeze_excite.{part}")
        if head is not None:
            yield from dense_names("head", "classifier", head=True)

    def constants(self, config: EfficientNet, head: Head | None) -> dict[str, np.ndarray]:
        """Return the number of batches seen by each norm, which torch counts and does not use."""
        prefix = "" if head is None else self.prefix(config)
        return {f"{prefix}{norm}.{COUNT}": np.zeros((), np.int64) for _, _, norm in modules(config)}


def check(config: EfficientNet, stated: Json) -> None:
    """Raise ValueError for settings of config.json that tlx does not cover."""
    if (pooling := stated.get("pooling_type", "mean")) != "mean":
        raise ValueError(f"config.json has pooling_type {pooling!r}; tlx supports 'mean' only")
    inputs = [EfficientNet.stem, *config.widths[:-1]]
    if list(stated.get("in_channels", inputs)) != inputs:
        raise ValueError(f"config.json has in_channels {stated['in_channels']}; tlx supports {inputs} for these blocks")
    top = network(config).top.outputs
    if stated.get("hidden_dim", top) != top:
        raise ValueError(
            f"config.json has hidden_dim {stated['hidden_dim']}; expected {top} for width_coefficient "
            f"{config.width_multiplier}"
        )


def difference(config: EfficientNet) -> str | None:
    """Return the setting of a network that no class of `transformers` has; None if one computes the same outputs."""
    if config.squeeze is None:
        return "squeeze=None"
    if config.padding == "both":
        return "padding='both'"
    if (config.stem, config.top) != (EfficientNet.stem, EfficientNet.top):
        return f"stem={config.stem} and top={config.top}"
    if config.fixed_ends and (config.width_multiplier, config.depth_multiplier) != (1.0, 1.0):
        return "fixed_ends=True"
    if config.padding == "same" and any(side % 2 for side in sides_of(config.size)):
        return f"padding='same' for images of the odd size {config.size}"
    if centred(config) is None:
        return f"padding='same' for images of the size {config.size}, whose sides do not become odd in the same blocks"
    return None


def centred(config: EfficientNet) -> tuple[int, ...] | None:
    """Return the blocks that have equal zeros on both sides: those that reduce images of odd sides.

    None if one side is odd and the other one even.
    """
    if config.padding != "same":
        return config.odd
    height, width = ((side + 1) // 2 for side in sides_of(config.size))
    numbers = []
    for n, block in enumerate(blocks(config)):
        if (stride := block.middle.stride) > 1:
            if height % 2 != width % 2:
                return None
            numbers += [n] if height % 2 else []
            height, width = -(-height // stride), -(-width // stride)
    return tuple(numbers)


def modules(config: EfficientNet) -> Iterator[tuple[str, str, str]]:
    """Yield our path and the foreign names of every convolution and its norm."""
    yield "stem", "embeddings.convolution", "embeddings.batchnorm"
    for n, block in enumerate(blocks(config)):
        for layer in block.layers:
            kernel, norm = PARTS[layer.name]
            yield f"blocks/{n:02d}/{layer.name}", f"encoder.blocks.{n}.{kernel}", f"encoder.blocks.{n}.{norm}"
    yield "top", "encoder.top_conv", "encoder.top_bn"


def package_names(config: EfficientNet, head: Head | None) -> Iterator[Name]:
    """Yield the name of every parameter and statistic in the package efficientnet_pytorch (Melas-Kyriazi)."""
    yield from normed_names("stem", "_conv_stem", "_bn0")
    for n, block in enumerate(blocks(config)):
        ours, foreign = f"blocks/{n:02d}", f"_blocks.{n}"
        for part in block.layers:
            kernel, norm = PACKAGE_PARTS[part.name]
            yield from normed_names(f"{ours}/{part.name}", f"{foreign}.{kernel}", f"{foreign}.{norm}")
        if block.squeeze is not None:
            for name in ("reduce", "expand"):
                yield from biased_names(f"{ours}/squeeze/{name}", f"{foreign}._se_{name}")
    yield from normed_names("top", "_conv_head", "_bn1")
    if head is not None:
        yield from dense_names("head", "_fc", head=True)


def timm_names(config: EfficientNet, head: Head | None) -> Iterator[Name]:
    """Yield the name of every parameter and statistic in timm, of EfficientNet-Lite too."""
    yield from normed_names("stem", "conv_stem", "bn1")
    yield from timm_blocks(blocks(config), places_of(depths(config)))
    yield from normed_names("top", "conv_head", "bn2")
    if head is not None:
        yield from dense_names("head", "classifier", head=True)


def torchvision_names(config: EfficientNet, head: Head | None) -> Iterator[Name]:
    """Yield the name of every parameter and statistic in torchvision."""
    yield from normed_names("stem", "features.0.0", "features.0.1")
    places = places_of(depths(config))
    for n, (block, (group, place)) in enumerate(zip(blocks(config), places, strict=True)):
        yield from torchvision_block(f"blocks/{n:02d}", f"features.{group + 1}.{place}.block", block)
    last = f"features.{len(config.depths) + 1}"
    yield from normed_names("top", f"{last}.0", f"{last}.1")
    if head is not None:
        yield from dense_names("head", "classifier.1", head=True)
