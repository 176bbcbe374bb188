"""Weights of terms that change during the run."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import jax.numpy as jnp

from tlx.config import check_choice
from tlx.types import Array, Tick

SHAPES = ("linear", "cosine", "sigmoid")


@dataclass(frozen=True)
class Ramp:
    """A number that goes from `start` to `end` while the progress of the run goes through the interval `over`.

    With p the progress within `over`, in [0, 1], the covered share of the way is p ("linear"), (1 - cos(pi p)) / 2
    ("cosine"), or 2 / (1 + exp(-steepness p)) - 1 ("sigmoid"; Ganin et al., 2016, use the steepness 10, which ends just
    below `end`).
    """

    start: float = 0.0
    end: float = 1.0
    _: KW_ONLY
    shape: Literal["linear", "cosine", "sigmoid"] = "linear"
    over: tuple[float, float] = (0.0, 1.0)
    steepness: float = 10.0

    def __post_init__(self) -> None:
        check_choice("shape", self.shape, SHAPES)
        if not 0.0 <= self.over[0] < self.over[1] <= 1.0:
            raise ValueError(f"over is {self.over}; expected two rising shares of the run, such as (0.0, 0.5)")
        if self.steepness <= 0.0:
            raise ValueError(f"steepness is {self.steepness}; expected a number above 0")


Weight = float | Ramp


def current(weight: Weight, tick: Tick) -> Array:
    """Return the value of `weight` at `tick`, a scalar."""
    if not isinstance(weight, Ramp):
        return jnp.asarray(weight, jnp.float32)
    first, last = weight.over
    p = jnp.clip((tick.progress - first) / (last - first), 0.0, 1.0)
    if weight.shape == "cosine":
        p = 0.5 * (1.0 - jnp.cos(jnp.pi * p))
    elif weight.shape == "sigmoid":
        # Equals 2 / (1 + exp(-x)) - 1, but does not overflow.
        p = jnp.tanh(0.5 * weight.steepness * p)
    return weight.start + (weight.end - weight.start) * p
