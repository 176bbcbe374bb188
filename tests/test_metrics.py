"""What is measured, against scikit-learn and by hand."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as independent

from tlx import metrics

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(200, 5)).astype(np.float32) * 2
# Class 4 never occurs; it is predicted.
LABELS = RANDOM.integers(0, 4, 200)


def test_classification_agrees_with_scikit_learn():
    told = metrics.summarise_classification(metrics.count_classification(LOGITS, LABELS))
    guess = LOGITS.argmax(-1)
    assert told["accuracy"] == pytest.approx(independent.accuracy_score(LABELS, guess), abs=1e-12)
    assert told["f1"] == pytest.approx(independent.f1_score(LABELS, guess, average="macro"), abs=1e-12)
    p = metrics.softmax(LOGITS)
    assert told["loss"] == pytest.approx(independent.log_loss(LABELS, p, labels=range(5)), rel=1e-9)
    counts = metrics.count_classification(LOGITS, LABELS)
    np.testing.assert_array_equal(counts.confusion, independent.confusion_matrix(LABELS, guess, labels=range(5)))


def test_a_class_that_neither_occurs_nor_is_predicted_has_no_part_in_f1():
    logits = np.array([[2.0, 1.0, -9.0], [1.0, 2.0, -9.0]])
    assert metrics.summarise_classification(metrics.count_classification(logits, np.array([0, 1])))["f1"] == 1.0


def test_calibration_error_by_hand():
    # Confidences 0.9 and 0.9 (one right), 0.6 (right): |1.8 - 1| / 3 + |0.6 - 1| / 3.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    told = metrics.summarise_classification(metrics.count_classification(logits, np.array([0, 1, 1])))
    assert told["ece"] == pytest.approx((0.8 + 0.4) / 3, abs=1e-12)


def test_full_confidence_lies_in_the_last_bin():
    counts = metrics.count_classification(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert counts.bins[-1].tolist() == [2, 2, 1]
    assert np.isfinite(counts.loss)
    assert metrics.summarise_classification(counts)["ece"] == 0.5


@pytest.mark.parametrize("cut", [1, 64, 199])
def test_counts_merge_to_those_of_the_union(cut):
    parts = [metrics.count_classification(LOGITS[s], LABELS[s]) for s in (slice(cut), slice(cut, None))]
    merged, whole = metrics.merge(*parts), metrics.count_classification(LOGITS, LABELS)
    for ours, theirs in zip(merged, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    p, t = LOGITS[:, 0], LABELS.astype(np.float32)
    merged = metrics.merge(metrics.sum_regression(p[:cut], t[:cut]), metrics.sum_regression(p[cut:], t[cut:]))
    np.testing.assert_allclose(merged, metrics.sum_regression(p, t), rtol=1e-12)


def test_regression_agrees_with_scikit_learn_and_scipy():
    targets = RANDOM.normal(size=60) + 3
    predictions = targets + RANDOM.normal(size=60) * 0.5
    told = metrics.summarise_regression(metrics.sum_regression(predictions[:, None], targets))
    assert told["mse"] == pytest.approx(independent.mean_squared_error(targets, predictions))
    assert told["mae"] == pytest.approx(independent.mean_absolute_error(targets, predictions))
    assert told["r2"] == pytest.approx(independent.r2_score(targets, predictions))
    assert told["pearson"] == pytest.approx(stats.pearsonr(targets, predictions)[0])


def test_what_is_undefined_is_zero():
    told = metrics.summarise_regression(metrics.sum_regression(np.ones(4), np.full(4, 2.0)))
    assert told == {"mse": 1.0, "mae": 1.0, "r2": 0.0, "pearson": 0.0}


def test_softmax_is_float64_and_stable():
    p = metrics.softmax(np.array([[1e4, 0.0, -1e4]], np.float32))
    assert p.dtype == np.float64
    assert p.tolist() == [[1.0, 0.0, 0.0]]
