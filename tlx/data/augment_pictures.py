"""Augmentations of pictures before they become the input of a model: frozen values that change a Pillow image.

They come first in `Data(augment=(...))`. `RandomResizedCrop` cuts from the whole picture, in the place of the resizing
and the crop of the processor. Their only randomness is the generator that they receive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from tlx.config import check_choice

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["bilinear", "bicubic"]
# The number of strengths of an operation of TrivialAugment and RandAugment.
STRENGTHS = 31
ATTEMPTS = 10


class OfPictures:
    """The base class of augmentations of pictures: functions from a picture in the mode L or RGB to another one.

    A subclass is a frozen, keyword-only dataclass. Where the result has another size, the processor resizes it to the
    size of its output, and crops nothing.
    """

    def __call__(self, picture: Image, rng: np.random.Generator, size: tuple[int, int]) -> Image:
        """Return the changed picture; `size` is the (height, width) of the model's images."""
        raise TypeError(f"{type(self).__name__} does not define __call__(picture, rng, size); define it")


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(OfPictures):
    """Cuts a random part, and resizes it to the size of the model's images (Szegedy et al., 2015).

    Attributes:
        share: The least and the greatest area of the part, as a share of the picture.
        ratio: The least and the greatest width of the part over its height.
        resample: The interpolation.
    """

    share: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    resample: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        check_choice("resample", self.resample, get_args(Interpolation))
        if not 0 < self.share[0] <= self.share[1] <= 1:
            raise ValueError(f"share={self.share}; expected two numbers from 0 to 1, the smaller one first")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio={self.ratio}; expected two numbers above 0, the smaller one first")

    def __call__(self, picture: Image, rng: np.random.Generator, size: tuple[int, int]) -> Image:
        left, top, width, height = self.part(picture.size, rng)
        return resized(picture, (size[1], size[0]), self.resample, (left, top, left + width, top + height))

    def part(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Return the left and top edge, the width and the height of a part of a picture of (width, height)."""
        width, height = size
        for _ in range(ATTEMPTS):
            area = width * height * rng.uniform(*self.share)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < across <= width and 0 < down <= height:
                return int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1)), across, down
        # The middle, with the nearest allowed proportions.
        across = min(width, max(1, round(height * self.ratio[1])))
        down = min(height, max(1, round(width / self.ratio[0])))
        return (width - across) // 2, (height - down) // 2, across, down


@dataclass(frozen=True, kw_only=True)
class Resize(OfPictures):
    """Resizes the picture to `size` pixels a side, and thereby changes its proportions.

    Before `RandomResizedCrop`, the part is cut from a square: the pictures of Transfer-Learning-Library.
    """

    size: int
    resample: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}; expected at least 1 pixel")
        check_choice("resample", self.resample, get_args(Interpolation))

    def __call__(self, picture: Image, rng: np.random.Generator, size: tuple[int, int]) -> Image:
        return resized(picture, (self.size, self.size), self.resample)


def resized(
    picture: Image, size: tuple[int, int], resample: Interpolation, box: tuple[int, int, int, int] | None = None
) -> Image:
    """Return the picture, or the part of it in the `box` (left, top, right, bottom), with (width, height) pixels."""
    from PIL.Image import Resampling

    return picture.resize(size, Resampling[resample.upper()], box)


@dataclass(frozen=True, kw_only=True)
class ColourJitter(OfPictures):
    """Changes brightness, contrast and saturation, in random order, each by a factor between 1 - x and 1 + x."""

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected 0 to 1")

    def __call__(self, picture: Image, rng: np.random.Generator, size: tuple[int, int]) -> Image:
        ranges = {"Brightness": self.brightness, "Contrast": self.contrast, "Color": self.saturation}
        for name in rng.permutation(list(ranges)).tolist():
            picture = enhanced(picture, name, rng.uniform(-ranges[name], ranges[name]))
        return picture


class Operation(NamedTuple):
    """An operation on pictures: `apply(picture, strength)`; the strengths from the weakest to the strongest, and
    whether they may be negative."""

    apply: Callable[[Any, float], Any]
    strengths: np.ndarray
    signed: bool = False


@dataclass(frozen=True, kw_only=True)
class TrivialAugment(OfPictures):
    """Applies one of 14 operations with a random strength (Müller and Hutter, 2021; the wide space)."""

    def __call__(self, picture: Image, rng: np.random.Generator, size: tuple[int, int]) -> Image:
        operation = pick(wide_operations(), rng)
        return operation.apply(picture, strength_of(operation, int(rng.integers(STRENGTHS)), rng))


@dataclass(frozen=True, kw_only=True)
class RandAugment(OfPictures):
    """Applies `count` of 14 operations, one after another, with the strength `magnitude` of 0 to 30 (Cubuk et al.,
    2020)."""

    count: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}; expected at least 1 operation")
        if not 0 <= self.magnitude < STRENGTHS:
            raise ValueError(f"magnitude={self.magnitude}; expected 0 to {STRENGTHS - 1}")

    def __call__(self, picture: Image, rng: np.random.Generator, size: tuple[int, int]) -> Image:
        for _ in range(self.count):
            operation = pick(narrow_operations(picture.size), rng)
            picture = operation.apply(picture, strength_of(operation, self.magnitude, rng))
        return picture


def pick(operations: dict[str, Operation], rng: np.random.Generator) -> Operation:
    """Return a random operation."""
    return [*operations.values()][int(rng.integers(len(operations)))]


def strength_of(operation: Operation, magnitude: int, rng: np.random.Generator) -> float:
    """Return the strength of an operation, negative in half of the cases where it may be."""
    strength = float(operation.strengths[magnitude])
    return -strength if operation.signed and rng.random() < 0.5 else strength


def wide_operations() -> dict[str, Operation]:
    """Return the operations of TrivialAugment by name (table 1 of Müller and Hutter, 2021)."""
    steps = np.arange(STRENGTHS)
    return operations_of(
        slant=0.99, shift=(32.0, 32.0), turn=135.0, change=0.99, bits=8 - np.round(steps / ((STRENGTHS - 1) / 6))
    )


def narrow_operations(size: tuple[int, int]) -> dict[str, Operation]:
    """Return the operations of RandAugment by name for a picture of (width, height), with torchvision's strengths."""
    steps = np.arange(STRENGTHS)
    shift = (150 / 331 * size[0], 150 / 331 * size[1])
    return operations_of(slant=0.3, shift=shift, turn=30.0, change=0.9, bits=8 - np.round(steps / (STRENGTHS - 1) * 4))


def operations_of(
    *, slant: float, shift: tuple[float, float], turn: float, change: float, bits: np.ndarray
) -> dict[str, Operation]:
    """Return the operations by name, with the greatest strength of each kind, and the bits that remain of a colour."""
    from PIL import ImageOps

    def upto(greatest: float) -> np.ndarray:
        return np.linspace(0.0, greatest, STRENGTHS)

    def enhance(name: str) -> Operation:
        return Operation(lambda picture, strength: enhanced(picture, name, strength), upto(change), True)

    none = np.zeros(STRENGTHS)
    return {
        "Identity": Operation(lambda picture, _: picture, none),
        "ShearX": Operation(lambda picture, s: moved(picture, (1, s, 0, 0, 1, 0)), upto(slant), True),
        "ShearY": Operation(lambda picture, s: moved(picture, (1, 0, 0, s, 1, 0)), upto(slant), True),
        "TranslateX": Operation(lambda picture, s: moved(picture, (1, 0, -int(s), 0, 1, 0)), upto(shift[0]), True),
        "TranslateY": Operation(lambda picture, s: moved(picture, (1, 0, 0, 0, 1, -int(s))), upto(shift[1]), True),
        "Rotate": Operation(lambda picture, s: picture.rotate(s), upto(turn), True),
        "Brightness": enhance("Brightness"),
        "Color": enhance("Color"),
        "Contrast": enhance("Contrast"),
        "Sharpness": enhance("Sharpness"),
        "Posterize": Operation(lambda picture, s: ImageOps.posterize(picture, int(s)), bits),
        "Solarize": Operation(lambda picture, s: ImageOps.solarize(picture, math.ceil(s)), upto(255.0)[::-1]),
        "AutoContrast": Operation(lambda picture, _: ImageOps.autocontrast(picture), none),
        "Equalize": Operation(lambda picture, _: ImageOps.equalize(picture), none),
    }


def moved(picture: Image, matrix: tuple[float, ...]) -> Image:
    """Return the picture whose pixel (x, y) is that at the place `matrix` says; black outside."""
    from PIL.Image import Resampling, Transform

    return picture.transform(picture.size, Transform.AFFINE, matrix, Resampling.NEAREST)


def enhanced(picture: Image, name: str, strength: float) -> Image:
    """Return the picture with 1 + `strength` times the named property."""
    from PIL import ImageEnhance

    return getattr(ImageEnhance, name)(picture).enhance(1.0 + strength)
