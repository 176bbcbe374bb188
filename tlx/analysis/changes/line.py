"""Measure the loss on the straight line from the initial weights to the fine-tuned weights."""

from typing import Any

import jax
import jax.numpy as jnp

from tlx import models
from tlx.analysis.changes.weights import Progress
from tlx.records.run_directory import Predictions
from tlx.report.intervals import measure
from tlx.tasks import parted
from tlx.training.evaluate import passes, scored
from tlx.training.reopen import Batches, Reopened
from tlx.types import ArrayMap, Variables
from tlx.weights import blend

POINTS = 11


def path(
    opened: Reopened, batches: Batches, points: int = POINTS, report_progress: Progress = lambda done, total: None
) -> list[dict[str, Any]]:
    """Return a row per point: `share`, the loss and the task's primary metric, each with the `low` and `high` of its 95
    % interval.

    `share` is the interpolation weight: 0 = initial weights, 1 = fine-tuned weights. Statistics of batch norm are
    interpolated too. One program per batch shape serves all points, because the share is an array.
    """
    model, task, dtype = opened.ready.model, opened.ready.task, opened.ready.recipe.train.dtype

    @jax.jit
    def score(before: Variables, after: Variables, share: Any, batch: ArrayMap) -> Any:
        inputs, labels = parted(task, batch)
        outputs, _ = models.forward(model, blend.interpolate(before, after, share), inputs, dtype=dtype)
        return task.score(outputs, labels)

    before, after = jax.device_put((opened.before, opened.after))
    rows = []
    for number in range(points):
        share = number / (points - 1)

        def compute(batch: ArrayMap, at: Any = jnp.float32(share)) -> dict[str, Any]:
            return score(before, after, at, batch)

        scores = passes(batches, compute, scored)
        outcome = Predictions(scores, scores.pop("index"))
        row: dict[str, Any] = {"share": share}
        for name, value in outcome.metrics(task, names(task)).items():
            interval = measure(name, outcome, task)
            row[name] = {"value": value}
            row[name] |= {"low": interval.low, "high": interval.high} if interval else {}
        rows.append(row)
        report_progress(number + 1, points)
    return rows


def names(task: Any) -> tuple[str, ...]:
    """Return the metric that is the mean of the task's loss, and its primary metric if that is another."""
    losses = [name for name, metric in task.measures.items() if metric.mean_of == "loss" or name == "loss"]
    return tuple(dict.fromkeys((*losses[:1], task.primary)))
