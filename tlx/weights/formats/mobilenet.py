"""The form of MobileNetV2 in `transformers`; the names of MobileNetV2 and V3 in torchvision and timm."""

from collections.abc import Iterator

import numpy as np

from tlx.models.heads import Head
from tlx.models.mobilenet import MobileNetV2, MobileNetV3, blocks_2, blocks_3
from tlx.models.names import Name, dense_names
from tlx.trees import Json
from tlx.weights.formats.base import Format
from tlx.weights.formats.inverted import normed_names, places_of, timm_blocks, torchvision_block

FAMILIES = {"mobilenet_v2": "mobilenet_v2"}
FIELDS = {
    "channels": "num_channels",
    "width_multiplier": "depth_multiplier",
    "divisor": "depth_divisible_by",
    "smallest": "min_depth",
    "expansion": "expand_ratio",
    "output_stride": "output_stride",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
    "dropout": "classifier_dropout_prob",
}
# The share of the old statistics that the class of `transformers` sets; no field of it states that.
MOMENTUM = 0.003
# Entries of config.json for settings that the class of `transformers` does not have; the outputs are the same.
STATED_MOMENTUM, STATED_DEPTH = "tlx_momentum", "tlx_stochastic_depth"
# The layers, which the class of `transformers` does not state.
FIXED = ("stem", "widths", "depths", "strides", "top")
COUNT = "num_batches_tracked"
PARTS = {"expand": "expand_1x1", "middle": "conv_3x3", "project": "reduce_1x1"}


class MobileNetV2Format(Format):
    """The form of `transformers` for the family."""

    families = FAMILIES
    unused = (rf".*\.{COUNT}", r"classifier\..*")

    def read(self, document: Json) -> MobileNetV2:
        """Return a `MobileNetV2` from config.json."""
        values = {field: document[foreign] for field, foreign in FIELDS.items() if document.get(foreign) is not None}
        size = document.get("image_size") or MobileNetV2.size
        return MobileNetV2(
            **{"dropout": 0.8} | values,
            size=size if isinstance(size, int) else tuple(size),
            expand_first=not document.get("first_layer_is_expansion", True),
            scaled_top=not document.get("finegrained_output", True),
            padding="same" if document.get("tf_padding", True) else "both",
            momentum=document.get(STATED_MOMENTUM, MOMENTUM),
            stochastic_depth=document.get(STATED_DEPTH, 0.0),
        )

    def write(self, config: MobileNetV2, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for settings without a foreign form, such as other numbers of blocks.
        """
        others = [name for name in FIXED if getattr(config, name) != getattr(MobileNetV2, name)]
        others += ["padding"] if config.padding == "even" else []
        if others:
            raise ValueError(
                f"a MobileNetV2 with {others[0]}={getattr(config, others[0])} has no equivalent in transformers, so it "
                "cannot be saved in Hugging Face format"
            )
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {"first_layer_is_expansion": not config.expand_first, "finegrained_output": not config.scaled_top}
        values |= {"tf_padding": config.padding == "same", "model_type": "mobilenet_v2"}
        values |= {"image_size": config.size if isinstance(config.size, int) else list(config.size)}
        kept = {name: value for name, value in document.items() if name not in (STATED_MOMENTUM, STATED_DEPTH)}
        kept |= {STATED_MOMENTUM: config.momentum} if config.momentum != MOMENTUM else {}
        kept |= {STATED_DEPTH: config.stochastic_depth} if config.stochastic_depth else {}
        name = "MobileNetV2Model" if head is None else "MobileNetV2ForImageClassification"
        return kept | values | {"architectures": [name]}

    def kind(self, config: MobileNetV2) -> str:
        return "mobilenet_v2"

    def prefix(self, config: MobileNetV2) -> str:
        return "mobilenet_v2."

    def names(self, config: MobileNetV2, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        for ours, foreign in modules(config):
            yield from normed_names(ours, f"{foreign}.convolution", f"{foreign}.normalization")
        if head is not None:
            yield from dense_names("head", "classifier", head=True)

    def constants(self, config: MobileNetV2, head: Head | None) -> dict[str, np.ndarray]:
        """Return the number of batches seen by each norm, which torch counts and does not use."""
        prefix = "" if head is None else self.prefix(config)
        return {f"{prefix}{foreign}.normalization.{COUNT}": np.zeros((), np.int64) for _, foreign in modules(config)}


def modules(config: MobileNetV2) -> Iterator[tuple[str, str]]:
    """Yield our path and the foreign name of every convolution with its norm. The first block is in the stem there."""
    yield "stem", "conv_stem.first_conv"
    for n, block in enumerate(blocks_2(config)):
        for layer in block.layers:
            place = f"layer.{n - 1}" if n else "conv_stem"
            yield f"blocks/{n:02d}/{layer.name}", f"{place}.{PARTS[layer.name]}"
    yield "top", "conv_1x1"


def torchvision_names_2(config: MobileNetV2, head: Head | None) -> Iterator[Name]:
    """Yield the name of every parameter and statistic of a MobileNetV2 in torchvision."""
    yield from normed_names("stem", "features.0.0", "features.0.1")
    number = 0
    for number, block in enumerate(blocks_2(config), 1):
        ours, foreign = f"blocks/{number - 1:02d}", f"features.{number}.conv"
        *activated, last = block.layers
        for place, layer in enumerate(activated):
            yield from normed_names(f"{ours}/{layer.name}", f"{foreign}.{place}.0", f"{foreign}.{place}.1")
        place = len(activated)
        yield from normed_names(f"{ours}/{last.name}", f"{foreign}.{place}", f"{foreign}.{place + 1}")
    yield from normed_names("top", f"features.{number + 1}.0", f"features.{number + 1}.1")
    if head is not None:
        yield from dense_names("head", "classifier.1", head=True)


def torchvision_names_3(config: MobileNetV3, head: Head | None) -> Iterator[Name]:
    """Yield the name of every parameter and statistic of a MobileNetV3 in torchvision."""
    yield from normed_names("stem", "features.0.0", "features.0.1")
    number = 0
    for number, block in enumerate(blocks_3(config), 1):
        yield from torchvision_block(f"blocks/{number - 1:02d}", f"features.{number}.block", block)
    yield from normed_names("top", f"features.{number + 1}.0", f"features.{number + 1}.1")
    yield from dense_names("pool", "classifier.0")
    if head is not None:
        yield from dense_names("head", "classifier.3", head=True)


def timm_names_2(config: MobileNetV2, head: Head | None) -> Iterator[Name]:
    """Yield the name of every parameter and statistic of a MobileNetV2 in timm."""
    yield from normed_names("stem", "conv_stem", "bn1")
    yield from timm_blocks(blocks_2(config), places_of(config.depths))
    yield from normed_names("top", "conv_head", "bn2")
    if head is not None:
        yield from dense_names("head", "classifier", head=True)


def timm_names_3(config: MobileNetV3, head: Head | None) -> Iterator[Name]:
    """Yield the name of every parameter and statistic of a MobileNetV3 in timm.

    A group of blocks begins where the stride is above 1 or the width changes; the last convolution is a group too.
    """
    depths: list[int] = []
    width = 0
    for block in blocks_3(config):
        outputs = block.layers[-1].outputs
        if block.middle.stride > 1 or outputs != width:
            depths.append(0)
        depths[-1] += 1
        width = outputs
    yield from normed_names("stem", "conv_stem", "bn1")
    yield from timm_blocks(blocks_3(config), places_of(depths))
    yield from normed_names("top", f"blocks.{len(depths)}.0.conv", f"blocks.{len(depths)}.0.bn1")
    yield Name("pool/kernel", "conv_head.weight", "pointwise")
    yield Name("pool/bias", "conv_head.bias")
    if head is not None:
        yield from dense_names("head", "classifier", head=True)
