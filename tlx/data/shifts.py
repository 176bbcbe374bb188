"""Shifts of inputs: frozen values that change a raw example. Their only randomness is the generator
that they receive."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from tlx.data.sound_shifts import BackgroundNoise, OfSounds
from tlx.processors.columns import PLURAL


@runtime_checkable
class Shift(Protocol):
    """A function on inputs of its `kind`: uint8[H, W, C] to the same shape, a text to a text, or float32[T] from -1 to
    1 to the same range."""

    kind: ClassVar[str]

    def __call__(self, value: Any, rng: np.random.Generator, /) -> Any: ...


class OfImages:
    """The base class of shifts of images."""

    kind: ClassVar[str] = "image"


class OfTexts:
    """The base class of shifts of texts."""

    kind: ClassVar[str] = "text"


@dataclass(frozen=True, kw_only=True)
class Rotate(OfImages):
    """Rotates the image by `degrees` about its centre, counter-clockwise; the uncovered corners are black."""

    degrees: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from PIL.Image import Resampling

        return by_channel(image, lambda picture: picture.rotate(self.degrees, Resampling.BILINEAR))


@dataclass(frozen=True, kw_only=True)
class Contrast(OfImages):
    """Multiplies the difference between every pixel and the mean of the image by `factor`: below 1 reduces contrast, 0
    is grey."""

    factor: float

    def __post_init__(self) -> None:
        if self.factor < 0:
            raise ValueError(f"factor={self.factor}; expected 0 or more")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        mean = image.mean(dtype=np.float64)
        return pixels(mean + self.factor * (image - mean))


@dataclass(frozen=True, kw_only=True)
class GaussianNoise(OfImages):
    """Adds Gaussian noise of this standard deviation to every pixel, where 1 is the distance from black to white."""

    std: float

    def __post_init__(self) -> None:
        if not 0 < self.std <= 1:
            raise ValueError(f"std={self.std}; expected more than 0 and at most 1 (from black to white)")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return pixels(image + 255.0 * self.std * rng.standard_normal(image.shape))


@dataclass(frozen=True, kw_only=True)
class Blur(OfImages):
    """Blurs the image by a Gaussian with a standard deviation of `sigma` pixels."""

    sigma: float

    def __post_init__(self) -> None:
        if not self.sigma > 0:
            raise ValueError(f"sigma={self.sigma}; expected more than 0 pixels")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        from PIL.ImageFilter import GaussianBlur

        return by_channel(image, lambda picture: picture.filter(GaussianBlur(self.sigma)))


@dataclass(frozen=True, kw_only=True)
class Occlude(OfImages):
    """Blackens a rectangle, placed at random, with the proportions of the image and this `share` of its area."""

    share: float

    def __post_init__(self) -> None:
        check_share("share", self.share)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sizes = [max(1, round(math.sqrt(self.share) * side)) for side in image.shape[:2]]
        begins = [int(rng.random() * (side - size + 1)) for side, size in zip(image.shape[:2], sizes, strict=True)]
        rows, columns = (slice(begin, begin + size) for begin, size in zip(begins, sizes, strict=True))
        changed = image.copy()
        changed[rows, columns] = 0
        return changed


@dataclass(frozen=True, kw_only=True)
class DropWords(OfTexts):
    """Drops every word with probability `share`, but never the last remaining word. The words dropped at 0.3 are among
    those dropped at 0.7."""

    share: float

    def __post_init__(self) -> None:
        check_share("share", self.share)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        words = text.split()
        draws = rng.random(len(words))
        return " ".join(
            word for word, draw in zip(words, draws, strict=True) if draw >= min(self.share, draws.max(initial=0.0))
        )


@dataclass(frozen=True, kw_only=True)
class Typos(OfTexts):
    """Replaces every letter with probability `share` by a letter from a to z, drawn uniformly. The letters replaced at
    0.3 are among those replaced at 0.7."""

    share: float

    def __post_init__(self) -> None:
        check_share("share", self.share)

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        is_wrong, replacements = rng.random(len(text)) < self.share, (26 * rng.random(len(text))).astype(int)
        return "".join(
            chr(ord("a") + number) if wrong and letter.isalpha() else letter
            for letter, wrong, number in zip(text, is_wrong.tolist(), replacements.tolist(), strict=True)
        )


def check_kind(name: str, shifts: tuple[Shift, ...], kind: str, what: str) -> None:
    """Raise ValueError for a shift in the field `name` that is not for the `kind` of `what`."""
    if wrong := [shift for shift in shifts if shift.kind != kind]:
        noun, wrong_noun = PLURAL.get(kind, kind), PLURAL.get(wrong[0].kind, wrong[0].kind)
        raise ValueError(f"{name}: {wrong[0]} applies to {wrong_noun}, but {what} has {noun}; {choices(kind)}")


def usual(kind: str, eps_x: float, what: str) -> tuple[Shift, ...]:
    """Return the default shifts of a source with inputs of this kind. Raises ValueError where there are none."""
    if kind not in USUAL:
        raise ValueError(
            f"eps_x={eps_x} perturbs inputs, but {what} has {PLURAL.get(kind, kind)}; {choices(kind)}: set "
            "Data(shift=(...)), or remove eps_x and perturb only the labels"
        )
    return USUAL[kind]


def choices(kind: str) -> str:
    """Return the shifts for inputs of this kind in words."""
    classes = [shift for base in (OfImages, OfTexts, OfSounds) if base.kind == kind for shift in base.__subclasses__()]
    if not classes:
        return f"tlx has no shift for {PLURAL.get(kind, kind)}: write a subclass of Shift with kind = {kind!r}"
    return f"the shifts for {PLURAL[kind]} are: {', '.join(shift.__name__ for shift in classes)}"


def check_share(name: str, share: float) -> None:
    """Raise ValueError for a share that is not above 0 and at most 1."""
    if not 0 < share <= 1:
        raise ValueError(f"{name}={share}; expected more than 0 and at most 1")


def pixels(values: np.ndarray) -> np.ndarray:
    """Return the values rounded and clipped to uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def by_channel(image: np.ndarray, change: Callable[[Any], Any]) -> np.ndarray:
    """Return an image after a change of each channel, which Pillow treats as a grey picture."""
    from PIL.Image import fromarray

    planes = [np.asarray(change(fromarray(image[..., n]))) for n in range(image.shape[-1])]
    return np.stack(planes, -1)


# The default shifts of a source.
USUAL: dict[str, tuple[Shift, ...]] = {
    "image": (GaussianNoise(std=0.5),),
    "text": (DropWords(share=0.5),),
    "audio": (BackgroundNoise(snr=0.0),),
}
