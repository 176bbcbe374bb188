"""Sums and counts that merge by addition, and the numbers made of them. NumPy, on the host, in float64.

Shapes: B batch, C classes.
"""

from typing import NamedTuple

import numpy as np

BINS = 15


class ClassificationCounts(NamedTuple):
    """`confusion` [C, C] (row: true class), `bins` [15, 3] of count, confidence, correct; summed `loss`; `total`
    examples."""

    confusion: np.ndarray
    bins: np.ndarray
    loss: float
    total: int


class RegressionSums(NamedTuple):
    """Sums over examples from which error and correlation follow (t target, p prediction)."""

    total: int
    squared: float
    absolute: float
    t: float
    p: float
    tt: float
    pp: float
    tp: float


Counts = ClassificationCounts | RegressionSums


def merge(a: Counts, b: Counts) -> Counts:
    """Counts of two disjoint sets of examples as the counts of their union."""
    if type(a) is not type(b):
        raise TypeError(f"{type(a).__name__} and {type(b).__name__} do not merge")
    return type(a)(*(x + y for x, y in zip(a, b, strict=True)))  # type: ignore[operator]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def count_classification(logits: np.ndarray, labels: np.ndarray) -> ClassificationCounts:
    """Counts over a batch: logits [B, C], labels [B]."""
    classes = logits.shape[-1]
    p = softmax(logits)
    guess, confidence = p.argmax(-1), p.max(-1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, guess), 1)
    bins = np.zeros((BINS, 3))
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    np.add.at(bins, place, np.stack([np.ones_like(confidence), confidence, guess == labels], -1))
    picked = np.maximum(p[np.arange(len(labels)), labels], 1e-300)
    return ClassificationCounts(confusion, bins, float(-np.log(picked).sum()), len(labels))


def summarise_classification(counts: ClassificationCounts) -> dict[str, float]:
    """`accuracy`; `f1` (macro: mean over classes that occur or are predicted); `loss` (mean cross-entropy); `ece`.

    The expected calibration error has fifteen bins of equal width (Guo et al., 2017).
    """
    hits = np.diag(counts.confusion)
    support = counts.confusion.sum(1) + counts.confusion.sum(0)
    present = support > 0
    filled = counts.bins[counts.bins[:, 0] > 0]
    return {
        "accuracy": float(hits.sum() / counts.total),
        "f1": float((2 * hits[present] / support[present]).mean()),
        "loss": counts.loss / counts.total,
        "ece": float(np.abs(filled[:, 1] - filled[:, 2]).sum() / counts.total),
    }


def sum_regression(predictions: np.ndarray, targets: np.ndarray) -> RegressionSums:
    """Sums over a batch: [B, K] or [B] both."""
    p, t = predictions.astype(np.float64).ravel(), targets.astype(np.float64).ravel()
    e = p - t
    sums = (e @ e, np.abs(e).sum(), t.sum(), p.sum(), t @ t, p @ p, t @ p)
    return RegressionSums(len(t), *map(float, sums))


def summarise_regression(sums: RegressionSums) -> dict[str, float]:
    """`mse`, `mae`, `r2` (1 - residual over total variance) and `pearson`; the last two are 0 where undefined."""
    n = sums.total
    t_variance, p_variance = sums.tt / n - (sums.t / n) ** 2, sums.pp / n - (sums.p / n) ** 2
    covariance = sums.tp / n - sums.t * sums.p / n**2
    spread = (max(t_variance, 0.0) * max(p_variance, 0.0)) ** 0.5
    return {
        "mse": float(sums.squared / n),
        "mae": float(sums.absolute / n),
        "r2": float(1 - sums.squared / n / t_variance) if t_variance > 0 else 0.0,
        "pearson": float(covariance / spread) if spread > 0 else 0.0,
    }
