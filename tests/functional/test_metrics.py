"""Metrics, compared with scikit-learn and by hand."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as independent

from tlx import tasks
from tlx.functional import metrics

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
    return tasks.Regression().summarise(metrics.scores_of(columns, np.asarray(targets, float)))


def test_classification_agrees_with_scikit_learn():
    actual = summarise(LOGITS, LABELS)
    guess = LOGITS.argmax(-1)
    assert actual["accuracy"] == pytest.approx(independent.accuracy_score(LABELS, guess), abs=1e-12)
    assert actual["f1"] == pytest.approx(independent.f1_score(LABELS, guess, average="macro"), abs=1e-12)
    p = metrics.softmax(LOGITS)
    assert actual["loss"] == pytest.approx(independent.log_loss(LABELS, p, labels=range(5)), rel=1e-6)
    counts = metrics.confusion_matrix(LABELS, guess, 5)
    np.testing.assert_array_equal(counts, independent.confusion_matrix(LABELS, guess, labels=range(5)))


def test_scores_on_the_device_and_on_the_host_agree():
    """Scores are computed in float32; old predictions are read back in float64."""
    task = tasks.Classification(classes=5)
    tlx_side = task.score({"logits": jnp.asarray(LOGITS)}, {"label": jnp.asarray(LABELS)})
    for name, array in metrics.scores_of(LOGITS, LABELS).items():
        np.testing.assert_allclose(tlx_side[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_class_that_neither_occurs_nor_is_predicted_does_not_count_in_f1():
    logits = np.array([[2.0, 1.0, -9.0], [1.0, 2.0, -9.0]])
    assert summarise(logits, np.array([0, 1]))["f1"] == 1.0


def test_calibration_error_by_hand():
    # Confidences 0.9 and 0.9 (one right), 0.6 (right): |1.8 - 1| / 3 + |0.6 - 1| / 3.
    logits = np.log([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert summarise(logits, np.array([0, 1, 1]))["ece"] == pytest.approx((0.8 + 0.4) / 3, abs=1e-6)


def test_confidence_one_is_in_the_last_bin():
    scores = metrics.scores_of(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]))
    assert metrics.calibration_bins(scores)[-1].tolist() == [2, 2, 1]
    assert np.isfinite(scores["loss"]).all()
    assert metrics.calibration_error(scores) == 0.5


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


def test_outputs_with_different_means_do_not_count_as_explained():
    targets = RANDOM.normal(size=(60, 3)) + np.array([0.0, 10.0, -5.0])
    predictions = targets + RANDOM.normal(size=(60, 3))
    actual = regression(predictions, targets)
    assert actual["mse"] == pytest.approx(independent.mean_squared_error(targets, predictions))
    assert actual["mae"] == pytest.approx(independent.mean_absolute_error(targets, predictions))
    expected = independent.r2_score(targets, predictions, multioutput="variance_weighted")
    assert actual["r2"] == pytest.approx(expected)
    assert actual["pearson"] < 0.9
    means = np.broadcast_to(targets.mean(0), targets.shape)
    assert regression(means, targets)["r2"] == pytest.approx(0, abs=1e-9)


def test_undefined_metrics_are_zero():
    assert regression(np.ones(4), np.full(4, 2.0)) == {"mse": 1.0, "mae": 1.0, "r2": 0.0, "pearson": 0.0}
    # A constant with inexact sums.
    actual = regression(np.arange(49.0), np.full(49, 0.1))
    assert (actual["r2"], actual["pearson"]) == (0.0, 0.0)


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
        assert actual["pearson"] == 0.0
    assert actual["mse"] == pytest.approx(independent.mean_squared_error(targets, wide))


@pytest.mark.parametrize("value", [0.1, 1e8 + 0.3, 0.0])
def test_a_constant_has_no_correlation(value):
    predictions, targets = np.arange(49.0), np.full(49, value)
    for actual in (regression(predictions, targets), regression(targets, predictions)):
        assert actual["pearson"] == 0.0
        assert np.isfinite(list(actual.values())).all()
    assert regression(predictions, targets)["r2"] == 0.0
    assert regression(np.ones(1), np.full(1, 3.0)) == {"mse": 4.0, "mae": 2.0, "r2": 0.0, "pearson": 0.0}


def test_the_loss_has_no_floor():
    """For very unlikely labels the loss is the difference of the logits, not the log of the smallest float."""
    logits = np.array([[5000.0, 0.0], [0.0, -1e6], [3.0, 3.0]], np.float32)
    labels = np.array([1, 1, 0])
    np.testing.assert_allclose(metrics.negative_log_likelihood(logits, labels), [5000.0, 1e6, np.log(2)], rtol=1e-12)
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
    p = metrics.softmax(np.array([[1e4, 0.0, -1e4]], np.float32))
    assert p.dtype == np.float64
    assert p.tolist() == [[1.0, 0.0, 0.0]]


FEATURES = RANDOM.normal(size=(64, 6))
OTHERS = FEATURES[:, :4] @ RANDOM.normal(size=(4, 5)) + RANDOM.normal(size=(64, 5))


def similarity(x, y):
    return metrics.summarise_similarity(metrics.sum_similarity(x, y))["cka"]


def test_plain_cka_by_its_definition():
    """HSIC of the centred kernels (Kornblith et al., 2019, equation 3) equals that of the centred features."""
    centre = np.eye(64) - 1 / 64
    k, m = (centre @ x @ x.T @ centre for x in (FEATURES, OTHERS))
    recorded = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert metrics.linear_cka(FEATURES, OTHERS) == pytest.approx(recorded, abs=1e-12)


def test_the_unbiased_hsic_is_the_mean_over_four_different_examples():
    """Song et al. (2012), theorem 3: the U-statistic over all ordered quadruples without repetition."""
    import itertools

    x, y = FEATURES[:7], OTHERS[:7]
    k, m = x @ x.T, y @ y.T
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(7), 4)]
    assert metrics.hsic(k, m) == pytest.approx(np.mean(terms), rel=1e-9)


@pytest.mark.parametrize("form", [similarity, metrics.linear_cka])
def test_cka_does_not_depend_on_rotation_scale_or_position(form):
    turn, _ = np.linalg.qr(RANDOM.normal(size=(6, 6)))
    message = form(FEATURES, OTHERS)
    assert form(3 * FEATURES @ turn + 7, OTHERS) == pytest.approx(message, abs=1e-9)
    assert form(OTHERS, FEATURES) == pytest.approx(message, abs=1e-12)
    assert form(FEATURES, FEATURES) == pytest.approx(1, abs=1e-12)
    assert np.isnan(form(FEATURES, np.ones((64, 3))))


def test_cka_by_batches_is_unbiased_and_the_plain_form_is_not():
    """For independent wide features it is about zero; for many examples of narrow features both forms agree."""
    wide = [RANDOM.normal(size=(512, 200)) for _ in range(2)]
    parts = [metrics.sum_similarity(*(x[n : n + 64] for x in wide)) for n in range(0, 512, 64)]
    sums = parts[0]
    for part in parts[1:]:
        sums = metrics.merge(sums, part)
    assert sums.batches == 8
    assert abs(metrics.summarise_similarity(sums)["cka"]) < 0.05
    assert metrics.linear_cka(wide[0][:64], wide[1][:64]) > 0.5
    x = RANDOM.normal(size=(2000, 3))
    y = x @ RANDOM.normal(size=(3, 2)) + RANDOM.normal(size=(2000, 2))
    parts = [metrics.sum_similarity(x[n : n + 100], y[n : n + 100]) for n in range(0, 2000, 100)]
    sums = parts[0]
    for part in parts[1:]:
        sums = metrics.merge(sums, part)
    assert metrics.summarise_similarity(sums)["cka"] == pytest.approx(metrics.linear_cka(x, y), abs=0.02)


def test_cka_refuses_invalid_input():
    with pytest.raises(ValueError, match="features of 64 and of 63 examples"):
        metrics.sum_similarity(FEATURES, OTHERS[:63])
    with pytest.raises(ValueError, match="3 examples; the unbiased HSIC requires at least 4"):
        metrics.sum_similarity(FEATURES[:3], OTHERS[:3])


def test_effective_rank_by_hand():
    assert metrics.effective_rank(np.array([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert metrics.effective_rank(np.array([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert metrics.effective_rank(np.zeros(3)) == 0
    # Shares 3/4 and 1/4: exp(3/4 ln 4/3 + 1/4 ln 4).
    assert metrics.effective_rank(np.array([3.0, 1.0])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)
    values = RANDOM.uniform(size=9)
    assert metrics.effective_rank(7 * values) == pytest.approx(metrics.effective_rank(values))
    assert metrics.effective_rank(values) < 9
