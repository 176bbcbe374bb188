"""Early stopping: how many validations a run waits for a better measurement, and what happens then."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tlx import optim as optimisers
from tlx.recipe import Recipe
from tlx.training.state import Parts, TrainState


class Patience(NamedTuple):
    """The best measurement by the recipe's rule so far (None before the first), the validations since, and how often
    the schedule "plateau" has lowered the rate."""

    best: float | None = None
    waited: int = 0
    falls: int = 0

    def after(self, value: float, higher_is_better: bool, recipe: Recipe) -> "Patience":
        """Return the patience after a validation.

        A value is better if it exceeds the best one by more than `train.least_improvement`; NaN is never better. After
        `train.patience` validations without a better value, the schedule "plateau" lowers the rate, `plateau_falls`
        times, and the wait begins again. Otherwise the run is `over`.
        """
        train, optim = recipe.train, recipe.optim
        if self.best is None:
            return Patience(value, 0, self.falls)
        gain = value - self.best if higher_is_better else self.best - value
        if gain > train.least_improvement or (np.isnan(self.best) and not np.isnan(value)):
            return Patience(value, 0, self.falls)
        may_fall = optim.schedule == "plateau" and self.falls < optim.plateau_falls
        if may_fall and self.waited + 1 == train.patience:
            return Patience(self.best, 0, self.falls + 1)
        return Patience(self.best, self.waited + 1, self.falls)

    def over(self, recipe: Recipe) -> bool:
        """Return whether the run ends."""
        return recipe.train.patience is not None and self.waited >= recipe.train.patience


def divided(state: TrainState, divisors: list[float], runs: int) -> TrainState:
    """Return the state with the learning rate of each run divided by its number; the rate is an array of the state."""
    rates = state.numbers["optim"]["lr"]
    numbers = np.asarray(divisors if runs > 1 else divisors[0], np.float32)
    return state._replace(numbers=state.numbers | {"optim": state.numbers["optim"] | {"lr": rates / numbers}})


def rate_share(parts: Parts, step: int, clock: tuple[int, int]) -> float:
    """Return the rate of the schedule at a step as a share of the peak rate; `clock` are the steps (first, last) of the
    schedule."""
    first, last = clock
    rate = optimisers.rate(parts.optim, jnp.float32(step - first), jnp.float32(last - first), schedule_of(parts))
    return float(rate) / parts.optim.lr if parts.optim.lr else 0.0


def schedule_of(parts: Parts) -> str:
    """Return the name of the schedule that all trainable parameters share, else that of the optimiser."""
    return parts.layout.schedule(parts.learning) or parts.optim.schedule
