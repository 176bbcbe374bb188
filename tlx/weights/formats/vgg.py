"""The forms of VGG in torchvision and in timm, where the hidden layers are convolutions."""

from collections.abc import Iterator

from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, statistics_names
from tlx.models.vgg import Vgg, convolutions
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import COUNT, TorchvisionFormat, families_of

FAMILIES = families_of("vgg")
# The layers between two dense layers of the classifier: ReLU and dropout.
STEP = 3


# The convolutions of each group in the networks of 11, 13, 16 and 19 layers.
DEPTHS = {16: (2, 2, 3, 3, 3), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 19: (2, 2, 4, 4, 4)}
ARCHITECTURES = {
    f"vgg{number}{'_bn' if normed else ''}": Vgg(depths=depths, normed=normed)
    for number, depths in DEPTHS.items()
    for normed in (False, True)
}


class VggTorchvision(TorchvisionFormat):
    """The names of torchvision's `VGG`."""

    families = FAMILIES.torchvision
    unused = (rf".*\.{COUNT}", r"classifier\.6\..*")

    def names(self, config: Vgg, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        yield from feature_names(config)
        for n in range(len(config.hidden)):
            yield from dense_names(f"hidden/{n:02d}", f"classifier.{STEP * n}")
        if head is not None:
            yield from dense_names("head", f"classifier.{STEP * len(config.hidden)}", head=True)


class VggTimm(TimmFormat, VggTorchvision):
    """The form of timm's `VGG`."""

    families = FAMILIES.timm
    unused = (rf".*\.{COUNT}", r"head\.fc\..*")
    ends = ("features.0", "head.fc")
    architectures = ARCHITECTURES

    def names(self, config: Vgg, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        yield from feature_names(config)
        for n in range(len(config.hidden)):
            side = config.grid if n == 0 else 1
            kernel, bias = dense_names(f"hidden/{n:02d}", f"pre_logits.fc{n + 1}")
            yield kernel._replace(fold=(side, side))
            yield bias
        if head is not None:
            yield from dense_names("head", "head.fc", head=True)


def feature_names(config: Vgg) -> Iterator[Name]:
    """Yield the foreign name of every parameter and statistic of the convolutions."""
    number = 0
    for layer in convolutions(config):
        yield Name(f"{layer.name}/kernel", f"features.{number}.weight", "convolution")
        yield Name(f"{layer.name}/bias", f"features.{number}.bias")
        if config.normed:
            yield from statistics_names(f"{layer.name}/norm", f"features.{number + 1}")
        # ReLU, and pooling at the end of a group.
        number += 2 + config.normed + layer.halves
