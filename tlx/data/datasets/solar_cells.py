"""Photos of solar cells in the light that they emit, of two kinds of silicon, 300x300 grey.

Source: S. Deitsch et al., "Segmentation of photovoltaic module cells in uncalibrated electroluminescence images",
Machine Vision and Applications 32, 2021; the package elpv-dataset. The licence of the photos is CC-BY-NC-SA-4.0: they
must not be used commercially.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tlx import assets
from tlx.data.datasets.splits import stratified

SIDE = 300
CLASSES = ("intact", "defective")
# Names of silicon: of one crystal, and of many.
KINDS = ("mono", "poly")


class Photo(NamedTuple):
    """A photo: its file, and the label by the mean of the experts."""

    file: str
    label: int


def cells(kind: str, table: str) -> list[Photo]:
    """Return the photos of one kind of silicon, from lines of `file probability kind`.

    The probability is 0, 1/3, 2/3 or 1. Cells with 1/3, of which experts were not sure, are left out.
    """
    rows = (line.split() for line in table.splitlines() if line.strip())
    return [
        Photo(file, int(float(probability) > 0.5))
        for file, probability, silicon in rows
        if silicon == kind and not 0 < float(probability) < 0.5
    ]


class SolarCells(tfds.core.GeneratorBasedBuilder):
    """Defective is a probability above 1/2, intact 0. Splits 70/10/20 of each class, by the hash of the place in the
    table.
    """

    name = "solar_cells"
    VERSION = tfds.core.Version("1.0.0")
    # As in sentiment.py.
    url_infos: ClassVar[dict[str, Any]] = {}
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name=kind, description=kind) for kind in KINDS
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 1), dtype=np.uint8, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        files = dict(assets.members("solar-cells"))
        kind = self.builder_config.name
        rows = cells(kind, files["labels.csv"].decode("ascii"))
        parts = stratified([cell.label for cell in rows], f"{self.name}/{kind}")
        return {
            split: self._generate_examples([rows[n] for n in positions], files) for split, positions in parts.items()
        }

    def _generate_examples(self, rows: list[Photo], files: dict[str, bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
        for cell in rows:
            yield cell.file, {"image": io.BytesIO(files[cell.file]), "label": cell.label, "id": cell.file}
