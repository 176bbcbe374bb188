"""The form of BiT in timm, whose networks have equal zeros on both sides."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from tlx.models.bit import LAYERS, BiT, blocks
from tlx.models.heads import Head
from tlx.models.names import Name, conv_names, dense_names, norm_names
from tlx.weights.formats.images import grouped
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import families_of

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def sized(layers: int, factor: int) -> BiT:
    """Return the architecture of a number of layers, with `factor` times the usual channels."""
    widths = tuple(factor * width for width in BiT.widths)
    return BiT(depths=DEPTHS[layers], widths=widths, stem=factor * BiT.stem, padding="even", padded_pool=False)


class BitTimm(TimmFormat):
    """The form of timm's `ResNetV2` with the layers of BiT."""

    families = families_of("bit").timm
    unused = (r"head\.fc\..*",)
    ends = ("stem.conv", "head.fc")
    architectures: ClassVar[Mapping[str, BiT]] = {
        f"resnetv2_{layers}x{factor}_bit": sized(layers, factor)
        for layers, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
    }

    def names(self, config: BiT, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield from conv_names("stem", "stem.conv", bias=False)
        if not config.preactivation:
            yield from norm_names("stem/norm", "stem.norm")
        for n, (block, (group, place)) in enumerate(zip(blocks(config), grouped(config.depths), strict=True)):
            ours, foreign = f"blocks/{n:02d}", f"stages.{group}.blocks.{place}"
            for number, layer in enumerate(LAYERS, 1):
                yield from conv_names(f"{ours}/{layer}", f"{foreign}.conv{number}", bias=False)
                yield from norm_names(f"{ours}/{layer}/norm", f"{foreign}.norm{number}")
            if block.first:
                yield from conv_names(f"{ours}/shortcut", f"{foreign}.downsample.conv", bias=False)
                if not config.preactivation:
                    yield from norm_names(f"{ours}/shortcut/norm", f"{foreign}.downsample.norm")
        if config.preactivation:
            yield from norm_names("norm", "norm")
        if head is not None:
            kernel, bias = dense_names("head", "head.fc", head=True)
            yield kernel._replace(layout="pointwise")
            yield bias
