"""Metrics, compared with scikit-learn and by hand."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as independent

from tlx import tasks
from tlx.functional import metrics
from tlx.functional.calibration import calibration_bins, calibration_error
from tlx.functional.scores import confusion_matrix, negative_log_likelihood, scores_of, softmax

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(200, 5)).astype(np.float32) * 2
# Class 4 never occurs; it is predicted.
LABELS = RANDOM.integers(0, 4, 200)


def summarise(logits, labels, kind=tasks.Classification):
    """Return the metrics of a task from the scores of logits on the device."""
    task = kind(classes=logits.shape[-1]) if kind is tasks.Classification else kind(outputs=logits.shape[-1])
    scores = task.score({"logits": jnp.asarray(logits)}, {"label": jnp.asarray(labels)})
    return task.summarise({name: np.asarray(array) for name, array in scores.items()})


def regression(predictions, targets):
    """Return the metrics of a regression from float64 scores."""
    columns = np.asarray(predictions).reshape(len(predictions), -1)
    return tasks.Regression().summarise(scores_of(columns, np.asarray(targets, float)))


def test_classification_agrees_with_scikit_learn():
    actual = summarise(LOGITS, LABELS)
    guess = LOGITS.argmax(-1)
    assert actual["accuracy"] == pytest.approx(independent.accuracy_score(LABELS, guess), abs=1e-12)
    assert actual["macro_f1"] == pytest.approx(independent.f1_score(LABELS, guess, average="macro"), abs=1e-12)
    p = softmax(LOGITS)
    assert actual["loss"] == pytest.approx(independent.log_loss(LABELS, p, labels=range(5)), rel=1e-6)
    counts = confusion_matrix(LABELS, guess, 5)
    np.testing.assert_array_equal(counts, independent.confusion_matrix(LABELS, guess, labels=range(5)))


def test_scores_on_the_device_and_on_the_host_agree():
    """Scores are computed in float32; old predictions are read back in float64."""
    task = tasks.Classification(classes=5)
    tlx_side = task.score({"logits": jnp.asarray(LOGITS)}, {"label": jnp.asarray(LABELS)})
    for name, array in scores_of(LOGITS, LABELS).items():
        np.testing.assert_allclose(tlx_side[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_count_in_f1():
    logits = np.array([[2.0, 1.0, -9.0], [1.0, 2.0, -9.0]])
    assert summarise(logits, np.array([0, 1]))["macro_f1"] == 1.0


def test_calibration_error_by_hand():
    # Confidences 0.9 and 0.9 (one right), 0.6 (right): |1.8 - 1| / 3 + |0.6 - 1| / 3.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert summarise(logits, np.array([0, 1, 1]))["ece"] == pytest.approx((0.8 + 0.4) / 3, abs=1e-6)


def test_confidence_one_is_in_the_last_bin():
    scores = scores_of(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert calibration_bins(scores)[-1].tolist() == [2, 2, 1]
    assert np.isfinite(scores["loss"]).all()
    assert calibration_error(scores) == 0.5


def test_metrics_declare_how_they_are_computed_and_survive_a_file():
    for name, metric in metrics.STANDARD.items():
        assert metrics.from_document(json.loads(json.dumps(metrics.document(metric)))) == metric, name
    assert metrics.find_metric("test/mine", {"mine": metrics.document(metrics.Metric("min", 0.0))}).bounds == (
        0.0,
        np.inf,
    )
    with pytest.raises(ValueError, match="mean_of"):
        metrics.of_scores(metrics.Metric("max"), {})


def test_regression_agrees_with_scikit_learn_and_scipy():
    targets = RANDOM.normal(size=60) + 3
    predictions = targets + RANDOM.normal(size=60) * 0.5
    actual = regression(predictions, targets)
    assert actual["mse"] == pytest.approx(independent.mean_squared_error(targets, predictions))
    assert actual["mae"] == pytest.approx(independent.mean_absolute_error(targets, predictions))
    assert actual["r2"] == pytest.approx(independent.r2_score(targets, predictions))
    assert actual["pearson"] == pytest.approx(stats.pearsonr(targets, predictions)[0])
    assert actual["rmse"] == pytest.approx(independent.root_mean_squared_error(targets, predictions))
    # Rounded, so that there are ties.
    tied = regression(np.round(predictions), np.round(targets))["spearman"]
    assert tied == pytest.approx(stats.spearmanr(np.round(targets), np.round(predictions))[0])


def test_outputs_with_different_means_do_not_count_as_explained():
    targets = RANDOM.normal(size=(60, 3)) + np.array([0.0, 10.0, -5.0])
    predictions = targets + RANDOM.normal(size=(60, 3))
    actual = regression(predictions, targets)
    assert actual["mse"] == pytest.approx(independent.mean_squared_error(targets, predictions))
    assert actual["mae"] == pytest.approx(independent.mean_absolute_error(targets, predictions))
    expected = independent.r2_score(targets, predictions, multioutput="variance_weighted")
    assert actual["r2"] == pytest.approx(expected)
    assert actual["pearson"] < 0.9
    assert actual["rmse"] == pytest.approx(independent.root_mean_squared_error(targets, predictions))
    columns = [stats.spearmanr(*pair)[0] for pair in zip(targets.T, predictions.T, strict=True)]
    assert actual["spearman"] == pytest.approx(np.mean(columns))
    # An output that does not vary is left out.
    targets[:, 1] = 10.0
    assert regression(predictions, targets)["spearman"] == pytest.approx(np.mean([columns[0], columns[2]]))
    means = np.broadcast_to(targets.mean(0), targets.shape)
    assert regression(means, targets)["r2"] == pytest.approx(0, abs=1e-9)


def test_a_correlation_with_a_constant_is_not_defined():
    """It is not 0 either: nothing was measured."""
    actual = regression(np.ones(4), np.full(4, 2.0))
    assert [name for name, value in actual.items() if np.isnan(value)] == ["r2", "pearson", "spearman"]
    assert (actual["mse"], actual["mae"], actual["rmse"]) == (1.0, 1.0, 1.0)
    # A constant with inexact sums.
    actual = regression(np.arange(49.0), np.full(49, 0.1))
    assert np.isnan([actual["r2"], actual["pearson"], actual["spearman"]]).all()
    # Constant predictions of labels that vary explain nothing, which r2 can say.
    assert regression(np.full(4, 1.5), np.arange(4.0))["r2"] == 0


@pytest.mark.parametrize("mean", [0.0, 1e6, 1e8, -1e10])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_correlation_does_not_depend_on_the_mean_of_the_targets(mean, kind):
    """This holds for a mean that is much larger than the spread."""
    random = np.random.default_rng(3)
    targets = mean + random.normal(size=200)
    predictions = (targets + random.normal(size=200) * 0.5).astype(kind)
    actual, wide = regression(predictions, targets), predictions.astype(np.float64)
    assert actual["r2"] == pytest.approx(independent.r2_score(targets, wide), rel=1e-6, abs=1e-6)
    if np.ptp(wide):
        assert actual["pearson"] == pytest.approx(stats.pearsonr(targets, wide)[0], rel=1e-6)
    else:
        assert np.isnan(actual["pearson"])
    assert actual["mse"] == pytest.approx(independent.mean_squared_error(targets, wide))


@pytest.mark.parametrize("value", [0.1, 1e8 + 0.3, 0.0])
def test_a_constant_has_no_correlation(value):
    varied, constant = np.arange(49.0), np.full(49, value)
    for actual in (regression(varied, constant), regression(constant, varied)):
        assert np.isnan([actual["pearson"], actual["spearman"]]).all()
        assert np.isfinite([actual["mse"], actual["mae"], actual["rmse"]]).all()
    assert np.isnan(regression(varied, constant)["r2"])
    assert np.isnan(regression(np.ones(1), np.full(1, 3.0))["r2"])


def test_the_loss_has_no_floor():
    """For very unlikely labels the loss is the difference of the logits, not the log of the smallest float."""
    logits = np.array([[5000.0, 0.0], [0.0, -1e6], [3.0, 3.0]], np.float32)
    labels = np.array([1, 1, 0])
    np.testing.assert_allclose(negative_log_likelihood(logits, labels), [5000.0, 1e6, np.log(2)], rtol=1e-12)
    assert summarise(logits, labels)["loss"] == pytest.approx((1005000.0 + np.log(2)) / 3, rel=1e-6)


def test_logits_that_differ_slightly_have_a_largest_one():
    logits = np.array([[1e-30, 2e-30], [-1e-30, 0.0]], np.float32)
    assert summarise(logits, np.array([1, 1]))["accuracy"] == 1.0
    answers = tasks.Classification(classes=2, names=("a", "b")).answers({"logits": logits}, {})
    assert [next(iter(answer)) for answer in answers] == ["b", "b"]


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_outside_the_classes_is_ignored(label):
    with pytest.raises(ValueError, match=rf"label {label} of example 2 is outside the 5 classes 0\.\.4"):
        summarise(LOGITS[:4], np.array([0, 1, label, 3]))


def test_softmax_is_float64_and_stable():
    p = softmax(np.array([[1e4, 0.0, -1e4]], np.float32))
    assert p.dtype == np.float64
    assert p.tolist() == [[1.0, 0.0, 0.0]]
