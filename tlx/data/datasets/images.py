"""The shared base class of the builders of small grey images."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tlx.data.datasets.splits import png


class Images(NamedTuple):
    """`pixels` uint8[N, H, W], `labels` int[N]."""

    pixels: np.ndarray
    labels: np.ndarray


class GreyImages(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A builder of grey images. A subclass defines `side`, `classes` and, by `read`, the images of each split."""

    VERSION = tfds.core.Version("1.0.0")
    # As in sentiment.py.
    url_infos: ClassVar[dict[str, Any]] = {}
    side: ClassVar[int]
    classes: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def read(self) -> Mapping[str, Images]:
        """Return the images of each split."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(self.side, self.side, 1), dtype=np.uint8, encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=list(self.classes)),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(images) for split, images in self.read().items()}

    def _generate_examples(self, images: Images) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
            yield number, {"image": png(pixels), "label": int(label)}
