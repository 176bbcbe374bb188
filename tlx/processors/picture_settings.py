"""The settings of preprocessor_config.json: the defaults of `transformers`, and its image processors of other rules."""

from pathlib import Path
from typing import Any

import numpy as np

from tlx.trees import Json

# The defaults of the image processors of `transformers` for fields that preprocessor_config.json leaves out, by the
# beginning of their names.
USUAL: dict[str, dict[str, Any]] = {
    "ViT": {
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "DeiT": {"size": {"height": 256, "width": 256}, "resample": 3, "do_center_crop": True, "crop_size": 224},
    "Bit": {
        "size": {"shortest_edge": 224},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 224,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "Siglip": {"resample": 3},
    # Here the pixels are divided by 255 before the resizing, which then rounds none of them.
    "DINOv3ViT": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    "EfficientNet": {
        "size": {"height": 346, "width": 346},
        "resample": 3,
        "crop_size": {"height": 289, "width": 289},
        "rescale_offset": False,
        "include_top": True,
    },
    "MobileNetV2": {
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    },
    "ConvNext": {"size": {"shortest_edge": 384}, "resample": 3, "crop_pct": 224 / 256},
}
# Image processors that make something else than one image of one shape.
OTHERS = {"Siglip2": "patches of images of different proportions"}
# From this side on, ConvNextImageProcessor changes the proportions of a picture and crops nothing.
WARPED = 384
NAMES = ("image_processor_type", "feature_extractor_type")


def picture_settings(stated: Json, file: Path) -> tuple[Json, Json]:
    """Return all settings of a plain resize, crop and normalisation, and the names of the class that has them.

    Args:
        stated: The content of preprocessor_config.json; a missing field has the default of `transformers`.
        file: The path of the file, for the errors.

    Raises:
        ValueError: The class has a rule that is no plain resize and crop.
    """
    names = {name: stated[name] for name in NAMES if name in stated}
    kind = str(stated.get(NAMES[0]) or stated.get(NAMES[1]) or "ViT")
    if other := next((words for name, words in OTHERS.items() if kind.startswith(name)), None):
        raise ValueError(
            f"{file} names the image processor {kind!r}, which makes {other}; tlx supports images of one shape only, "
            "such as those of SiglipImageProcessor"
        )
    usual = next((defaults for name, defaults in USUAL.items() if kind.startswith(name)), {})
    settings = USUAL["ViT"] | usual | stated
    if kind.startswith("EfficientNet"):
        return twice_divided(settings, file), {NAMES[0]: "ViTImageProcessor"}
    if not kind.startswith("ConvNext"):
        return settings, names
    return cropped(settings, file), {NAMES[0]: "BitImageProcessor"}


def twice_divided(settings: Json, file: Path) -> Json:
    """Return the settings of an `EfficientNetImageProcessor` as those of one normalisation.

    It can take 1 from the scaled pixels (`rescale_offset`) and divide by the deviation a second time (`include_top`).
    """
    mean, std = (np.atleast_1d(settings[name]).astype(float) for name in ("image_mean", "image_std"))
    offset = 1.0 if settings["rescale_offset"] and settings["do_rescale"] else 0.0
    if not settings["do_normalize"]:
        mean, std = np.zeros_like(mean), std if settings["include_top"] else np.ones_like(std)
    elif settings["include_top"]:
        std = std * std
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise ValueError(f"{file}: image_mean and image_std are null; set their values, or remove the fields")
    return settings | {"image_mean": (mean + offset).tolist(), "image_std": std.tolist(), "do_normalize": True}


def cropped(settings: Json, file: Path) -> Json:
    """Return the settings of a `ConvNextImageProcessor`, which ResNet uses too, as those of a plain resize and crop."""
    size, share = settings["size"], settings["crop_pct"] or USUAL["ConvNext"]["crop_pct"]
    side = size if isinstance(size, int) else size.get("shortest_edge") if size else None
    if not (isinstance(side, int) and settings["do_resize"]) or settings["do_center_crop"]:
        raise ValueError(
            f"{file} has do_resize={settings['do_resize']}, size={size}, do_center_crop={settings['do_center_crop']}; "
            "tlx supports a shortest_edge without a further crop for this image processor"
        )
    square = {"height": side, "width": side}
    if side >= WARPED:
        return settings | {"size": square}
    return settings | {"size": {"shortest_edge": int(side / share)}, "do_center_crop": True, "crop_size": square}


def extent(size: Any, *, shortest: bool) -> tuple[int, int] | int:
    """Return a size of preprocessor_config.json, a number or a dict, as (height, width) or the shortest edge."""
    if isinstance(size, int):
        return (size, size)
    if "height" in size and "width" in size:
        return (size["height"], size["width"])
    if shortest and "shortest_edge" in size:
        return size["shortest_edge"]
    raise ValueError(f"preprocessor_config.json has the size {size}; expected height and width")
