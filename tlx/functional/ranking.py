"""Metrics of how a model ranks examples: AUROC and average precision of one class against the rest. Values are from
scikit-learn.

Shapes: N examples, C classes.
"""

from collections.abc import Callable

import numpy as np

from tlx.functional.scores import Scores, one_against_rest


def auroc(scores: Scores) -> float:
    """Compute the area under the ROC curve, of each class against the rest (Fawcett, 2006), averaged over the classes.

    A class that no example has, or that every example has, has no such curve and is left out; nan where no class is
    left.

    Args:
        scores: `logits` [N, C], and `label` [N] or [N, C] (see `one_against_rest`).
    """
    from sklearn.metrics import roc_auc_score

    return over_classes(scores, roc_auc_score, lambda positive: bool(positive.any() and not positive.all()))


def average_precision(scores: Scores) -> float:
    """Compute the average precision, sum_n (R_n - R_{n-1}) P_n over the thresholds n, averaged over the classes.

    A class that no example has is left out; nan where no class is left.

    Args:
        scores: as in `auroc`.
    """
    from sklearn.metrics import average_precision_score

    return over_classes(scores, average_precision_score, lambda positive: bool(positive.any()))


def over_classes(
    scores: Scores, value: Callable[[np.ndarray, np.ndarray], float], defined: Callable[[np.ndarray], bool]
) -> float:
    """Return the mean of `value(positive, numbers)` over the classes for which it is `defined`; nan for none, or if a
    logit is not a finite number."""
    if not np.isfinite(scores["logits"]).all():
        return float("nan")
    values = [value(positive, numbers) for positive, numbers in one_against_rest(scores) if defined(positive)]
    return float(np.mean(values)) if values else float("nan")
