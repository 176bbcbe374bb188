"""Sums and counts that merge by addition, and the numbers made of them. NumPy, on the host, in float64.

Shapes: B batch, C classes, K outputs, V and W widths of features.
"""

from typing import NamedTuple

import numpy as np

BINS = 15
# Of these less is better; of every other metric more.
LOWER_IS_BETTER = frozenset({"loss", "ece", "mse", "mae"})
# The lowest and the highest value that each metric can have; a metric that is not listed has no bounds.
BOUNDS = {
    **dict.fromkeys(("accuracy", "f1", "ece"), (0.0, 1.0)),
    **dict.fromkeys(("loss", "mse", "mae"), (0.0, np.inf)),
    "r2": (-np.inf, 1.0),
    "pearson": (-1.0, 1.0),
}


def bounds(name: str) -> tuple[float, float]:
    """Return the lowest and the highest possible value of a metric, whose name may begin with that of its split.

    >>> bounds("test/accuracy"), bounds("mse")
    ((0.0, 1.0), (0.0, inf))
    """
    return BOUNDS.get(name.rpartition("/")[2], (-np.inf, np.inf))


class ClassificationCounts(NamedTuple):
    """`confusion` [C, C] (row: true class), `bins` [15, 3] of count, confidence, correct; summed `loss`; `total`
    examples."""

    confusion: np.ndarray
    bins: np.ndarray
    loss: float
    total: int


class RegressionSums(NamedTuple):
    """Errors and moments of a set of examples, by output [K] (t target, p prediction); `total` examples.

    `squared` and `absolute` are summed errors, `t` and `p` means, `tt`, `pp` and `tp` sums of products of deviations
    from those means: plain squares would lose the variance where the mean is large beside it.
    """

    total: int
    squared: np.ndarray
    absolute: np.ndarray
    t: np.ndarray
    p: np.ndarray
    tt: np.ndarray
    pp: np.ndarray
    tp: np.ndarray


class SimilaritySums(NamedTuple):
    """Sums over batches of HSIC_1 of the left features with the right (`cross`) and of each with itself."""

    cross: float
    left: float
    right: float
    batches: int


Counts = ClassificationCounts | RegressionSums | SimilaritySums


def merge(a: Counts, b: Counts) -> Counts:
    """Counts of two disjoint sets of examples as the counts of their union."""
    if type(a) is not type(b):
        raise TypeError(f"{type(a).__name__} and {type(b).__name__} do not merge")
    if isinstance(a, RegressionSums) and isinstance(b, RegressionSums):
        return merge_regression(a, b)
    return type(a)(*(x + y for x, y in zip(a, b, strict=True)))  # type: ignore[operator]


def merge_regression(a: RegressionSums, b: RegressionSums) -> RegressionSums:
    """The moments of the union, by the differences of the two means (Chan et al., 1983, equation 2.1)."""
    total = a.total + b.total
    t, p = b.t - a.t, b.p - a.p
    share, both = b.total / total, a.total * b.total / total
    return RegressionSums(
        total, a.squared + b.squared, a.absolute + b.absolute, a.t + share * t, a.p + share * p,
        a.tt + b.tt + both * t * t, a.pp + b.pp + both * p * p, a.tp + b.tp + both * t * p,
    )  # fmt: skip


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """-log softmax(logits)_label of each example, float64: [B, C], [B] -> [B]. Exact however unlikely the label is."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]


def check_labels(labels: np.ndarray, classes: int) -> None:
    """ValueError for a label outside 0..C-1: NumPy would count -1 as the last class."""
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        place = int(outside.argmax())
        raise ValueError(
            f"label {labels[place]} of example {place} is outside the {classes} classes 0..{classes - 1}; leave out "
            "examples without a label"
        )


def count_classification(logits: np.ndarray, labels: np.ndarray) -> ClassificationCounts:
    """Counts over a batch: logits [B, C], labels [B]. Raises ValueError for a label outside the classes."""
    classes = logits.shape[-1]
    check_labels(labels, classes)
    # Of the logits themselves, for two that differ by less than rounding have equal probabilities.
    guess, confidence = logits.argmax(-1), softmax(logits).max(-1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, guess), 1)
    bins = np.zeros((BINS, 3))
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    np.add.at(bins, place, np.stack([np.ones_like(confidence), confidence, guess == labels], -1))
    return ClassificationCounts(confusion, bins, float(negative_log_likelihood(logits, labels).sum()), len(labels))


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


def deviations(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [K] of `x` [B, K] and the deviations from it. Those of a constant are exactly 0."""
    shifted = x - x[:1]
    mean = shifted.mean(0)
    return x[0] + mean, shifted - mean


def sum_regression(predictions: np.ndarray, targets: np.ndarray) -> RegressionSums:
    """Sums over a batch of one or more examples: [B, K] or [B] both."""
    p, t = (array.astype(np.float64).reshape(len(array), -1) for array in (predictions, targets))
    e = p - t
    (t_mean, t), (p_mean, p) = deviations(t), deviations(p)
    sums = (x.sum(0) for x in (t * t, p * p, t * p))
    return RegressionSums(len(e), (e * e).sum(0), np.abs(e).sum(0), t_mean, p_mean, *sums)


def summarise_regression(sums: RegressionSums) -> dict[str, float]:
    """`mse`, `mae`; `r2`, 1 - residual over total variance; `pearson`. The last two are 0 where a variance that they
    divide by is exactly 0: of one example, of constant targets, and for `pearson` of constant predictions.

    Of several outputs errors are means, and variances (each about its output's own mean) are summed before they are
    divided: that outputs differ in their means is no variance that could be explained.
    """
    n, total, spread = sums.total, sums.tt.sum(), np.sqrt(sums.tt.sum()) * np.sqrt(sums.pp.sum())
    return {
        "mse": float(sums.squared.mean() / n),
        "mae": float(sums.absolute.mean() / n),
        "r2": float(1 - sums.squared.sum() / total) if total else 0.0,
        "pearson": float(np.clip(sums.tp.sum() / spread, -1, 1)) if spread else 0.0,
    }


def hsic(left: np.ndarray, right: np.ndarray) -> float:
    """HSIC_1, the unbiased estimate of the Hilbert-Schmidt independence criterion (Song et al., 2012, equation 5).

    `left`, `right` [B, B] are the kernels' matrices; ValueError below four examples, where it is not defined.
    """
    n = len(left)
    if n < 4:
        raise ValueError(f"{n} examples; the unbiased HSIC needs 4 or more")
    k, m = (np.where(np.eye(n, dtype=bool), 0.0, matrix) for matrix in (left, right))
    total = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
    return float(total / (n * (n - 3)))


def centred(x: np.ndarray) -> np.ndarray:
    """[B, W] in float64 with columns of mean zero."""
    wide = x.astype(np.float64)
    return wide - wide.mean(0)


def sum_similarity(x: np.ndarray, y: np.ndarray) -> SimilaritySums:
    """Sums over one batch of features [B, V] and [B, W] of the same examples, with linear kernels.

    Centring changes nothing but the rounding. Raises ValueError where the two differ in length, or below 4 examples.
    """
    if len(x) != len(y):
        raise ValueError(f"features of {len(x)} and of {len(y)} examples; both must be of the same ones")
    x, y = centred(x), centred(y)
    left, right = x @ x.T, y @ y.T
    return SimilaritySums(hsic(left, right), hsic(left, left), hsic(right, right), 1)


def summarise_similarity(sums: SimilaritySums) -> dict[str, float]:
    """`cka`: linear CKA by batches (Nguyen et al., 2021, equation 3), the ratio of the summed HSIC_1.

    It may leave [0, 1] a little, for the estimates are unbiased; it is NaN where either side does not vary.
    """
    product = sums.left * sums.right
    return {"cka": float(sums.cross / product**0.5) if sums.left > 0 and sums.right > 0 else float("nan")}


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """|Y^T X|^2 / (|X^T X| |Y^T Y|), Frobenius norms of centred columns (Kornblith et al., 2019, section 3): [B, V] and
    [B, W] -> [0, 1].

    Biased upwards where the widths are not small beside B; NaN where either side does not vary.
    """
    x, y = centred(x), centred(y)
    if not x.any() or not y.any():
        return float("nan")
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)


def effective_rank(singular_values: np.ndarray) -> float:
    """exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, 2007): 1 to the rank.

    0 for a matrix of zeros, whose rank it is.
    """
    values = singular_values[singular_values > 0].astype(np.float64)
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
