"""Augmentations of images: frozen values. Their only randomness is the generator that they receive.

Those of `augment_pictures` change the picture before the processor makes an input of it; those here change the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from tlx.config import check_choice
from tlx.data.augment_pictures import ATTEMPTS, OfPictures, RandomResizedCrop
from tlx.processors.pictures import ImageProcessor

if TYPE_CHECKING:
    from tlx.processors.base import Processor
    from tlx.trees import Example


@runtime_checkable
class Augmentation(Protocol):
    """A function from float32[H, W, C] to the same shape."""

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Flips the image from left to right with `probability`. Not suited to digits and letters."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability}; expected 0 to 1")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image[:, ::-1] if rng.random() < self.probability else image


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Moves the image by up to `padding` pixels each way. The edge is repeated, so no new pixel value appears."""

    padding: int

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise ValueError(f"padding={self.padding}; expected at least 1 pixel")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        down, right = rng.integers(-self.padding, self.padding + 1, size=2)
        rows = np.clip(np.arange(image.shape[0]) + down, 0, image.shape[0] - 1)
        columns = np.clip(np.arange(image.shape[1]) + right, 0, image.shape[1] - 1)
        return image[rows[:, None], columns]


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Adds Gaussian noise of this standard deviation, in units of the normalised pixels."""

    std: float

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std={self.std}; expected more than 0")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return image + np.float32(self.std) * rng.standard_normal(image.shape, np.float32)


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Overwrites a random rectangle with `probability` (Zhong et al., 2020), with the mean colour (0) or with noise.

    Attributes:
        probability: The probability.
        share: The least and the greatest area of the rectangle, as a share of the image.
        ratio: The least and the greatest height of the rectangle over its width.
        fill: "zero", or "noise" with the standard deviation of the normalised pixels, 1.
    """

    probability: float = 0.25
    share: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 10 / 3)
    fill: Literal["zero", "noise"] = "zero"

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability={self.probability}; expected 0 to 1")
        if not 0 < self.share[0] <= self.share[1] < 1:
            raise ValueError(f"share={self.share}; expected two numbers between 0 and 1, the smaller one first")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio={self.ratio}; expected two numbers above 0, the smaller one first")
        check_choice("fill", self.fill, ("zero", "noise"))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.probability:
            return image
        height, width, channels = image.shape
        for _ in range(ATTEMPTS):
            area = height * width * rng.uniform(*self.share)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            down, across = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < down < height and 0 < across < width:
                top, left = rng.integers(height - down + 1), rng.integers(width - across + 1)
                shape = (down, across, channels)
                fill = rng.standard_normal(shape, np.float32) if self.fill == "noise" else np.zeros(shape, np.float32)
                changed = image.copy()
                changed[top : top + down, left : left + across] = fill
                return changed
        return image


Augment = tuple[Augmentation | OfPictures, ...]


def of_inputs(augment: Augment) -> list[Augmentation]:
    """Return the changes of inputs."""
    return [change for change in augment if not isinstance(change, OfPictures)]


def begins_with_pictures(augment: Augment) -> bool:
    """Return whether pictures are changed before they become inputs.

    Raises ValueError where a change of pictures comes after one of inputs.
    """
    kinds = [isinstance(change, OfPictures) for change in augment]
    if kinds != sorted(kinds, reverse=True):
        late = augment[kinds.index(True, kinds.index(False))]
        raise ValueError(
            f"augment has {type(late).__name__} after {type(augment[kinds.index(False)]).__name__}; expected the "
            "changes of pictures first"
        )
    return any(kinds)


def augmented_example(
    example: Example,
    processor: Processor,
    augment: Augment,
    *,
    seed: int,
    step: int,
    index: int,
) -> np.ndarray:
    """Return the augmented image of an example at this step: the same in every process and thread.

    Raises ValueError if the processor makes no image of a picture.
    """
    if not isinstance(processor, ImageProcessor):
        raise ValueError(f"augment={augment} changes pictures, but the data have {type(processor).__name__}")
    rng = np.random.default_rng((seed, step, index))
    picture = processor.opened(example)
    for change in augment:
        if isinstance(change, OfPictures):
            picture = change(picture, rng, processor.shape[:2])
    if any(isinstance(change, RandomResizedCrop) for change in augment):
        processor = replace(processor, size=processor.shape[:2], crop=None)
    image = processor.converted(picture)["image"]
    for change in of_inputs(augment):
        image = change(image, rng)
    return image


def augmented(image: np.ndarray, augment: Augment, *, seed: int, step: int, index: int) -> np.ndarray:
    """Return the augmented image of this step: the same in every process and thread."""
    rng = np.random.default_rng((seed, step, index))
    for change in of_inputs(augment):
        image = change(image, rng)
    return image


def augmented_images(
    arrays: Mapping[str, np.ndarray], augment: Augment, draw: tuple[int, int], views: np.ndarray | None
) -> np.ndarray:
    """Return the images of a batch, augmented by the (seed, step) of `draw`, or in the fixed `views`."""
    images, indices = arrays["image"], arrays["index"].tolist()
    # Fixed views are the same for every run, whatever its seed, so that their features are computed once.
    draws = [draw] * len(images) if views is None else [(0, int(view)) for view in views]
    rows = zip(images, indices, draws, strict=True)
    return np.stack(
        [augmented(image, augment, seed=seed, step=step, index=index) for image, index, (seed, step) in rows]
    )
