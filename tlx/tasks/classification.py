"""Classification: every example has exactly one class. Shapes: B batch, C classes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tlx.functional import losses
from tlx.functional.metrics import STANDARD, Metric, Scores, check_labels, softmax
from tlx.models.heads import Pooled
from tlx.tasks.base import Batch, Outputs, Statement, Task, check_names, numbered
from tlx.tasks.classes import contradictions, format_names
from tlx.trees import Json
from tlx.types import Array, Column

# Far above any data set, and few enough that a head of that width can be held in memory.
MOST_CLASSES = 10_000_000
# Logits of more classes are not stored.
STORED_CLASSES = 1000


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One class for each example.

    Attributes:
        classes: The number of classes; None takes the number of classes in the data set.
        names: The class names; empty takes those of the data set.
        smoothing: The share of label smoothing (Szegedy et al., 2016).
        class_weights: The weight of the examples of each class. The loss is the sum of weighted losses divided by the
            sum of weights of the whole batch, as in torch's `CrossEntropyLoss(weight)`.
    """

    classes: int | None = None
    names: tuple[str, ...] = ()
    smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    metrics: ClassVar[Mapping[str, Metric]] = {name: STANDARD[name] for name in ("accuracy", "f1", "loss", "ece")}
    exclusive: ClassVar[bool] = True
    by_class: ClassVar[bool] = True
    problem: ClassVar[str] = "single_label_classification"

    def __post_init__(self) -> None:
        if self.classes is not None and self.classes < 2:
            raise ValueError(f"classes is {self.classes}; expected at least two classes")
        if self.classes is not None and self.classes > MOST_CLASSES:
            raise ValueError(f"classes is {self.classes}; expected at most {MOST_CLASSES:,}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing is {self.smoothing}; expected a share in [0, 1)")
        if self.classes is not None and self.names and len(self.names) != self.classes:
            raise ValueError(f"{len(self.names)} names for {self.classes} classes; expected one name for each class")
        check_names(self.names)
        if self.class_weights and not all(0 < weight < float("inf") for weight in self.class_weights):
            raise ValueError(f"class_weights is {self.class_weights}; expected a number above 0 for each class")
        if self.class_weights and self.classes is not None and len(self.class_weights) != self.classes:
            raise ValueError(
                f"{len(self.class_weights)} class_weights for {self.classes} classes; expected one weight for each "
                "class"
            )

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task with classes and names filled in from the data.

        The names of the data are in the order of its labels. The names of the task rename the classes.

        Raises:
            ValueError: The data have more classes than the task, or the task uses a name of the data for another class.
        """
        label = columns["label"]
        if label.kind != "class":
            task_names = {"number": "Regression", "numbers": "Regression", "classes": "MultiLabel"}
            task_name = task_names.get(label.kind, "TokenClassification")
            raise ValueError(f"the labels of the data set are not single classes; use tasks.{task_name}")
        names = label.classes
        classes = self.classes or len(names)
        if len(names) > classes:
            raise ValueError(
                f"labels outside the class range: the data have {len(names)} classes, but the task has {classes}"
            )
        if strange := contradictions(names, self.names):
            raise ValueError(
                f"the task's names {format_names(self.names)} contradict the data's classes {format_names(names)}: "
                f"{strange[0]!r} is another class in the data. List the names in the order of the data's labels, or "
                "remove names"
            )
        names = tuple(names) + tuple(f"class {n}" for n in range(len(names), classes))
        return replace(self, classes=classes, names=self.names or names)

    @classmethod
    def stated(cls, statement: Statement) -> Self | None:
        if statement.head is not Pooled or statement.problem not in (None, cls.problem) or statement.outputs < 2:
            return None
        return cls(classes=statement.outputs, names=statement.classes)

    def config_document(self) -> Json:
        names = self.names or tuple(f"LABEL_{n}" for n in range(self.classes or 0))
        return numbered(names) | {"problem_type": self.problem}

    def head(self) -> Pooled:
        if self.classes is None:
            raise ValueError("the task does not state its number of classes; set tasks.Classification(classes=...)")
        return Pooled(self.classes)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        values = losses.cross_entropy(outputs["logits"], batch["label"], self.smoothing)
        if not self.class_weights:
            return values, jnp.ones_like(values)
        weights = jnp.stack([jnp.float32(weight) for weight in self.class_weights])[batch["label"]]
        return weights * values, weights

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `label`, `prediction`, `correct`, `confidence` and `loss` (without smoothing), each [B].

        `logits` [B, C] are added for at most `STORED_CLASSES` classes.
        """
        logits, label = outputs["logits"].astype(jnp.float32), batch["label"]
        prediction = logits.argmax(-1).astype(jnp.int32)
        scores = {
            "label": label,
            "prediction": prediction,
            "correct": prediction == label,
            "confidence": jax.nn.softmax(logits, -1).max(-1),
            "loss": losses.cross_entropy(logits, label),
        }
        return scores | ({"logits": logits} if logits.shape[-1] <= STORED_CLASSES else {})

    def summarise(self, scores: Scores) -> dict[str, float]:
        """Compute `accuracy`, `f1` (macro), `loss` and `ece`. Raises ValueError for a label outside the classes."""
        check_labels(scores["label"], self.classes or int(scores["prediction"].max()) + 1)
        return super().summarise(scores)

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return a dict for each example: probabilities by class name, the most probable class first."""
        logits = np.asarray(outputs["logits"])
        probabilities, order = softmax(logits), np.argsort(-logits, axis=-1, kind="stable")
        return [
            {self.names[c]: float(row[c]) for c in places} for row, places in zip(probabilities, order, strict=True)
        ]
