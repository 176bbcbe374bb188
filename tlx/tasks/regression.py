"""Regression: real numbers for each example. Shapes: B batch, K outputs."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.functional import losses
from tlx.functional.metrics import STANDARD, Metric
from tlx.models.heads import Neck, Pooled
from tlx.tasks.base import Batch, Outputs, Statement, Task, numbered
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.trees import Json
from tlx.types import Array, Column, Field


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """`outputs` real numbers for each example, with the squared error.

    Attributes:
        outputs: The number of numbers, K.
        standardise: Whether the model learns (label - mean) / deviation of each output, so that outputs of different
            sizes count equally in the loss. Scores, metrics and predictions are in the units of the labels. None
            standardises if there are several outputs.
        mean: The mean of each output, [K]; None takes that of the training examples.
        deviation: The standard deviation of each output, [K]; None takes that of the training examples, or 1 for an
            output that does not vary there.
        extra_metrics: The user's own metrics.
        neck: A hidden layer between the features and the classifier; None for none.
    """

    outputs: int = 1
    standardise: bool | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    extra_metrics: tuple[ExtraMetric, ...] = ()
    neck: Neck | None = None

    metrics: ClassVar[Mapping[str, Metric]] = {
        name: STANDARD[name] for name in ("mse", "mae", "r2", "pearson", "rmse", "spearman")
    }
    problem: ClassVar[str] = "regression"
    kept: ClassVar[tuple[str, ...]] = ("standardise", "mean", "deviation", "neck")

    def __post_init__(self) -> None:
        check_extra(self.extra_metrics, self.metrics)
        if self.outputs < 1:
            raise ValueError(f"outputs is {self.outputs}; expected 1 or more")
        for name in ("mean", "deviation"):
            values = getattr(self, name)
            if values is not None and (len(values) != self.outputs or not np.isfinite(values).all()):
                raise ValueError(f"{name} is {values}; expected {self.outputs} finite numbers, one for each output")
        if self.deviation is not None and min(self.deviation) <= 0:
            raise ValueError(f"deviation is {self.deviation}; expected numbers above 0")
        if (self.mean is None) != (self.deviation is None):
            raise ValueError(f"mean is {self.mean} and deviation is {self.deviation}; set both or neither")
        if self.mean is not None and not self.standardised:
            raise ValueError(f"mean is {self.mean}, but the labels are not standardised; set standardise=True")

    @property
    def standardised(self) -> bool:
        """Return whether the model learns standardised labels."""
        return self.outputs > 1 if self.standardise is None else self.standardise

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task unchanged. Raises ValueError for data with classes."""
        if names := columns["label"].classes:
            raise ValueError(f"the data set has classes ({', '.join(names[:3])}, ...); use tasks.Classification")
        return self

    def fitted(self, labels: Iterable[Any]) -> Self:
        """Return the task with the mean and the deviation of the training labels, if it standardises them.

        Raises:
            ValueError: A label has another number of numbers than the task has outputs.
        """
        rows, estimate = [], self.standardised and self.mean is None
        for number, label in enumerate(labels):
            row = np.atleast_1d(np.asarray(label, np.float64))
            if row.shape != (self.outputs,):
                raise ValueError(
                    f"the label of training example {number} has {row.size} number{'s' * (row.size > 1)}, but the task "
                    f"has outputs={self.outputs}; use tasks.Regression(outputs={row.size}), or correct the data"
                )
            if not estimate:
                return self
            rows.append(row)
        if not rows:
            return self
        mean, deviation = np.mean(rows, 0), np.std(rows, 0)
        # The deviation of equal numbers is rounding.
        deviation = np.where(deviation > 1e-12 * np.abs(rows).max(0), deviation, 1.0)
        return replace(self, standardise=True, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    def of_early_run(self, written: Collection[str] = ()) -> Self:
        """Return the task without standardised labels, which early versions did not have."""
        if "standardise" in written or self.outputs == 1:
            return self
        return replace(self, standardise=False, mean=None, deviation=None)

    @classmethod
    def stated(cls, statement: Statement) -> Self | None:
        is_regression = statement.problem == cls.problem or (statement.outputs == 1 and statement.problem is None)
        if statement.head is not Pooled or not is_regression:
            return None
        # The outputs of a checkpoint are in the units of its labels, unless its kept fields say otherwise.
        return cls(outputs=statement.outputs, standardise=False if statement.outputs > 1 else None)

    def config_document(self) -> Json:
        return numbered([f"LABEL_{n}" for n in range(self.outputs)]) | {"problem_type": self.problem}

    def head(self) -> Pooled:
        return Pooled(self.outputs, self.neck)

    def fields(self) -> Mapping[str, Field]:
        return {"label": Field(() if self.outputs == 1 else (self.outputs,), "float32")}

    def label_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return the mean and the deviation of the training labels, if the model learns standardised labels."""
        return self.scales if self.standardised else None

    @property
    def scales(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the mean and the deviation of the labels, [K] each. Raises ValueError if they are not known yet."""
        if self.mean is None or self.deviation is None:
            raise ValueError("the mean of the labels is not known yet; prepare the task with the training data")
        return self.mean, self.deviation

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the squared error of each example, averaged over the outputs, and weights of 1, both [B]."""
        label = batch["label"]
        if self.standardised:
            mean, deviation = map(stacked, self.scales)
            label = (label.reshape(-1, self.outputs) - mean) / deviation
        values = losses.squared_error(outputs["logits"], label)
        return values, jnp.ones_like(values)

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `label`, `prediction` and `logits` [B, K]; squared error `loss` and `absolute_error` [B].

        All are in the units of the labels, except `logits`, which the model computes.
        """
        logits = prediction = outputs["logits"].astype(jnp.float32)
        if self.standardised:
            mean, deviation = map(stacked, self.scales)
            prediction = logits * deviation + mean
        label = batch["label"].reshape(prediction.shape)
        return {
            "label": label,
            "prediction": prediction,
            "logits": logits,
            "loss": losses.squared_error(prediction, label),
            "absolute_error": jnp.abs(prediction - label).mean(-1),
        }

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return a dict of numbers for each example, by the name of the output, in the units of the labels."""
        rows = np.asarray(outputs["logits"])
        if self.standardised:
            mean, deviation = (np.asarray(side, np.float32) for side in self.scales)
            rows = rows * deviation + mean
        return [{f"output {n}": float(value) for n, value in enumerate(row)} for row in rows]

    def answer_values(self, answer: Any) -> Json:
        """Return the number, or the numbers by the name of their output where there are several."""
        numbers = dict(answer)
        return {"prediction": numbers if self.outputs > 1 else next(iter(numbers.values()))}


def stacked(numbers: tuple[float, ...]) -> Array:
    """Return numbers, which may be traced, as float32[K]."""
    return jnp.stack([jnp.float32(number) for number in numbers])
