"""Metrics from counts of classes, compared with scikit-learn."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as independent

from tlx.functional import agreement

RANDOM = np.random.default_rng(0)


def scores(labels, predictions):
    return {"label": np.array(labels), "prediction": np.array(predictions)}


def drawn(classes, count=300, right=0.4):
    labels = RANDOM.integers(0, classes, count)
    return labels, np.where(RANDOM.random(count) < right, labels, RANDOM.integers(0, classes, count))


CASES = {
    "two classes": drawn(2),
    "200 classes, some absent": drawn(200),
    "a class that is never predicted": ([0, 1, 2, 2, 1, 0], [0, 1, 1, 1, 1, 0]),
    "a predicted class that does not occur": ([0, 1, 1, 0], [0, 1, 3, 3]),
    "all predictions alike": ([0, 1, 2, 0], [1, 1, 1, 1]),
    "all right": ([0, 1, 2], [0, 1, 2]),
    "all wrong": ([0, 1, 2], [1, 2, 0]),
}


@pytest.mark.parametrize("case", CASES)
def test_values_agree_with_scikit_learn(case):
    y, guess = CASES[case]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        balanced = independent.balanced_accuracy_score(y, guess)
    assert agreement.balanced_accuracy(scores(y, guess)) == pytest.approx(balanced)
    assert agreement.macro_f1(scores(y, guess)) == pytest.approx(independent.f1_score(y, guess, average="macro"))
    assert agreement.weighted_f1(scores(y, guess)) == pytest.approx(independent.f1_score(y, guess, average="weighted"))
    assert agreement.matthews(scores(y, guess)) == pytest.approx(independent.matthews_corrcoef(y, guess))
    assert agreement.kappa(scores(y, guess)) == pytest.approx(independent.cohen_kappa_score(y, guess))
    order = range(max(*y, *guess) + 1)
    quadratic = independent.cohen_kappa_score(y, guess, labels=order, weights="quadratic")
    assert agreement.quadratic_kappa(scores(y, guess)) == pytest.approx(quadratic)


def test_a_split_with_one_class_has_no_correlation():
    """Recall and F1 are defined there; agreement beyond chance is not."""
    alike = scores([1, 1, 1], [1, 1, 1])
    assert np.isnan([agreement.matthews(alike), agreement.kappa(alike), agreement.quadratic_kappa(alike)]).all()
    assert (agreement.balanced_accuracy(alike), agreement.weighted_f1(alike)) == (1.0, 1.0)
    assert np.isnan(agreement.matthews(scores([1, 1, 1], [0, 1, 1])))


def test_the_distance_of_ordered_classes_does_not_depend_on_the_classes_that_occur():
    """By hand: sum (i - j)^2 = 9; of all pairs of a label and a prediction it is (0 + 9 + 9 + 0) / 2 = 9."""
    assert agreement.quadratic_kappa(scores([0, 3], [0, 0])) == pytest.approx(0.0)
    # The errors 0 and 1 against the chance of 1 pair in 2 at distance 3 and 1 at distance 2, ...: 1 - 1 / 7.
    assert agreement.quadratic_kappa(scores([0, 3], [0, 2])) == pytest.approx(1 - 1 / ((0 + 4 + 9 + 1) / 2))


def test_nothing_to_find_and_nothing_found_is_not_defined():
    nothing = {name: np.zeros((4, 3)) for name in ("tp", "fp", "fn")}
    assert np.isnan(agreement.micro_f1(nothing)) and np.isnan(agreement.class_f1(nothing))
    missed = nothing | {"fn": np.eye(4, 3)}
    assert agreement.micro_f1(missed) == 0.0 and agreement.class_f1(missed) == 0.0
    no_words = {name: np.zeros(4) for name in ("tokens", "right", "loss")}
    assert np.isnan(agreement.token_accuracy(no_words)) and np.isnan(agreement.token_loss(no_words))
