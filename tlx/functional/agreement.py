"""Metrics from counts of true and predicted classes. Values are from scikit-learn where it has them.

`ClassCounts` has the counts that all of them need. Each formula on counts keeps leading axes, so that an interval
computes it for many resamples at once.

Shapes: N examples, C classes.
"""

from typing import NamedTuple

import numpy as np

from tlx.functional.scores import Scores


class ClassCounts(NamedTuple):
    """How often each class is predicted rightly (`hits`), predicted (`predicted`) and true (`true`), each [..., C]."""

    hits: np.ndarray
    predicted: np.ndarray
    true: np.ndarray


def classes_of(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return `label` and `prediction` [N] as int64."""
    return np.asarray(scores["label"], np.int64), np.asarray(scores["prediction"], np.int64)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, and nan where `below` is 0."""
    return np.divide(above, below, out=np.full(np.shape(below), np.nan), where=np.asarray(below) != 0)


def macro_f1(scores: Scores) -> float:
    """Compute the mean of F1 over the classes that occur or are predicted, from `label` [N] and `prediction` [N]."""
    labels, predictions = classes_of(scores)
    classes = int(max(labels.max(), predictions.max())) + 1
    hits = np.bincount(labels[labels == predictions], minlength=classes)
    counts = ClassCounts(hits, np.bincount(predictions, minlength=classes), np.bincount(labels, minlength=classes))
    return float(mean_f1(counts))


def mean_f1(counts: ClassCounts) -> np.ndarray:
    """Compute the mean of 2 hits / (predicted + true) over the classes that occur or are predicted; nan for none."""
    support = counts.predicted + counts.true
    return ratio(np.nan_to_num(ratio(2.0 * counts.hits, support)).sum(-1), (support > 0).sum(-1))


def weighted_f1(scores: Scores) -> float:
    """Compute the mean of F1 over the classes, weighted by their number of examples, from `label` and `prediction`."""
    from sklearn.metrics import f1_score

    labels, predictions = classes_of(scores)
    return float(f1_score(labels, predictions, average="weighted", zero_division=0.0))


def weighted_f1_of(counts: ClassCounts) -> np.ndarray:
    """Compute `weighted_f1` from counts."""
    f1 = np.nan_to_num(ratio(2.0 * counts.hits, counts.predicted + counts.true))
    return (f1 * counts.true).sum(-1) / counts.true.sum(-1)


def balanced_accuracy(scores: Scores) -> float:
    """Compute the mean of the recall over the classes that occur, from `label` [N] and `prediction` [N]."""
    from sklearn.metrics import recall_score

    labels, predictions = classes_of(scores)
    # `balanced_accuracy_score` has the same value, and a warning for each predicted class that does not occur.
    return float(recall_score(labels, predictions, labels=np.unique(labels), average="macro", zero_division=0.0))


def balanced_accuracy_of(counts: ClassCounts) -> np.ndarray:
    """Compute `balanced_accuracy` from counts."""
    return ratio(np.nan_to_num(ratio(counts.hits, counts.true)).sum(-1), (counts.true > 0).sum(-1))


def matthews(scores: Scores) -> float:
    """Compute Matthews' correlation of `label` and `prediction` [N] for any number of classes (Gorodkin, 2004).

    It is 0 where all predictions are the same class, as in scikit-learn (the limit of Chicco and Jurman, 2020), and nan
    where all labels are the same class, because nothing can agree or disagree with them.
    """
    from sklearn.metrics import matthews_corrcoef

    labels, predictions = classes_of(scores)
    if (labels == labels[0]).all():
        return float("nan")
    return float(matthews_corrcoef(labels, predictions))


def matthews_of(counts: ClassCounts) -> np.ndarray:
    """Compute `matthews` from counts."""
    total = counts.true.sum(-1)
    covariance = counts.hits.sum(-1) * total - (counts.predicted * counts.true).sum(-1)
    true, predicted = (total**2 - (side**2).sum(-1) for side in (counts.true, counts.predicted))
    return np.where(true > 0, np.nan_to_num(ratio(covariance, np.sqrt(true * predicted))), np.nan)


def kappa(scores: Scores) -> float:
    """Compute the agreement of `label` and `prediction` [N] beyond chance (Cohen, 1960).

    It is nan where all labels and all predictions are one class, because chance then agrees as well.
    """
    from sklearn.metrics import cohen_kappa_score

    labels, predictions = classes_of(scores)
    if (labels == labels[0]).all() and (predictions == labels[0]).all():
        return float("nan")
    return float(cohen_kappa_score(labels, predictions))


def kappa_of(counts: ClassCounts) -> np.ndarray:
    """Compute `kappa` from counts."""
    total = counts.true.sum(-1)
    chance = (counts.predicted * counts.true).sum(-1) / total
    return ratio(counts.hits.sum(-1) - chance, total - chance)


def quadratic_kappa(scores: Scores) -> float:
    """Compute kappa with squared distances between ordered classes (Cohen, 1968), from `label` and `prediction` [N].

    It is 1 - sum (label - prediction)^2 / the sum that chance gives, and nan where that is 0: all labels and all
    predictions are one class.
    """
    from sklearn.metrics import cohen_kappa_score

    labels, predictions = classes_of(scores)
    if (labels == labels[0]).all() and (predictions == labels[0]).all():
        return float("nan")
    # Without all classes, the distance between two of them would be smaller.
    classes = np.arange(int(max(labels.max(), predictions.max())) + 1)
    return float(cohen_kappa_score(labels, predictions, labels=classes, weights="quadratic"))


def micro_f1(scores: Scores) -> float:
    """Compute F1 of all counts together, from `tp`, `fp` and `fn` ([N] or [N, C]); nan where there is nothing to find
    and nothing is found."""
    tp, fp, fn = (float(np.asarray(scores[name], np.float64).sum()) for name in ("tp", "fp", "fn"))
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else float("nan")


def class_f1(scores: Scores) -> float:
    """Compute the mean of F1 over the classes that occur or are predicted, from `tp`, `fp` and `fn` [N, C]; nan where
    no class does."""
    tp, fp, fn = (np.asarray(scores[name], np.float64).sum(0) for name in ("tp", "fp", "fn"))
    return float(mean_f1(ClassCounts(tp, tp + fp, tp + fn)))


def entity_f1(scores: Scores) -> float:
    """Compute F1 of entities of all types together, from `entity_tp`, `entity_fp` and `entity_fn` [N, K]; nan where
    there is no entity and none is predicted."""
    return micro_f1({name: scores[f"entity_{name}"] for name in ("tp", "fp", "fn")})


def entity_macro_f1(scores: Scores) -> float:
    """Compute the mean of F1 over the types of entities that occur or are predicted, from the scores of
    `entity_f1`; nan where no type does."""
    return class_f1({name: scores[f"entity_{name}"] for name in ("tp", "fp", "fn")})


def entity_precision(scores: Scores) -> float:
    """Compute the share of the predicted entities that are right, from the scores of `entity_f1`.

    It is 0 where none is predicted although there are some, as in seqeval, and nan where there are none either.
    """
    tp, fp, fn = (np.asarray(scores[f"entity_{name}"], np.float64).sum() for name in ("tp", "fp", "fn"))
    if not tp + fp:
        return 0.0 if fn else float("nan")
    return float(tp / (tp + fp))


def entity_recall(scores: Scores) -> float:
    """Compute the share of the true entities that are predicted, from the scores of `entity_f1`.

    It is 0 where there are none although some are predicted, as in seqeval, and nan where none is predicted either.
    """
    tp, fp, fn = (np.asarray(scores[f"entity_{name}"], np.float64).sum() for name in ("tp", "fp", "fn"))
    if not tp + fn:
        return 0.0 if fp else float("nan")
    return float(tp / (tp + fn))


def token_accuracy(scores: Scores) -> float:
    """Compute the share of tokens that are right, from the counts `right` and `tokens` [N]; nan without tokens."""
    tokens = np.asarray(scores["tokens"], np.float64).sum()
    return float(np.asarray(scores["right"], np.float64).sum() / tokens) if tokens else float("nan")


def token_loss(scores: Scores) -> float:
    """Compute the mean loss of a token, from the sums `loss` and the counts `tokens` [N]; nan without tokens."""
    tokens = np.asarray(scores["tokens"], np.float64).sum()
    return float(np.asarray(scores["loss"], np.float64).sum() / tokens) if tokens else float("nan")


def perplexity(scores: Scores) -> float:
    """Compute exp of the mean loss of a token, from the sums `loss` and the counts `tokens` [N]; nan without tokens."""
    return float(np.exp(token_loss(scores)))
