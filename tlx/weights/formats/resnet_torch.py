"""The forms of ResNet in timm and in torchvision, whose names are the same."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, statistics_names
from tlx.models.resnet import LAYERS, ResNet, blocks, stem_layers
from tlx.trees import Json
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import COUNT, TorchvisionFormat, families_of

FAMILIES = families_of("resnet")
BASIC: dict[str, Any] = {"widths": (64, 128, 256, 512), "bottleneck": False}
PLAIN = {
    "resnet50": ResNet(),
    "resnet18": ResNet(depths=(2, 2, 2, 2), **BASIC),
    "resnet26": ResNet(depths=(2, 2, 2, 2)),
    "resnet34": ResNet(depths=(3, 4, 6, 3), **BASIC),
    "resnet101": ResNet(depths=(3, 4, 23, 3)),
    "resnet152": ResNet(depths=(3, 8, 36, 3)),
}
# ResNeXt and Wide ResNet: the depth of the base, the widening and the groups.
WIDER = {
    "resnext50_32x4d": ("resnet50", 2, 32),
    "resnext101_32x4d": ("resnet101", 2, 32),
    "resnext101_32x8d": ("resnet101", 4, 32),
    "resnext101_32x16d": ("resnet101", 8, 32),
    "resnext101_32x32d": ("resnet101", 16, 32),
    "resnext101_64x4d": ("resnet101", 4, 64),
    "wide_resnet50_2": ("resnet50", 2, 1),
    "wide_resnet101_2": ("resnet101", 2, 1),
}
DEEP: dict[str, Any] = {"deep_stem": True, "average_shortcut": True}
ARCHITECTURES = PLAIN | {f"{name}d": replace(config, **DEEP) for name, config in PLAIN.items()}
ARCHITECTURES |= {
    name: replace(PLAIN[base], widening=widening, groups=groups) for name, (base, widening, groups) in WIDER.items()
}
ARCHITECTURES["resnext50d_32x4d"] = replace(ARCHITECTURES["resnext50_32x4d"], **DEEP)
# The names of the convolutions of a stem and of their norms. In ResNet-D their numbers count the activations too.
STEMS = {False: (("conv1", "bn1"),), True: (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))}


class ResNetTorchvision(TorchvisionFormat):
    """The names of torchvision's `ResNet`."""

    families = FAMILIES.torchvision
    unused = (rf".*\.{COUNT}", r"fc\..*")

    def write(self, config: ResNet, head: Head | None, document: Json) -> Json:
        """Return `document`. Raises ValueError for settings that the network of torchvision does not have."""
        for name in ("early_stride", "halve_first", "activation", "epsilon", "deep_stem", "average_shortcut"):
            if (value := getattr(config, name)) != getattr(ResNet, name):
                raise ValueError(
                    f"torchvision has no ResNet with {name}={value!r}, expected {getattr(ResNet, name)!r}; save it in "
                    "another layout"
                )
        return document

    def names(self, config: ResNet, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        for layer, (kernel, norm) in zip(stem_layers(config), STEMS[config.deep_stem], strict=True):
            yield Name(f"{layer.name}/kernel", f"{kernel}.weight", "convolution")
            yield from statistics_names(f"{layer.name}/norm", norm)
        starts = np.cumsum((0, *config.depths)).tolist()
        for n, block in enumerate(blocks(config)):
            group = max(number for number, start in enumerate(starts[:-1]) if start <= n)
            ours, foreign = f"blocks/{n:02d}", f"layer{group + 1}.{n - starts[group]}"
            for layer in block.layers:
                number = LAYERS.index(layer.name) + 1
                layout = "grouped" if layer.groups > 1 else "convolution"
                yield Name(f"{ours}/{layer.name}/kernel", f"{foreign}.conv{number}.weight", layout)
                yield from statistics_names(f"{ours}/{layer.name}/norm", f"{foreign}.bn{number}")
            if block.shortcut is not None:
                # The pooling of ResNet-D counts too.
                place = int(config.average_shortcut)
                yield Name(f"{ours}/shortcut/kernel", f"{foreign}.downsample.{place}.weight", "convolution")
                yield from statistics_names(f"{ours}/shortcut/norm", f"{foreign}.downsample.{place + 1}")
        if head is not None:
            yield from dense_names("head", "fc", head=True)


class ResNetTimm(TimmFormat, ResNetTorchvision):
    """The form of timm's `ResNet`."""

    families = FAMILIES.timm
    ends = ("conv1", "fc")
    architectures = ARCHITECTURES

    def ends_of(self, config: ResNet) -> tuple[str, str | list[str]]:
        first, last = self.ends
        return f"{first}.0" if config.deep_stem else first, last
