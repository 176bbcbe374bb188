"""Regression: real numbers for each example. Shapes: B batch, K outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.functional import losses
from tlx.functional.metrics import STANDARD, Metric
from tlx.models.heads import Pooled
from tlx.tasks.base import Batch, Outputs, Statement, Task, numbered
from tlx.trees import Json
from tlx.types import Array, Column, Field


@dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """`outputs` real numbers for each example, with the squared error."""

    outputs: int = 1

    metrics: ClassVar[Mapping[str, Metric]] = {name: STANDARD[name] for name in ("mse", "mae", "r2", "pearson")}
    problem: ClassVar[str] = "regression"

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task unchanged. Raises ValueError for data with classes."""
        if names := columns["label"].classes:
            raise ValueError(f"the data set has classes ({', '.join(names[:3])}, ...); use tasks.Classification")
        kind = columns["label"].kind
        if kind == "numbers" and self.outputs == 1:
            raise ValueError("the label contains several numbers; use tasks.Regression(outputs=K) with K above 1")
        return self

    @classmethod
    def stated(cls, statement: Statement) -> Self | None:
        is_regression = statement.problem == cls.problem or (statement.outputs == 1 and statement.problem is None)
        return cls(outputs=statement.outputs) if statement.head is Pooled and is_regression else None

    def config_document(self) -> Json:
        return numbered([f"LABEL_{n}" for n in range(self.outputs)]) | {"problem_type": self.problem}

    def head(self) -> Pooled:
        return Pooled(self.outputs)

    def fields(self) -> Mapping[str, Field]:
        return {"label": Field(() if self.outputs == 1 else (self.outputs,), "float32")}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        values = losses.squared_error(outputs["logits"], batch["label"])
        return values, jnp.ones_like(values)

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `label`, `prediction` and `logits` (equal to `prediction`) [B, K]; squared error `loss` and
        `absolute_error` [B]."""
        prediction = outputs["logits"].astype(jnp.float32)
        label = batch["label"].reshape(prediction.shape)
        return {
            "label": label,
            "prediction": prediction,
            "logits": prediction,
            "loss": losses.squared_error(prediction, label),
            "absolute_error": jnp.abs(prediction - label).mean(-1),
        }

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return a dict of numbers for each example, by the name of the output."""
        return [{f"output {n}": float(value) for n, value in enumerate(row)} for row in np.asarray(outputs["logits"])]

    def answer_values(self, answer: Any) -> Json:
        """Return the number, or the numbers by the name of their output where there are several."""
        numbers = dict(answer)
        return {"prediction": numbers if self.outputs > 1 else next(iter(numbers.values()))}
