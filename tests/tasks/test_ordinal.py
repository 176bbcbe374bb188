"""Ordered classes: conditional thresholds by hand and by definition, the order of the classes, the metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as independent

from tlx import tasks
from tlx.types import Column

RANDOM = np.random.default_rng(0)
NAMES = ("bad", "fair", "good", "best")
DATA = {"label": Column("class", NAMES)}
TASK = tasks.Ordinal(names=NAMES, ranks=(0, 1, 2, 3))
LOGITS = RANDOM.normal(size=(80, 3)).astype(np.float32)
LABELS = RANDOM.integers(0, 4, 80).astype(np.int32)


def scores(logits=LOGITS, labels=LABELS):
    arrays = jax.jit(TASK.score)({"logits": jnp.asarray(logits)}, {"label": jnp.asarray(labels)})
    return {name: np.asarray(array) for name, array in arrays.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_the_loss_is_that_of_conditional_training_sets():
    """Shi, Cao and Raschka (2023), section 3.3: threshold k is trained on the examples with y > k - 1 only."""
    sums, weights = TASK.loss({"logits": jnp.asarray(LOGITS)}, {"label": jnp.asarray(LABELS)})
    total, count = 0.0, 0
    for k in range(3):
        members = k - 1 < LABELS
        p = sigmoid(LOGITS[members, k])
        total += independent.log_loss(LABELS[members] > k, p, labels=[False, True], normalize=False)
        count += members.sum()
    assert float(sums.sum() / weights.sum()) == pytest.approx(total / count, rel=1e-5)
    assert float(weights.sum()) == count


def test_probabilities_by_hand():
    """Beyond the thresholds with 0.8, 0.5 and 0.5: the classes have 0.2, 0.4, 0.2 and 0.2; the median is class 1."""
    logits = np.log([[0.8 / 0.2, 1.0, 1.0]])
    (answer,) = TASK.answers({"logits": logits}, {})
    assert answer == pytest.approx({"fair": 0.4, "bad": 0.2, "good": 0.2, "best": 0.2})
    row = scores(logits, np.array([3], np.int32))
    assert (row["prediction"][0], row["absolute_error"][0], bool(row["correct"][0])) == (1, 2.0, False)
    assert row["confidence"][0] == pytest.approx(0.4)
    assert row["loss"][0] == pytest.approx(-np.log(0.2), rel=1e-6)


def test_the_first_answer_is_the_predicted_class():
    """The median may differ from the most probable class: 0.3, 0.3 and 0.4, where the median is class 1."""
    (answer,) = tasks.Ordinal(names=("a", "b", "c")).answers({"logits": np.log([[0.7 / 0.3, 0.4 / 0.3]])}, {})
    assert list(answer) == ["b", "c", "a"] and sum(answer.values()) == pytest.approx(1)


def test_a_table_of_answers_has_the_median_class():
    task = tasks.Ordinal(names=("low", "mid", "high"))
    (answer,) = task.answers({"logits": np.log([[0.7 / 0.3, 0.4 / 0.3]])}, {})
    values = task.answer_values(answer)
    assert values["prediction"] == "mid" and values["probability"] == pytest.approx(0.3)
    assert list(values["probabilities"]) == ["low", "mid", "high"]
    assert values["probabilities"] == pytest.approx({"low": 0.3, "mid": 0.3, "high": 0.4})


def test_probabilities_agree_with_the_order_and_sum_to_one():
    for answer, row in zip(TASK.answers({"logits": LOGITS}, {}), LOGITS, strict=True):
        beyond = [sum(answer[name] for name in NAMES[k + 1 :]) for k in range(3)]
        np.testing.assert_allclose(beyond, np.cumprod(sigmoid(row)), rtol=1e-6)
        assert beyond == sorted(beyond, reverse=True) and sum(answer.values()) == pytest.approx(1)


def test_metrics_agree_with_scikit_learn():
    actual, guess = TASK.summarise(scores()), scores()["prediction"]
    assert list(actual) == ["mae", "quadratic_kappa", "accuracy", "loss"]
    assert actual["mae"] == pytest.approx(independent.mean_absolute_error(LABELS, guess))
    assert actual["quadratic_kappa"] == pytest.approx(independent.cohen_kappa_score(LABELS, guess, weights="quadratic"))
    assert actual["accuracy"] == pytest.approx(independent.accuracy_score(LABELS, guess))
    by_name = [[answer[name] for name in NAMES] for answer in TASK.answers({"logits": LOGITS}, {})]
    assert actual["loss"] == pytest.approx(independent.log_loss(LABELS, by_name, labels=range(4)), rel=1e-5)


def test_large_logits_have_an_exact_loss_and_gradient():
    logits, labels = jnp.full((1, 3), -1e4), jnp.array([3])
    sums, _ = TASK.loss({"logits": logits}, {"label": labels})
    slope = jax.grad(lambda x: TASK.loss({"logits": x}, {"label": labels})[0].sum())(logits)
    assert float(sums[0]) == 3e4 and slope.tolist() == [[-1.0, -1.0, -1.0]]


def test_the_classes_of_the_data_are_put_in_their_order():
    data = {"label": Column("class", ("best", "bad", "good", "fair"))}
    task = tasks.Ordinal(names=NAMES).resolve(data)
    assert task.ranks == (3, 0, 2, 1) and task.outputs == 3
    assert task.targets({"label": 1}, None)["label"] == 0 and task.label_words({"label": 1}) == "bad"
    assert task.resolve(data) == task
    stars = tasks.Ordinal().resolve({"label": Column("class", ("1", "10", "2"))})
    assert (stars.names, stars.ranks) == (("1", "2", "10"), (0, 2, 1))


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: tasks.Ordinal().resolve(DATA), ("bad, fair, good, best", "names=")),
        (
            lambda: tasks.Ordinal(names=("bad", "good")).resolve(DATA),
            ("bad, good", "fair"),
        ),
        (lambda: tasks.Ordinal(names=("bad", "bad")), ("'bad'", "twice")),
        (lambda: tasks.Ordinal(names=("bad",)), ("bad", "two classes")),
        (lambda: tasks.Ordinal().head(), ("names=",)),
        (lambda: tasks.Ordinal().resolve({"label": Column("number")}), ("number", "class")),
    ],
)
def test_an_unknown_order_is_refused(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts), error.value
