"""Weights of classes, balanced or given, and the focal loss, against scikit-learn and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tlx import tasks
from tlx.functional import losses
from tlx.tasks.weighting import balanced, balanced_positives
from tlx.types import Column

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("classes", [2, 200])
def test_balanced_weights_are_those_of_scikit_learn(classes):
    labels = np.minimum(RANDOM.geometric(0.05, 3000), classes) - 1
    labels[:classes] = np.arange(classes)
    expected = compute_class_weight("balanced", classes=np.arange(classes), y=labels)
    task = tasks.Classification(classes=classes, class_weights="balanced").fitted(labels.tolist())
    np.testing.assert_allclose(task.class_weights, expected)
    totals = np.bincount(labels) * task.class_weights
    np.testing.assert_allclose(totals, totals[0])
    assert np.mean(np.array(task.class_weights)[labels]) == pytest.approx(1)


def test_a_class_without_examples_has_the_weight_of_an_average_example():
    assert balanced(np.array([3, 0, 1])) == pytest.approx((4 / 6, 1.0, 2.0))


def test_balanced_positives_weigh_as_much_as_negatives():
    assert balanced_positives(np.array([1, 4, 0, 2]), 4) == (3.0, 1.0, 1.0, 1.0)
    task = tasks.MultiLabel(names=("a", "b"), class_weights="balanced").fitted([[0], [0, 1], [], [0, 0]])
    assert task.class_weights == pytest.approx((1 / 3, 3.0))


def test_weights_of_positive_examples_by_hand():
    """As pos_weight in torch: w y softplus(-z) + (1 - y) softplus(z)."""
    logits, label = RANDOM.normal(size=(7, 3)).astype(np.float32), (RANDOM.random((7, 3)) < 0.5).astype(np.float32)
    weights = np.array([0.0, 1.0, 4.0], np.float32)
    task = tasks.MultiLabel(names=("a", "b", "c"), class_weights=(0.0, 1.0, 4.0))
    positive, negative = np.log1p(np.exp(-logits)), np.log1p(np.exp(logits))
    expected = (weights * label * positive + (1 - label) * negative).mean(-1)
    np.testing.assert_allclose(task.loss({"logits": logits}, {"label": label})[0], expected, rtol=1e-5)
    # The score is the plain loss, so that runs with other weights can be compared.
    plain = tasks.MultiLabel(names=("a", "b", "c"))
    np.testing.assert_allclose(
        task.score({"logits": logits}, {"label": label})["loss"], plain.loss({"logits": logits}, {"label": label})[0]
    )
    even = tasks.MultiLabel(names=("a", "b", "c"), class_weights=(1.0, 1.0, 1.0))
    np.testing.assert_allclose(
        even.loss({"logits": logits}, {"label": label})[0],
        plain.loss({"logits": logits}, {"label": label})[0],
        rtol=1e-6,
    )


def test_words_are_weighted_by_their_class():
    task = tasks.TokenClassification(names=("O", "B"), class_weights="balanced").fitted([[0, 0, 1], [0]])
    assert task.class_weights == pytest.approx((4 / 6, 2.0))
    logits = RANDOM.normal(size=(2, 3, 2)).astype(np.float32)
    label = np.array([[0, 1, -100], [1, -100, -100]])
    sums, weights = task.loss({"logits": logits}, {"label": label})
    log_p = np.asarray(jax.nn.log_softmax(logits, -1))
    by_hand = [-4 / 6 * log_p[0, 0, 0] - 2 * log_p[0, 1, 1], -2 * log_p[1, 0, 1]]
    np.testing.assert_allclose(sums, by_hand, rtol=1e-5)
    np.testing.assert_allclose(weights, [4 / 6 + 2, 2], rtol=1e-6)
    scores = task.score({"logits": logits}, {"label": label})
    np.testing.assert_allclose(scores["loss"], [-log_p[0, 0, 0] - log_p[0, 1, 1], -log_p[1, 0, 1]], rtol=1e-5)


def test_a_class_of_weight_zero_has_no_gradient():
    task = tasks.Classification(classes=2, class_weights=(0.0, 1.0))

    def mean(logits, label):
        sums, weights = task.loss({"logits": logits}, {"label": label})
        return sums.sum() / jnp.maximum(weights.sum(), 1e-9)

    slope = jax.grad(mean)(jnp.ones((2, 2)), jnp.array([0, 1]))
    assert slope[0].tolist() == [0.0, 0.0] and slope[1].tolist() != [0.0, 0.0]
    assert float(mean(jnp.ones((1, 2)), jnp.array([0]))) == 0.0


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        ((1.0,), ("1 class_weights", "3 classes")),
        ((0.0, 0.0, 0.0), ("above 0",)),
        ((1.0, -1.0, 2.0), ("-1.0",)),
        ((1.0, float("inf"), 2.0), ("inf",)),
        ("balance", ("'balance'", "'balanced'")),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, parts):
    for make in (
        lambda: tasks.Classification(classes=3, class_weights=weights),
        lambda: tasks.MultiLabel(names=("a", "b", "c"), class_weights=weights),
        lambda: tasks.TokenClassification(names=("a", "b", "c"), class_weights=weights),
    ):
        with pytest.raises(ValueError) as error:
            make()
        assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 2.0}, np.array([1.0, 2.0]), ("1", "2")], ids=repr)
def test_weights_that_are_no_tuple_of_numbers_are_refused(weights):
    for make in (tasks.Classification, tasks.MultiLabel, tasks.TokenClassification):
        with pytest.raises(TypeError, match=r"class_weights is .*tuple .*in the order of the classes"):
            make(class_weights=weights)


def test_the_number_of_weights_is_compared_with_the_data():
    task = tasks.Classification(class_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="2 class_weights for 3 classes"):
        task.resolve({"label": Column("class", ("a", "b", "c"))})
    with pytest.raises(ValueError, match="training labels"):
        tasks.Classification(classes=2, class_weights="balanced").loss(
            {"logits": jnp.zeros((1, 2))}, {"label": jnp.array([0])}
        )


def test_the_focal_loss_by_its_definition():
    """Lin et al. (2017), equation 4; with exponent 0 it is the cross-entropy."""
    logits, labels = RANDOM.normal(size=(9, 4)).astype(np.float32), RANDOM.integers(0, 4, 9)
    p = np.asarray(jax.nn.softmax(logits, -1))[np.arange(9), labels]
    for exponent in (0.0, 0.5, 2.0):
        values = losses.focal(jnp.asarray(logits), jnp.asarray(labels), exponent)
        np.testing.assert_allclose(values, -((1 - p) ** exponent) * np.log(p), rtol=1e-4)
    task = tasks.Classification(classes=4, focal=2.0, class_weights=(1.0, 2.0, 0.0, 1.0))
    sums, weights = task.loss({"logits": jnp.asarray(logits)}, {"label": jnp.asarray(labels)})
    np.testing.assert_array_equal(weights, np.array([1.0, 2.0, 0.0, 1.0], np.float32)[labels])
    np.testing.assert_allclose(sums, np.asarray(weights) * -((1 - p) ** 2) * np.log(p), rtol=1e-4)


def test_the_focal_loss_is_bounded_where_the_probability_rounds():
    labels = jnp.array([0, 0])
    logits = jnp.array([[100.0, 0.0], [-100.0, 0.0]])
    for exponent in (0.5, 2.0):
        slope = jax.grad(lambda z, e=exponent: losses.focal(z, labels, e).sum())(logits)
        assert jnp.isfinite(slope).all() and slope[0, 0] == 0
        np.testing.assert_allclose(slope[1], [-1.0, 1.0])


def test_a_focal_loss_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"focal is -1\.0"):
        tasks.Classification(classes=2, focal=-1.0)
    with pytest.raises(ValueError, match=r"focal is 2\.0 and smoothing is 0\.1"):
        tasks.Classification(classes=2, focal=2.0, smoothing=0.1)
