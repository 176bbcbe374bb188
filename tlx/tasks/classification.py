"""Classification: every example has exactly one class. Shapes: B batch, C classes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tlx.functional import losses
from tlx.functional.agreement import macro_f1
from tlx.functional.calibration import at_temperature, fit_temperature
from tlx.functional.metrics import STANDARD, Metric, share_metric
from tlx.functional.scores import TOP, Scores, check_labels, softmax
from tlx.models.heads import Neck, Pooled
from tlx.tasks.base import STORED_CLASSES, Batch, Outputs, Statement, Task, check_names, numbered
from tlx.tasks.classes import contradictions, format_names
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.tasks.weighting import ClassWeights, array_of, balanced, check_weights, count_classes
from tlx.trees import Json
from tlx.types import Array, Column

# The metrics of the probabilities at the temperature.
CALIBRATED = ("calibrated_loss", "calibrated_ece")
# Far above any data set, and few enough that a head of that width can be held in memory.
MOST_CLASSES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One class for each example.

    Attributes:
        classes: The number of classes; None takes the number of classes in the data set.
        names: The class names; empty takes those of the data set.
        smoothing: The share of label smoothing (Szegedy et al., 2016).
        class_weights: The weight of the examples of each class. The loss is the sum of weighted losses divided by the
            sum of weights of the whole batch, as in torch's `CrossEntropyLoss(weight)`. "balanced" gives every class of
            the training examples the same total weight.
        focal: The exponent of the focal loss (Lin et al., 2017): an example of probability p of its class weighs
            (1 - p)^focal. None is the cross-entropy.
        calibrate: Whether a temperature is fitted to the validation split at the end of a run (Guo et al., 2017). It
            divides the logits of every later prediction; metrics of it are measured beside the others.
        temperature: The temperature; None leaves the logits unchanged.
        extra_metrics: The user's own metrics.
        neck: A hidden layer between the features and the classifier; None for none.
    """

    classes: int | None = None
    names: tuple[str, ...] = ()
    smoothing: float = 0.0
    class_weights: ClassWeights = ()
    focal: float | None = None
    calibrate: bool = False
    temperature: float | None = None
    extra_metrics: tuple[ExtraMetric, ...] = ()
    neck: Neck | None = None

    metrics: ClassVar[Mapping[str, Metric]] = {
        "accuracy": STANDARD["accuracy"],
        "macro_f1": share_metric(macro_f1, "macro F1"),
        **{name: STANDARD[name] for name in ("loss", "ece", "balanced_accuracy")},
        # Where each example has one class, micro F1 is the accuracy.
        "micro_f1": share_metric(words="micro F1", mean_of="correct", main=False),
        **{
            name: STANDARD[name]
            for name in ("weighted_f1", "mcc", "kappa", "auroc", "average_precision", "top5", "brier", *CALIBRATED)
        },
    }
    kept: ClassVar[tuple[str, ...]] = ("temperature", "neck")
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
        check_weights(self.class_weights, self.classes)
        check_extra(self.extra_metrics, self.metrics)
        if self.focal is not None and not 0 <= self.focal < float("inf"):
            raise ValueError(f"focal is {self.focal}; expected an exponent of 0 or more, such as 2.0")
        if self.focal is not None and self.smoothing:
            raise ValueError(
                f"focal is {self.focal} and smoothing is {self.smoothing}; set only one of them: the focal loss is "
                "defined for one true class"
            )
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; expected a number above 0")
        if self.calibrate and self.classes is not None and self.classes > STORED_CLASSES:
            raise ValueError(
                f"calibrate=True needs the logits, which are stored for at most {STORED_CLASSES} classes; the task has "
                f"{self.classes}"
            )

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task with classes and names filled in from the data.

        The names of the data are in the order of its labels. The names of the task rename the classes.

        Raises:
            ValueError: The data have more classes than the task, or the task uses a name of the data for another class.
        """
        label = columns["label"]
        if label.kind != "class":
            task_names = {
                "number": "Regression",
                "numbers": "Regression",
                "classes": "MultiLabel",
                "text": "TextToText",
            }
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

    def fitted(self, labels: Iterable[Any]) -> Self:
        """Return the task with balanced weights of the classes, if it asks for them."""
        if self.class_weights != "balanced":
            return self
        return replace(self, class_weights=balanced(count_classes(list(labels), self.classes or 0)))

    def calibrated(self, scores: Scores) -> Self:
        """Return the task with the temperature that fits the validation split best, if it asks for one."""
        if not self.calibrate:
            return self
        return replace(self, temperature=fit_temperature(scores["logits"], scores["label"]))

    def calibrated_scores(self, scores: Scores) -> dict[str, np.ndarray]:
        if self.temperature is None:
            return {}
        return at_temperature(scores["logits"], scores["label"], self.temperature)

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
        return Pooled(self.classes, self.neck)

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        if self.focal is None:
            values = losses.cross_entropy(outputs["logits"], batch["label"], self.smoothing)
        else:
            values = losses.focal(outputs["logits"], batch["label"], self.focal)
        if not self.class_weights:
            return values, jnp.ones_like(values)
        weights = array_of(self.class_weights)[batch["label"]]
        return weights * values, weights

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `label`, `prediction`, `correct`, `confidence`, `loss` (the cross-entropy) and `brier`, each [B].

        `top5` [B] is added for more than five classes, `logits` [B, C] for at most `STORED_CLASSES` classes, and
        `calibrated_confidence` and `calibrated_loss` [B] for a task with a temperature.
        """
        logits, label = outputs["logits"].astype(jnp.float32), batch["label"]
        prediction = logits.argmax(-1).astype(jnp.int32)
        classes, p = logits.shape[-1], jax.nn.softmax(logits, -1)
        scores = {
            "label": label,
            "prediction": prediction,
            "correct": prediction == label,
            "confidence": p.max(-1),
            "loss": losses.cross_entropy(logits, label),
            "brier": losses.brier(p, label),
        }
        if classes > TOP:
            scores["top5"] = losses.among_top(logits, label, TOP)
        if self.temperature is not None:
            cooled = logits / self.temperature
            scores["calibrated_confidence"] = jax.nn.softmax(cooled, -1).max(-1)
            scores["calibrated_loss"] = losses.cross_entropy(cooled, label)
        return scores | ({"logits": logits} if classes <= STORED_CLASSES else {})

    def applies(self, name: str) -> bool:
        """Return whether a metric applies: top-5 accuracy needs more than five classes, the metrics of ranking need
        the logits, which are stored for at most `STORED_CLASSES` classes, and those of calibration a temperature."""
        if name in CALIBRATED:
            return self.temperature is not None
        if self.classes is None:
            return True
        if name == "top5":
            return self.classes > TOP
        return name not in ("auroc", "average_precision") or self.classes <= STORED_CLASSES

    def summarise(self, scores: Scores) -> dict[str, float]:
        """Compute the metrics. Raises ValueError for a label outside the classes."""
        check_labels(scores["label"], self.classes or int(scores["prediction"].max()) + 1)
        return super().summarise(scores)

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return a dict for each example: probabilities by class name, the most probable class first."""
        logits = np.asarray(outputs["logits"]) / (self.temperature or 1.0)
        probabilities, order = softmax(logits), np.argsort(-logits, axis=-1, kind="stable")
        return [
            {self.names[c]: float(row[c]) for c in places} for row, places in zip(probabilities, order, strict=True)
        ]
