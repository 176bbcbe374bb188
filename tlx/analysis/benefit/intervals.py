"""Compute ratios of the costs of two arms, over paired seeds, of which some are only bounds.

Shapes: S seeds, R resamples.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from tlx.functional.significance import LEVEL

RESAMPLES = 5000
Bound = Literal["", "at least", "at most"]


class Ratio(NamedTuple):
    """A `value` with its 95 % bootstrap interval over seeds.

    `bound` says whether the value is only a bound. `low` or `high` is None if the resamples leave that end open; both
    are None for one seed.
    """

    value: float
    low: float | None
    high: float | None
    bound: Bound = ""


Drawn = Callable[[np.ndarray], tuple[float, Bound]]


def over_draws(ratio: Drawn, seeds: int, resamples: int = RESAMPLES) -> Ratio:
    """Compute the percentile bootstrap (Efron, 1979) of `ratio(positions)`, with a fixed seed.

    `ratio` returns the ratio and its bound over the seeds at these positions, which are drawn with replacement. An end
    of the interval is open if it lies among draws that are only bounds on its side.
    """
    value, bound = ratio(np.arange(seeds))
    if seeds < 2:
        return Ratio(value, None, None, bound)
    random = np.random.default_rng(0)
    ratios = [ratio(random.integers(0, seeds, seeds)) for _ in range(resamples)]
    # The true ratio of an "at least" draw may be any higher value, of an "at most" draw any lower value.
    tops = np.sort([math.inf if kind == "at least" else sample for sample, kind in ratios])
    bottoms = np.sort([-math.inf if kind == "at most" else sample for sample, kind in ratios])
    low = bottoms[int((1 - LEVEL) / 2 * resamples)]
    high = tops[-1 - int((1 - LEVEL) / 2 * resamples)]
    return Ratio(value, float(low) if math.isfinite(low) else None, float(high) if math.isfinite(high) else None, bound)


def of_sums(ours: Sequence[float], theirs: Sequence[float], reached: Sequence[bool]) -> Ratio:
    """Compute the sum of `theirs` [S] divided by the sum of `ours` [S]: the factor by which our cost is smaller.

    A seed that has not `reached` the target has a higher cost than recorded, so the ratio is then an upper bound.

    >>> of_sums([1.0, 1.0], [4.0, 6.0], [True, True])
    Ratio(value=5.0, low=4.0, high=6.0, bound='')
    >>> of_sums([1.0, 1.0], [4.0, 6.0], [True, False]).bound
    'at most'
    """
    a, b, whole = np.asarray(ours, float), np.asarray(theirs, float), np.asarray(reached, bool)

    def ratio(places: np.ndarray) -> tuple[float, Bound]:
        return float(b[places].sum() / a[places].sum()), "" if whole[places].all() else "at most"

    return over_draws(ratio, len(a))
