"""The form of AlexNet in torchvision."""

from collections.abc import Iterator

from tlx.models.alexnet import LAYERS, AlexNet, names
from tlx.models.heads import Head
from tlx.models.names import Name, dense_names
from tlx.weights.formats.torchvision import TorchvisionFormat, families_of

FAMILIES = families_of("alexnet")
# The layers from one dense layer of the classifier to the next, with ReLU and dropout, and the dropout before them.
STEP, BEFORE = 3, 1


class AlexNetTorchvision(TorchvisionFormat):
    """The names of torchvision's `AlexNet`."""

    families = FAMILIES.torchvision
    unused = (r"classifier\.6\..*",)

    def names(self, config: AlexNet, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        number = 0
        for name, layer in zip(names(config), LAYERS, strict=True):
            yield Name(f"{name}/kernel", f"features.{number}.weight", "convolution")
            yield Name(f"{name}/bias", f"features.{number}.bias")
            number += 2 + layer.pools
        for n in range(len(config.hidden)):
            yield from dense_names(f"hidden/{n:02d}", f"classifier.{BEFORE + STEP * n}")
        if head is not None:
            # No dropout is before the last dense layer.
            last = STEP * len(config.hidden) if config.hidden else BEFORE
            yield from dense_names("head", f"classifier.{last}", head=True)
