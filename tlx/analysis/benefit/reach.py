"""Find the step, and the number of labels, at which an arm reaches an accuracy.

Shapes: S seeds, L numbers of labels.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tlx.analysis.benefit.intervals import Bound, Ratio, over_draws


def reached(curve: Mapping[int, float], threshold: float, higher: bool) -> int | None:
    """Return the first step at which a validation curve is at least as good as the threshold; None if it never is.

    The curve is evaluated at intervals, so the true step may be earlier.

    >>> reached({10: 0.5, 20: 0.7, 30: 0.6}, 0.6, True), reached({10: 0.5}, 0.6, True), reached({10: 2.0}, 2.5, False)
    (20, None, 10)
    """
    return next((step for step in sorted(curve) if good(curve[step], threshold, higher)), None)


def good(value: float, threshold: float, higher: bool) -> bool:
    return value >= threshold if higher else value <= threshold


def crossing(labels: Sequence[int], values: Sequence[float], threshold: float, higher: bool) -> tuple[float, Bound]:
    """Return the number of labels at which the curve first crosses the threshold.

    Between two numbers of labels the curve is linear in their logarithm. The bound is "at most" if the fewest labels
    suffice already, "at least" if the most do not.

    >>> crossing([10, 1000], [0.5, 0.9], 0.7, True)
    (100.0, '')
    >>> crossing([10, 1000], [0.5, 0.9], 0.4, True), crossing([10, 1000], [0.5, 0.9], 0.95, True)
    ((10.0, 'at most'), (1000.0, 'at least'))
    """
    first = next((n for n, value in enumerate(values) if good(value, threshold, higher)), None)
    if first is None:
        return float(labels[-1]), "at least"
    if first == 0:
        return float(labels[0]), "at most"
    below, above = values[first - 1], values[first]
    share = (threshold - below) / (above - below)
    near, far = math.log(labels[first - 1]), math.log(labels[first])
    return round(math.exp(near + share * (far - near)), 9), ""


def labels_saved(labels: Sequence[int], ours: np.ndarray, theirs: np.ndarray, higher: bool) -> Ratio:
    """Return how many times fewer labels our arm needs to equal the other arm with the most labels.

    `labels` [L] is ascending; values are averaged over the seeds of `ours` [S, L] and `theirs` [S] (with the most
    labels).
    """

    def ratio(places: np.ndarray) -> tuple[float, Bound]:
        needed, bound = crossing(labels, ours[places].mean(0).tolist(), float(theirs[places].mean()), higher)
        turned: dict[Bound, Bound] = {"": "", "at most": "at least", "at least": "at most"}
        return labels[-1] / needed, turned[bound]

    return over_draws(ratio, len(ours))
