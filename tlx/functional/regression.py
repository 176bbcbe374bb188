"""Metrics of real numbers: errors and correlations. Values are from scikit-learn and scipy where these have them.

Shapes: N examples, K outputs.
"""

import numpy as np

from tlx.functional.scores import Scores


def columns_of(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return `label` and `prediction` as float64[N, K]."""
    labels, predictions = (
        np.asarray(scores[name], np.float64).reshape(len(scores[name]), -1) for name in ("label", "prediction")
    )
    return labels, predictions


def deviations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [K] of `x` [N, K] and the deviations [N, K] from it. Those of a constant are exactly 0."""
    shifted = x - x[:1]
    mean = shifted.mean(0)
    return x[0] + mean, shifted - mean


def rmse(scores: Scores) -> float:
    """Compute the square root of the mean squared error of `label` and `prediction` [N, K], averaged over outputs."""
    from sklearn.metrics import root_mean_squared_error

    labels, predictions = columns_of(scores)
    if not np.isfinite(predictions).all():
        return float("nan")
    return float(root_mean_squared_error(labels, predictions))


def r_squared(scores: Scores) -> float:
    """Compute 1 - residual / total variance of `label` and `prediction` [N, K]; nan where the labels do not vary.

    The variances of several outputs, each about the mean of its output, are summed before the division. The differences
    between the means of the outputs thus do not count as variance.
    """
    labels, predictions = columns_of(scores)
    total = float((deviations(labels)[1] ** 2).sum())
    return float(1 - ((predictions - labels) ** 2).sum() / total) if total else float("nan")


def pearson(scores: Scores) -> float:
    """Compute the correlation of `label` and `prediction` [N, K]; nan where either does not vary."""
    labels, predictions = (deviations(side)[1] for side in columns_of(scores))
    spread = np.sqrt((labels**2).sum()) * np.sqrt((predictions**2).sum())
    return float(np.clip((labels * predictions).sum() / spread, -1, 1)) if spread else float("nan")


def spearman(scores: Scores) -> float:
    """Compute the correlation of the ranks of `label` and `prediction` [N, K] (Spearman, 1904), averaged over outputs.

    An output whose labels or predictions do not vary has none and is left out; nan where no output is left.
    """
    from scipy import stats

    pairs = zip(*(side.T for side in columns_of(scores)), strict=True)
    values = [stats.spearmanr(x, y).statistic for x, y in pairs if np.ptp(x) and np.ptp(y)]
    return float(np.mean(values)) if values else float("nan")
