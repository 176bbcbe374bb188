"""Find labels that a cross-validated classifier contradicts.

With classes this is confident learning (Northcutt et al., 2021): an example is in doubt where a class other than its
label has a probability of at least the mean probability of that class over the examples with this label, and no other
such class is more probable. Examples are ranked by the probability of their label minus that of the most probable other
class. With numbers an example is in doubt where its residual lies beyond four standard deviations, estimated by the
median absolute deviation.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.analysis.data.features import FeatureSource, classifier
from tlx.analysis.data.shown import described
from tlx.data.datasets.splits import dealt
from tlx.data.duplicates import sample
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data import Examples

# Examples that are looked at, folds, and examples that are listed.
MOST, FOLDS, LISTED = 5000, 5, 20
# Residuals beyond this number of standard deviations are in doubt.
FAR = 4.0


def doubts(examples: Examples, source: FeatureSource) -> Json:
    """Return the labels of some examples that are in doubt.

    Returns:
        `why` there is no answer, empty where there is one; `by`, what the classifier reads; the number of `examples`
        looked at `of` all; its cross-validated `score` (`measure` accuracy or R²) and, for classes, the share of the
        largest class, `constant`; the number `in_doubt`; and the `listed` examples, the most doubtful first.
    """
    if not examples.labelled or examples.kind not in ("class", "number"):
        return none("labels are looked at where each example has one class or one number")
    if not source.words:
        return none(f"there are no features for inputs of the kind {source.kind}")
    view = examples.view(np.sort(sample(examples, MOST)))
    labels = view.labels()
    if examples.kind == "class":
        numbers, sizes = np.unique(labels, return_counts=True)
        view = view.view(np.flatnonzero(np.isin(labels, numbers[sizes >= FOLDS])))
        labels = view.labels() if len(view) else labels[:0]
        if len(np.unique(labels)) < 2:
            return none(f"fewer than two classes have {FOLDS} examples or more")
    elif len(view) < 10 * FOLDS or np.ptp(labels) == 0:
        return none(f"there are fewer than {10 * FOLDS} examples, or all numbers are equal")
    features = source.of(view)
    with warnings.catch_warnings():
        # A fit that stops early is good enough here.
        warnings.simplefilter("ignore")
        found = (
            of_classes(features, labels, source, view)
            if view.kind == "class"
            else of_numbers(features, labels, source, view)
        )
    if found["score"] <= found["constant"] + 2 * (found["constant"] * (1 - found["constant"]) / len(view)) ** 0.5:
        return none(
            f"a classifier on {source.words} is not better (cross-validated {found['measure']} {found['score']:.2f}) "
            f"than a constant answer ({found['constant']:.2f}) on {len(view):,} examples, so it cannot doubt labels; a "
            "config with pretrained weights may be better: tlx data CONFIG"
        )
    return {"why": "", "by": source.words, "examples": len(view), "of": len(examples), **found}


def none(why: str) -> Json:
    """Return the answer where labels cannot be doubted."""
    return {"why": why, "listed": []}


def of_classes(features: np.ndarray, labels: np.ndarray, source: FeatureSource, view: Examples) -> Json:
    """Return the doubtful classes."""
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    numbers, own = np.unique(labels, return_inverse=True)
    folds = PredefinedSplit(dealt(labels, "doubts", FOLDS))
    probabilities = cross_val_predict(
        classifier(source.of_texts), features, own, cv=folds, method="predict_proba"
    )  # fmt: skip
    suggested, margins = confident(probabilities, own)
    places = np.flatnonzero(suggested != own)
    places = places[np.argsort(margins[places], kind="stable")]
    listed = [
        described(view, int(place))
        | {
            "label": view.classes[numbers[own[place]]],
            "suggested": view.classes[numbers[suggested[place]]],
            "confidence": float(probabilities[place, own[place]]),
            "other": float(probabilities[place, suggested[place]]),
        }
        for place in places[:LISTED]
    ]
    return {
        "measure": "accuracy",
        "score": float((probabilities.argmax(1) == own).mean()),
        "constant": float(np.bincount(own).max() / len(own)),
        "in_doubt": len(places),
        "listed": listed,
    }


def confident(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int[N], the class that each example confidently has (its label where there is none), and float[N], the
    probability of the label minus that of the most probable other class.

    Args:
        probabilities: float[N, C], of models that did not see the example.
        labels: int[N]; every class occurs.
    """
    rows = np.arange(len(labels))
    thresholds = np.array([probabilities[labels == number, number].mean() for number in range(probabilities.shape[1])])
    candidates = np.where(probabilities >= thresholds, probabilities, -1.0)
    chosen = np.where(candidates.max(1) >= 0, candidates.argmax(1), labels)
    others = probabilities.copy()
    others[rows, labels] = -1.0
    return chosen, probabilities[rows, labels] - others.max(1)


def of_numbers(features: np.ndarray, labels: np.ndarray, source: FeatureSource, view: Examples) -> Json:
    """Return the doubtful numbers."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    model: Any = classifier(source.of_texts)
    model.steps[-1] = ("ridge", Ridge(1.0 if source.of_texts else 10.0))
    folds = PredefinedSplit(dealt(np.zeros(len(labels), int), "doubts", FOLDS))
    predicted = cross_val_predict(model, features, labels.astype(np.float64), cv=folds)
    residuals = labels - predicted
    spread = 1.4826 * float(np.median(np.abs(residuals - np.median(residuals)))) or 1e-12
    distance = np.abs(residuals - np.median(residuals)) / spread
    places = np.flatnonzero(distance > FAR)
    places = places[np.argsort(-distance[places], kind="stable")]
    total = float(((labels - labels.mean()) ** 2).sum())
    return {
        "measure": "R²",
        "score": float(1 - (residuals**2).sum() / total),
        "constant": 0.0,
        "in_doubt": len(places),
        "listed": [
            described(view, int(place))
            | {"label": float(labels[place]), "suggested": float(predicted[place]), "far": float(distance[place])}
            for place in places[:LISTED]
        ],
    }
