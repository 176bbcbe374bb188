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
    return resampled(lambda drawn, axis=-1: drawn.mean(axis), values, resamples=resamples, vectorized=True)


def resampled(statistic: Any, *columns: np.ndarray, resamples: int = 2000, vectorized: bool = False) -> Interval:
    """The percentile bootstrap of `statistic(*columns)` over examples, which are drawn with all their columns."""
    from scipy.stats import bootstrap as resample

    found = resample(
        columns, statistic, paired=True, vectorized=vectorized, n_resamples=resamples, confidence_level=LEVEL,
        batch=max(1, 2_000_000 // len(columns[0])), method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    return Interval(float(found.low), float(found.high), f"bootstrap, {resamples:,} resamples")


def macro_f1(labels: np.ndarray, guesses: np.ndarray) -> float:
    """The mean of F1 over the classes that occur or are guessed, as in `metrics.summarise_classification`."""
    classes = max(labels.max(), guesses.max()) + 1
    hits = np.bincount(labels[labels == guesses], minlength=classes)
    support = np.bincount(labels, minlength=classes) + np.bincount(guesses, minlength=classes)
    present = support > 0
    return float((2 * hits[present] / support[present]).mean())


def measure(name: str, predictions: Any, task: Any) -> Interval | None:
    """The interval of the metric `name` over the examples of a split; None where there is none to give: of one example,
    and of the calibration error, which resampling inflates."""
    logits, labels, _ = predictions
    if name == "accuracy":
        return wilson(int((logits.argmax(-1) == labels).sum()), len(labels))
    if len(labels) < 2:
        return None
    if name in ("loss", "mse"):
        return bootstrap(task.losses(logits, labels))
    if name == "mae":
        return bootstrap(np.abs(logits.astype(np.float64) - labels.reshape(logits.shape)).mean(-1))
    if name == "f1":
        return resampled(macro_f1, labels.astype(np.int64), logits.argmax(-1))
    if name in ("r2", "pearson"):
        rows = np.arange(len(labels))
        return resampled(lambda drawn: task.summarise(task.measure(logits[drawn], labels[drawn]))[name], rows)
    return None
