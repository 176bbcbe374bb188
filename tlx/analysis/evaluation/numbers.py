"""Compute the numbers of an evaluation from the scores of its examples: metrics, classes, slices, with intervals.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tlx.analysis.evaluation.slices import Slice
from tlx.records.run_directory import Predictions
from tlx.report.intervals import Interval, measure, unless_constant, wilson
from tlx.tasks import Task
from tlx.tasks.base import ClassTable
from tlx.trees import Json

RESAMPLES = 2000
LEVEL = 0.95


def metric_rows(predictions: Predictions, task: Task, main: bool = False) -> list[Json]:
    """Return each metric with its 95 % interval; with `main` only those that are measured at every validation."""
    rows = []
    for name, value in predictions.metrics(task).items():
        metric = task.metric(name)
        if main and name != task.primary and not getattr(metric, "main", True):
            continue
        interval = None if np.isnan(value) else measure(name, predictions, task)
        rows.append({"name": name, "value": value, "share": metric.points, **ends(interval)})
    return rows


def ends(interval: Interval | None) -> Json:
    """Return an interval as JSON values."""
    if interval is None:
        return {"low": None, "high": None, "method": ""}
    return {"low": interval.low, "high": interval.high, "method": interval.method}


def slice_row(part: Slice, predictions: Predictions, task: Task, overall: Json) -> Json:
    """Return the main metrics of a slice, and whether the interval of the primary one excludes the value of all
    examples: "better", "worse" or ""."""
    rows = metric_rows(predictions.rows(part.places), task, main=True)
    first, verdict = rows[0], ""
    if first["low"] is not None and not first["low"] <= overall["value"] <= first["high"]:
        above = first["low"] > overall["value"]
        verdict = "better" if above == task.higher_is_better else "worse"
    return {
        "column": part.column, "value": part.value, "examples": len(part.places), "metrics": rows, "verdict": verdict
    }  # fmt: skip


def class_rows(predictions: Predictions, task: Task) -> list[Json]:
    """Return precision, recall and F1 of each class with 95 % intervals; None where the denominator is 0.

    The intervals of precision and recall are Wilson's, and that of F1 is a bootstrap over the examples.
    """
    table = outcome_counts(predictions, task)
    if table is None:
        return []
    rows = []
    counts = np.stack([table.tp, table.fp, table.fn], -1).tolist()
    for number, (name, (tp, fp, fn)) in enumerate(zip(table.names, counts, strict=True)):
        exclusive = counts_once(predictions.scores)
        rows.append(
            {
                "name": name,
                "examples": tp + fn,
                "predicted": tp + fp,
                "precision": share(tp, tp + fp),
                "recall": share(tp, tp + fn),
                "f1": {
                    "value": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
                    **ends(f1_interval(tp, fp, fn, len(predictions), number) if exclusive else None),
                },
            }
        )
    return rows


def outcome_counts(predictions: Predictions, task: Task) -> ClassTable | None:
    """Return the numbers of true positives, false positives and false negatives of each class; None where the scores
    are not by class."""
    scores, names = predictions.scores, tuple(task.names or ())
    if (table := task.class_counts(scores)) is not None or not names or "tp" in scores:
        return table
    if (
        not {"label", "prediction"} <= scores.keys()
        or scores["label"].ndim > 1
        or scores["label"].dtype.kind not in "iu"
    ):
        return None
    label, prediction, count = scores["label"], scores["prediction"], len(names)
    hits = np.bincount(label[label == prediction], minlength=count)
    wrong, missed = (np.bincount(side, minlength=count) - hits for side in (prediction, label))
    return ClassTable(names, hits, wrong, missed)


def counts_once(scores: Mapping[str, np.ndarray]) -> bool:
    """Return whether an example counts at most once for a class, as it does not where it has many words."""
    return "tp" not in scores or scores["tp"].dtype.kind == "b"


def share(hits: int, count: int) -> Json:
    """Return a share with its interval; None where there is nothing to divide by."""
    return {"value": hits / count if count else None, **ends(wilson(hits, count) if count else None)}


def f1_interval(tp: int, fp: int, fn: int, examples: int, seed: int) -> Interval | None:
    """Return the percentile bootstrap of F1 over the examples (Efron, 1979).

    Each example has one of four outcomes for a class, so their numbers in a resample are multinomial.
    """
    rest = examples - tp - fp - fn
    if rest < 0 or not tp + fp + fn:
        return None
    draws = np.random.default_rng(seed).multinomial(examples, np.array([tp, fp, fn, rest]) / examples, RESAMPLES)
    hits, wrong = draws[:, 0], draws[:, 1] + draws[:, 2]
    defined = hits + wrong > 0
    values = 2 * hits[defined] / (2 * hits[defined] + wrong[defined])
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return unless_constant(Interval(float(low), float(high), f"bootstrap, {RESAMPLES:,} resamples"))
