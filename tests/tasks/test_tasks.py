"""Heads, losses and metrics of each task."""

import jax.numpy as jnp
import numpy as np
import pytest

from tlx import tasks
from tlx.functional import losses
from tlx.functional.scores import negative_log_likelihood
from tlx.types import Column

NUMBER = {"label": Column("number")}


def of_classes(*names):
    return {"label": Column("class", names)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.Classification(classes=1), "classes is 1 ... two classes"),
        (lambda: tasks.Classification(classes=3, names=("a", "b")), "2 names for 3 classes"),
        (lambda: tasks.Classification(smoothing=1.0), "smoothing is 1.0 ... share in [0, 1)"),
        (lambda: tasks.Classification(names=("a", "b")).resolve(of_classes("x", "y", "z")), "2 names for 3 classes"),
        (
            lambda: tasks.Classification(classes=2).resolve(of_classes("x", "y", "z")),
            "labels outside the class range: the data have 3 classes ... task ... 2",
        ),
        (lambda: tasks.Classification().resolve(NUMBER), "data set ... classes ... tasks.Regression"),
        (
            lambda: tasks.Regression().resolve(of_classes("a", "b")),
            "data set has classes (a, b, ...) ... tasks.Classification",
        ),
    ],
)
def test_a_task_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_classes_and_names_are_filled_in_from_the_data():
    resolved = tasks.Classification().resolve(of_classes("no", "yes"))
    assert (resolved.classes, resolved.outputs, resolved.names) == (2, 2, ("no", "yes"))
    assert tasks.Classification(names=("bad", "good")).resolve(of_classes("no", "yes")).names == ("bad", "good")
    more = tasks.Classification(classes=3).resolve(of_classes("no", "yes"))
    assert more.names == ("no", "yes", "class 2")
    assert tasks.Regression(outputs=2).resolve(NUMBER) == tasks.Regression(outputs=2)


def test_the_score_is_the_loss_without_smoothing():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(5, 3)).astype(np.float32), np.array([0, 1, 2, 1, 0])
    task = tasks.Classification(classes=3, names=("a", "b", "c"), smoothing=0.1)
    np.testing.assert_allclose(
        task.score({"logits": jnp.asarray(logits)}, {"label": jnp.asarray(labels)})["loss"],
        negative_log_likelihood(logits, labels),
        rtol=1e-5,
    )
    one = tasks.Regression()
    outputs, batch = {"logits": jnp.array([[0.0], [4.0]])}, {"label": jnp.array([1.0, 2.0])}
    np.testing.assert_array_equal(one.score(outputs, batch)["loss"], [1.0, 4.0])
    np.testing.assert_array_equal(one.loss(outputs, batch)[0], [1.0, 4.0])


def test_class_weights_equal_those_of_torch():
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(7, 3)).astype(np.float32), random.integers(0, 3, 7)
    task = tasks.Classification(classes=3, class_weights=(0.5, 2.0, 3.0), smoothing=0.0)
    sums, weights = task.loss({"logits": logits}, {"label": labels})
    np.testing.assert_array_equal(weights, np.array([0.5, 2.0, 3.0], np.float32)[labels])
    by_hand = (weights * negative_log_likelihood(logits, labels)).sum() / weights.sum()
    assert float(sums.sum() / weights.sum()) == pytest.approx(float(by_hand), rel=1e-6)


def test_smoothing_equals_that_of_the_loss_function():
    logits = np.array([[2.0, 0.0]], np.float32)
    smooth = tasks.Classification(classes=2, smoothing=0.2).loss({"logits": logits}, {"label": np.array([0])})
    assert smooth[0] == losses.cross_entropy(logits, np.array([0]), 0.2)


def test_the_primary_metric_is_the_first_declared_metric():
    for task, primary in (
        (tasks.Classification(classes=2), "accuracy"),
        (tasks.Regression(), "mse"),
        (tasks.MultiLabel(names=("a", "b")), "micro_f1"),
        (tasks.TokenClassification(names=("O", "B")), "micro_f1"),
    ):
        assert task.primary == primary
        assert task.higher_is_better == (primary != "mse")


def test_answers_are_sorted_by_probability_and_sum_to_one():
    task = tasks.Classification(classes=3, names=("a", "b", "c"))
    (answer,) = task.answers({"logits": np.array([[0.0, 2.0, 1.0]])}, {})
    assert list(answer) == ["b", "c", "a"]
    assert sum(answer.values()) == pytest.approx(1)
    answers = tasks.Regression(outputs=2, standardise=False).answers({"logits": np.array([[1.5, 2.0]])}, {})
    assert answers == [{"output 0": 1.5, "output 1": 2.0}]
