"""Compute 95 % intervals for numbers that are measured on a sample of examples.

Shapes: N examples, R resamples.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx.functional.metrics import SUMS, Scores

# A list of runs is made without JAX.
if TYPE_CHECKING:
    from tlx.tasks import Task

LEVEL = 0.95


class Interval(NamedTuple):
    """An interval from `low` to `high`, with its `method` in words."""

    low: float
    high: float
    method: str


def wilson(hits: int, count: int) -> Interval:
    """Compute the score interval of a share (Wilson, 1927).

    >>> interval = wilson(0, 10)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.0, 0.2775)
    """
    from scipy.stats import binomtest

    # The interval does not depend on the tested share; at this one the test itself takes no time.
    interval = binomtest(hits, count, hits / count).proportion_ci(LEVEL, method="wilson")
    return Interval(max(0.0, float(interval.low)), min(1.0, float(interval.high)), "Wilson")


def bootstrap(values: np.ndarray, resamples: int = 2000) -> Interval:
    """Compute the percentile bootstrap of a mean (Efron, 1979), with a fixed seed: the same records result in the
    same page."""
    return resampled(lambda sample, axis=-1: sample.mean(axis), values, resamples=resamples, vectorized=True)


def resampled(statistic: Any, *columns: np.ndarray, resamples: int = 2000, vectorized: bool = False) -> Interval:
    """Compute the percentile bootstrap of `statistic(*columns)` over examples, which are resampled with all their
    columns."""
    from scipy.stats import bootstrap as resample

    interval = resample(
        columns, statistic, paired=True, vectorized=vectorized, n_resamples=resamples, confidence_level=LEVEL,
        batch=max(1, 2_000_000 // len(columns[0])), method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    return Interval(float(interval.low), float(interval.high), f"bootstrap, {resamples:,} resamples")


def measure(name: str, predictions: Any, task: "Task") -> Interval | None:
    """Compute the interval of a task's metric over the examples of a split.

    Returns:
        The interval. None for one example, for a metric that resampling biases, for a metric that cannot be computed
        from the kept
        scores, and if all examples score alike, because resampling them shows no uncertainty.
    """
    metric, scores = task.metric(name), predictions.scores
    values = scores.get(metric.mean_of)
    if values is not None and values.ndim > 1:
        values = values.reshape(len(values), -1).mean(-1, dtype=np.float64)
    if values is not None and values.dtype.kind == "b":
        return wilson(int(values.sum()), len(values))
    if len(predictions) < 2 or not metric.interval:
        return None
    if values is not None:
        return unless_constant(bootstrap(values.astype(np.float64)))
    places = np.arange(len(predictions))
    if metric.value is not None:
        arrays = {key: array for key, array in scores.items() if key != "logits"}
        value = metric.value
        if value in SUMS and all(key in arrays for key in SUMS[value]):
            summed = {key: arrays[key] for key in SUMS[value]}
            return unless_constant(resampled(partial(values_of_sums, value, summed), places, vectorized=True))
        return unless_constant(
            resampled(lambda rows: value({key: array[rows] for key, array in arrays.items()}), places)
        )
    try:
        return unless_constant(resampled(lambda rows: predictions.rows(rows).metrics(task)[name], places))
    except ValueError:
        # The task of a run that was read from its files alone.
        return None


def values_of_sums(
    value: Callable[[Scores], float], scores: Mapping[str, np.ndarray], rows: np.ndarray, axis: int = -1
) -> np.ndarray:
    """Return float64[R], the values of a metric that reads only sums over the examples, without a copy of the scores
    for each resample.

    Args:
        value: The metric, a function in `SUMS`.
        scores: The scores [N, ...] that it reads.
        rows: The examples of each resample, int[R, N].
        axis: The axis of the examples, always the last.
    """
    rows = rows.reshape(-1, rows.shape[axis])
    counts = np.stack([np.bincount(row, minlength=rows.shape[1]) for row in rows]).astype(np.float64)
    sums = {name: np.tensordot(counts, array.astype(np.float64), 1) for name, array in scores.items()}
    return np.array([value({name: array[n : n + 1] for name, array in sums.items()}) for n in range(len(rows))])


def unless_constant(interval: Interval) -> Interval | None:
    """Return the interval; None if it has no width."""
    return None if interval.low == interval.high else interval
