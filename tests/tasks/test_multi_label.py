"""Classification with several classes per example, compared with scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as independent

from tlx import tasks
from tlx.types import Column

NAMES = ("a", "b", "c", "d")
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(53, 4)).astype(np.float32)
LABELS = (RANDOM.random((53, 4)) < 0.3).astype(np.float32)


def scores(task=None):
    task = task or tasks.MultiLabel(names=NAMES)
    arrays = jax.jit(task.score)({"logits": LOGITS}, {"label": LABELS})
    return {name: np.asarray(array) for name, array in arrays.items()}


def test_metrics_agree_with_scikit_learn():
    results = tasks.MultiLabel(names=NAMES).summarise(scores())
    guess = LOGITS > 0
    assert results["micro_f1"] == pytest.approx(independent.f1_score(LABELS, guess, average="micro"))
    assert results["macro_f1"] == pytest.approx(independent.f1_score(LABELS, guess, average="macro"))
    assert results["exact_match"] == pytest.approx(independent.accuracy_score(LABELS, guess))
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    by_class = [independent.log_loss(LABELS[:, c], p[:, c], labels=[0, 1]) for c in range(4)]
    assert results["loss"] == pytest.approx(np.mean(by_class), rel=1e-6)


def test_the_loss_and_its_gradient_are_exact_for_large_logits():
    task = tasks.MultiLabel(names=("a", "b"))
    logits, label = jnp.array([[1e4, -1e4], [-1e4, 1e4]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    values, weights = task.loss({"logits": logits}, {"label": label})
    np.testing.assert_allclose(values, [0.0, 1e4])
    np.testing.assert_array_equal(weights, [1.0, 1.0])
    slope = jax.grad(lambda x: task.loss({"logits": x}, {"label": label})[0].sum())(logits)
    np.testing.assert_allclose(slope, [[0.0, 0.0], [-0.5, 0.5]])


def test_a_higher_threshold_predicts_fewer_classes():
    task = tasks.MultiLabel(names=NAMES, threshold=0.8)
    assert scores(task)["prediction"].sum() < scores()["prediction"].sum()
    np.testing.assert_array_equal(scores(task)["prediction"], np.log(4) < LOGITS)


def test_targets_answers_and_label_words():
    task = tasks.MultiLabel().resolve({"label": Column("classes", NAMES)})
    assert (task.names, task.outputs) == (NAMES, 4)
    assert task.targets({"label": [2, 0]}, None)["label"].tolist() == [1, 0, 1, 0]
    assert task.targets({"label": []}, None)["label"].tolist() == [0, 0, 0, 0]
    assert task.label_words({"label": [2, 0]}) == "c, a" and task.label_words({"label": []}) == "none"
    (answer,) = task.answers({"logits": np.array([[0.0, 2.0, -1.0, 1.0]])}, {})
    assert list(answer) == ["b", "d", "a", "c"] and answer["a"] == 0.5


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: tasks.MultiLabel(threshold=1.0), ("threshold", "1.0")),
        (lambda: tasks.MultiLabel(names=("a", "a")), ("'a'", "twice")),
        (lambda: tasks.MultiLabel().head(), ("names=",)),
        (lambda: tasks.MultiLabel().resolve({"label": Column("number")}), ("number", "classes")),
        (lambda: tasks.MultiLabel(names=("x", "y")).resolve({"label": Column("classes", NAMES)}), ("x, y", "a, b, c")),
    ],
)
def test_invalid_input_is_named_in_the_error(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts)
