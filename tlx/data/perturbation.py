"""What of the examples of a split is not as it was found: their labels, their inputs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx import config
from tlx.data.shifts import Shift

if TYPE_CHECKING:
    from tlx.processors.columns import Columns

# What is drawn of an example, each by numbers of its own. Shift n of a perturbation has those of SHIFTED + n.
RELABELS, LABEL, SHIFTS, SHIFTED = range(4)


class Perturbation(NamedTuple):
    """Noise of labels and inputs (the protocol is that of Wang et al., 2019), each example's by itself: a function of
    `seed`, the split that `of` names, and the example's place in the whole of it.

    With probability `labels` an example's label becomes one of `classes`, drawn uniformly, its own among them; with
    probability `inputs` the example goes through `shifts`, one after another. Those that are perturbed at a lower
    probability are so at a higher one, in the same way.
    """

    seed: int
    of: str
    labels: float = 0.0
    classes: tuple[int, ...] = ()
    inputs: float = 0.0
    shifts: tuple[Shift, ...] = ()

    @property
    def of_inputs(self) -> Perturbation | None:
        """What of it is in the inputs; None where nothing is."""
        return self._replace(labels=0.0, classes=()) if self.inputs else None

    @property
    def spelled(self) -> str:
        """Equal where the perturbations are, in every process."""
        return json.dumps(config.dump(self), sort_keys=True)

    def relabelled(self, labels: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        """The labels [N], int32, of the examples at `rows` [N] of a split of `count`."""
        if not self.labels:
            return labels
        chosen = self._uniform(RELABELS, count)[rows] < self.labels
        drawn = (len(self.classes) * self._uniform(LABEL, count)[rows]).astype(int)
        return np.where(chosen, np.array(self.classes, np.int32)[drawn], labels)

    def shifted(self, example: Mapping[str, Any], index: int, count: int, columns: Columns) -> dict[str, Any]:
        """The inputs of the example at `index` of a split of `count`; a shift changes the columns of its kind."""
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
    """A number in [0, 1) for every example of a split. The stream behind `random` is the same in every numpy."""
    return np.random.Generator(np.random.PCG64(entropy)).random(count)
