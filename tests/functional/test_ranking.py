"""AUROC and average precision, compared with scikit-learn and by hand; top-k and Brier scores."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as independent

from tlx.functional import losses, ranking
from tlx.functional.scores import among_top, one_against_rest, softmax, squared_distance

RANDOM = np.random.default_rng(0)


def drawn(classes, count=300):
    labels = RANDOM.integers(0, classes, count)
    logits = RANDOM.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 1
    return {"label": labels, "logits": logits}


def test_two_classes_are_one_question():
    scores = drawn(2)
    p = softmax(scores["logits"])[:, 1]
    assert ranking.auroc(scores) == pytest.approx(independent.roc_auc_score(scores["label"], p))
    assert ranking.average_precision(scores) == pytest.approx(independent.average_precision_score(scores["label"], p))


@pytest.mark.parametrize("classes", [3, 200])
def test_several_classes_are_averaged_against_the_rest(classes):
    scores = drawn(classes, 5 * classes)
    # Every class has an example, so scikit-learn defines both.
    scores["label"][:classes] = np.arange(classes)
    p, truth = softmax(scores["logits"]), np.eye(classes)[scores["label"]]
    assert ranking.auroc(scores) == pytest.approx(independent.roc_auc_score(scores["label"], p, multi_class="ovr"))
    assert ranking.average_precision(scores) == pytest.approx(independent.average_precision_score(truth, p))


def test_several_labels_of_an_example():
    logits, label = RANDOM.normal(size=(60, 4)).astype(np.float32), RANDOM.random((60, 4)) < 0.3
    scores = {"label": label, "logits": logits}
    assert ranking.auroc(scores) == pytest.approx(independent.roc_auc_score(label, logits))
    assert ranking.average_precision(scores) == pytest.approx(independent.average_precision_score(label, logits))


def test_an_absent_class_is_left_out_without_a_warning():
    scores = drawn(4)
    scores["label"] = scores["label"] % 3
    p = softmax(scores["logits"])
    curves = [independent.roc_auc_score(scores["label"] == c, p[:, c]) for c in range(3)]
    assert ranking.auroc(scores) == pytest.approx(np.mean(curves))
    precisions = [independent.average_precision_score(scores["label"] == c, p[:, c]) for c in range(3)]
    assert ranking.average_precision(scores) == pytest.approx(np.mean(precisions))


def test_one_class_alone_has_no_curve():
    scores = {"label": np.zeros(5, int), "logits": RANDOM.normal(size=(5, 2))}
    assert np.isnan(ranking.auroc(scores)) and np.isnan(ranking.average_precision(scores))
    scores["label"] += 1
    assert np.isnan(ranking.auroc(scores)) and ranking.average_precision(scores) == 1.0
    scores = drawn(3)
    scores["logits"][0, 0] = np.nan
    assert np.isnan(ranking.auroc(scores))


def test_constant_predictions_are_ranked_by_chance():
    scores = {"label": np.array([0, 1, 1, 0, 2]), "logits": np.zeros((5, 3), np.float32)}
    assert ranking.auroc(scores) == 0.5
    assert ranking.average_precision(scores) == pytest.approx((2 / 5 + 2 / 5 + 1 / 5) / 3)


def test_certain_predictions_keep_their_ranks():
    """By probabilities of 1.0 the first two examples of class 0 would be equal."""
    logits = np.array([[100.0, 0.0, 0.0], [90.0, 0.0, 0.0], [0.0, 80.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
    (_, numbers), *_ = one_against_rest({"label": np.array([0, 1, 1, 2]), "logits": logits})
    assert (np.diff(numbers[:2]) < 0).all()
    log_odds = losses.log_odds(jnp.asarray(logits), jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(numbers, log_odds, rtol=1e-5, atol=1e-5)


def test_the_largest_logits_contain_the_label():
    scores = drawn(200)
    for count in (1, 5):
        hits = among_top(scores["logits"], scores["label"], count)
        expected = independent.top_k_accuracy_score(scores["label"], scores["logits"], k=count, labels=range(200))
        assert hits.mean() == pytest.approx(expected)
        device = losses.among_top(jnp.asarray(scores["logits"]), jnp.asarray(scores["label"]), count)
        np.testing.assert_array_equal(device, hits)


def test_of_equal_logits_the_first_class_is_the_larger_one():
    """So the best one is the prediction."""
    logits, labels = np.zeros((6, 6), np.float32), np.arange(6)
    np.testing.assert_array_equal(among_top(logits, labels, 1), labels == logits.argmax(-1))
    np.testing.assert_array_equal(among_top(logits, labels, 5), labels < 5)


@pytest.mark.parametrize("classes", [2, 5])
def test_brier_scores_agree_with_scikit_learn(classes):
    scores = drawn(classes)
    p = softmax(scores["logits"])
    expected = independent.brier_score_loss(scores["label"], p[:, 1] if classes == 2 else p)
    assert squared_distance(scores["logits"], scores["label"]).mean() == pytest.approx(expected)
    device = losses.brier(jnp.asarray(p, jnp.float32), jnp.asarray(scores["label"]))
    np.testing.assert_allclose(device, squared_distance(scores["logits"], scores["label"]), atol=1e-6)
