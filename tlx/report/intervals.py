"""How far a number measured on a sample of examples may lie from that of all of them: 95 % intervals."""

from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """From `low` to `high`, and the `method` in words."""

    low: float
    high: float
    method: str


def wilson(hits: int, count: int) -> Interval:
    """The score interval of a share (Wilson, 1927).

    >>> interval = wilson(0, 10)
    >>> round(interval.low, 4), round(interval.high, 4)
    (0.0, 0.2775)
    """
    from scipy.stats import binomtest

    found = binomtest(hits, count).proportion_ci(LEVEL, method="wilson")
    return Interval(max(0.0, float(found.low)), min(1.0, float(found.high)), "Wilson")


def bootstrap(values: np.ndarray, resamples: int = 2000) -> Interval:
    """The percentile bootstrap of a mean (Efron, 1979), seeded: the same records give the same page."""
    from scipy.stats import bootstrap as resample

    batch = max(1, 2_000_000 // len(values))
    found = resample(
        (values,), np.mean, confidence_level=LEVEL, n_resamples=resamples, batch=batch, method="percentile", rng=0
    ).confidence_interval
    return Interval(float(found.low), float(found.high), f"bootstrap, {resamples:,} resamples")


def bootstrap_r2(targets: np.ndarray, predictions: np.ndarray, resamples: int = 2000) -> Interval:
    """The percentile bootstrap of R2 over pairs of target and prediction, [N] or [N, K] both; seeded."""
    pairs = [array.reshape(len(array), -1).astype(np.float64) for array in (targets, predictions)]
    rng, found = np.random.default_rng(0), []
    for _ in range(resamples):
        t, p = (array[chosen] for chosen in [rng.integers(0, len(targets), len(targets))] for array in pairs)
        total = ((t - t.mean(0)) ** 2).sum()
        found.append(1 - ((t - p) ** 2).sum() / total if total else 0.0)
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), f"bootstrap, {resamples:,} resamples")


def measure(name: str, predictions: Any, task: Any) -> Interval | None:
    """The interval of the metric `name` over the examples of a split; None for what is not a mean over examples."""
    logits, labels, _ = predictions
    if name == "accuracy":
        return wilson(int((logits.argmax(-1) == labels).sum()), len(labels))
    if len(labels) < 2:
        return None
    if name in ("loss", "mse"):
        return bootstrap(task.losses(logits, labels))
    if name == "mae":
        return bootstrap(np.abs(logits.astype(np.float64) - labels.reshape(logits.shape)).mean(-1))
    return None
