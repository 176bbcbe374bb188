"""Augmentations of images: frozen values. Their only randomness is the generator that they receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


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


def augmented(image: np.ndarray, augment: tuple[Augmentation, ...], *, seed: int, step: int, index: int) -> np.ndarray:
    """Return the augmented image of this step: the same in every process and thread."""
    rng = np.random.default_rng((seed, step, index))
    for change in augment:
        image = change(image, rng)
    return image


def augmented_images(
    arrays: Mapping[str, np.ndarray], augment: tuple[Augmentation, ...], draw: tuple[int, int], views: np.ndarray | None
) -> np.ndarray:
    """Return the images of a batch, augmented by the (seed, step) of `draw`, or in the fixed `views`."""
    images, indices = arrays["image"], arrays["index"].tolist()
    # Fixed views are the same for every run, whatever its seed, so that their features are computed once.
    draws = [draw] * len(images) if views is None else [(0, int(view)) for view in views]
    rows = zip(images, indices, draws, strict=True)
    return np.stack(
        [augmented(image, augment, seed=seed, step=step, index=index) for image, index, (seed, step) in rows]
    )
