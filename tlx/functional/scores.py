"""Scores of examples on the host: probabilities, likelihoods, errors and counts. NumPy, in float64.

Shapes: N examples, C classes, K outputs.
"""

from collections.abc import Iterator, Mapping

import numpy as np

Scores = Mapping[str, np.ndarray]

# The number of classes among which the label must be for `top5`.
TOP = 5
# Rows of logits that are widened to float64 at a time.
ROWS = 4096


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


def squared_distance(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Compute sum_c (p_c - y_c)^2 of each example (Brier, 1950): [N, C], [N] -> [N]. For two classes it is halved, as
    in scikit-learn, so that it is the squared error of the probability of the second class."""
    distance = ((softmax(logits) - np.eye(logits.shape[-1])[labels]) ** 2).sum(-1)
    return distance / 2 if logits.shape[-1] == 2 else distance


def among_top(logits: np.ndarray, labels: np.ndarray, count: int = TOP) -> np.ndarray:
    """Return whether the label is among the `count` largest logits, booleans: [N, C], [N] -> [N].

    Of equal logits the first class counts as larger, as in the prediction.
    """
    label_logits = logits[np.arange(len(labels)), labels][:, None]
    before = (logits == label_logits) & (np.arange(logits.shape[-1]) < labels[:, None])
    return ((logits > label_logits) | before).sum(-1) < count


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


def one_against_rest(scores: Scores) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each class which examples have it, booleans [N], and a number [N] that ranks the examples by the
    probability of the class.

    Two exclusive classes are one question: the second class is the positive one. Of several exclusive classes the
    number is the log-odds of the class, which does not saturate where the probability rounds to 1.

    Args:
        scores: `logits` [N, C], and `label`: the class [N], or booleans [N, C] for several classes of each example.
    """
    logits, labels = scores["logits"], scores["label"]
    if labels.ndim == 2:
        yield from ((labels[:, c] > 0.5, logits[:, c].astype(np.float64)) for c in range(labels.shape[1]))
        return
    if logits.shape[1] == 2:
        yield labels == 1, logits[:, 1].astype(np.float64) - logits[:, 0]
        return
    best, total, others = normalisers(logits)
    for c in range(logits.shape[1]):
        column = logits[:, c].astype(np.float64)
        # The probability of a class that is not the best is at most one half, so its complement does not cancel.
        log_p = np.minimum(column - total, -np.log(2))
        yield labels == c, np.where(best == c, column - others, log_p - np.log1p(-np.exp(log_p)))


def normalisers(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each example the class with the largest logit, and the logarithms of the sums of exp(logits): of all
    classes, and of all except that class. [N, C] -> three arrays [N]."""
    best = logits.argmax(-1)
    total, others = np.empty(len(logits)), np.empty(len(logits))
    for start in range(0, len(logits), ROWS):
        part = slice(start, start + ROWS)
        wide = logits[part].astype(np.float64)
        total[part] = np.logaddexp.reduce(wide, -1)
        wide[np.arange(len(wide)), best[part]] = -np.inf
        others[part] = np.logaddexp.reduce(wide, -1)
    return best, total, others


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
        scores = {
            "label": labels, "prediction": prediction, "correct": prediction == labels,
            "confidence": softmax(logits).max(-1), "loss": negative_log_likelihood(logits, labels),
            "brier": squared_distance(logits, labels), "logits": logits,
        }  # fmt: skip
        return scores | ({"top5": among_top(logits, labels)} if logits.shape[1] > TOP else {})
    logits = logits.reshape(len(logits), -1)
    label = labels.reshape(logits.shape)
    error = logits.astype(np.float64) - label
    return {
        "label": label, "prediction": logits, "loss": (error**2).mean(-1),
        "absolute_error": np.abs(error).mean(-1), "logits": logits,
    }  # fmt: skip
