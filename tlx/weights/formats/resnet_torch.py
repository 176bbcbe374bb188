"""The forms of ResNet in timm and in torchvision, whose names are the same."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, statistics_names
from tlx.models.resnet import LAYERS, ResNet, blocks
from tlx.trees import Json
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import COUNT, TorchvisionFormat, families_of

FAMILIES = families_of("resnet")
BASIC: dict[str, Any] = {"widths": (64, 128, 256, 512), "bottleneck": False}
ARCHITECTURES = {
    "resnet50": ResNet(),
    "resnet18": ResNet(depths=(2, 2, 2, 2), **BASIC),
    "resnet26": ResNet(depths=(2, 2, 2, 2)),
    "resnet34": ResNet(depths=(3, 4, 6, 3), **BASIC),
    "resnet101": ResNet(depths=(3, 4, 23, 3)),
    "resnet152": ResNet(depths=(3, 8, 36, 3)),
}


class ResNetTorchvision(TorchvisionFormat):
    """The names of torchvision's `ResNet`."""

    families = FAMILIES.torchvision
    unused = (rf".*\.{COUNT}", r"fc\..*")

    def write(self, config: ResNet, head: Head | None, document: Json) -> Json:
        """Return `document`. Raises ValueError for settings that the network of torchvision does not have."""
        for name in ("early_stride", "halve_first", "activation", "epsilon"):
            if (value := getattr(config, name)) != getattr(ResNet, name):
                raise ValueError(
                    f"torchvision has no ResNet with {name}={value!r}, expected {getattr(ResNet, name)!r}; save it in "
                    "another layout"
                )
        return document

    def names(self, config: ResNet, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        yield Name("stem/kernel", "conv1.weight", "convolution")
        yield from statistics_names("stem/norm", "bn1")
        starts = np.cumsum((0, *config.depths)).tolist()
        for n, block in enumerate(blocks(config)):
            group = max(number for number, start in enumerate(starts[:-1]) if start <= n)
            ours, foreign = f"blocks/{n:02d}", f"layer{group + 1}.{n - starts[group]}"
            for layer in block.layers:
                number = LAYERS.index(layer.name) + 1
                yield Name(f"{ours}/{layer.name}/kernel", f"{foreign}.conv{number}.weight", "convolution")
                yield from statistics_names(f"{ours}/{layer.name}/norm", f"{foreign}.bn{number}")
            if block.shortcut is not None:
                yield Name(f"{ours}/shortcut/kernel", f"{foreign}.downsample.0.weight", "convolution")
                yield from statistics_names(f"{ours}/shortcut/norm", f"{foreign}.downsample.1")
        if head is not None:
            yield from dense_names("head", "fc", head=True)


class ResNetTimm(TimmFormat, ResNetTorchvision):
    """The form of timm's `ResNet`."""

    families = FAMILIES.timm
    ends = ("conv1", "fc")
    architectures = ARCHITECTURES
