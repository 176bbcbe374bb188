"""The settings of a picture in timm's `pretrained_cfg`: size, crop, interpolation, mean and deviation.

The rule is that of `timm.data.transforms_factory.transforms_imagenet_eval`, which uses torchvision's transforms.
"""

import math
from pathlib import Path
from typing import Any

from tlx.processors.pictures import ImageProcessor
from tlx.trees import Json, near_miss

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# timm's defaults for settings that are absent.
CROP, INTERPOLATION, MODE = 0.875, "bicubic", "center"
MODES = ("center", "squash")


def processor_of(settings: Json, file: Path) -> ImageProcessor:
    """Return the processor of a `pretrained_cfg`, which resizes, cuts the middle and normalises as timm does.

    Args:
        settings: The content of `pretrained_cfg`; an absent setting has the default of timm.
        file: The path of config.json, for the errors.

    Raises:
        ValueError: tlx does not support the settings.
    """
    channels, *sides = settings.get("input_size") or (3, 224, 224)
    mode, share = settings.get("crop_mode") or MODE, settings.get("crop_pct") or CROP
    if mode not in MODES:
        raise ValueError(
            f"{file} has crop_mode {mode!r}; tlx supports {', '.join(map(repr, MODES))}{near_miss(mode, MODES)}"
        )
    height, width = (math.floor(side / share) for side in sides)
    if mode == MODE and height != width:
        raise ValueError(
            f"{file} has input_size {settings['input_size']} and crop_mode {mode!r}; tlx supports other images than "
            "square ones with crop_mode 'squash' only"
        )
    values: dict[str, Any] = {
        "size": height if mode == MODE else (height, width),
        "crop": tuple(sides),
        "channels": channels,
        "resample": settings.get("interpolation") or INTERPOLATION,
        "mean": tuple(settings.get("mean") or MEAN),
        "std": tuple(settings.get("std") or STD),
        "rounding": "torchvision",
        # The class of transformers with a shortest edge and a crop, for a model that is saved in its layout.
        "extra": {"image_processor_type": "BitImageProcessor"},
    }
    try:
        return ImageProcessor(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: pretrained_cfg: {error}") from None


def usual_processor(size: tuple[int, int], channels: int) -> ImageProcessor | None:
    """Return the processor of torchvision's first ImageNet weights, for images of a size; None for a size that is not
    square, and for other images than grey and colour images."""
    height, width = size
    if channels not in (1, 3) or height != width:
        return None
    settings = {"input_size": (len(MEAN), height, width), "interpolation": "bilinear"}
    return processor_of(settings, Path("torchvision")).with_channels(1 if channels == 1 else 3)


def settings_of(processor: ImageProcessor) -> Json:
    """Return the entries of `pretrained_cfg` for a processor.

    Raises:
        ValueError: timm has no form for its resizing, its cropping or its scale.
    """
    height, width, channels = processor.shape
    size = processor.size
    mode = MODE if isinstance(size, int) else "squash"
    share = share_of((height, width), size) if size is not None else None
    if share is None or processor.scale != 1 / 255:
        raise ValueError(
            f"timm has no form for {processor}: expected scale=1/255, and a size that a crop is a share of. Save the "
            "model in another layout"
        )
    return {
        "input_size": [channels, height, width],
        "interpolation": processor.resample,
        "crop_mode": mode,
        "crop_pct": share,
        "mean": list(processor.mean) * (channels if len(processor.mean) == 1 else 1),
        "std": list(processor.std) * (channels if len(processor.std) == 1 else 1),
    }


def share_of(crop: tuple[int, int], size: tuple[int, int] | int) -> float | None:
    """Return the shortest number that `size` is `crop` divided by, rounded down; None if there is none."""
    if isinstance(size, int) and crop[0] != crop[1]:
        return None
    sides = (size, size) if isinstance(size, int) else size
    exact = crop[0] / (sides[0] + 0.5)
    shares = [1.0, *(round(exact, digits) for digits in range(1, 12))]
    return next(
        (
            share
            for share in shares
            if share > 0 and all(math.floor(a / share) == b for a, b in zip(crop, sides, strict=True))
        ),
        None,
    )
