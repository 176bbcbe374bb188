"""Handwritten digits of 43 people, 8x8.

Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998;
the 1,797 images that scikit-learn ships.
"""

from __future__ import annotations

import numpy as np

from tlx.data.datasets.images import GreyImages, Images
from tlx.data.datasets.splits import stratified


class Digits(GreyImages):
    """The intensities 0..16 become 0..255. Splits 70/10/20 of every class, by hash."""

    name = "digits"
    side = 8
    classes = tuple("0123456789")

    def read(self) -> dict[str, Images]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        return {
            split: Images(pixels[rows], bunch.target[rows])
            for split, rows in stratified(bunch.target, self.name).items()
        }
