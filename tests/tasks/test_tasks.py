"""Heads, losses and measures by task."""

import numpy as np
import pytest

from tlx import tasks
from tlx.functional import losses


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.Classification(classes=1), "classes is 1; a classification needs two or more"),
        (lambda: tasks.Classification(classes=3, names=("a", "b")), "2 names for 3 classes"),
        (lambda: tasks.Classification(smoothing=1.0), "smoothing is 1.0; a share in [0, 1)"),
        (lambda: tasks.Classification(names=("a", "b")).resolve(("x", "y", "z")), "2 names for 3 classes"),
        (
            lambda: tasks.Classification(classes=2).resolve(("x", "y", "z")),
            "labels outside the class range: the data have 3 classes, the task 2",
        ),
        (lambda: tasks.Classification().resolve(()), "the data set names no classes; it fits tasks.Regression"),
        (
            lambda: tasks.Regression().resolve(("a", "b")),
            "the data set has classes (a, b, ...); it fits tasks.Classification",
        ),
    ],
)
def test_a_task_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_classes_and_names_are_filled_in_from_the_data():
    resolved = tasks.Classification().resolve(("no", "yes"))
    assert (resolved.classes, resolved.outputs, resolved.names) == (2, 2, ("no", "yes"))
    assert tasks.Classification(names=("bad", "good")).resolve(("no", "yes")).names == ("bad", "good")
    more = tasks.Classification(classes=3).resolve(("no", "yes"))
    assert more.names == ("no", "yes", "class 2")
    assert tasks.Regression(outputs=2).resolve(()) == tasks.Regression(outputs=2)


def test_the_loss_of_the_step_and_that_of_the_page_agree():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(5, 3)).astype(np.float32), np.array([0, 1, 2, 1, 0])
    task = tasks.Classification(classes=3, names=("a", "b", "c"))
    np.testing.assert_allclose(task.loss(logits, {"label": labels}), task.losses(logits, labels), rtol=1e-5)
    numbers = tasks.Regression(outputs=3)
    np.testing.assert_allclose(
        numbers.loss(logits, {"label": logits * 2}), numbers.losses(logits, logits * 2), rtol=1e-5
    )
    one = tasks.Regression()
    given = np.array([1.0, 2.0], np.float32)
    np.testing.assert_array_equal(one.losses(np.array([[0.0], [4.0]], np.float32), given), [1.0, 4.0])


def test_smoothing_is_that_of_the_loss():
    logits = np.array([[2.0, 0.0]], np.float32)
    smooth = tasks.Classification(classes=2, smoothing=0.2).loss(logits, {"label": np.array([0])})
    assert smooth == losses.cross_entropy(logits, np.array([0]), 0.2)


def test_measures_are_summed_and_the_primary_one_is_among_them():
    logits = np.array([[2.0, 0.0], [2.0, 0.0]])
    task = tasks.Classification(classes=2)
    told = task.summarise(task.measure(logits, np.array([0, 1])))
    assert told["accuracy"] == 0.5
    assert task.primary in told
    numbers = tasks.Regression()
    assert numbers.primary in numbers.summarise(numbers.measure(logits[:, :1], np.array([1.0, 2.0])))


def test_answers_come_most_probable_first_and_sum_to_one():
    task = tasks.Classification(classes=3, names=("a", "b", "c"))
    (answer,) = task.decode(np.array([[0.0, 2.0, 1.0]]))
    assert list(answer) == ["b", "c", "a"]
    assert sum(answer.values()) == pytest.approx(1)
    assert tasks.Regression(outputs=2).decode(np.array([[1.5, 2.0]])) == [{"output 0": 1.5, "output 1": 2.0}]
