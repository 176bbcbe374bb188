"""Several real outputs, with standardised labels; predictions and metrics are in the units of the labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import tasks
from tlx.functional.metrics import of_scores
from tlx.functional.resampling import PLANS
from tlx.models import Pooled
from tlx.optim.hyperparameters import hyperparameters
from tlx.tasks import Statement
from tlx.types import Column

RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.normal(size=(50, 3)) * (1.0, 100.0, 0.01) + (0.0, 5000.0, 2.0)).astype(np.float32)
TASK = tasks.Regression(outputs=3).fitted(LABELS.tolist())


def test_the_mean_and_the_deviation_are_those_of_the_training_labels():
    np.testing.assert_allclose(TASK.mean, LABELS.astype(np.float64).mean(0))
    np.testing.assert_allclose(TASK.deviation, LABELS.astype(np.float64).std(0))
    constant = tasks.Regression(outputs=2).fitted([[0.1, 1.0], [0.1, 3.0]])
    assert constant.deviation == (1.0, 1.0) and constant.mean == pytest.approx((0.1, 2.0))
    assert TASK.fitted([[9.0, 9.0, 9.0]]) == TASK


def test_one_output_keeps_its_meaning():
    """Runs of earlier versions have neither a mean nor a deviation, and no number in their checkpoints for them."""
    one = tasks.Regression().fitted([4.0, 8.0])
    assert one == tasks.Regression() and not one.standardised and one.kept_fields == {}
    assert hyperparameters(one) == {}
    outputs, batch = {"logits": jnp.array([[1.0], [4.0]])}, {"label": jnp.array([1.0, 2.0])}
    np.testing.assert_array_equal(one.loss(outputs, batch)[0], [0.0, 4.0])
    scaled = tasks.Regression(standardise=True).fitted([4.0, 8.0])
    assert (scaled.mean, scaled.deviation) == ((6.0,), (2.0,))
    # Standardised labels -2.5 and -2.0 against 1.0 and 4.0.
    np.testing.assert_allclose(scaled.loss(outputs, batch)[0], [3.5**2, 6.0**2])
    np.testing.assert_allclose(scaled.score(outputs, batch)["prediction"], [[8.0], [14.0]])


def test_several_outputs_of_an_early_run_stay_as_they_were_learned():
    early = TASK.of_run({})
    assert early == tasks.Regression(outputs=3, standardise=False)
    assert TASK.of_early_run({"kind", "outputs", "standardise"}) == TASK
    assert tasks.Regression().of_run({}) == tasks.Regression()
    assert tasks.Regression(outputs=3).of_run({"task": TASK.kept_fields}) == TASK


def test_outputs_of_different_sizes_count_equally():
    logits = RANDOM.normal(size=(50, 3)).astype(np.float32)
    values, weights = jax.jit(TASK.loss)({"logits": logits}, {"label": LABELS})
    standard = (LABELS.astype(np.float64) - TASK.mean) / TASK.deviation
    np.testing.assert_allclose(values, ((logits - standard) ** 2).mean(-1), rtol=1e-3)
    np.testing.assert_array_equal(weights, 1.0)
    raw = tasks.Regression(outputs=3, standardise=False)
    np.testing.assert_allclose(raw.loss({"logits": logits}, {"label": LABELS})[0], ((logits - LABELS) ** 2).mean(-1))


def test_scores_and_answers_are_in_the_units_of_the_labels():
    exact = ((LABELS - np.float32(TASK.mean)) / np.float32(TASK.deviation)).astype(np.float32)
    scores = {name: np.asarray(array) for name, array in TASK.score({"logits": exact}, {"label": LABELS}).items()}
    np.testing.assert_allclose(scores["prediction"], LABELS, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scores["logits"], exact)
    metrics = TASK.summarise(scores)
    assert metrics["r2"] == pytest.approx(1) and metrics["rmse"] < 0.01 and metrics["spearman"] == pytest.approx(1)
    answers = TASK.answers({"logits": exact[:2]}, {})
    np.testing.assert_allclose([list(answer.values()) for answer in answers], LABELS[:2], rtol=1e-5, atol=1e-5)
    for name in ("rmse", "r2", "pearson", "spearman"):
        plan = PLANS[TASK.metric(name).value](scores)
        np.testing.assert_allclose(plan.values(np.ones((1, 50))), of_scores(TASK.metric(name), scores), rtol=1e-4)


@pytest.mark.parametrize(("outputs", "labels"), [(2, LABELS.tolist()), (1, LABELS.tolist()), (3, [1.0, 2.0])])
def test_another_number_of_outputs_is_refused_with_both_numbers(outputs, labels):
    with pytest.raises(ValueError) as error:
        tasks.Regression(outputs=outputs).resolve({"label": Column("numbers")}).fitted(labels)
    count = len(np.atleast_1d(labels[0]))
    for part in (f"has {count} number", f"outputs={outputs}", f"outputs={count}", "example 0"):
        assert part in str(error.value)


def test_an_uneven_row_is_named():
    with pytest.raises(ValueError, match=r"example 2 has 1 number,"):
        tasks.Regression(outputs=2).fitted([[1.0, 2.0], [3.0, 4.0], [5.0]])


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"outputs": 0}, ("outputs is 0",)),
        ({"outputs": 2, "mean": (1.0,), "deviation": (1.0, 1.0)}, ("mean", "2 finite numbers")),
        ({"outputs": 1, "standardise": True, "mean": (1.0,), "deviation": (0.0,)}, ("deviation", "0.0")),
        ({"outputs": 2, "mean": (1.0, 2.0)}, ("deviation is None",)),
        ({"outputs": 1, "mean": (1.0,), "deviation": (1.0,)}, ("standardise=True",)),
    ],
)
def test_scales_that_do_not_fit_are_refused(fields, parts):
    with pytest.raises(ValueError) as error:
        tasks.Regression(**fields)
    assert all(part in str(error.value) for part in parts)
    with pytest.raises(ValueError, match="training data"):
        tasks.Regression(outputs=2).loss({"logits": jnp.zeros((1, 2))}, {"label": jnp.zeros((1, 2))})


def test_a_checkpoint_of_other_software_is_in_the_units_of_its_labels():
    stated = tasks.stated(Statement(Pooled, 2, (), "regression"))
    assert not stated.standardised
    assert stated.answers({"logits": np.array([[1.5, 2.0]], np.float32)}, {}) == [{"output 0": 1.5, "output 1": 2.0}]
    assert stated.with_kept(tasks.Regression(outputs=2).fitted([[0.0, 1.0], [2.0, 5.0]]).kept_fields).mean == (1.0, 3.0)
    with pytest.raises(ValueError, match="keeps no field 'means'; close: 'mean'"):
        stated.with_kept({"means": [1.0]})
