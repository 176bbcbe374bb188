"""Compute 95 % intervals for numbers that are measured on a sample of examples.

Shapes: N examples, R resamples.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx.functional import resampling
from tlx.functional.metrics import Metric, find_metric

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
    from scipy.stats import bootstrap as resample

    interval = resample(
        (values,), lambda sample, axis=-1: sample.mean(axis), paired=True, vectorized=True, n_resamples=resamples,
        confidence_level=LEVEL, batch=max(1, 2_000_000 // len(values)), method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    return Interval(float(interval.low), float(interval.high), f"bootstrap, {resamples:,} resamples")


def declared(task: "Task", name: str) -> Metric:
    """Return the declaration of a metric of a run, which an earlier version may have measured under another name."""
    return task.measures[name] if name in task.measures else find_metric(name)


def measure(name: str, predictions: Any, task: "Task") -> Interval | None:
    """Compute the interval of a task's metric over the examples of a split.

    Returns:
        The interval. None for one example, for a metric that resampling biases, for a metric that cannot be computed
        from the kept scores or is not defined in most resamples, if resampling takes too long (see
        `tlx.functional.resampling`), and if all examples score alike, because resampling them shows no uncertainty.
    """
    metric, scores = declared(task, name), predictions.scores
    values = scores.get(metric.mean_of)
    if values is not None and values.ndim > 1:
        values = values.reshape(len(values), -1).mean(-1, dtype=np.float64)
    if values is not None and values.dtype.kind == "b":
        return wilson(int(values.sum()), len(values))
    if len(predictions) < 2 or not metric.interval:
        return None
    if values is not None:
        return unless_constant(bootstrap(values.astype(np.float64)))
    if metric.value is not None:
        return percentiles(resampling.replicates(metric.value, scores, len(predictions)))

    def statistic(rows: np.ndarray) -> float:
        return predictions.rows(rows).metrics(task, [name])[name]

    try:
        statistic(np.arange(len(predictions)))
    except Exception:
        # The task of a run that was read from its files alone, or code of the user that fails on kept scores.
        return None
    return percentiles(resampling.called(statistic, len(predictions)))


def over_parts(name: str, parts: Sequence[Any], task: "Task") -> Interval | None:
    """Return the interval of a metric on the predictions of one part, or of its average over several (see
    `tlx.records.members.measured_on`)."""
    return measure(name, parts[0], task) if len(parts) == 1 else average(name, parts, task)


def average(name: str, parts: Sequence[Any], task: "Task", resamples: int = 2000) -> Interval | None:
    """Compute the interval of the unweighted average of a task's metric over the members of a mixture: the percentile
    bootstrap, which resamples the examples of each member (the strata of Efron and Tibshirani, 1993).

    Returns:
        The interval. None where the metric is no mean over examples, or all examples of each member score alike.
    """
    metric = declared(task, name)
    if not all(metric.mean_of in part.scores for part in parts):
        return None
    random, means = np.random.default_rng(0), np.zeros(resamples)
    for part in parts:
        values = np.asarray(part.scores[metric.mean_of], np.float64).reshape(len(part), -1).mean(-1)
        for start in range(0, resamples, step := max(1, 2_000_000 // len(values))):
            drawn = random.integers(0, len(values), (min(step, resamples - start), len(values)))
            means[start : start + step] += values[drawn].mean(-1) / len(parts)
    return percentiles(means)


def percentiles(replicates: np.ndarray | None) -> Interval | None:
    """Return the percentile interval of the values of resamples; None if there are none, or if most of them are nan.

    >>> percentiles(np.array([0.0, 1.0, np.nan])).method
    'bootstrap, 3 resamples, not defined in 1 of them'
    """
    if replicates is None or (defined := replicates[~np.isnan(replicates)]).size <= len(replicates) / 2:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    method = f"bootstrap, {len(replicates):,} resamples"
    if missing := len(replicates) - len(defined):
        method += f", not defined in {missing:,} of them"
    return unless_constant(Interval(float(low), float(high), method))


def unless_constant(interval: Interval) -> Interval | None:
    """Return the interval; None if it has no width."""
    return None if interval.low == interval.high else interval
