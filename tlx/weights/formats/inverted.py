"""Names of the layers that EfficientNet and the MobileNets share, in timm and in torchvision too."""

from collections.abc import Iterable, Iterator

from tlx.models.inverted import Inverted
from tlx.models.names import Name, statistics_names


def normed_names(ours: str, kernel: str, norm: str) -> Iterator[Name]:
    """Yield the names of a convolution with batch norm; the middle one of a block has groups of channels."""
    yield Name(f"{ours}/kernel", f"{kernel}.weight", "grouped" if ours.endswith("/middle") else "convolution")
    yield from statistics_names(f"{ours}/norm", norm)


def biased_names(ours: str, foreign: str) -> Iterator[Name]:
    """Yield the names of a convolution with a bias."""
    yield Name(f"{ours}/kernel", f"{foreign}.weight", "convolution")
    yield Name(f"{ours}/bias", f"{foreign}.bias")


def places_of(depths: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the group of each block, and its place in the group, for groups of these numbers of blocks."""
    for group, depth in enumerate(depths):
        for place in range(depth):
            yield group, place


def timm_blocks(blocks: Iterable[Inverted], places: Iterable[tuple[int, int]]) -> Iterator[Name]:
    """Yield the names of the blocks in timm. A block without an expansion has its norms numbered from 1, too."""
    for n, (block, (group, place)) in enumerate(zip(blocks, places, strict=True)):
        ours, foreign = f"blocks/{n:02d}", f"blocks.{group}.{place}"
        kernels = ("conv_pw", "conv_dw", "conv_pwl") if len(block.layers) == 3 else ("conv_dw", "conv_pw")
        for number, (layer, kernel) in enumerate(zip(block.layers, kernels, strict=True), 1):
            yield from normed_names(f"{ours}/{layer.name}", f"{foreign}.{kernel}", f"{foreign}.bn{number}")
        if block.squeeze is not None:
            for name in ("reduce", "expand"):
                yield from biased_names(f"{ours}/squeeze/{name}", f"{foreign}.se.conv_{name}")


def torchvision_block(ours: str, foreign: str, block: Inverted) -> Iterator[Name]:
    """Yield the names of a block in torchvision's EfficientNet and MobileNetV3."""
    place = 0
    for layer in block.layers:
        yield from normed_names(f"{ours}/{layer.name}", f"{foreign}.{place}.0", f"{foreign}.{place}.1")
        place += 1
        if layer is block.middle and block.squeeze is not None:
            for name, part in (("reduce", "fc1"), ("expand", "fc2")):
                yield from biased_names(f"{ours}/squeeze/{name}", f"{foreign}.{place}.{part}")
            place += 1
