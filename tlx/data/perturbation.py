"""Perturb the examples of a split: their labels and their inputs."""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx import config
from tlx.data.shifts import Shift
from tlx.trees import Example

if TYPE_CHECKING:
    from tlx.processors.columns import Columns

# The purposes of draws, each with a separate random stream. Shift n of a perturbation has the stream SHIFTED + n.
RELABELS, LABEL, SHIFTS, SHIFTED = range(4)


class Perturbation(NamedTuple):
    """Noise of labels and inputs (the protocol of Wang et al., 2019), drawn separately for each example.

    It is a function of `seed`, the split that `of` names, and the position of the example in the whole split. With
    probability `labels` the label of an example becomes one of `classes`, drawn uniformly, its own among them. With
    probability `inputs` the example goes through `shifts`, one after another. Examples that are perturbed at a lower
    probability are perturbed in the same way at a higher one.
    """

    seed: int
    of: str
    labels: float = 0.0
    classes: tuple[int, ...] = ()
    inputs: float = 0.0
    shifts: tuple[Shift, ...] = ()

    @property
    def of_inputs(self) -> Perturbation | None:
        """Return the part of the perturbation that changes inputs; None where no input changes."""
        return self._replace(labels=0.0, classes=()) if self.inputs else None

    @property
    def spelled(self) -> str:
        """Return a text that is equal where two perturbations are, in every process."""
        return json.dumps(config.dump(self), sort_keys=True)

    def relabelled(self, labels: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        """Return int32[N], the labels of the examples at `rows` [N] of a split of `count` examples."""
        if not self.labels:
            return labels
        replaced = self._uniform(RELABELS, count)[rows] < self.labels
        draws = (len(self.classes) * self._uniform(LABEL, count)[rows]).astype(int)
        return np.where(replaced, np.array(self.classes, np.int32)[draws], labels)

    def shifted(self, example: Example, index: int, count: int, columns: Columns) -> dict[str, Any]:
        """Return the inputs of the example at `index` of a split of `count`; a shift changes the
        columns of its kind."""
        inputs = dict(example)
        if not self.inputs or self._uniform(SHIFTS, count)[index] >= self.inputs:
            return inputs
        for number, shift in enumerate(self.shifts, SHIFTED):
            rng = np.random.default_rng((*self._entropy, number, index))
            inputs = {
                name: shift(value, rng) if columns[name].kind == shift.kind else value for name, value in inputs.items()
            }
        return inputs

    @property
    def _entropy(self) -> tuple[int, int]:
        return self.seed, zlib.crc32(self.of.encode())

    def _uniform(self, purpose: int, count: int) -> np.ndarray:
        return uniform((*self._entropy, purpose), count)


@lru_cache(maxsize=16)
def uniform(entropy: tuple[int, ...], count: int) -> np.ndarray:
    """Return a number in [0, 1) for every example of a split. The stream behind `random` is the same in every numpy."""
    return np.random.Generator(np.random.PCG64(entropy)).random(count)
