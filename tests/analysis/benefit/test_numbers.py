"""Ratios, crossings and first evaluations, worked by hand; a side that the runs do not bound is open."""

import numpy as np
import pytest

from tlx.analysis.benefit.intervals import Ratio, of_sums, over_draws
from tlx.analysis.benefit.reach import crossing, labels_saved, reached
from tlx.report.words import scaled


def test_a_ratio_of_equal_seeds_has_no_width():
    assert of_sums([2.0, 2.0, 2.0], [10.0, 10.0, 10.0], [True] * 3) == Ratio(5.0, 5.0, 5.0)
    assert of_sums([2.0], [10.0], [True]) == Ratio(5.0, None, None)


def test_a_ratio_over_two_seeds_by_hand():
    # The draws are (a, a), (a, b), (b, a), (b, b): 2, 3, 3 and 4.
    actual = of_sums([1.0, 1.0], [2.0, 4.0], [True, True])
    assert actual == Ratio(3.0, 2.0, 4.0)
    # Seeds are drawn in pairs: both sides of one seed stay together.
    assert of_sums([1.0, 10.0], [2.0, 20.0], [True, True]) == Ratio(2.0, 2.0, 2.0)


def test_a_seed_that_never_reaches_the_accuracy_only_bounds_the_ratio():
    actual = of_sums([1.0, 1.0], [2.0, 4.0], [True, False])
    # A quarter of the draws has no such seed; the other draws may have any smaller value.
    assert actual == Ratio(3.0, None, 4.0, "at most")
    assert of_sums([5.0], [5.0], [False]) == Ratio(1.0, None, None, "at most")


def test_draws_bounded_on_one_side_open_only_that_end():
    def ratio(places):
        return (8.0, "at least") if 0 in places else (2.0, "")

    assert over_draws(ratio, 4) == Ratio(8.0, 2.0, None, "at least")


@pytest.mark.parametrize(
    ("values", "threshold", "higher", "expected"),
    [
        ([0.5, 0.7, 0.9], 0.6, True, (np.sqrt(10 * 100), "")),
        ([0.5, 0.7, 0.9], 0.7, True, (100.0, "")),
        ([0.5, 0.7, 0.9], 0.5, True, (10.0, "at most")),
        ([0.5, 0.7, 0.9], 0.91, True, (1000.0, "at least")),
        # The first crossing counts.
        ([0.5, 0.7, 0.4], 0.6, True, (np.sqrt(10 * 100), "")),
        # An error metric falls.
        ([4.0, 2.0, 1.0], 3.0, False, (np.sqrt(10 * 100), "")),
        ([4.0, 2.0, 1.0], 0.5, False, (1000.0, "at least")),
    ],
)
def test_the_place_where_a_learning_curve_crosses(values, threshold, higher, expected):
    actual, bound = crossing([10, 100, 1000], values, threshold, higher)
    assert (actual, bound) == (pytest.approx(expected[0]), expected[1])


def test_labels_saved_by_hand():
    labels = [10, 100, 1000]
    actual = np.array([[0.5, 0.7, 0.9], [0.5, 0.7, 0.9]])
    assert labels_saved(labels, actual, np.array([0.7, 0.7]), True) == Ratio(10.0, 10.0, 10.0)
    assert labels_saved(labels, actual, np.array([0.4, 0.4]), True) == Ratio(100.0, 100.0, None, "at least")
    assert labels_saved(labels, actual, np.array([0.95, 0.95]), True) == Ratio(1.0, None, 1.0, "at most")
    # Half of the draws are means of 0.7 and 0.9; a quarter each has one of them alone.
    spread = labels_saved(labels, actual, np.array([0.7, 0.9]), True)
    assert spread == Ratio(pytest.approx(10**0.5), pytest.approx(1.0), pytest.approx(10.0))


def test_the_first_evaluation_that_is_as_good():
    curve = {5: 0.2, 10: 0.8, 15: 0.7}
    assert reached(curve, 0.7, True) == 10 and reached(curve, 0.81, True) is None
    assert reached({5: 2.0, 10: 0.4}, 0.5, False) == 10


def test_a_value_is_printed_in_the_most_readable_unit():
    assert scaled(0.9999, "FLOP") == (1e3, "mFLOP")
    assert scaled(1e15, "FLOP") == (1e-15, "PFLOP")
    assert scaled(2.5, "kWh") == (1.0, "kWh") and scaled(0.0021, "kWh") == (1e3, "Wh")
    assert scaled(0.0, "kg") == (1.0, "kg")
