"""What is asked of a model's head: its width, its loss, what is measured. One frozen dataclass a task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlx import losses, metrics
from tlx.types import Array

# Far above any data set, and few enough that a head of that width can be held in memory.
MOST_CLASSES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Classification:
    """One class an example. `classes` None: as many as the data set names; `names` likewise."""

    classes: int | None = None
    names: tuple[str, ...] = ()
    smoothing: float = 0.0

    primary = "accuracy"
    higher_is_better = True

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"classes is {self.classes}; a classification needs two or more")
        if self.classes is not None and self.classes > MOST_CLASSES:
            raise ValueError(f"classes is {self.classes}; expected at most {MOST_CLASSES:,}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; a share in [0, 1)")
        if self.classes is not None and self.names and len(self.names) != self.classes:
            raise ValueError(f"{len(self.names)} names for {self.classes} classes")

    @property
    def outputs(self) -> int | None:
        return self.classes

    def resolve(self, names: tuple[str, ...]) -> "Classification":
        """With classes and names filled in from the data; ValueError where the data hold more classes than asked."""
        if not names:
            raise ValueError("the data set names no classes; it fits tasks.Regression")
        classes = self.classes or len(names)
        if len(names) > classes:
            raise ValueError(f"labels outside the class range: the data have {len(names)} classes, the task {classes}")
        names = tuple(names) + tuple(f"class {n}" for n in range(len(names), classes))
        return replace(self, classes=classes, names=self.names or names)

    def loss(self, logits: Array, batch: Mapping[str, Array]) -> Array:
        """[B, C] -> [B]."""
        return losses.cross_entropy(logits, batch["label"], self.smoothing)

    def losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The unsmoothed loss of each example, [B], on the host: what the page ranks mistakes by."""
        p = metrics.softmax(logits)
        return -np.log(np.maximum(p[np.arange(len(labels)), labels], 1e-300))

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> metrics.ClassificationCounts:
        return metrics.count_classification(logits, labels)

    def summarise(self, counts: Any) -> dict[str, float]:
        return metrics.summarise_classification(counts)

    def decode(self, logits: np.ndarray) -> list[dict[str, float]]:
        """Probabilities by class name, most probable first, one dict an example."""
        rows = metrics.softmax(logits)
        return [{self.names[c]: float(row[c]) for c in np.argsort(-row)} for row in rows]


@dataclass(frozen=True, kw_only=True)
class Regression:
    """`outputs` real numbers an example, squared error."""

    outputs: int = 1

    primary = "mse"
    higher_is_better = False
    names = ()

    def resolve(self, names: tuple[str, ...]) -> "Regression":
        if names:
            raise ValueError(f"the data set has classes ({', '.join(names[:3])}, ...); it fits tasks.Classification")
        return self

    def loss(self, logits: Array, batch: Mapping[str, Array]) -> Array:
        """[B, K] -> [B]."""
        return losses.squared_error(logits, batch["label"])

    def losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return ((logits.astype(np.float64) - labels.reshape(logits.shape)) ** 2).mean(-1)

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> metrics.RegressionSums:
        return metrics.sum_regression(logits, labels)

    def summarise(self, counts: Any) -> dict[str, float]:
        return metrics.summarise_regression(counts)

    def decode(self, logits: np.ndarray) -> list[dict[str, float]]:
        return [{f"output {n}": float(value) for n, value in enumerate(row)} for row in logits]


Task = Classification | Regression
