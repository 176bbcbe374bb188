"""The forms of ConvNeXt and ConvNeXt V2 in timm, and of ConvNeXt in torchvision."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tlx.models.convnext import ConvNeXt, blocks
from tlx.models.heads import Head
from tlx.models.names import Name, conv_names, dense_names, norm_names
from tlx.trees import Json
from tlx.weights.formats.images import grouped
from tlx.weights.formats.timm import TimmFormat
from tlx.weights.formats.torchvision import TorchvisionFormat, families_of

FAMILIES = families_of("convnext")
# The channels of the first group, and the depths.
SIZES = {
    "tiny": (96, (3, 3, 9, 3)),
    "small": (96, (3, 3, 27, 3)),
    "base": (128, (3, 3, 27, 3)),
    "large": (192, (3, 3, 27, 3)),
    "xlarge": (256, (3, 3, 27, 3)),
    "huge": (352, (3, 3, 27, 3)),
    "atto": (40, (2, 2, 6, 2)),
    "femto": (48, (2, 2, 6, 2)),
    "pico": (64, (2, 2, 6, 2)),
    "nano": (80, (2, 2, 8, 2)),
}
# The sizes of timm whose feed-forward layers are stored as convolutions of single pixels.
POINTWISE = tuple(SIZES[name][0] for name in ("atto", "femto", "pico", "nano"))
VERSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("huge", {}),
    "convnextv2": ("xlarge", {"layer_scale": None, "response_norm": True}),
}


def sized(name: str, **settings: Any) -> ConvNeXt:
    """Return the architecture of a size of both libraries, whose last norm has their epsilon."""
    width, depths = SIZES[name]
    widths = tuple(width * 2**group for group in range(len(depths)))
    return replace(ConvNeXt(widths=widths, depths=depths, epsilon=1e-6), **settings)


# Each version lacks one size.
ARCHITECTURES = {
    f"{version}_{name}": sized(name, **settings)
    for version, (absent, settings) in VERSIONS.items()
    for name in SIZES
    if name != absent
}


class ConvNeXtTimm(TimmFormat):
    """The form of timm's `ConvNeXt`."""

    families = FAMILIES.timm
    unused = (r"head\.fc\..*",)
    ends = ("stem.0", "head.fc")
    architectures = ARCHITECTURES

    def names(self, config: ConvNeXt, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        layout = "pointwise" if config.widths[0] in POINTWISE else "transpose"
        yield from conv_names("stem/patch", "stem.0")
        yield from norm_names("stem/norm", "stem.1")
        for n, (block, (group, place)) in enumerate(zip(blocks(config), grouped(config.depths), strict=True)):
            ours, stage = f"blocks/{n:02d}", f"stages.{group}"
            foreign = f"{stage}.blocks.{place}"
            if block.inputs is not None:
                yield from norm_names(f"{ours}/halve/norm", f"{stage}.downsample.0")
                yield from conv_names(f"{ours}/halve", f"{stage}.downsample.1")
            yield from conv_names(f"{ours}/depthwise", f"{foreign}.conv_dw")
            yield from norm_names(f"{ours}/norm", f"{foreign}.norm")
            for number, layer in enumerate(("up", "down"), 1):
                kernel, bias = dense_names(f"{ours}/mlp/{layer}", f"{foreign}.mlp.fc{number}")
                yield kernel._replace(layout=layout)
                yield bias
            if config.response_norm:
                yield from norm_names(f"{ours}/mlp/response", f"{foreign}.mlp.grn")
            if config.layer_scale is not None:
                yield Name(f"{ours}/scale", f"{foreign}.gamma")
        yield from norm_names("norm", "head.norm")
        if head is not None:
            yield from dense_names("head", "head.fc", head=True)


class ConvNeXtTorchvision(TorchvisionFormat):
    """The names of torchvision's `ConvNeXt`."""

    families = FAMILIES.torchvision
    unused = (r"classifier\.2\..*",)

    def write(self, config: ConvNeXt, head: Head | None, document: Json) -> Json:
        """Return `document`. Raises ValueError for settings that the network of torchvision does not have."""
        expected = {"response_norm": False, "activation": "gelu", "patch": ConvNeXt.patch, "epsilon": 1e-6}
        for name, value in expected.items():
            if getattr(config, name) != value:
                raise ValueError(
                    f"torchvision has no ConvNeXt with {name}={getattr(config, name)!r}, expected {value!r}; save it "
                    "in another layout"
                )
        if config.layer_scale is None:
            raise ValueError("torchvision has no ConvNeXt without layer_scale; save it in another layout")
        return document

    def names(self, config: ConvNeXt, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield from conv_names("stem/patch", "features.0.0")
        yield from norm_names("stem/norm", "features.0.1")
        for n, (block, (group, place)) in enumerate(zip(blocks(config), grouped(config.depths), strict=True)):
            ours, foreign = f"blocks/{n:02d}", f"features.{2 * group + 1}.{place}"
            if block.inputs is not None:
                yield from norm_names(f"{ours}/halve/norm", f"features.{2 * group}.0")
                yield from conv_names(f"{ours}/halve", f"features.{2 * group}.1")
            # The layers between them change the order of the axes, or are an activation.
            yield from conv_names(f"{ours}/depthwise", f"{foreign}.block.0")
            yield from norm_names(f"{ours}/norm", f"{foreign}.block.2")
            yield from dense_names(f"{ours}/mlp/up", f"{foreign}.block.3")
            yield from dense_names(f"{ours}/mlp/down", f"{foreign}.block.5")
            yield Name(f"{ours}/scale", f"{foreign}.layer_scale", fold=(1, 1))
        yield from norm_names("norm", "classifier.0")
        if head is not None:
            yield from dense_names("head", "classifier.2", head=True)
