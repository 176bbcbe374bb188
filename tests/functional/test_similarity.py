"""Similarities of features by hand and by their definitions, and the effective rank."""

import numpy as np
import pytest

from tlx.functional.similarity import effective_rank, hsic, linear_cka, merge, sum_similarity, summarise_similarity

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(64, 6))
OTHERS = FEATURES[:, :4] @ RANDOM.normal(size=(4, 5)) + RANDOM.normal(size=(64, 5))


def similarity(x, y):
    return summarise_similarity(sum_similarity(x, y))["cka"]


def test_plain_cka_by_its_definition():
    """HSIC of the centred kernels (Kornblith et al., 2019, equation 3) equals that of the centred features."""
    centre = np.eye(64) - 1 / 64
    k, m = (centre @ x @ x.T @ centre for x in (FEATURES, OTHERS))
    recorded = np.trace(k @ m) / np.sqrt(np.trace(k @ k) * np.trace(m @ m))
    assert linear_cka(FEATURES, OTHERS) == pytest.approx(recorded, abs=1e-12)


def test_the_unbiased_hsic_is_the_mean_over_four_different_examples():
    """Song et al. (2012), theorem 3: the U-statistic over all ordered quadruples without repetition."""
    import itertools

    x, y = FEATURES[:7], OTHERS[:7]
    k, m = x @ x.T, y @ y.T
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(7), 4)]
    assert hsic(k, m) == pytest.approx(np.mean(terms), rel=1e-9)


@pytest.mark.parametrize("form", [similarity, linear_cka])
def test_cka_does_not_depend_on_rotation_scale_or_position(form):
    turn, _ = np.linalg.qr(RANDOM.normal(size=(6, 6)))
    message = form(FEATURES, OTHERS)
    assert form(3 * FEATURES @ turn + 7, OTHERS) == pytest.approx(message, abs=1e-9)
    assert form(OTHERS, FEATURES) == pytest.approx(message, abs=1e-12)
    assert form(FEATURES, FEATURES) == pytest.approx(1, abs=1e-12)
    assert np.isnan(form(FEATURES, np.ones((64, 3))))


def test_cka_by_batches_is_unbiased_and_the_plain_form_is_not():
    """For independent wide features it is about zero; for many examples of narrow features both forms agree."""
    wide = [RANDOM.normal(size=(512, 200)) for _ in range(2)]
    parts = [sum_similarity(*(x[n : n + 64] for x in wide)) for n in range(0, 512, 64)]
    sums = parts[0]
    for part in parts[1:]:
        sums = merge(sums, part)
    assert sums.batches == 8
    assert abs(summarise_similarity(sums)["cka"]) < 0.05
    assert linear_cka(wide[0][:64], wide[1][:64]) > 0.5
    x = RANDOM.normal(size=(2000, 3))
    y = x @ RANDOM.normal(size=(3, 2)) + RANDOM.normal(size=(2000, 2))
    parts = [sum_similarity(x[n : n + 100], y[n : n + 100]) for n in range(0, 2000, 100)]
    sums = parts[0]
    for part in parts[1:]:
        sums = merge(sums, part)
    assert summarise_similarity(sums)["cka"] == pytest.approx(linear_cka(x, y), abs=0.02)


def test_cka_refuses_invalid_input():
    with pytest.raises(ValueError, match="features of 64 and of 63 examples"):
        sum_similarity(FEATURES, OTHERS[:63])
    with pytest.raises(ValueError, match="3 examples; the unbiased HSIC requires at least 4"):
        sum_similarity(FEATURES[:3], OTHERS[:3])


def test_effective_rank_by_hand():
    assert effective_rank(np.array([2.0, 2.0, 2.0])) == pytest.approx(3)
    assert effective_rank(np.array([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(np.zeros(3)) == 0
    # Shares 3/4 and 1/4: exp(3/4 ln 4/3 + 1/4 ln 4).
    assert effective_rank(np.array([3.0, 1.0])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)
    values = RANDOM.uniform(size=9)
    assert effective_rank(7 * values) == pytest.approx(effective_rank(values))
    assert effective_rank(values) < 9
