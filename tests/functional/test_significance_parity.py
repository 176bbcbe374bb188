"""The same numbers by statsmodels, over many draws."""

import numpy as np
import pytest

from tlx.functional import significance
from tlx.report import intervals

pytestmark = pytest.mark.parity
DRAWS = range(20)


def draw(seed, count=None):
    random = np.random.default_rng(seed)
    return random.normal(0.4, 1.0, count or int(random.integers(2, 12)))


@pytest.mark.parametrize("seed", DRAWS)
def test_t_intervals_and_tests(seed):
    from statsmodels.stats.weightstats import DescrStatsW

    gain = draw(seed)
    reference_side = DescrStatsW(gain)
    actual = significance.paired(gain, np.zeros_like(gain))
    assert (actual.low, actual.high) == pytest.approx(reference_side.tconfint_mean(0.05))
    assert significance.over_seeds(gain)[1:] == pytest.approx(reference_side.tconfint_mean(0.05))
    assert significance.t_test(actual) == pytest.approx(reference_side.ttest_mean(0)[1])
    side = "larger" if actual.mean > 0 else "smaller"
    beyond = reference_side.ttest_mean(np.copysign(0.3, actual.mean), alternative=side)[1]
    assert significance.t_test(actual, smallest=0.3) == pytest.approx(min(1.0, 2 * beyond))


@pytest.mark.parametrize("seed", DRAWS)
def test_sign_test(seed):
    from statsmodels.stats.descriptivestats import sign_test

    gain = draw(seed)
    assert significance.paired(gain, np.zeros_like(gain)).sign == pytest.approx(min(1.0, sign_test(gain)[1]))


@pytest.mark.parametrize("seed", DRAWS)
def test_holm(seed):
    from statsmodels.stats.multitest import multipletests

    ps = np.random.default_rng(seed).beta(0.5, 2, 1 + seed)
    assert significance.holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])


@pytest.mark.parametrize("seed", DRAWS)
def test_mcnemar(seed):
    from statsmodels.stats.contingency_tables import mcnemar

    random = np.random.default_rng(seed)
    tlx_side, reference_side = random.random(60) < 0.7, random.random(60) < 0.5
    table = [
        [np.sum(tlx_side & reference_side), np.sum(tlx_side & ~reference_side)],
        [np.sum(~tlx_side & reference_side), np.sum(~tlx_side & ~reference_side)],
    ]
    assert significance.mcnemar(tlx_side, reference_side) == pytest.approx(min(1.0, mcnemar(table, exact=True).pvalue))


@pytest.mark.parametrize("pairs", [2, 3, 5, 10, 30, 200])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_the_minimum_detectable_difference(pairs, power):
    from statsmodels.stats.power import TTestPower

    reference_side = TTestPower().power(significance.detectable(2.0, pairs, power=power) / 2.0, pairs, 0.05)
    assert reference_side == pytest.approx(power, abs=1e-6)
    if pairs > 2:
        # With two pairs its root search does not converge.
        effect = TTestPower().solve_power(nobs=pairs, alpha=0.05, power=power)
        assert significance.detectable(2.0, pairs, power=power) == pytest.approx(2.0 * effect, rel=1e-5)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (10, 10), (3, 7), (450, 1000), (1, 20000)])
def test_wilson(hits, count):
    from statsmodels.stats.proportion import proportion_confint

    low, high, _ = intervals.wilson(hits, count)
    assert (low, high) == pytest.approx(proportion_confint(hits, count, 0.05, "wilson"), abs=1e-12)
