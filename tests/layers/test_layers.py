"""What the layers promise beyond parity: slopes, noise that is fair and belongs to an example, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.layers import attention, declare_attention, gelu_exact, keep_mask
from tlx.trees import map_named
from tlx.types import Context


def plain_gelu(x):
    return 0.5 * x * (1.0 + jax.lax.erf(x / np.sqrt(2.0, dtype=np.float32)))


def test_gelu_has_the_slopes_of_its_definition_in_both_modes():
    x = jnp.linspace(-8.0, 8.0, 4001)
    expected = jax.vmap(jax.grad(plain_gelu))(x)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu_exact))(x), expected, atol=1e-6)
    np.testing.assert_allclose(jax.jvp(gelu_exact, (x,), (jnp.ones_like(x),))[1], expected, atol=1e-6)
    second = jax.vmap(jax.grad(jax.grad(plain_gelu)))(x)
    np.testing.assert_allclose(jax.vmap(jax.jacfwd(jax.grad(gelu_exact)))(x), second, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_a_mask_drops_at_its_rate_everywhere(rate):
    kept = np.asarray(keep_mask(Context(jax.random.key(0), True), (64, 32, 256), rate, 0))
    for axis in (None, (1, 2), (0, 2), (0, 1)):
        count = kept.size if axis is None else np.prod([kept.shape[n] for n in axis])
        error = np.abs((~kept).mean(axis) - rate) / np.sqrt(rate * (1 - rate) / count)
        assert error.max() < 5


def test_masks_of_examples_salts_keys_and_neighbours_do_not_agree_more_than_chance():
    def noise(seed, salt):
        return np.asarray(keep_mask(Context(jax.random.key(seed), True), (16, 4096), 0.5, salt), float) - 0.5

    base = noise(0, 0)
    for other in (noise(0, 1), noise(1, 0), np.roll(base, 1, 0), *(np.roll(base, n, 1) for n in (1, 2, 32, 64, 1024))):
        assert abs((4 * base * other).mean()) < 5 / np.sqrt(base.size)


def test_noise_belongs_to_the_example_not_to_how_devices_share_the_batch():
    key = jax.random.key(3)
    whole = keep_mask(Context(key, True), (8, 5, 7), 0.3, 2)
    halves = [keep_mask(Context(key, True, offset=offset), (4, 5, 7), 0.3, 2) for offset in (0, 4)]
    np.testing.assert_array_equal(whole, jnp.concatenate(halves))


def test_masked_tokens_do_not_reach_the_others_and_a_fully_masked_row_stays_finite():
    keys = iter(jax.random.split(jax.random.key(0), 100))
    params = map_named(lambda path, param: param.init(next(keys), param.shape), declare_attention(8, 2))
    x = jax.random.normal(jax.random.key(1), (2, 4, 8))
    mask = jnp.array([[1, 1, 1, 0], [0, 0, 0, 0]])

    def run(x):
        return attention(params, x, mask, heads=2, rate=0.0, context=Context(), salt=0)

    moved = run(x.at[0, 3].add(100.0))
    np.testing.assert_array_equal(run(x)[0, :3], moved[0, :3])
    assert np.isfinite(run(x)).all()
    assert np.isfinite(jax.grad(lambda x: run(x).sum())(x)).all()
