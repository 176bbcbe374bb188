"""Decode an image file to pixels, and turn pixels into the input of a model.

A file is decoded in one way for training and for prediction. The rule is that of
`transformers.image_utils.load_image`: the image is turned as its EXIF orientation says, and becomes colours (RGB). An
image without colours stays grey. Transparency is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np

from tlx.config import check_choice
from tlx.processors.base import Inputs, Processor, format_source
from tlx.processors.encoded import MOST_PIXELS, open_picture
from tlx.processors.files import read_preprocessor
from tlx.processors.picture_settings import extent, picture_settings
from tlx.trees import Example, Json

if TYPE_CHECKING:
    from PIL.Image import Image

    from tlx.processors.columns import Columns
    from tlx.types import Field

FILE = "preprocessor_config.json"
# Names the rule of decoding in the keys of stored features; change it with the rule.
DECODING = "upright, colours, no transparency"
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic"]
Rounding = Literal["transformers", "torchvision"]

# The numbers of PIL.Image.Resampling, which preprocessor_config.json holds.
_RESAMPLE: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic")
GREY = ("1", "L", "LA", "La")
# The entry of preprocessor_config.json for another rounding than that of transformers, which has no word for it.
ROUNDING = "tlx_rounding"
# Modes with pixels above 255, which Pillow would cut off.
DEEP = ("I", "F")


def decode(content: bytes, name: str) -> Image:
    """Return the picture in the bytes of an image file, upright, in the mode L (grey) or RGB.

    A palette becomes its colours, one bit becomes 0 or 255, and CMYK and other colour spaces become RGB. Of a file with
    several frames the first is returned.

    Args:
        content: The bytes of the file.
        name: The name of the image in an error.

    Raises:
        ValueError: The pixels have more than 8 bits, or the bytes are no image.
    """
    from PIL import ImageOps

    picture = open_picture(content, name)
    if picture.mode.startswith(DEEP):
        raise ValueError(
            f"{name} has pixels of mode {picture.mode!r}, with more than 8 bits; convert it to 8 bits per channel, so "
            "that you choose which value becomes white"
        )
    return plain(ImageOps.exif_transpose(picture))


def plain(picture: Image) -> Image:
    """Return the picture in the mode L, where it has no colours, or RGB."""
    mode = "L" if picture.mode in GREY else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def pixels(picture: Image) -> np.ndarray:
    """Return uint8[height, width, 1] of a grey picture, uint8[height, width, 3] of another."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


@dataclass(frozen=True, kw_only=True)
class ImageProcessor(Processor):
    """Turns an image into float32[height, width, channels]: resize, crop, scale, normalise, in the order of
    transformers.

    `size` is (height, width); or the length of the shortest edge with the proportions kept, where `crop` must give the
    size that is cut from the middle, so that all images have one shape; or None for no resizing. A pixel becomes
    `(pixel * scale - mean) / std`.

    With `rounding="torchvision"`, as in timm, the margin of the crop is rounded to the nearest number, half a pixel to
    the even one, and a pixel is divided by `1 / scale`; transformers rounds down, and multiplies.
    """

    size: tuple[int, int] | int | None
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    scale: float = 1 / 255
    resample: Resample = "bilinear"
    crop: tuple[int, int] | None = None
    rounding: Rounding = "transformers"
    extra: Json = field(default_factory=dict, compare=False, repr=False)

    reads: ClassVar[tuple[str, ...]] = ("image",)
    noun: ClassVar[str] = "an image processor"
    augments: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}; expected 1 (grey) or 3 (colour)")
        check_choice("resample", self.resample, _RESAMPLE)
        check_choice("rounding", self.rounding, get_args(Rounding))
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} numbers; expected one number for each of the "
                    f"{self.channels} channels"
                )
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name}={getattr(self, name)}; expected finite numbers")
        if not min(self.std) > 0:
            raise ValueError(f"std={self.std}; expected numbers above 0, because the pixels are divided by them")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                f"scale={self.scale}; expected a number above 0, such as 1/255, because the pixels are multiplied by it"
            )
        if self.crop is None and not isinstance(self.size, tuple):
            raise ValueError(f"size={self.size} makes images of different shapes; set (height, width), or a crop")
        for name in ("size", "crop"):
            if (extent := getattr(self, name)) is not None and np.min(extent) < 1:
                raise ValueError(f"{name}={extent}; expected at least 1 pixel")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (height, width, channels) of the output."""
        height, width = self.crop or self.size  # type: ignore[misc]
        return height, width, self.channels

    @property
    def fields(self) -> Mapping[str, Field]:
        from tlx.types import Field

        return {"image": Field(self.shape, "float32")}

    @classmethod
    def fit(
        cls,
        base: Processor | None,
        data: Any,
        columns: Columns,
        shape: tuple[int, ...] | None = None,
        example: Callable[[], Example] | None = None,
    ) -> Processor:
        """Return the processor of the weights, or one with the shape of the model, or with that of the first image.

        It has the size and the channels of `data`. Raises ValueError for weights of texts, and for a shape that is not
        that of the model.
        """
        refuse_other(base, data, columns, ("image",))
        original: Any = base
        if original is None and shape is not None:
            original = cls.of_shape(shape)
        elif original is None:
            height, width, channels = (example or no_example)()["image"].shape
            original = ImageProcessor(size=(height, width), channels=channels)
        changes: dict[str, Any] = {}
        if data.size is not None:
            square = (data.size, data.size)
            changes.update(size=square, crop=None)
            if data.before_crop is not None:
                changes.update(size=data.before_crop, crop=square)
        processor = replace(original, **changes)
        if data.channels is not None:
            processor = processor.with_channels(data.channels)
        check_model(processor, shape)
        return processor

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> ImageProcessor:
        """Return a processor that makes images of (height, width, channels). Raises ValueError for other channels than
        1 and 3."""
        height, width, channels = shape
        if channels not in (1, 3):
            raise ValueError(f"the model reads images with {channels} channels; expected 1 (grey) or 3 (colour)")
        middle = (0.5,) * channels
        return ImageProcessor(size=(height, width), channels=1 if channels == 1 else 3, mean=middle, std=middle)

    def with_sides(self, sides: tuple[int, int]) -> ImageProcessor:
        """Return the processor for images of (height, width). A crop has the same share of the resized picture."""
        if self.shape[:2] == sides:
            return self
        if self.crop is None or self.size is None:
            return replace(self, size=sides, crop=None)
        shares = [new / old for new, old in zip(sides, self.crop, strict=True)]
        if isinstance(self.size, int):
            return replace(self, size=max(round(self.size * max(shares)), *sides), crop=sides)
        height, width = (max(round(old * share), new) for old, share, new in zip(self.size, shares, sides, strict=True))
        return replace(self, size=(height, width), crop=sides)

    def with_channels(self, channels: Literal[1, 3]) -> ImageProcessor:
        """Return the processor for grey (1) or colour (3) images, with the mean of the means and of the deviations."""
        if channels == self.channels:
            return self
        mean, std = (float(np.mean(numbers)) for numbers in (self.mean, self.std))
        return replace(self, channels=channels, mean=(mean,), std=(std,))

    def check_shape(self, shape: tuple[int, ...] | None, directory: str) -> None:
        if shape is not None and self.shape != shape:
            raise ValueError(
                f"{directory}: preprocessor_config.json makes images of shape {self.shape}, but the model reads "
                f"{shape} (height, width, channels); correct the size in the file, or use the file of this model"
            )

    def read(self, argument: str) -> dict[str, Any]:
        """Return the example of an image file, decoded like the images of a data set."""
        return {"image": pixels(decode(file_of(argument, "images").read_bytes(), argument))}

    def trials(self) -> list[dict[str, Any]]:
        sides = (side + 3 for side in self.shape[:2])
        return [{"image": np.random.default_rng(0).integers(0, 256, (*sides, 3), dtype=np.uint8)}]

    @property
    def identity(self) -> Any:
        return [repr(self), DECODING]

    @classmethod
    def opens(cls, directory: Path) -> bool:
        return (directory / FILE).exists()

    @classmethod
    def load(cls, directory: str | Path, tokens: int | None = None, room: int | None = None) -> Self:
        """Read `preprocessor_config.json`; a missing field has the default of `transformers`.

        Raises FileNotFoundError where there is no such file, ValueError for settings that this class does not support.
        """
        file = Path(directory) / "preprocessor_config.json"
        settings, names = picture_settings(read_preprocessor(Path(directory)), file)
        read = ["size", "resample"] if settings["do_resize"] else []
        read += ["image_mean", "image_std"] if settings["do_normalize"] else []
        read += ["rescale_factor"] if settings["do_rescale"] else []
        if empty := [name for name in read if settings[name] is None]:
            raise ValueError(f"{file}: {empty[0]} is null; set its value, or remove the field to use the default")
        size = extent(settings["size"], shortest=True) if settings["do_resize"] else None
        # The older form of the file has no do_center_crop and no crop_size for the models that do not crop.
        cropped = settings.get("crop_size") or settings["size"]
        crop = extent(cropped, shortest=False) if settings["do_center_crop"] else None
        mean, std = ((0.0,), (1.0,))
        if settings["do_normalize"]:
            mean, std = (tuple(np.atleast_1d(settings[name]).tolist()) for name in ("image_mean", "image_std"))
        resample = settings["resample"] if settings["do_resize"] else 2
        if not isinstance(resample, int) or not 0 <= resample < len(_RESAMPLE):
            choices = ", ".join(f"{number} ({name})" for number, name in enumerate(_RESAMPLE))
            raise ValueError(f"{file}: resample is {resample!r}; expected one of {choices}")
        grey = isinstance(settings["image_mean"], list) and len(settings["image_mean"]) == 1
        try:
            return cls(
                size=size,
                channels=1 if grey else 3,
                mean=mean,
                std=std,
                scale=settings["rescale_factor"] if settings["do_rescale"] else 1.0,
                resample=_RESAMPLE[resample],
                crop=crop,  # type: ignore[arg-type]
                rounding=settings.get(ROUNDING, "transformers"),
                extra=names,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{file}: {error}") from None

    def __call__(self, example: Example) -> Inputs:
        """Return `{"image": float32[height, width, channels]}` of
        `{"image": uint8[H, W, C] or the bytes of an image file}`.

        `pictures.decode` decodes a file. Of an array with 2 or 4 channels the last is transparency, which is dropped.
        """
        return self.converted(self.opened(example))

    def opened(self, example: Example) -> Image:
        """Return the picture of an example in the mode L (grey) or RGB, in its size."""
        from PIL.Image import fromarray

        image = example["image"]
        if isinstance(image, bytes):
            picture = decode(image, "this image")
        else:
            array = np.asarray(image)
            if (
                array.dtype != np.uint8
                or array.ndim not in (2, 3)
                or (array.ndim == 3 and array.shape[2] not in range(1, 5))
            ):
                raise ValueError(
                    f"the image is {array.dtype}{list(array.shape)}; expected uint8[height, width, channels]"
                )
            picture = plain(fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array))
        mode = "L" if self.channels == 1 else "RGB"
        return picture if picture.mode == mode else picture.convert(mode)

    def converted(self, picture: Image) -> Inputs:
        """Return the input of the model for a picture that `opened` has returned."""
        picture = self._crop(self._resize(picture))
        pixels = np.asarray(picture, np.float32).reshape(*self.shape)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        if self.rounding == "torchvision":
            return {"image": (pixels / np.float32(1 / self.scale) - mean) / std}
        return {"image": (pixels * np.float32(self.scale) - mean) / std}

    def picture(self, image: np.ndarray) -> np.ndarray | None:
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.clip(np.rint((image * std + mean) / np.float32(self.scale)), 0, 255).astype(np.uint8)

    def save(self, directory: str | Path) -> None:
        """Write `preprocessor_config.json`, which `load` and `transformers.AutoImageProcessor` read."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        size = {"shortest_edge": self.size} if isinstance(self.size, int) else _dump_size(self.size or self.crop)
        settings = {
            "image_processor_type": "ViTImageProcessor",
            **self.extra,
            "do_resize": self.size is not None,
            "size": size,
            "resample": _RESAMPLE.index(self.resample),
            "do_center_crop": self.crop is not None,
            **({"crop_size": _dump_size(self.crop)} if self.crop else {}),
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": True,
            "image_mean": list(self.mean) * (self.channels if len(self.mean) == 1 else 1),
            "image_std": list(self.std) * (self.channels if len(self.std) == 1 else 1),
            # A palette, or grey, becomes colours there as it does here.
            **({"do_convert_rgb": True} if self.channels == 3 else {}),
            **({ROUNDING: self.rounding} if self.rounding != "transformers" else {}),
        }
        (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def _resize(self, picture: Image) -> Image:
        if self.size is None:
            return picture
        width, height = picture.size
        if isinstance(self.size, int):
            shorter, longer = min(width, height), max(width, height)
            long_side = int(self.size * longer / shorter)
            new = (long_side, self.size) if width > height else (self.size, long_side)
        else:
            new = (self.size[1], self.size[0])
        if new[0] * new[1] > MOST_PIXELS:
            raise ValueError(
                f"the image of {height:,} x {width:,} pixels would be resized to {new[1]:,} x {new[0]:,}; expected at "
                f"most {MOST_PIXELS:,} pixels: cut it into parts, or set Data(size=...)"
            )
        return picture if new == picture.size else picture.resize(new, _RESAMPLE.index(self.resample))

    def _crop(self, picture: Image) -> Image:
        if self.crop is None:
            return picture
        height, width = self.crop
        if self.rounding == "torchvision" and picture.width >= width and picture.height >= height:
            left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
            return picture.crop((left, top, left + width, top + height))
        # Floor division also for the negative margins of an image smaller than the crop, which Pillow fills with black.
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))


def refuse_other(base: Processor | None, data: Any, columns: Columns, reads: tuple[str, ...]) -> None:
    """Raise ValueError where the weights have a processor for another kind of input."""
    if base is not None and not set(reads) & set(base.reads):
        from tlx.processors.columns import spelled

        raise ValueError(
            f"{format_source(data.target)} has {spelled(columns)}, but the weights have {base.noun}; name the weights "
            "of an image model"
        )


def check_model(processor: Any, shape: tuple[int, ...] | None) -> None:
    """Raise ValueError where a model reads images of another shape than the processor makes."""
    if shape is not None and processor.shape != shape:
        raise ValueError(
            f"images of shape {processor.shape} do not fit the model, which reads {shape}; remove Data(size=, "
            "channels=), or resize the model's position embeddings: Weights(resize=...)"
        )


def no_example() -> Example:
    raise ValueError("neither the weights nor the model state the image size; set Data(size=...)")


def file_of(argument: str, noun: str) -> Path:
    """Return the file that a user has named. Raises ValueError where there is none."""
    if not Path(argument).is_file():
        raise ValueError(f"{argument!r} is not a file; the model reads {noun}: pass the path of a file")
    return Path(argument)


def _dump_size(size: Any) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
