"""The convolution that is fast on a CPU equals that of XLA, in values and gradients, alone and over several kernels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.layers import cpu_conv, winograd
from tlx.layers.cpu_conv import Window, convolve, native

# The window, the sides of the image, and the channels before and after.
CASES = {
    "1x1": (Window((1, 1), (1, 1), ((0, 0), (0, 0))), (5, 7), 3, 4),
    "1x1 at a stride": (Window((1, 1), (2, 3), ((0, 0), (0, 0))), (5, 8), 3, 4),
    "patches": (Window((2, 3), (2, 3), ((0, 0), (0, 0))), (7, 11), 3, 4),
    "patches with gaps": (Window((2, 1), (3, 2), ((0, 0), (0, 0))), (10, 7), 3, 4),
    "3x3": (Window((3, 3), (1, 1), ((1, 1), (1, 1))), (5, 6), 3, 4),
    "3x3 at a stride": (Window((3, 3), (2, 2), ((0, 1), (1, 0))), (8, 7), 3, 4),
    "3x3 of many channels": (Window((3, 3), (1, 1), ((1, 1), (1, 1))), (7, 10), 37, 35),
    "3x3 of many channels, padded unevenly": (Window((3, 3), (1, 1), ((3, 0), (1, 4))), (9, 5), 32, 39),
    "3x3 of one output": (Window((3, 3), (1, 1), ((0, 0), (0, 0))), (3, 3), 32, 32),
    "7x7 at a stride": (Window((7, 7), (2, 2), ((3, 3), (2, 3))), (13, 11), 3, 5),
    "3x3 at a stride, of more channels": (Window((3, 3), (2, 1), ((1, 1), (0, 1))), (9, 6), 9, 5),
    "1x3 dilated": (Window((1, 3), (1, 1), ((0, 0), (2, 1)), (1, 2)), (5, 6), 3, 4),
    "5x5 dilated at a stride": (Window((5, 5), (2, 3), ((3, 4), (2, 5)), (2, 1)), (13, 9), 2, 3),
    "much padding": (Window((2, 2), (1, 1), ((3, 2), (0, 4))), (4, 5), 2, 3),
    "groups": (Window((3, 3), (1, 1), ((1, 1), (1, 1)), groups=2), (5, 6), 4, 6),
    "depthwise": (Window((3, 3), (1, 1), ((1, 1), (1, 1)), groups=5), (6, 7), 5, 5),
    "depthwise at a stride": (Window((5, 3), (2, 2), ((2, 2), (1, 0)), groups=4), (9, 8), 4, 4),
    "depthwise dilated": (Window((3, 4), (3, 1), ((0, 5), (2, 2)), (2, 3), groups=4), (11, 13), 4, 4),
    "several outputs for each channel": (Window((3, 3), (1, 1), ((1, 1), (1, 1)), groups=3), (5, 6), 3, 6),
}


def arrays(name, runs=None):
    window, sides, inputs, outputs = CASES[name]
    random, front = np.random.default_rng(3), () if runs is None else (runs,)
    x = random.normal(size=(*front, 2, *sides, inputs)).astype("f4")
    kernel = random.normal(size=(*front, *window.size, inputs // window.groups, outputs)).astype("f4")
    return window, jnp.array(x), jnp.array(kernel)


def compare(actual, expected):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(other).max()))


def results(convolution, x, kernel):
    """Return the outputs, and the gradients of a product of them with fixed numbers."""
    outputs = convolution(x, kernel)
    slope = jnp.array(np.random.default_rng(4).normal(size=outputs.shape)).astype(jnp.bfloat16).astype(outputs.dtype)
    return outputs, jax.grad(lambda *both: (convolution(*both) * slope).sum(), (0, 1))(x, kernel)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_xla(name):
    window, x, kernel = arrays(name)
    compare(*(jax.jit(partial(results, partial(way, window)))(x, kernel) for way in (convolve, native)))


@pytest.mark.parametrize("name", ["3x3 of many channels, padded unevenly", "3x3 at a stride", "7x7 at a stride"])
def test_bands_and_few_images_at_a_time_add_up(name, monkeypatch):
    monkeypatch.setattr(winograd, "TOGETHER", 40_000)
    monkeypatch.setattr(cpu_conv, "TOGETHER", 1)
    window, x, kernel = arrays(name)
    x = jnp.concatenate([x, -2 * x, x[:, ::-1]])
    # New functions, because XLA keeps programs that were traced with other sizes.
    compare(
        *(jax.jit(lambda *both, way=way: results(partial(way, window), *both))(x, kernel) for way in (convolve, native))
    )


@pytest.mark.parametrize("shared", ["nothing", "the images", "the kernel"])
@pytest.mark.parametrize(
    "name", ["1x1", "patches", "3x3", "3x3 of many channels", "3x3 at a stride", "groups", "depthwise at a stride"]
)
def test_runs_side_by_side_have_the_numbers_of_each_alone(name, shared):
    window, x, kernel = arrays(name, runs=3)
    axes = (None if shared == "the images" else 0, None if shared == "the kernel" else 0)
    x, kernel = (array if axis == 0 else array[0] for array, axis in zip((x, kernel), axes, strict=True))
    compare(
        *(
            jax.jit(lambda x, kernel, way=way: results(jax.vmap(partial(way, window), axes), x, kernel))(x, kernel)
            for way in (convolve, native)
        )
    )


@pytest.mark.parametrize("name", ["3x3", "3x3 of many channels", "depthwise"])
def test_half_precision_loses_nothing_in_sums(name):
    window, x, kernel = arrays(name)
    half = [array.astype(jnp.bfloat16) for array in (x, kernel)]
    wide = [array.astype(jnp.float32) for array in half]
    actual = jax.jit(partial(results, partial(convolve, window)))(*half)
    expected = jax.jit(partial(results, partial(native, window)))(*wide)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert one.dtype == jnp.bfloat16
        # One rounding at the end, to eight bits.
        np.testing.assert_allclose(one.astype("f4"), other, rtol=2**-8, atol=1e-6 * float(jnp.abs(other).max()))


def test_a_program_for_another_device_has_the_convolution_of_xla():
    window, x, kernel = arrays("depthwise")
    lowered = jax.jit(partial(results, partial(convolve, window))).trace(x, kernel).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("stablehlo.convolution") == 3
    lowered = jax.jit(partial(results, partial(convolve, window))).trace(x, kernel).lower(lowering_platforms=("cpu",))
    assert "stablehlo.convolution" not in lowered.as_text()
