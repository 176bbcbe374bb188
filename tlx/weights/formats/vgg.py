"""The form of VGG in torchvision."""

from collections.abc import Iterator

from tlx.models.heads import Head
from tlx.models.names import Name, dense_names, statistics_names
from tlx.models.vgg import Vgg, convolutions
from tlx.weights.formats.torchvision import COUNT, TorchvisionFormat, families_of

FAMILIES = families_of("vgg")
# The layers between two dense layers of the classifier: ReLU and dropout.
STEP = 3


class VggTorchvision(TorchvisionFormat):
    """The names of torchvision's `VGG`."""

    families = FAMILIES.torchvision
    unused = (rf".*\.{COUNT}", r"classifier\.6\..*")

    def names(self, config: Vgg, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        number = 0
        for layer in convolutions(config):
            yield Name(f"{layer.name}/kernel", f"features.{number}.weight", "convolution")
            yield Name(f"{layer.name}/bias", f"features.{number}.bias")
            if config.normed:
                yield from statistics_names(f"{layer.name}/norm", f"features.{number + 1}")
            # ReLU, and pooling at the end of a group.
            number += 2 + config.normed + layer.halves
        for n in range(len(config.hidden)):
            yield from dense_names(f"hidden/{n:02d}", f"classifier.{STEP * n}")
        if head is not None:
            yield from dense_names("head", f"classifier.{STEP * len(config.hidden)}", head=True)
