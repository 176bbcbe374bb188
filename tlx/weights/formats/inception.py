"""The forms of Inception v3 in timm and in torchvision, whose names are the same."""

from collections.abc import Iterator

from tlx.models.heads import Head
from tlx.models.inception import BLOCKS, InceptionV3, placed
from tlx.models.names import Name, dense_names, statistics_names
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import COUNT, TorchvisionFormat, families_of

FAMILIES = families_of("inception")
STEM = {
    "first": "Conv2d_1a_3x3",
    "second": "Conv2d_2a_3x3",
    "third": "Conv2d_2b_3x3",
    "fourth": "Conv2d_3b_1x1",
    "fifth": "Conv2d_4a_3x3",
}
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
ARCHITECTURES = {"inception_v3": InceptionV3()}


class InceptionTorchvision(TorchvisionFormat):
    """The names of torchvision's `Inception3`."""

    families = FAMILIES.torchvision
    # The auxiliary classifier serves training only.
    unused = (rf".*\.{COUNT}", r"fc\..*", r"AuxLogits\..*")

    def names(self, config: InceptionV3, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter and statistic."""
        for layer in placed(config):
            foreign = foreign_name(layer.path)
            yield Name(f"{layer.path}/kernel", f"{foreign}.conv.weight", "convolution")
            yield from statistics_names(f"{layer.path}/norm", f"{foreign}.bn")
        if head is not None:
            yield from dense_names("head", "fc", head=True)


class InceptionTimm(TimmFormat, InceptionTorchvision):
    """The form of timm's `InceptionV3`."""

    families = FAMILIES.timm
    ends = ("Conv2d_1a_3x3.conv", "fc")
    architectures = ARCHITECTURES


def foreign_name(path: str) -> str:
    """Return the foreign name of the layer at our path."""
    stage, *rest = path.split("/")
    if stage == "stem":
        return STEM[rest[0]]
    number, branch, layer = rest
    # A branch of one layer does not number it.
    single = len(BLOCKS[int(number)][branch]) == 1
    name = "branch_pool" if branch == "pool" else f"branch{branch}"
    return f"Mixed_{MIXED[int(number)]}.{name}" + ("" if single else f"_{layer}")
