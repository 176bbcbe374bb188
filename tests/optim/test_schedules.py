"""Schedules at their corners, and compared with optax."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tlx import Optim, models
from tlx import optim as optimisers
from tlx.optim import SCHEDULES, hidden_kernels
from tlx.optim.schedules import with_cycled_momentum
from tlx.trees import flatten


def rate(optim, step, steps=100):
    return float(optimisers.rate(optim, jnp.float32(step), jnp.float32(steps)))


def course(optim, steps):
    return np.asarray(jax.vmap(lambda step: optimisers.rate(optim, step, jnp.float32(steps)))(jnp.arange(steps + 1.0)))


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_rises_to_its_peak_and_falls_to_zero(schedule):
    optim = Optim(lr=0.5, warmup=0.1, schedule=schedule)
    rates = [rate(optim, step) for step in range(101)]
    # The first step moves; the last warm-up step is at the peak; the middle of the decay is at a half, the end at zero.
    np.testing.assert_allclose(rates[:10], 0.05 * np.arange(1, 11), rtol=1e-5)
    assert rates[9] == rates[10] == max(rates) == 0.5
    assert rates[55] == pytest.approx(0.25, rel=1e-5)
    assert rates[100] == pytest.approx(0, abs=1e-8)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_without_warm_up_the_first_step_is_at_the_peak():
    for schedule in ("cosine", "linear", "constant", "rsqrt"):
        assert rate(Optim(lr=0.5, schedule=schedule), 0) == 0.5
        assert rate(Optim(lr=0.5, schedule=schedule), 0, steps=1) == 0.5
    assert rate(Optim(lr=0.5, schedule="constant"), 99) == 0.5
    assert rate(Optim(lr=0.5, schedule="constant", warmup=0.5), 24) == 0.25


def test_cosine_agrees_with_optax():
    expected = optax.warmup_cosine_decay_schedule(0.0, 0.5, 10, 100)
    for step in range(10, 100, 7):
        assert rate(Optim(lr=0.5, warmup=0.1), step) == pytest.approx(float(expected(step)), rel=1e-5)


@pytest.mark.parametrize("steps", [7, 10, 15, 100, 1234])
def test_the_slanted_triangle_is_continuous_and_peaks_at_its_cut(steps):
    actual = course(Optim(lr=0.01, schedule="slanted-triangular"), steps)
    cut = max(steps // 10, 1)
    assert actual.argmax() == cut
    np.testing.assert_allclose(actual[[0, cut, steps]], [0.01 / 32, 0.01, 0.01 / 32], rtol=1e-4)
    # Straight lines: no step is larger than the slope of its side.
    rise, fall = np.diff(actual[: cut + 1]), np.diff(actual[cut:])
    np.testing.assert_allclose(rise, (0.01 - 0.01 / 32) / cut, rtol=1e-3)
    np.testing.assert_allclose(fall, -(0.01 - 0.01 / 32) / (steps - cut), rtol=1e-3, atol=1e-8)


def test_the_slanted_triangle_equals_the_paper_if_its_cut_is_whole():
    steps, cut, peak, ratio = 200, 20, 0.1, 32
    actual = course(Optim(lr=0.01, schedule="slanted-triangular"), steps)
    for t in range(steps):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / peak - 1))
        assert actual[t] == pytest.approx(0.01 * (1 + p * (ratio - 1)) / ratio, rel=1e-4)


def test_the_one_cycle_rises_and_falls_by_cosines():
    optim = Optim(lr=0.5, schedule="one-cycle", cycle_peak=0.3, cycle_start=5.0, cycle_end=100.0)
    actual = course(optim, 100)
    np.testing.assert_allclose(actual[[0, 15, 30, 65, 100]], [0.1, 0.3, 0.5, 0.2525, 0.005], rtol=1e-4)
    reference = optax.cosine_onecycle_schedule(100, 0.5, 0.3, 5.0, 20.0)
    with jax.numpy_dtype_promotion("standard"):
        expected = [float(reference(step)) for step in range(0, 100, 9)]
    np.testing.assert_allclose(actual[:100:9], expected, rtol=1e-4)


def test_the_momentum_of_the_one_cycle_is_low_if_its_rate_is_high():
    optim = Optim(schedule="one-cycle", cycle_peak=0.3, cycle_momentum=(0.95, 0.85), momentum=0.5)
    actual = [with_cycled_momentum(optim, jnp.float32(step), jnp.float32(100)) for step in (0, 15, 30, 65, 100)]
    for name in ("beta1", "momentum"):
        np.testing.assert_allclose([getattr(value, name) for value in actual], [0.95, 0.9, 0.85, 0.9, 0.95], rtol=1e-6)
    alone = with_cycled_momentum(Optim(schedule="one-cycle", momentum=None), jnp.float32(15), jnp.float32(100))
    assert (alone.beta1, alone.momentum) == (jnp.float32(0.9), None)


def test_rsqrt_falls_with_the_root_of_the_steps():
    actual = course(Optim(lr=0.5, schedule="rsqrt", warmup=0.1), 100)
    np.testing.assert_allclose(actual[[0, 4, 9, 39]], [0.05, 0.25, 0.5, 0.25], rtol=1e-5)
    assert actual.max() == 0.5


def test_every_schedule_peaks_at_lr_and_never_goes_below_zero():
    for schedule in SCHEDULES:
        for steps in (2, 40):
            actual = course(Optim(lr=0.5, schedule=schedule), steps)
            assert (actual >= 0).all() and actual.max() <= 0.5 * (1 + 1e-6)
        assert actual.max() == pytest.approx(0.5)


def test_kernels_between_the_first_and_the_last_stage_are_hidden():
    model = models.build(models.Vit(size=4, patch=2, channels=1, width=4, depth=1, heads=2, mlp=4), 3)
    actual = hidden_kernels(model, flatten(model.params))
    assert len(actual) == 6
    assert all(path.startswith("blocks/00/") and path.endswith("/kernel") for path in actual)


def test_the_inverse_schedule_is_that_of_transfer_learning_library():
    """It has lr (1 + 0.001 i) ** -0.75 at step i; here the scale counts for the whole run of 20 epochs of 1,000."""
    optim = Optim("sgd", lr=0.01, schedule="inverse", inverse_scale=20.0)
    for step in (0, 1, 777, 19_999):
        actual = rate(optim, step, 20_000)
        assert actual == pytest.approx(0.01 * (1 + 0.001 * step) ** -0.75, rel=1e-5)
    with pytest.raises(ValueError, match="inverse_scale is -1"):
        Optim(inverse_scale=-1.0)


def test_steps_divide_the_rate_at_whole_steps_as_in_optax():
    """The boundaries are those of the light protocol of VTAB; they count the steps of the warm-up."""
    optim = Optim("sgd", lr=0.1, schedule="steps", warmup=0.02)
    reference = optax.piecewise_constant_schedule(0.1, {750: 0.1, 1500: 0.1, 2250: 0.1})
    actual = course(optim, 2500)[:2500]
    expected = [float(reference(step)) for step in range(50, 2500)]
    np.testing.assert_allclose(actual[50:], expected, rtol=1e-5)
    assert actual[749] == pytest.approx(0.1) and actual[750] == pytest.approx(0.01)
    # 0.7 and 10 steps: rounding moves no boundary.
    np.testing.assert_allclose(
        course(Optim(lr=1.0, schedule="steps", boundaries=(0.7,), boundary_divisor=2.0), 10), [1.0] * 7 + [0.5] * 4
    )
    assert (course(Optim(lr=1.0, schedule="steps", boundaries=()), 10) == 1.0).all()
