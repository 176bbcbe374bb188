"""The forms of Swin and Swin V2 in timm, and of Swin in torchvision."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from tlx.layers import relative_places
from tlx.models.heads import Head
from tlx.models.names import Name, conv_names, dense_names, norm_names
from tlx.models.swin import Swin, blocks
from tlx.trees import Json
from tlx.weights.formats.images import grouped
from tlx.weights.formats.timm import TimmFormat, two
from tlx.weights.formats.torchvision import TorchvisionFormat, families_of

FAMILIES = families_of("swin")
# The channels of the first group, the depths, and the number of heads of the first group.
SIZES = {
    "tiny": (96, (2, 2, 6, 2), 3),
    "small": (96, (2, 2, 18, 2), 3),
    "base": (128, (2, 2, 18, 2), 4),
    "large": (192, (2, 2, 18, 2), 6),
}
# The window, the side of the image, and the windows of pretraining.
FIRST = {"7_224": (7, 224), "12_384": (12, 384)}
SECOND: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "8_256": (8, 256, ()),
    "16_256": (16, 256, ()),
    "12_192": (12, 192, ()),
    "12to16_192to256": (16, 256, (12, 12, 12, 6)),
    "12to24_192to384": (24, 384, (12, 12, 12, 6)),
}
SMALL = ("tiny", "small")
LAYERS = ("query", "key", "value")
TABLE = "relative_position_bias_table"


def sized(name: str, window: int, size: int, **settings: Any) -> Swin:
    """Return the architecture of a size, with a window on images of a side."""
    width, depths, heads = SIZES[name]
    every = tuple(heads * 2**group for group in range(len(depths)))
    return Swin(width=width, depths=depths, heads=every, window=window, size=size, **settings)


ARCHITECTURES = {
    f"swin_{name}_patch4_window{label}": sized(name, *sides)
    for name in SIZES
    for label, sides in FIRST.items()
    if label == "7_224" or name not in SMALL
} | {
    f"swinv2_{name}_window{label}": sized(name, window, size, family="swinv2", pretrained_windows=windows)
    for name in SIZES
    for label, (window, size, windows) in SECOND.items()
    if label
    in {"tiny": ("8_256", "16_256"), "small": ("8_256", "16_256"), "base": SECOND}.get(
        name, ("12_192", "12to16_192to256", "12to24_192to384")
    )
}


class SwinTimm(TimmFormat):
    """The form of timm's `SwinTransformer` and `SwinTransformerV2`."""

    families = FAMILIES.timm
    unused = (r"head\.fc\..*", r".*\.relative_position_index", r".*\.relative_coords_table", r".*\.attn_mask")
    ends = ("patch_embed.proj", "head.fc")
    architectures = ARCHITECTURES

    def read(self, document: Json) -> Swin:
        """Return the architecture that config.json describes. Raises ValueError for settings that it does not cover."""
        config: Swin = super().read(document)
        check_windows(config)
        return config

    def write(self, config: Swin, head: Head | None, document: Json) -> Json:
        """Return a config.json for `config`, with other fields from an earlier `document`.

        Raises ValueError for an architecture that timm has no name for, and for images on which timm computes other
        windows.
        """
        written = super().write(config, head, document)
        check_windows(config)
        # timm cuts images of this size only.
        return written | {"model_args": written["model_args"] | {"img_size": list(two(config.size))}}

    def names(self, config: Swin, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        second = config.family == "swinv2"
        yield from conv_names("stem/patch", "patch_embed.proj")
        yield from norm_names("stem/norm", "patch_embed.norm")
        for n, (block, (group, place)) in enumerate(zip(blocks(config), grouped(config.depths), strict=True)):
            ours, stage = f"blocks/{n:02d}", f"layers.{group}"
            foreign = f"{stage}.blocks.{place}"
            if block.halves:
                yield from norm_names(f"{ours}/halve/norm", f"{stage}.downsample.norm")
                yield from dense_names(f"{ours}/halve", f"{stage}.downsample.reduction", bias=False)
            yield from joined_names(ours, f"{foreign}.attn", bias=config.qkv_bias and not second)
            if second:
                yield from second_names(config, ours, f"{foreign}.attn")
            else:
                yield Name(f"{ours}/attention/positions/table", f"{foreign}.attn.{TABLE}")
            yield from block_names(ours, foreign, "fc1", "fc2")
        yield from norm_names("norm", "norm")
        if head is not None:
            yield from dense_names("head", "head.fc", head=True)


def check_windows(config: Swin) -> None:
    """Raise ValueError for images that the windows do not divide.

    timm shifts such an image before it completes the windows, `transformers` and torchvision after it.
    """
    whole = config.patch * 2 ** (len(config.depths) - 1)
    for side in two(config.size):
        places = [side // config.patch // 2**group for group in range(len(config.depths))]
        if side % whole or any(length % config.window for length in places if length > config.window):
            raise ValueError(
                f"a Swin with window={config.window} computes something else in timm on images with a side of {side} "
                f"pixels; expected a multiple of {whole * config.window} pixels in the layout of timm"
            )


class SwinTorchvision(TorchvisionFormat):
    """The names of torchvision's `SwinTransformer`, version 1."""

    families = FAMILIES.torchvision
    unused = (r"head\..*", r".*\.relative_position_index")

    def write(self, config: Swin, head: Head | None, document: Json) -> Json:
        """Return `document`. Raises ValueError for settings that the network of torchvision does not have."""
        for name, value in (("family", "swin"), ("activation", "gelu"), ("qkv_bias", True), ("epsilon", 1e-5)):
            if getattr(config, name) != value:
                raise ValueError(
                    f"tlx writes no Swin with {name}={getattr(config, name)!r} in the layout of torchvision, expected "
                    f"{value!r}; save it in another layout"
                )
        return document

    def names(self, config: Swin, head: Head | None) -> Iterator[Name]:
        """Yield the foreign name of every parameter."""
        yield from conv_names("stem/patch", "features.0.0")
        yield from norm_names("stem/norm", "features.0.2")
        for n, (block, (group, place)) in enumerate(zip(blocks(config), grouped(config.depths), strict=True)):
            ours, foreign = f"blocks/{n:02d}", f"features.{2 * group + 1}.{place}"
            if block.halves:
                yield from norm_names(f"{ours}/halve/norm", f"features.{2 * group}.norm")
                yield from dense_names(f"{ours}/halve", f"features.{2 * group}.reduction", bias=False)
            yield from joined_names(ours, f"{foreign}.attn", bias=True)
            yield Name(f"{ours}/attention/positions/table", f"{foreign}.attn.{TABLE}")
            yield from block_names(ours, foreign, "0", "3")
        yield from norm_names("norm", "norm")
        if head is not None:
            yield from dense_names("head", "head", head=True)

    def constants(self, config: Swin, head: Head | None) -> dict[str, np.ndarray]:
        """Return the row of the table of positions for each pair of places of a window, which follows from its side."""
        rows = np.asarray(relative_places(config.window), np.int64).ravel()
        return {
            f"features.{2 * group + 1}.{place}.attn.relative_position_index": rows
            for group, place in grouped(config.depths)
        }


def joined_names(ours: str, foreign: str, bias: bool) -> Iterator[Name]:
    """Yield the names of query, key and value, which are one tensor in both libraries."""
    for number, name in enumerate(LAYERS):
        for entry in dense_names(f"{ours}/attention/{name}", f"{foreign}.qkv", bias=bias):
            yield entry._replace(part=(number, len(LAYERS)))


def second_names(config: Swin, ours: str, foreign: str) -> Iterator[Name]:
    """Yield the names of the parameters of the attention that version 2 alone has."""
    if config.qkv_bias:
        yield Name(f"{ours}/attention/query/bias", f"{foreign}.q_bias")
        yield Name(f"{ours}/attention/value/bias", f"{foreign}.v_bias")
    yield Name(f"{ours}/attention/factor", f"{foreign}.logit_scale")
    yield from dense_names(f"{ours}/attention/positions/up", f"{foreign}.cpb_mlp.0")
    yield from dense_names(f"{ours}/attention/positions/down", f"{foreign}.cpb_mlp.2", bias=False)


def block_names(ours: str, foreign: str, up: str, down: str) -> Iterator[Name]:
    """Yield the names of the other layers of a block; `up` and `down` are the names of the feed-forward layers."""
    yield from dense_names(f"{ours}/attention/output", f"{foreign}.attn.proj")
    yield from norm_names(f"{ours}/attention/norm", f"{foreign}.norm1")
    yield from norm_names(f"{ours}/mlp/norm", f"{foreign}.norm2")
    yield from dense_names(f"{ours}/mlp/up", f"{foreign}.mlp.{up}")
    yield from dense_names(f"{ours}/mlp/down", f"{foreign}.mlp.{down}")
