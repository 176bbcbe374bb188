"""The forms of DenseNet in timm and in torchvision, whose names are the same."""

from collections.abc import Iterator

from tlx.models.densenet import DenseNet, parts
from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, statistics_names
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import COUNT, TorchvisionFormat, families_of

FAMILIES = families_of("densenet")
ARCHITECTURES = {
    "densenet121": DenseNet(),
    "densenet161": DenseNet(stem=96, growth=48, depths=(6, 12, 36, 24)),
    "densenet169": DenseNet(depths=(6, 12, 32, 32)),
    "densenet201": DenseNet(depths=(6, 12, 48, 32)),
}


class DenseNetTorchvision(TorchvisionFormat):
    """The names of torchvision's `DenseNet`."""

    families = FAMILIES.torchvision
    unused = (rf".*\.{COUNT}", r"classifier\..*")

    def names(self, config: DenseNet, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        yield Name("stem/kernel", "features.conv0.weight", "convolution")
        yield from statistics_names("stem/norm", "features.norm0")
        for part in parts(config):
            if part.transition:
                layers = {part.name: ("", f"features.transition{part.group + 1}.")}
            else:
                foreign = f"features.denseblock{part.group + 1}.denselayer{part.number + 1}."
                layers = {f"{part.name}/first": ("1", foreign), f"{part.name}/second": ("2", foreign)}
            for ours, (number, foreign) in layers.items():
                yield Name(f"{ours}/kernel", f"{foreign}conv{number}.weight", "convolution")
                yield from statistics_names(f"{ours}/norm", f"{foreign}norm{number}")
        yield from statistics_names("norm", "features.norm5")
        if head is not None:
            yield from dense_names("head", "classifier", head=True)


class DenseNetTimm(TimmFormat, DenseNetTorchvision):
    """The form of timm's `DenseNet`."""

    families = FAMILIES.timm
    ends = ("features.conv0", "classifier")
    architectures = ARCHITECTURES
