"""Temperature scaling: its optimum by hand, what it changes and what it does not."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from tlx import tasks
from tlx.functional.calibration import at_temperature, calibrated_error, calibration_error, fit_temperature
from tlx.functional.scores import negative_log_likelihood, scores_of

RANDOM = np.random.default_rng(0)


def overconfident(classes=5, count=400, factor=3.0):
    logits = RANDOM.normal(size=(count, classes))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.array([RANDOM.choice(classes, p=row) for row in p])
    return (factor * logits).astype(np.float32), labels


def test_the_optimum_of_one_margin_by_hand():
    """All examples have the margin m, and a share q is right: sigmoid(m / T) = q."""
    logits = np.tile([[6.0, 0.0]], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert fit_temperature(logits, labels) == pytest.approx(6 / np.log(4), rel=1e-5)


def test_the_optimum_agrees_with_another_search():
    logits, labels = overconfident()
    found = minimize(lambda t: negative_log_likelihood(logits / np.exp(t[0]), labels).mean(), [0.0], method="BFGS")
    assert fit_temperature(logits, labels) == pytest.approx(np.exp(found.x[0]), rel=1e-4)
    assert fit_temperature(logits, labels) == pytest.approx(3, abs=0.5)


def test_certain_and_useless_predictions_stay_within_the_bounds():
    certain, useless = np.tile([[9.0, 0.0]], (5, 1)), np.array([[1.0, 0.0], [1.0, 0.0]])
    # All are right, so the smallest temperatures have no loss that could be lower.
    assert 0.01 <= fit_temperature(certain, np.zeros(5, int)) < 0.2
    assert fit_temperature(useless, np.array([0, 1])) == pytest.approx(100, rel=1e-3)
    with pytest.raises(ValueError, match="0 rows"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, int))


def test_a_temperature_improves_calibration_and_changes_no_prediction():
    logits, labels = overconfident()
    scores = scores_of(logits, labels)
    task = tasks.Classification(classes=5, names=tuple("abcde"), calibrate=True)
    assert "calibrated_ece" not in task.measures
    fitted = task.calibrated(scores)
    both = scores | fitted.calibrated_scores(scores)
    metrics = fitted.summarise(both)
    assert metrics["calibrated_loss"] < metrics["loss"] and metrics["calibrated_ece"] < metrics["ece"] / 2
    assert metrics["calibrated_ece"] == pytest.approx(calibrated_error(both))
    np.testing.assert_allclose(
        metrics["calibrated_ece"], calibration_error(scores_of(logits / fitted.temperature, labels)), rtol=1e-4
    )
    # The model computes the same scores on a device.
    device = fitted.score({"logits": jnp.asarray(logits)}, {"label": jnp.asarray(labels)})
    for name, array in at_temperature(logits, labels, fitted.temperature).items():
        np.testing.assert_allclose(device[name], array, rtol=1e-4, atol=1e-6)
    plain, cooled = (one.answers({"logits": logits}, {}) for one in (task, fitted))
    assert [list(answer) for answer in plain] == [list(answer) for answer in cooled]
    assert max(cooled[0].values()) < max(plain[0].values())


def test_a_task_that_does_not_ask_is_not_calibrated():
    logits, labels = overconfident(count=20)
    task = tasks.Classification(classes=5)
    assert task.calibrated(scores_of(logits, labels)) is task and task.calibrated_scores({}) == {}
    with pytest.raises(ValueError, match="1000 classes; the task has 2000"):
        tasks.Classification(classes=2000, calibrate=True)
    with pytest.raises(ValueError, match=r"temperature is 0\.0"):
        tasks.Classification(classes=2, temperature=0.0)
