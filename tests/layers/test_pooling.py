"""The gradient of a maximum that is fast on a CPU equals that of XLA, which takes the first of several equal maxima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tlx.layers import max_pool
from tlx.layers.pooling import windows_of


@pytest.mark.parametrize("runs", [None, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 1, ((2, 0), (1, 1))), (2, 3, "SAME")]
)
def test_the_gradient_is_that_of_xla(size, stride, padding, dtype, runs):
    random = np.random.default_rng(3)
    # Rounded numbers have many equal maxima.
    x = jnp.array(random.normal(size=(2, 9, 10, 5) if runs is None else (runs, 2, 9, 10, 5)).round(0)).astype(dtype)

    def pooled(x):
        def ours(x):
            return max_pool(x, size, stride=stride, padding=padding)

        return ours(x) if runs is None else jax.vmap(ours)(x)

    def native(x):
        def xla(x):
            return lax.reduce_window(x, -jnp.inf, lax.max, *windows_of(x, size, stride, padding))

        return xla(x) if runs is None else jax.vmap(xla)(x)

    slope = jnp.array(random.integers(-4, 5, pooled(x).shape)).astype(dtype)
    actual, expected = (jax.jit(lambda x, way=way: jax.vjp(way, x)[1](slope))(x)[0] for way in (pooled, native))
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(np.asarray(actual, np.float32), np.asarray(expected, np.float32))
