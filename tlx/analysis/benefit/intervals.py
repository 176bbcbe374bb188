"""Ratios of what two arms took, over paired seeds, some of which only bound them.

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
    """A `value` with its 95 % bootstrap interval over seeds. `bound` says where the value is but a bound, `low` and
    `high` are None where the draws leave that end open, both of them for one seed."""

    value: float
    low: float | None
    high: float | None
    bound: Bound = ""


Drawn = Callable[[np.ndarray], tuple[float, Bound]]


def over_draws(ratio: Drawn, seeds: int, resamples: int = RESAMPLES) -> Ratio:
    """The percentile bootstrap (Efron, 1979) of `ratio(places)`, the ratio and its bound over the seeds at these
    places, which are drawn with replacement; seeded.

    An end of the interval that lies among draws that are but bounded on its side is open.
    """
    value, bound = ratio(np.arange(seeds))
    if seeds < 2:
        return Ratio(value, None, None, bound)
    random = np.random.default_rng(0)
    found = [ratio(random.integers(0, seeds, seeds)) for _ in range(resamples)]
    # A draw that is "at least" may be anything above, one that is "at most" anything below.
    tops = np.sort([math.inf if kind == "at least" else drawn for drawn, kind in found])
    bottoms = np.sort([-math.inf if kind == "at most" else drawn for drawn, kind in found])
    low = bottoms[int((1 - LEVEL) / 2 * resamples)]
    high = tops[-1 - int((1 - LEVEL) / 2 * resamples)]
    return Ratio(value, float(low) if math.isfinite(low) else None, float(high) if math.isfinite(high) else None, bound)


def of_sums(ours: Sequence[float], theirs: Sequence[float], reached: Sequence[bool]) -> Ratio:
    """What `theirs` [S] took in all over what `ours` [S] took: how many times less. A seed that has not `reached` took
    more than is said of it, so the ratio is then at most what it seems.

    >>> of_sums([1.0, 1.0], [4.0, 6.0], [True, True])
    Ratio(value=5.0, low=4.0, high=6.0, bound='')
    >>> of_sums([1.0, 1.0], [4.0, 6.0], [True, False]).bound
    'at most'
    """
    a, b, whole = np.asarray(ours, float), np.asarray(theirs, float), np.asarray(reached, bool)

    def ratio(places: np.ndarray) -> tuple[float, Bound]:
        return float(b[places].sum() / a[places].sum()), "" if whole[places].all() else "at most"

    return over_draws(ratio, len(a))
