"""Ordinal classification: classes in an order. Shapes: B batch, C classes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tlx.functional.metrics import STANDARD, Metric
from tlx.models.heads import Neck, Pooled
from tlx.tasks.base import Batch, Outputs, Statement, Task, check_names, numbered
from tlx.tasks.classes import format_names
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.trees import Example, Json
from tlx.types import Array, Column


@dataclass(frozen=True, kw_only=True)
class Ordinal(Task):
    """One of several ordered classes for each example, such as one to five stars.

    The model has an output z_k for each threshold between two classes: the log-odds that an example which is beyond all
    lower thresholds is beyond threshold k too (CORN; Shi, Cao and Raschka, 2023). The product of these probabilities
    falls with k, so no prediction contradicts the order. The prediction is the median class.

    Attributes:
        names: The class names from the lowest to the highest. Empty takes those of the data set, if they are numbers.
        ranks: The rank of each class of the data set, in the order of its labels.
        extra_metrics: The user's own metrics.
        neck: A hidden layer between the features and the classifier; None for none.
    """

    names: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    extra_metrics: tuple[ExtraMetric, ...] = ()
    neck: Neck | None = None

    metrics: ClassVar[Mapping[str, Metric]] = {
        name: STANDARD[name] for name in ("mae", "quadratic_kappa", "accuracy", "loss")
    }
    kept: ClassVar[tuple[str, ...]] = ("names", "ranks", "neck")

    def __post_init__(self) -> None:
        check_names(self.names)
        check_extra(self.extra_metrics, self.metrics)
        if len(self.names) == 1:
            raise ValueError(f"names is {self.names}; expected at least two classes")

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task with the classes of the data in their order.

        Raises:
            ValueError: The labels are not single classes, the order of the classes is not known, or the task names
                other classes than the data.
        """
        label = columns["label"]
        if label.kind != "class":
            raise ValueError(f"the label is a {label.kind}; tasks.Ordinal expects a column with one class per example")
        names = self.names or in_numeric_order(label.classes)
        if sorted(names) != sorted(label.classes):
            raise ValueError(
                f"the task has the classes {format_names(names)}, but the data have {format_names(label.classes)}; "
                "name the same classes, from the lowest to the highest"
            )
        return replace(self, names=names, ranks=tuple(names.index(name) for name in label.classes))

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(self.names[rank] for rank in self.ranks) or self.names

    @classmethod
    def stated(cls, statement: Statement) -> Self | None:
        return cls() if statement.head is Pooled else None

    def config_document(self) -> Json:
        return numbered([f"above {name}" for name in self.names[:-1]])

    def head(self) -> Pooled:
        if not self.names:
            raise ValueError("the task does not state the names of its classes; set tasks.Ordinal(names=...)")
        return Pooled(len(self.names) - 1, self.neck)

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return `label`, the rank of the class of the example."""
        return {"label": np.asarray(self.ranks[int(example["label"])], np.int32)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the sum of the binary cross-entropies of the thresholds that an example reaches, and their number.

        An example of rank y reaches threshold k if y >= k. The step divides by the number of such pairs in the batch,
        as in equation 7 of the paper.
        """
        values, reached = threshold_losses(outputs["logits"], batch["label"])
        return values.sum(-1), reached.sum(-1).astype(jnp.float32)

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `label`, `prediction` (ranks), `correct`, `absolute_error`, `confidence` (the probability of the
        predicted class) and `loss` (-log of that of the true class) [B]; `logits` [B, C - 1]."""
        logits, label = outputs["logits"].astype(jnp.float32), batch["label"]
        beyond = jnp.cumsum(jax.nn.log_sigmoid(logits), -1)
        prediction = (beyond > jnp.log(0.5)).sum(-1).astype(jnp.int32)
        # An example is of class k if it is beyond threshold k - 1 and not beyond threshold k.
        beyond_lower = jnp.exp(jnp.pad(beyond, ((0, 0), (1, 0))))
        p = beyond_lower * jnp.pad(jax.nn.sigmoid(-logits), ((0, 0), (0, 1)), constant_values=1.0)
        return {
            "label": label,
            "prediction": prediction,
            "correct": prediction == label,
            "absolute_error": jnp.abs(prediction - label).astype(jnp.float32),
            "confidence": jnp.take_along_axis(p, prediction[:, None], -1)[:, 0],
            "loss": threshold_losses(logits, label)[0].sum(-1),
            "logits": logits,
        }

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return a dict for each example: probabilities by class name, the predicted class first, then the most
        probable."""
        logits = np.asarray(outputs["logits"], np.float64)
        beyond = np.exp(-np.cumsum(np.logaddexp(0.0, -logits), -1))
        predictions = (beyond > 0.5).sum(-1)
        probabilities = -np.diff(np.pad(beyond, ((0, 0), (1, 1)), constant_values=((0, 0), (1.0, 0.0))), axis=-1)
        orders = np.argsort(-probabilities, axis=-1, kind="stable")
        return [
            {self.names[c]: float(row[c]) for c in dict.fromkeys((prediction, *order))}
            for row, prediction, order in zip(probabilities, predictions, orders, strict=True)
        ]

    def answer_values(self, answer: Any) -> Json:
        """Return the predicted class (the median), its probability, and the probabilities in the order of the
        classes."""
        # `answers` lists the predicted class first, which need not be the most probable one.
        prediction = next(iter(answer))
        by_class = {name: answer[name] for name in self.names}
        return {"prediction": prediction, "probability": answer[prediction], "probabilities": by_class}

    def label_words(self, example: Example) -> str:
        return self.names[self.ranks[int(example["label"])]]


def threshold_losses(logits: Array, label: Array) -> tuple[Array, Array]:
    """Return the binary cross-entropy of each threshold, 0 where the example does not reach it, and whether it reaches
    it: [B, C - 1], [B] -> [B, C - 1], [B, C - 1]."""
    logits = logits.astype(jnp.float32)
    thresholds = jnp.arange(logits.shape[-1], dtype=label.dtype)
    reached, passed = label[:, None] >= thresholds, label[:, None] > thresholds
    values = jnp.where(passed, jax.nn.softplus(-logits), jax.nn.softplus(logits))
    return jnp.where(reached, values, 0.0), reached


def in_numeric_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names that are numbers in ascending order. Raises ValueError for other names.

    >>> in_numeric_order(("1", "10", "2"))
    ('1', '2', '10')
    """
    try:
        return tuple(sorted(names, key=float))
    except ValueError:
        raise ValueError(
            f"the order of the classes {format_names(names)} is not known; list them from the lowest to the highest: "
            "tasks.Ordinal(names=...)"
        ) from None
