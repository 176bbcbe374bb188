"""Multi-label classification: any number of classes for each example. Shapes: B batch, C classes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tlx.functional.metrics import STANDARD, Metric
from tlx.models.heads import Neck, Pooled
from tlx.tasks.base import STORED_CLASSES, Batch, Outputs, Statement, Task, check_names
from tlx.tasks.classes import format_names
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.tasks.weighting import ClassWeights, array_of, balanced_positives, check_weights
from tlx.trees import Example, Json
from tlx.types import Array, Column, Field


@dataclass(frozen=True, kw_only=True)
class MultiLabel(Task):
    """Any number of classes for each example: one sigmoid and one binary cross-entropy for each class.

    Attributes:
        names: The class names; empty takes those of the data set.
        threshold: A class is predicted if its probability is above this value.
        class_weights: The weight of the positive examples of each class relative to its negative ones, as `pos_weight`
            in torch's `BCEWithLogitsLoss`. "balanced" gives both sides of a class the same total weight in the training
            examples.
        extra_metrics: The user's own metrics.
        neck: A hidden layer between the features and the classifier; None for none.
    """

    names: tuple[str, ...] = ()
    threshold: float = 0.5
    class_weights: ClassWeights = ()
    extra_metrics: tuple[ExtraMetric, ...] = ()
    neck: Neck | None = None

    metrics: ClassVar[Mapping[str, Metric]] = {
        name: STANDARD[name] for name in ("micro_f1", "macro_f1", "exact_match", "loss", "auroc", "average_precision")
    }
    kept: ClassVar[tuple[str, ...]] = ("threshold", "neck")
    by_class: ClassVar[bool] = True
    problem: ClassVar[str] = "multi_label_classification"

    def __post_init__(self) -> None:
        check_names(self.names)
        check_weights(self.class_weights, len(self.names) or None)
        check_extra(self.extra_metrics, self.metrics)
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; expected a probability between 0 and 1")

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task with the classes of the data.

        Raises:
            ValueError: The data have one label for each example, or other class names than the task.
        """
        label = columns["label"]
        if label.kind not in ("class", "classes") or not label.classes:
            raise ValueError(f"the label is a {label.kind}; tasks.MultiLabel expects a column of classes")
        if self.names and self.names != label.classes:
            raise ValueError(
                f"the task has the classes {format_names(self.names)}, but the data have "
                f"{format_names(label.classes)}; use the same names in the same order, or remove names"
            )
        return replace(self, names=label.classes)

    def fitted(self, labels: Iterable[Any]) -> Self:
        """Return the task with balanced weights of the positive examples, if it asks for them."""
        if self.class_weights != "balanced":
            return self
        counts, examples = np.zeros(len(self.names), np.int64), 0
        for label in labels:
            counts[np.unique(np.atleast_1d(np.asarray(label, np.int64)))] += 1
            examples += 1
        return replace(self, class_weights=balanced_positives(counts, examples))

    @classmethod
    def stated(cls, statement: Statement) -> Self | None:
        is_multi_label = statement.head is Pooled and statement.problem == cls.problem
        return cls(names=statement.classes) if is_multi_label else None

    def head(self) -> Pooled:
        if not self.names:
            raise ValueError("the task does not state the names of its classes; set tasks.MultiLabel(names=...)")
        return Pooled(len(self.names), self.neck)

    def fields(self) -> Mapping[str, Field]:
        return {"label": Field((len(self.names),), "float32")}

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return `label` [C]: 1 for each class of the example, 0 for the others."""
        label = np.zeros(len(self.names), np.float32)
        label[np.atleast_1d(np.asarray(example["label"], np.int64))] = 1.0
        return {"label": label}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the binary cross-entropy of each example, averaged over the classes, and weights of 1, both [B]."""
        logits, label = outputs["logits"].astype(jnp.float32), batch["label"]
        if not self.class_weights:
            values = (jax.nn.softplus(logits) - label * logits).mean(-1)
        else:
            positive = array_of(self.class_weights) * label * jax.nn.softplus(-logits)
            values = (positive + (1 - label) * jax.nn.softplus(logits)).mean(-1)
        return values, jnp.ones_like(values)

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `label` and `prediction` [B, C], booleans; `tp`, `fp` and `fn` [B, C]; `correct` and `loss` [B];
        `logits` [B, C] for at most `STORED_CLASSES` classes."""
        logits = outputs["logits"].astype(jnp.float32)
        label, prediction = batch["label"] > 0.5, jax.nn.sigmoid(logits) > self.threshold
        scores = {
            "label": label,
            "prediction": prediction,
            "tp": label & prediction,
            "fp": ~label & prediction,
            "fn": label & ~prediction,
            "correct": (label == prediction).all(-1),
            "loss": (jax.nn.softplus(logits) - batch["label"] * logits).mean(-1),
        }
        return scores | ({"logits": logits} if logits.shape[-1] <= STORED_CLASSES else {})

    def applies(self, name: str) -> bool:
        """Return whether a metric applies: those of ranking need the stored logits."""
        return name not in ("auroc", "average_precision") or len(self.names) <= STORED_CLASSES

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return a dict for each example: the probability of each class by name, the most probable class first."""
        logits = np.asarray(outputs["logits"], np.float64)
        probabilities = np.exp(-np.logaddexp(0.0, -logits))
        order = np.argsort(-logits, axis=-1, kind="stable")
        return [
            {self.names[c]: float(row[c]) for c in places} for row, places in zip(probabilities, order, strict=True)
        ]

    def answer_values(self, answer: Any) -> Json:
        """Return the classes above the threshold and the probabilities of all classes, both in the order of the
        classes."""
        return {
            "prediction": [name for name in self.names if answer[name] > self.threshold],
            "probabilities": {name: answer[name] for name in self.names},
        }

    def label_words(self, example: Example) -> str:
        places = np.atleast_1d(np.asarray(example["label"], np.int64))
        return ", ".join(self.names[n] for n in places) or "none"
