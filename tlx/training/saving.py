"""When a run saves checkpoints, and which of them stay: the checks of these settings."""

import math
from numbers import Real

from tlx.recipe import Recipe


def check_saving(checkpoint_seconds: float, keep_last: int, keep_best: int) -> None:
    """Raise ValueError or TypeError where a setting of the checkpoints is impossible."""
    for name, value, least in (("keep_last", keep_last, 1), ("keep_best", keep_best, 0)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} is {value!r}; expected a whole number of checkpoints, {least} or more")
        if value < least:
            raise ValueError(f"{name} is {value}; expected {least} or more checkpoints")
    if isinstance(checkpoint_seconds, bool) or not isinstance(checkpoint_seconds, Real):
        raise TypeError(f"checkpoint_seconds is {checkpoint_seconds!r}; expected a number of seconds")
    if not 0 <= checkpoint_seconds < math.inf:
        raise ValueError(
            f"checkpoint_seconds is {checkpoint_seconds}; expected a number of seconds, or 0 to save after each "
            "validation"
        )


def check_best(keep_best: int, recipe: Recipe) -> None:
    """Raise ValueError where the best checkpoints are to stay, and the recipe's rule compares none."""
    if keep_best and recipe.train.select == "last":
        raise ValueError(
            f"keep_best is {keep_best}, but train.select 'last' compares no checkpoints: choose a rule such as "
            "'best-validation', or leave keep_best out"
        )
