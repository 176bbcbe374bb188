"""70,000 pictures of clothes, 28x28.

Source: H. Xiao, K. Rasul and R. Vollgraf, "Fashion-MNIST", arXiv:1708.07747, 2017; the files of the Debian package.
"""

from __future__ import annotations

import gzip

import numpy as np

from tlx import assets
from tlx.data.datasets.images import GreyImages, Images
from tlx.data.datasets.splits import stratified


class FashionMnist(GreyImages):
    """The official test split; a tenth of every class of the official train split, by hash, is the validation split."""

    name = "fashion_mnist"
    side = 28
    classes = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

    def read(self) -> dict[str, Images]:
        train, test = (
            Images(_idx(f"{part}-images-idx3-ubyte.gz"), _idx(f"{part}-labels-idx1-ubyte.gz"))
            for part in ("train", "t10k")
        )
        rows = stratified(train.labels, self.name, {"train": 0.9, "validation": 0.1})
        return {**{split: Images(train.pixels[row], train.labels[row]) for split, row in rows.items()}, "test": test}


def _idx(member: str) -> np.ndarray:
    """Read an IDX file of bytes: a big-endian u32 magic with the rank in its low byte, u32 dimensions, then the
    numbers."""
    content = gzip.decompress(assets.open_member("fashion-mnist", member))
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)
