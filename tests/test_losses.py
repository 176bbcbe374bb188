"""Losses against float64 by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import losses

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(6, 4)) * 3
LABELS = np.array([0, 3, 1, 1, 2, 0])


def by_definition(logits, labels, smoothing):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    q = (1 - smoothing) * np.eye(logits.shape[-1])[labels] + smoothing / logits.shape[-1]
    return -(q * np.log(p)).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_its_definition(smoothing):
    ours = losses.cross_entropy(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS), smoothing)
    assert ours.shape == (6,)
    np.testing.assert_allclose(ours, by_definition(LOGITS, LABELS, smoothing), rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_uniform_logits_is_log_classes():
    ours = losses.cross_entropy(jnp.zeros((2, 5)), jnp.array([0, 4]), 0.3)
    np.testing.assert_allclose(ours, np.log(5), rtol=1e-6)


def test_cross_entropy_does_not_change_with_a_shift_and_stays_finite_far_out():
    huge = jnp.array([[1e4, -1e4, 0.0]])
    assert losses.cross_entropy(huge, jnp.array([0]))[0] == 0
    assert losses.cross_entropy(huge, jnp.array([1]))[0] == 2e4
    assert bool(jnp.isfinite(jax.grad(lambda x: losses.cross_entropy(x, jnp.array([1])).sum())(huge)).all())


def test_its_gradient_is_the_probabilities_less_the_target():
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
    ours = losses.squared_error(jnp.asarray(LOGITS, jnp.float32), jnp.asarray(targets, jnp.float32))
    np.testing.assert_allclose(ours, ((LOGITS - targets) ** 2).mean(-1), rtol=1e-5)


def test_a_single_output_takes_targets_without_its_axis():
    # By broadcasting [B, 1] against [B] every prediction would be compared with every target.
    predictions, targets = jnp.array([[1.0], [2.0]]), jnp.array([0.0, 4.0])
    np.testing.assert_array_equal(losses.squared_error(predictions, targets), [1.0, 4.0])


def test_weighted_mean_leaves_out_what_weighs_nothing():
    values = jnp.array([1.0, 3.0, 100.0])
    assert losses.weighted_mean(values[:2]) == 2
    assert losses.weighted_mean(values, jnp.array([1.0, 1.0, 0.0])) == 2
    assert losses.weighted_mean(values, jnp.array([3.0, 1.0, 0.0])) == 1.5
    assert losses.weighted_mean(values, jnp.zeros(3)) == 0
