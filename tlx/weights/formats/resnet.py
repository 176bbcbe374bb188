"""The form of ResNet in `transformers`."""

from collections.abc import Iterator

import numpy as np

from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, statistics_names
from tlx.models.resnet import LAYERS, ResNet, blocks
from tlx.trees import Json
from tlx.weights.formats.base import Format

FAMILIES = {"resnet": "resnet"}
FIELDS = {
    "channels": "num_channels",
    "stem": "embedding_size",
    "activation": "hidden_act",
    "early_stride": "downsample_in_bottleneck",
    "halve_first": "downsample_in_first_stage",
}
KINDS = {"bottleneck": True, "basic": False}
COUNT = "num_batches_tracked"
STEM = "embedder.embedder"


class ResNetFormat(Format):
    """The form of `transformers` for the family."""

    families = FAMILIES
    unused = (rf".*\.{COUNT}", r"classifier\..*")

    def read(self, document: Json) -> ResNet:
        """Return a `ResNet` from config.json. Raises ValueError for settings that tlx does not cover."""
        values = {field: document[foreign] for field, foreign in FIELDS.items() if document.get(foreign) is not None}
        for field, foreign in (("widths", "hidden_sizes"), ("depths", "depths")):
            if document.get(foreign) is not None:
                values[field] = tuple(document[foreign])
        bottleneck = KINDS[document.get("layer_type") or "bottleneck"]
        # The class of `transformers` has the field, and reads it with bottlenecks only.
        values["early_stride"] = bottleneck and bool(values.get("early_stride"))
        size = document.get("image_size") or ResNet.size
        return ResNet(bottleneck=bottleneck, size=size if isinstance(size, int) else tuple(size), **values)

    def write(self, config: ResNet, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for settings without a foreign form: another epsilon than that of torch, a ResNet-D, a ResNeXt
        or a Wide ResNet.
        """
        if (config.widening, config.groups) != (1, 1):
            raise ValueError(
                f"a ResNet with widening={config.widening}, groups={config.groups} has no equivalent in transformers, "
                "so it cannot be saved in Hugging Face format"
            )
        if config.deep_stem or config.average_shortcut:
            raise ValueError(
                f"a ResNet with deep_stem={config.deep_stem}, average_shortcut={config.average_shortcut} has no "
                "equivalent in transformers, so it cannot be saved in Hugging Face format"
            )
        if config.epsilon != ResNet.epsilon:
            raise ValueError(
                f"a ResNet with epsilon={config.epsilon} has no equivalent in transformers, so it cannot be saved in "
                "Hugging Face format"
            )
        values = {foreign: getattr(config, field) for field, foreign in FIELDS.items()}
        values |= {"hidden_sizes": list(config.widths), "depths": list(config.depths), "model_type": "resnet"}
        values |= {"layer_type": next(name for name, value in KINDS.items() if value == config.bottleneck)}
        values |= {"image_size": config.size if isinstance(config.size, int) else list(config.size)}
        return (
            document | values | {"architectures": ["ResNetModel" if head is None else "ResNetForImageClassification"]}
        )

    def prefix(self, config: ResNet) -> str:
        return "resnet."

    def names(self, config: ResNet, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        for ours, foreign in modules(config):
            yield Name(f"{ours}/kernel", f"{foreign}.convolution.weight", "convolution")
            yield from statistics_names(f"{ours}/norm", f"{foreign}.normalization")
        if head is not None:
            yield from dense_names("head", "classifier.1", head=True)

    def constants(self, config: ResNet, head: Head | None) -> dict[str, np.ndarray]:
        """Return the number of batches seen by each norm, which torch counts and does not use."""
        prefix = "" if head is None else self.prefix(config)
        return {f"{prefix}{foreign}.normalization.{COUNT}": np.zeros((), np.int64) for _, foreign in modules(config)}


def modules(config: ResNet) -> Iterator[tuple[str, str]]:
    """Yield our path and the foreign name of every convolution with its norm."""
    yield "stem", STEM
    starts = np.cumsum((0, *config.depths)).tolist()
    for n, block in enumerate(blocks(config)):
        group = max(number for number, start in enumerate(starts[:-1]) if start <= n)
        ours, foreign = f"blocks/{n:02d}", f"encoder.stages.{group}.layers.{n - starts[group]}"
        for layer in block.layers:
            yield f"{ours}/{layer.name}", f"{foreign}.layer.{LAYERS.index(layer.name)}"
        if block.shortcut is not None:
            yield f"{ours}/shortcut", f"{foreign}.shortcut"
