"""What is asked of a model's head: its width, its loss, what is measured. One frozen dataclass a task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tlx.functional import losses, metrics
from tlx.tasks.classes import contradictions, shown
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
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"names has {twice[0]!r} twice: {shown(self.names)}; give every class its own name")

    @property
    def outputs(self) -> int | None:
        return self.classes

    def resolve(self, names: tuple[str, ...]) -> "Classification":
        """Return the task with classes and names filled in from the data.

        `names` are the data's, in the order of its labels. The task's own names rename the classes. Raises ValueError
        if the data have more classes than the task, or if the task gives a name of the data to another class.
        """
        if not names:
            raise ValueError("the data set names no classes; it fits tasks.Regression")
        classes = self.classes or len(names)
        if len(names) > classes:
            raise ValueError(f"labels outside the class range: the data have {len(names)} classes, the task {classes}")
        if strange := contradictions(names, self.names):
            raise ValueError(
                f"the task's names {shown(self.names)} contradict the data's classes {shown(names)}: {strange[0]!r} is "
                "another class there. Give the names in the order of the data's labels, or leave names out"
            )
        names = tuple(names) + tuple(f"class {n}" for n in range(len(names), classes))
        return replace(self, classes=classes, names=self.names or names)

    def loss(self, logits: Array, batch: Mapping[str, Array]) -> Array:
        """[B, C] -> [B]."""
        return losses.cross_entropy(logits, batch["label"], self.smoothing)

    def losses(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The unsmoothed loss of each example, [B], on the host: what the page ranks mistakes by."""
        return metrics.negative_log_likelihood(logits, labels)

    def measure(self, logits: np.ndarray, labels: np.ndarray) -> metrics.ClassificationCounts:
        return metrics.count_classification(logits, labels)

    def summarise(self, counts: Any) -> dict[str, float]:
        return metrics.summarise_classification(counts)

    def decode(self, logits: np.ndarray) -> list[dict[str, float]]:
        """Probabilities by class name, most probable first, one dict an example."""
        rows, order = metrics.softmax(logits), np.argsort(-logits, axis=-1, kind="stable")
        return [{self.names[c]: float(row[c]) for c in own} for row, own in zip(rows, order, strict=True)]


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
