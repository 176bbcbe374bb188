"""Calibration of probabilities: bins of confidence, the expected calibration error, and temperature scaling.

Shapes: N examples, C classes.
"""

import numpy as np

from tlx.functional.scores import Scores, negative_log_likelihood, softmax

BINS = 15
# Beyond these temperatures all probabilities are 0 and 1, or all are equal.
COLDEST, HOTTEST = 1e-2, 1e2


def calibration_bins(scores: Scores, confidence: str = "confidence") -> np.ndarray:
    """Sum the examples in 15 bins of equal width of the confidence.

    Args:
        scores: The confidences [N] and `correct` [N].
        confidence: The name of the confidences.

    Returns:
        [15, 3]: by bin, the number of examples, the sum of confidences and the number of correct examples.
    """
    confidences, correct = (np.asarray(scores[name], np.float64) for name in (confidence, "correct"))
    bins = np.zeros((BINS, 3))
    bin_index = np.minimum((confidences * BINS).astype(int), BINS - 1)
    np.add.at(bins, bin_index, np.stack([np.ones_like(confidences), confidences, correct], -1))
    return bins


def calibration_error(scores: Scores, confidence: str = "confidence") -> float:
    """Compute the expected calibration error in fifteen bins of equal width (Guo et al., 2017)."""
    bins = calibration_bins(scores, confidence)
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / bins[:, 0].sum())


def calibrated_error(scores: Scores) -> float:
    """Compute the expected calibration error of the `calibrated_confidence` [N]."""
    return calibration_error(scores, "calibrated_confidence")


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Compute the T that minimises the mean of -log softmax(logits / T)_label (Guo et al., 2017, section 4.2).

    In 1 / T this mean is convex, so the minimum within [0.01, 100] is found by a bounded search over log T.

    Args:
        logits: [N, C].
        labels: [N].

    Raises:
        ValueError: There are no examples, or a logit is not a finite number.
    """
    from scipy.optimize import minimize_scalar

    if not len(logits) or not np.isfinite(logits).all():
        raise ValueError(f"received {len(logits)} rows of logits; expected at least one, of finite numbers")
    wide = logits.astype(np.float64)

    def loss(log_t: float) -> float:
        return float(negative_log_likelihood(wide / np.exp(log_t), labels).mean())

    ends = (float(np.log(COLDEST)), float(np.log(HOTTEST)))
    search = minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-8})
    return float(np.exp(search.x))


def at_temperature(logits: np.ndarray, labels: np.ndarray, temperature: float) -> dict[str, np.ndarray]:
    """Return `calibrated_confidence` and `calibrated_loss` [N]: the largest probability and the cross-entropy of
    softmax(logits / temperature), for `logits` [N, C], and `labels` [N]."""
    scaled = logits.astype(np.float64) / temperature
    return {
        "calibrated_confidence": softmax(scaled).max(-1).astype(np.float32),
        "calibrated_loss": negative_log_likelihood(scaled, labels).astype(np.float32),
    }
