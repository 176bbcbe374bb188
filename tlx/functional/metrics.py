"""Metrics from per-example scores, and similarities of features. NumPy, on the host, in float64.

Shapes: N examples, C classes, K outputs, V and W widths of features.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from tlx.trees import Json

BINS = 15
Scores = Mapping[str, np.ndarray]


class Metric(NamedTuple):
    """One metric that a task declares, with the facts that reports, comparisons and searches need.

    Attributes:
        better: which direction is better.
        low: the lowest possible value.
        high: the highest possible value.
        mean_of: the score whose mean over the examples is the metric.
        value: a function that computes any other metric from the scores. A task that computes its metrics in
            `summarise` needs neither `mean_of` nor `value`.
        interval: whether resampling gives a valid interval.
        points: whether pages show the metric in percent.
        words: its name on a page.
    """

    better: Literal["max", "min"]
    low: float = -math.inf
    high: float = math.inf
    mean_of: str = ""
    value: Callable[[Scores], float] | None = None
    interval: bool = True
    points: bool = False
    words: str = ""

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def higher_is_better(self) -> bool:
        return self.better == "max"


def of_scores(metric: Metric, scores: Scores) -> float:
    """Compute a metric from scores [N, ...]; raise ValueError where it declares neither `mean_of` nor `value`."""
    if metric.mean_of:
        return float(np.asarray(scores[metric.mean_of], np.float64).mean())
    if metric.value is None:
        raise ValueError("the metric declares neither mean_of nor value; the task must compute it in summarise")
    return float(metric.value(scores))


def document(metric: Metric) -> Json:
    """Return a metric as JSON values for `result.json`; `value` is the name of a function of this file."""
    names = {function: name for name, function in VALUES.items()}
    ends = [None if math.isinf(end) else end for end in metric.bounds]
    return {
        "better": metric.better, "low": ends[0], "high": ends[1], "mean_of": metric.mean_of,
        "value": None if metric.value is None else names.get(metric.value), "interval": metric.interval,
        "points": metric.points, "words": metric.words,
    }  # fmt: skip


def from_document(values: Json) -> Metric:
    """Return the metric that `document` has stored."""
    low, high = values["low"], values["high"]
    return Metric(
        "max" if values["better"] == "max" else "min",
        -math.inf if low is None else low,
        math.inf if high is None else high,
        values["mean_of"],
        VALUES.get(values["value"] or ""),
        values["interval"],
        values["points"],
        values["words"],
    )


def find_metric(name: str, measures: Json | None = None) -> Metric:
    """Return the declaration of a metric by its name, which may begin with the name of a split.

    The run's `measures` have priority, then the metrics of tlx. For any other name the only assumption is that more is
    better.

    >>> find_metric("test/accuracy").bounds, find_metric("mse").better, find_metric("words").bounds
    ((0.0, 1.0), 'min', (-inf, inf))
    """
    bare = name.rpartition("/")[2]
    if measures and bare in measures:
        return from_document(measures[bare])
    return STANDARD.get(bare, Metric("max"))


class SimilaritySums(NamedTuple):
    """Sums over batches of HSIC_1, for linear CKA.

    Attributes:
        cross: the left features with the right features.
        left: the left features with themselves.
        right: the right features with themselves.
        batches: the number of batches.
    """

    cross: float
    left: float
    right: float
    batches: int


def merge(a: SimilaritySums, b: SimilaritySums) -> SimilaritySums:
    """Return the sums over the union of two disjoint sets of batches."""
    return SimilaritySums(a.cross + b.cross, a.left + b.left, a.right + b.right, a.batches + b.batches)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis in float64: [..., C] -> [..., C]."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute -log softmax(logits)_label of each example in float64: [N, C], [N] -> [N].

    The result is exact for very unlikely labels too.
    """
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Raise ValueError for a label outside 0..C-1, because NumPy would read -1 as the last class."""
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        place = int(outside.argmax())
        raise ValueError(
            f"label {labels[place]} of example {place} is outside the {classes} classes 0..{classes - 1}; exclude "
            "examples without a label"
        )


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Count the examples by true class (row) and predicted class (column): [N], [N] -> int64[C, C].

    Raises ValueError for a label outside the classes.
    """
    check_labels(labels, classes)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def macro_f1(scores: Scores) -> float:
    """Compute the mean of F1 over the classes that occur or are predicted, from `label` [N] and `prediction` [N]."""
    labels, predictions = (np.asarray(scores[name], np.int64) for name in ("label", "prediction"))
    classes = int(max(labels.max(), predictions.max())) + 1
    hits = np.bincount(labels[labels == predictions], minlength=classes)
    return mean_f1(hits, np.bincount(predictions, minlength=classes), np.bincount(labels, minlength=classes))


def mean_f1(hits: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> float:
    """Compute the mean of 2 hits / (predicted + true) over the classes [C] that occur or are predicted; 0 for none."""
    support = predicted + true
    present = support > 0
    return float((2 * hits[present] / support[present]).mean()) if present.any() else 0.0


def micro_f1(scores: Scores) -> float:
    """Compute F1 of all counts together, from `tp`, `fp` and `fn` ([N] or [N, C]); 0 where there is nothing to find."""
    tp, fp, fn = (float(np.asarray(scores[name], np.float64).sum()) for name in ("tp", "fp", "fn"))
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def class_f1(scores: Scores) -> float:
    """Compute the mean of F1 over the classes that occur or are predicted, from `tp`, `fp` and `fn` [N, C]."""
    tp, fp, fn = (np.asarray(scores[name], np.float64).sum(0) for name in ("tp", "fp", "fn"))
    return mean_f1(tp, tp + fp, tp + fn)


def token_accuracy(scores: Scores) -> float:
    """Compute the share of tokens that are right, from the counts `right` [N] and `tokens` [N]."""
    tokens = np.asarray(scores["tokens"], np.float64).sum()
    return float(np.asarray(scores["right"], np.float64).sum() / tokens) if tokens else 0.0


def token_loss(scores: Scores) -> float:
    """Compute the mean loss of a token, from the sums `loss` [N] and the counts `tokens` [N]."""
    tokens = np.asarray(scores["tokens"], np.float64).sum()
    return float(np.asarray(scores["loss"], np.float64).sum() / tokens) if tokens else 0.0


def calibration_bins(scores: Scores) -> np.ndarray:
    """Sum the examples in 15 bins of equal width of the confidence.

    Args:
        scores: `confidence` [N] and `correct` [N].

    Returns:
        [15, 3]: by bin, the number of examples, the sum of confidences and the number of correct examples.
    """
    confidence, correct = (np.asarray(scores[name], np.float64) for name in ("confidence", "correct"))
    bins = np.zeros((BINS, 3))
    bin_index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    np.add.at(bins, bin_index, np.stack([np.ones_like(confidence), confidence, correct], -1))
    return bins


def calibration_error(scores: Scores) -> float:
    """Compute the expected calibration error in fifteen bins of equal width (Guo et al., 2017)."""
    bins = calibration_bins(scores)
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / bins[:, 0].sum())


def scores_of(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of stored logits and labels, as in runs of earlier versions.

    Args:
        logits: [N, C] for classification, [N, K] or [N] for regression.
        labels: whole numbers [N] for classification, else the targets of a regression.

    Returns:
        The arrays of scores by name.
    """
    if labels.dtype.kind in "iu" and logits.ndim == 2:
        prediction = logits.argmax(-1)
        return {
            "label": labels, "prediction": prediction, "correct": prediction == labels,
            "confidence": softmax(logits).max(-1), "loss": negative_log_likelihood(logits, labels), "logits": logits,
        }  # fmt: skip
    logits = logits.reshape(len(logits), -1)
    label = labels.reshape(logits.shape)
    error = logits.astype(np.float64) - label
    return {
        "label": label, "prediction": logits, "loss": (error**2).mean(-1),
        "absolute_error": np.abs(error).mean(-1), "logits": logits,
    }  # fmt: skip


def deviations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [K] of `x` [N, K] and the deviations [N, K] from it. Those of a constant are exactly 0."""
    shifted = x - x[:1]
    mean = shifted.mean(0)
    return x[0] + mean, shifted - mean


def both_deviations(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return the deviations [N, K] of `label` and of `prediction` from their means."""
    labels, predictions = (
        np.asarray(scores[name], np.float64).reshape(len(scores[name]), -1) for name in ("label", "prediction")
    )
    return deviations(labels)[1], deviations(predictions)[1]


def r_squared(scores: Scores) -> float:
    """Compute 1 - residual / total variance of `label` and `prediction` [N, K]; 0 where the labels do not vary.

    The variances of several outputs, each about the mean of its output, are summed before the division. The differences
    between the means of the outputs thus do not count as variance.
    """
    labels, predictions = (
        np.asarray(scores[name], np.float64).reshape(len(scores[name]), -1) for name in ("label", "prediction")
    )
    total = float((deviations(labels)[1] ** 2).sum())
    return float(1 - ((predictions - labels) ** 2).sum() / total) if total else 0.0


def pearson(scores: Scores) -> float:
    """Compute the correlation of `label` and `prediction` [N, K]; 0 where either does not vary."""
    labels, predictions = both_deviations(scores)
    spread = np.sqrt((labels**2).sum()) * np.sqrt((predictions**2).sum())
    return float(np.clip((labels * predictions).sum() / spread, -1, 1)) if spread else 0.0


VALUES: dict[str, Callable[[Scores], float]] = {
    function.__name__: function
    for function in (
        macro_f1, micro_f1, class_f1, token_accuracy, token_loss, calibration_error, r_squared, pearson,
    )
}  # fmt: skip
# The scores of which a value reads only the sums over the examples.
SUMS: dict[Callable[[Scores], float], tuple[str, ...]] = {
    micro_f1: ("tp", "fp", "fn"),
    class_f1: ("tp", "fp", "fn"),
    token_accuracy: ("right", "tokens"),
    token_loss: ("loss", "tokens"),
}
# The metrics of the tasks of tlx, because runs of earlier versions do not declare them.
STANDARD: dict[str, Metric] = {
    "accuracy": Metric("max", 0.0, 1.0, "correct", points=True, words="accuracy"),
    "f1": Metric("max", 0.0, 1.0, value=macro_f1, points=True, words="macro F1"),
    "loss": Metric("min", 0.0, mean_of="loss", words="cross-entropy"),
    "micro_f1": Metric("max", 0.0, 1.0, value=micro_f1, points=True, words="micro F1"),
    "macro_f1": Metric("max", 0.0, 1.0, value=class_f1, points=True, words="macro F1"),
    "exact_match": Metric("max", 0.0, 1.0, "correct", points=True, words="exact match"),
    # Resampling inflates it.
    "ece": Metric("min", 0.0, 1.0, value=calibration_error, interval=False, words="calibration error (ECE)"),
    "mse": Metric("min", 0.0, mean_of="loss", words="mean squared error"),
    "mae": Metric("min", 0.0, mean_of="absolute_error", words="mean absolute error"),
    "r2": Metric("max", high=1.0, value=r_squared, words="R²"),
    "pearson": Metric("max", -1.0, 1.0, value=pearson, words="correlation"),
}


def hsic(left: np.ndarray, right: np.ndarray) -> float:
    """Compute HSIC_1, the unbiased Hilbert-Schmidt independence criterion (Song et al., 2012, equation 5).

    Args:
        left: a kernel matrix, [B, B].
        right: the other kernel matrix, [B, B].

    Raises:
        ValueError: there are fewer than four examples; the estimate is not defined for them.
    """
    n = len(left)
    if n < 4:
        raise ValueError(f"received {n} examples; the unbiased HSIC requires at least 4")
    k, m = (np.where(np.eye(n, dtype=bool), 0.0, matrix) for matrix in (left, right))
    total = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
    return float(total / (n * (n - 3)))


def centred(x: np.ndarray) -> np.ndarray:
    """Return `x` [B, W] in float64 with columns of mean zero."""
    values = x.astype(np.float64)
    return values - values.mean(0)


def sum_similarity(x: np.ndarray, y: np.ndarray) -> SimilaritySums:
    """Compute the sums for one batch of features of the same examples, with linear kernels.

    The features are centred, which changes only the rounding.

    Args:
        x: the left features, [B, V].
        y: the right features, [B, W].

    Raises:
        ValueError: the two differ in length, or have fewer than four examples.
    """
    if len(x) != len(y):
        raise ValueError(
            f"received features of {len(x)} and of {len(y)} examples; expected features of the same examples"
        )
    x, y = centred(x), centred(y)
    left, right = x @ x.T, y @ y.T
    return SimilaritySums(hsic(left, right), hsic(left, left), hsic(right, right), 1)


def summarise_similarity(sums: SimilaritySums) -> dict[str, float]:
    """Return `cka`: linear CKA by batches (Nguyen et al., 2021, equation 3), the ratio of the summed HSIC_1.

    It may leave [0, 1] slightly, because the estimates are unbiased. It is NaN where one side does not vary.
    """
    product = sums.left * sums.right
    return {"cka": float(sums.cross / product**0.5) if sums.left > 0 and sums.right > 0 else float("nan")}


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Compute |Y^T X|^2 / (|X^T X| |Y^T Y|) (Kornblith et al., 2019, section 3): [B, V], [B, W] -> [0, 1].

    The norms are Frobenius norms of centred columns. The result is biased upwards where the widths are not small
    compared with B, and NaN where one side does not vary.
    """
    x, y = centred(x), centred(y)
    if not x.any() or not y.any():
        return float("nan")
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)


def effective_rank(singular_values: np.ndarray) -> float:
    """Compute exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, 2007).

    The result lies between 1 and the rank; it is 0 for a matrix of zeros, which has rank 0.
    """
    values = singular_values[singular_values > 0].astype(np.float64)
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
