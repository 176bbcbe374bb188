"""Losses, compared with float64 by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.functional import losses

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(6, 4)) * 3
LABELS = np.array([0, 3, 1, 1, 2, 0])


def by_definition(logits, labels, smoothing):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    q = (1 - smoothing) * np.eye(logits.shape[-1])[labels] + smoothing / logits.shape[-1]
    return -(q * np.log(p)).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_its_definition(smoothing):
    actual = losses.cross_entropy(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS), smoothing)
    assert actual.shape == (6,)
    np.testing.assert_allclose(actual, by_definition(LOGITS, LABELS, smoothing), rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_uniform_logits_is_log_classes():
    actual = losses.cross_entropy(jnp.zeros((2, 5)), jnp.array([0, 4]), 0.3)
    np.testing.assert_allclose(actual, np.log(5), rtol=1e-6)


def test_cross_entropy_does_not_change_with_a_shift_and_stays_finite_for_large_logits():
    huge = jnp.array([[1e4, -1e4, 0.0]])
    assert losses.cross_entropy(huge, jnp.array([0]))[0] == 0
    assert losses.cross_entropy(huge, jnp.array([1]))[0] == 2e4
    assert bool(jnp.isfinite(jax.grad(lambda x: losses.cross_entropy(x, jnp.array([1])).sum())(huge)).all())


def test_its_gradient_is_the_probabilities_minus_the_target():
    logits = jnp.asarray(LOGITS, jnp.float32)
    gradient = jax.grad(lambda x: losses.cross_entropy(x, jnp.asarray(LABELS), 0.2).sum())(logits)
    target = 0.8 * np.eye(4)[LABELS] + 0.05
    np.testing.assert_allclose(gradient, np.asarray(jax.nn.softmax(logits)) - target, atol=1e-6)


def test_losses_are_float32_whatever_the_activations():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    assert losses.cross_entropy(half, jnp.asarray(LABELS)).dtype == jnp.float32
    assert losses.squared_error(half, jnp.zeros((6, 4))).dtype == jnp.float32


def test_squared_error_is_the_mean_over_outputs():
    targets = RANDOM.normal(size=(6, 4))
    actual = losses.squared_error(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(actual, ((LOGITS - targets) ** 2).mean(-1), rtol=1e-5)


def test_a_single_output_takes_targets_without_its_axis():
    # Broadcasting [B, 1] against [B] would compare every prediction with every target.
    predictions, targets = jnp.array([[1.0], [2.0]]), jnp.array([0.0, 4.0])
    np.testing.assert_array_equal(losses.squared_error(predictions, targets), [1.0, 4.0])


def test_weighted_mean_leaves_out_examples_of_weight_zero():
    values = jnp.array([1.0, 3.0, 100.0])
    assert losses.weighted_mean(values[:2]) == 2
    assert losses.weighted_mean(values, jnp.array([1.0, 1.0, 0.0])) == 2
    assert losses.weighted_mean(values, jnp.array([3.0, 1.0, 0.0])) == 1.5
    assert losses.weighted_mean(values, jnp.zeros(3)) == 0


OTHER = RANDOM.normal(size=(6, 4)) * 3


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def as_float32(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def test_losses_on_distributions_follow_their_definition():
    actual, other = as_float32(LOGITS, OTHER)
    p, q = softmax(LOGITS), softmax(OTHER)
    np.testing.assert_allclose(losses.soft_cross_entropy(*as_float32(LOGITS, q)), -(q * np.log(p)).sum(-1), 1e-5)
    np.testing.assert_allclose(losses.entropy(actual), -(p * np.log(p)).sum(-1), 1e-4)
    np.testing.assert_allclose(losses.divergence(actual, other), (p * np.log(p / q)).sum(-1), 1e-4)
    np.testing.assert_allclose(losses.divergence(actual, actual), 0, atol=1e-6)
    t, s = softmax(OTHER / 4), softmax(LOGITS / 4)
    np.testing.assert_allclose(losses.distillation(actual, other, 4.0), 16 * (t * np.log(t / s)).sum(-1), 1e-4)


def test_a_distribution_of_one_class_has_no_entropy_and_finite_gradients():
    sure = jnp.array([[1e4, -1e4, 0.0]])
    assert losses.entropy(sure)[0] == 0
    for function in (losses.entropy, lambda x: losses.divergence(x, jnp.zeros((1, 3)))):
        assert bool(jnp.isfinite(jax.grad(lambda x, f=function: f(x).sum())(sure)).all())


def test_distances_of_features_are_summed_over_units_and_averaged_over_positions():
    actual, other = RANDOM.normal(size=(2, 2, 3, 5, 4))
    units = RANDOM.uniform(size=4)
    squares = (actual - other) ** 2
    np.testing.assert_allclose(losses.feature_distance(*as_float32(actual, other)), squares.sum(-1).mean((1, 2)), 1e-5)
    np.testing.assert_allclose(
        losses.feature_distance(*as_float32(actual, other, units)), (squares * units).sum(-1).mean((1, 2)), 1e-5
    )
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    result = losses.feature_distance(*as_float32(actual[:, :, 0], other[:, :, 0]), mask=jnp.asarray(mask))
    rows = squares[:, :, 0].sum(-1)
    np.testing.assert_allclose(result, [rows[0, :2].mean(), rows[1].mean()], 1e-5)


def test_attention_is_compared_over_real_tokens_only():
    actual, other = RANDOM.normal(size=(2, 2, 3, 4, 4))
    p, q = softmax(other), softmax(actual)
    rows = (p * np.log(p / q)).sum(-1).mean(1)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    np.testing.assert_allclose(losses.attention_divergence(*as_float32(actual, other)), rows.mean(-1), 1e-4)
    result = losses.attention_divergence(*as_float32(actual, other), jnp.asarray(mask))
    np.testing.assert_allclose(result, [rows[0, :3].mean(), rows[1].mean()], 1e-4)


def test_squared_distance_sums_over_the_parameters():
    leaves, anchors = {"a": jnp.ones((2, 3)), "b": jnp.array([2.0])}, {"a": jnp.zeros(()), "b": jnp.array([5.0])}
    assert losses.squared_distance(leaves, anchors) == 6 + 9
    assert losses.squared_distance({}, {}) == 0


@pytest.mark.parametrize("squares", [losses.smallest_squares, losses.largest_squares])
@pytest.mark.parametrize("shape", [(6, 4), (3, 5)])
def test_the_smallest_and_largest_singular_values_and_their_gradient(shape, squares):
    matrix = RANDOM.normal(size=shape)

    def by_svd(x, k):
        falling = np.linalg.svd(x, compute_uv=False)
        return ((falling[-k:] if squares is losses.smallest_squares else falling[:k]) ** 2).sum()

    for k in (1, 2, min(shape)):
        value, gradient = jax.value_and_grad(squares)(jnp.asarray(matrix, jnp.float32), k)
        assert value == pytest.approx(by_svd(matrix, k), rel=1e-4)
        for place in np.ndindex(shape):
            step = np.zeros(shape)
            step[place] = 1e-5
            slope = (by_svd(matrix + step, k) - by_svd(matrix - step, k)) / 2e-5
            assert gradient[place] == pytest.approx(slope, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("matrix", [np.zeros((4, 3)), np.eye(4), np.ones((3, 5)), np.diag([2.0, 2.0, 0.0, 0.0])])
def test_equal_and_zero_singular_values_have_finite_gradients(matrix):
    falling = np.linalg.svd(matrix, compute_uv=False)
    for squares, values in ((losses.smallest_squares, falling[-2:]), (losses.largest_squares, falling[:2])):
        value, gradient = jax.value_and_grad(squares)(jnp.asarray(matrix, jnp.float32), 2)
        assert value == pytest.approx((values**2).sum(), rel=1e-6, abs=1e-6)
        assert bool(jnp.isfinite(gradient).all())


def test_more_singular_values_than_exist_are_refused():
    for squares in (losses.smallest_squares, losses.largest_squares):
        with pytest.raises(ValueError, match="a matrix of 3x5 does not have 4 singular values"):
            squares(jnp.ones((3, 5)), 4)


def test_log_odds_are_those_of_the_softmax():
    logits, labels = RANDOM.normal(size=(5, 3)) * 3, np.array([0, 2, 1, 1, 0])
    p = softmax(logits)[np.arange(5), labels]
    actual = losses.log_odds(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    np.testing.assert_allclose(actual, np.log(p / (1 - p)), rtol=1e-5, atol=1e-6)
    # Where p_y rounds to 0 and to 1: by hand, and with the slopes of z_y - log sum_{c != y} exp(z_c).
    far, label = jnp.array([[1e4, -1e4, -1e4], [-1e4, 1e4, 0.0]]), jnp.array([0, 0])
    actual, slopes = losses.log_odds(far, label), jax.grad(lambda z: jax.nn.softplus(losses.log_odds(z, label)).sum())
    np.testing.assert_allclose(actual, [2e4 - np.log(2), -2e4], rtol=1e-6)
    np.testing.assert_allclose(slopes(far), [[1.0, -0.5, -0.5], [0.0, 0.0, 0.0]], atol=1e-6)
