"""Pooling to a number of places, and to halves, against means over slices."""

import jax.numpy as jnp
import numpy as np
import pytest

from tlx.layers import adaptive_average_pool, mean_halves

IMAGES = np.random.default_rng(0).normal(size=(2, 7, 10, 3)).astype(np.float32)


@pytest.mark.parametrize("sides", [(1, 1), (2, 5), (3, 4), (7, 7), (9, 11)])
def test_each_place_is_the_mean_of_the_inputs_that_it_covers(sides):
    pooled = np.asarray(adaptive_average_pool(jnp.asarray(IMAGES), sides))
    assert pooled.shape == (2, *sides, 3)
    for row in range(sides[0]):
        for column in range(sides[1]):
            bounds = [
                (place * length // count, -(-(place + 1) * length // count))
                for place, length, count in zip((row, column), IMAGES.shape[1:3], sides, strict=True)
            ]
            rows, columns = (slice(*bound) for bound in bounds)
            expected = IMAGES[:, rows, columns].mean((1, 2))
            np.testing.assert_allclose(pooled[:, row, column], expected, atol=1e-6)


def test_the_same_sides_change_nothing():
    x = jnp.asarray(IMAGES)
    assert adaptive_average_pool(x, (7, 10)) is x


def test_the_last_window_of_an_odd_side_has_one_pixel():
    halves = np.asarray(mean_halves(jnp.asarray(IMAGES)))
    assert halves.shape == (2, 4, 5, 3)
    np.testing.assert_allclose(halves[:, 3, 2], IMAGES[:, 6, 4:6].mean(1), atol=1e-6)
    np.testing.assert_allclose(halves[:, 1, 0], IMAGES[:, 2:4, :2].mean((1, 2)), atol=1e-6)
