"""Rates of a mixture, against the formulas of T5, and how many draws of each member come first."""

import numpy as np
import pytest

from tlx.functional.mixtures import normalised, proportional_rates, quotas


def test_rates_are_those_of_t5():
    counts = np.array([500, 2000, 40_000])
    np.testing.assert_allclose(proportional_rates(counts), counts / 42_500, rtol=1e-12)
    # r_m = min(e_m, K) / sum, by hand: 500, 2000 and 4000 of 6500.
    np.testing.assert_allclose(proportional_rates(counts, limit=4000), [1 / 13, 4 / 13, 8 / 13], rtol=1e-12)
    # r_m^(1/T), normalised: the square roots of 1, 4 and 8 are 1, 2 and 2.828.
    expected = np.array([1, 2, 8**0.5]) / (3 + 8**0.5)
    np.testing.assert_allclose(proportional_rates(counts, 4000, 2.0), expected, rtol=1e-12)
    np.testing.assert_allclose(proportional_rates(counts, temperature=1e9), [1 / 3] * 3, rtol=1e-6)
    # A temperature near 0 leaves the largest member alone, without an overflow.
    np.testing.assert_allclose(proportional_rates(counts, temperature=1e-3), [0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_draws_come_in_one_order_and_keep_to_the_rates(members):
    random = np.random.default_rng(members)
    for rates in (normalised(random.random(members) ** 4), normalised(np.ones(members))):
        before = np.zeros(members, int)
        for draws in range(1, 200):
            counts = quotas(rates, draws)
            # Exactly one member has one draw more.
            assert sorted(counts - before) == [0] * (members - 1) + [1]
            assert np.abs(counts - draws * rates).max() < max(1, members / 2)
            before = counts
        late = quotas(rates, 10**12)
        assert late.sum() == 10**12 and (quotas(rates, 10**12 + 256) >= late).all()
