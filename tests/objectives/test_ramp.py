"""Weights that change during a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.objectives import Ramp
from tlx.objectives.ramp import current
from tlx.types import Tick


def at(weight, progress):
    return float(current(weight, Tick(jnp.float32(progress), jax.random.key(0))))


@pytest.mark.parametrize(
    ("ramp", "expected"),
    [
        (Ramp(), lambda p: p),
        (Ramp(2.0, 0.5), lambda p: 2 - 1.5 * p),
        (Ramp(1.0, 3.0, shape="cosine"), lambda p: 1 + (1 - np.cos(np.pi * p))),
        # Ganin et al. (2016), section 5.2.2.
        (Ramp(shape="sigmoid"), lambda p: 2 / (1 + np.exp(-10 * p)) - 1),
        (Ramp(0.0, 4.0, over=(0.25, 0.75)), lambda p: 4 * np.clip((p - 0.25) * 2, 0, 1)),
        (0.3, lambda p: 0.3),
    ],
)
def test_the_ramp_follows_its_formula(ramp, expected):
    for progress in (0.0, 0.2, 0.25, 0.5, 0.7, 1.0):
        assert at(ramp, progress) == pytest.approx(expected(progress), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Ramp(shape="cosin"),
            "shape is 'cosin'; expected one of 'linear', 'cosine', 'sigmoid'; close: 'cosine'",
        ),
        (lambda: Ramp(over=(0.5, 0.5)), "over is (0.5, 0.5); expected two rising shares"),
        (lambda: Ramp(over=(0.0, 1.5)), "over is (0.0, 1.5); expected two rising shares"),
        (lambda: Ramp(steepness=0.0), "steepness is 0.0; expected "),
    ],
)
def test_an_invalid_ramp_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
