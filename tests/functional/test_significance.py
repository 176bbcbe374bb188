"""Comparisons against scipy, closed forms, and coverage over many draws."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from tlx.functional import significance

A, B = [0.71, 0.73, 0.70, 0.74, 0.72], [0.70, 0.69, 0.71, 0.70, 0.70]


def test_paired_gives_the_t_interval_and_the_exact_tests_of_scipy():
    actual, gain = significance.paired(A, B), np.subtract(A, B)
    low, high = scipy_stats.ttest_rel(A, B).confidence_interval(0.95)
    assert (actual.mean, actual.low, actual.high) == pytest.approx((gain.mean(), low, high))
    assert significance.t_test(actual) == pytest.approx(scipy_stats.ttest_rel(A, B).pvalue)
    assert actual.sign == scipy_stats.binomtest(4, 5).pvalue
    distinct = [0.01, 0.04, -0.02, 0.07, 0.03]
    assert significance.paired(distinct, [0.0] * 5).wilcoxon == pytest.approx(
        scipy_stats.wilcoxon(distinct, method="exact").pvalue
    )


def test_wilcoxon_is_exact_with_few_pairs_and_by_hand():
    # Of 2**3 = 8 sign patterns two are as extreme as all equal.
    assert significance.paired([0.3, 0.2, 0.1], [0.0] * 3).wilcoxon == 2 / 8
    # Ranks 1, 2, 3 with signs -, +, +: sums of positive ranks of 5 or more, or 1 or less, occur 4 times in 8.
    assert significance.paired([-0.1, 0.2, 0.3], [0.0] * 3).wilcoxon == 4 / 8
    for seed in range(20):
        gain = np.random.default_rng(seed).normal(0.5, 1.0, 4 + seed)
        exact = scipy_stats.wilcoxon(gain, method="exact").pvalue
        assert significance.paired(gain, np.zeros_like(gain)).wilcoxon == pytest.approx(exact)


def test_the_smallest_effect_applies_to_the_test_and_to_the_interval():
    for seed in range(200):
        actual = significance.paired(np.random.default_rng(seed).normal(1.0, 0.6, 5), np.zeros(5))
        displayed = significance.verdict(actual.low, actual.high, 0.2) != "no difference shown"
        assert (significance.t_test(actual, 0.2) < 0.05) == displayed
    assert significance.t_test(actual, 0.0) == significance.t_test(actual)
    assert significance.t_test(actual, abs(actual.mean)) == 1.0


def test_few_runs_by_hand():
    # Deviation 1; t with two degrees of freedom is 4.302653.
    assert significance.over_seeds([1.0, 2.0, 3.0]) == pytest.approx(
        (2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5)
    )
    assert np.isnan(significance.over_seeds([1.0])[1:]).all()


def test_one_pair_and_equal_pairs_show_nothing():
    one = significance.paired([0.7], [0.6])
    assert np.isnan([one.low, one.high]).all()
    assert significance.t_test(one) == 1.0
    same = significance.paired(A, A)
    assert (same.mean, same.low, same.high, same.sign, same.wilcoxon, significance.t_test(same)) == (0, 0, 0, 1, 1, 1)
    assert significance.verdict(same.low, same.high) == "no difference shown"
    assert significance.verdict(one.low, one.high) == "not compared"


def test_intervals_of_bounded_quantities_are_bounded():
    mean, low, high = significance.over_seeds([0.95, 0.40], (0.0, 1.0))
    assert (mean, low, high) == (0.675, 0.0, 1.0)
    assert significance.over_seeds([0.5, 3.0], (0.0, np.inf))[1] == 0.0
    actual = significance.paired([0.9, 0.2], [0.1, 0.6], (0.0, 1.0))
    assert (actual.low, actual.high) == (-1.0, 1.0)
    # Clipping changes neither p nor an interval inside the bounds.
    assert significance.t_test(actual) == significance.t_test(significance.paired([0.9, 0.2], [0.1, 0.6]))
    assert significance.over_seeds(A, (0.0, 1.0)) == significance.over_seeds(A)


def test_equal_gains_are_shown_by_the_test_and_by_the_interval():
    """Rounding decides nothing: the second differences are equal up to rounding."""
    for actual, expected in (([0.75] * 3, [0.5] * 3), ([0.6, 0.7, 0.8], [0.5, 0.6, 0.7])):
        result = significance.paired(actual, expected)
        assert significance.verdict(result.low, result.high) == "better"
        assert (significance.t_test(result), significance.t_test(result, smallest=0.3)) == (0.0, 1.0)


def test_swapping_the_arms_changes_the_sign():
    there, back = significance.paired(A, B), significance.paired(B, A)
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert (there.sign, there.wilcoxon) == pytest.approx((back.sign, back.wilcoxon))


@pytest.mark.slow
def test_the_interval_has_its_stated_coverage():
    draw, stored = np.random.default_rng(0), 0
    for _ in range(1000):
        actual = significance.paired(draw.normal(1.0, 2.0, 5), np.zeros(5))
        stored += actual.low <= 1.0 <= actual.high
    assert 0.935 < stored / 1000 < 0.965


def test_the_bootstrap_is_wider_than_over_examples_alone_if_seeds_differ():
    draw = np.random.default_rng(0)
    actual = (draw.random((8, 400)) < np.linspace(0.6, 0.9, 8)[:, None]).astype(float)
    expected = (draw.random((8, 400)) < 0.6).astype(float)
    mean, low, high = significance.over_seeds_and_examples(actual, expected)
    assert mean == pytest.approx((actual - expected).mean())
    assert low < mean < high
    alone = scipy_stats.bootstrap(((actual - expected).mean(0),), np.mean, rng=0).confidence_interval
    assert high - low > 1.5 * (alone.high - alone.low)
    assert significance.over_seeds_and_examples(actual, expected) == (mean, low, high)
    assert significance.over_seeds_and_examples(actual, actual) == (0, 0, 0)


def test_with_one_seed_the_bootstrap_is_that_of_scipy_over_examples():
    draw = np.random.default_rng(0)
    gain = draw.normal(0.1, 1.0, 500)
    _, low, high = significance.over_seeds_and_examples(gain[None], np.zeros((1, 500)), resamples=20_000)
    expected = scipy_stats.bootstrap((gain,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    # The ends are quantiles of draws: two results of scipy differ by as much.
    assert (low, high) == pytest.approx(expected.confidence_interval, abs=0.003)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1, and never decreasing.
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.5, 0.9]) == [1.0, 1.0]
    assert significance.holm([]) == []


@pytest.mark.slow
def test_the_minimum_detectable_difference_is_detected_with_its_power():
    effect = significance.detectable(2.0, 5)
    draw = np.random.default_rng(0)
    recorded = [
        significance.t_test(significance.paired(draw.normal(effect, 2.0, 5), np.zeros(5))) < 0.05 for _ in range(1000)
    ]
    assert 0.76 < np.mean(recorded) < 0.84
    assert significance.detectable(2.0, 20) < effect


def test_mcnemar_counts_only_examples_that_one_side_alone_classifies_correctly():
    actual, expected = np.array([1, 1, 1, 1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 0, 0, 0, 1, 0], bool)
    assert significance.mcnemar(actual, expected) == scipy_stats.binomtest(5, 6).pvalue
    assert significance.mcnemar(actual, actual) == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: significance.paired([1.0], [1.0, 2.0]),
         "sides ... shapes (1,) and (2,) ... equally many finite numbers"),
        (lambda: significance.paired([], []),
         "sides ... shapes (0,) and (0,) ... equally many finite numbers"),
        (lambda: significance.paired([float("nan")], [1.0]),
         "sides ... shapes (1,) and (1,) ... equally many finite numbers"),
        (lambda: significance.over_seeds_and_examples(np.zeros(3), np.zeros(3)),
         "arms ... (3,) and (3,) ... [seeds, examples] ... both"),
        (lambda: significance.detectable(1.0, 1), "1 pairs ... difference ... two pairs"),
        (lambda: significance.mcnemar(np.zeros(3), np.zeros(2)),
         "models ... (3,) and (2,) ... booleans [examples] ... both"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_compared_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)
