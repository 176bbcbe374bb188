"""Weights that make one set look like another, compared with other solvers and by hand."""

import logging

import numpy as np
import pytest
from scipy.optimize import minimize

from tlx.functional import reweight
from tlx.functional.reweight import effective, likelihood_ratio, mean_matching


def sets(source=23, target=17, width=3, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(source, width)), 0.6 * random.normal(size=(target, width)) + 0.5


def kernel(x, y, scale=1.0):
    """Element by element, with a squared width of `scale` times the mean squared distance among all examples of both
    sets.
    """
    every = np.concatenate([x, y])
    mean = np.mean([[((a - b) ** 2).sum() for a in every] for b in every])
    return lambda u, v: np.exp([[-((a - b) ** 2).sum() / (2 * scale * mean) for b in v] for a in u])


def matched(x, y, scale, most, slack):
    """The programme by SLSQP, with full kernels."""
    count, k = len(x), kernel(x, y, scale)
    full, toward = k(x, x), k(x, y).mean(1)
    limits = [{"type": "ineq", "fun": lambda w, s=s: slack + s * (w.mean() - 1)} for s in (1, -1)]
    actual = minimize(
        lambda w: 1e3 * (0.5 * w @ full @ w / count**2 - w @ toward / count),
        np.ones(count), jac=lambda w: 1e3 * (full @ w / count**2 - toward / count), method="SLSQP",
        bounds=[(0, most)] * count, constraints=limits, options={"ftol": 1e-17, "maxiter": 5000},
    )  # fmt: skip
    # Status 8: it finds no better point, up to rounding.
    assert actual.status in (0, 8)
    return actual.x


@pytest.mark.parametrize(
    ("scale", "most", "slack"),
    [(1.0, 10.0, None), (0.3, 1.5, None), (0.3, 10.0, 0.001), (2.0, 3.0, 0.2), (0.05, 1000.0, None)],
)
def test_mean_matching_is_its_quadratic_programme(scale, most, slack):
    x, y = sets()
    weights = mean_matching(x, y, scale=scale, most=most, slack=slack, near=1e-15)
    slack = (np.sqrt(23) - 1) / np.sqrt(23) if slack is None else slack
    assert weights.min() >= 0 and weights.max() <= most
    assert abs(weights.mean() - 1) <= slack + 1e-12
    np.testing.assert_allclose(weights, matched(x, y, scale, most, slack), rtol=1e-5, atol=1e-6)
    # Both kinds of bounds are active here, so the test covers them.
    assert weights.min() < 1e-6 or weights.max() > most - 1e-6


def test_matched_weights_bring_the_means_nearer_and_equal_sets_need_none():
    x, y = sets(200, 150)
    k = kernel(x, y)

    def discrepancy(w):
        return w @ k(x, x) @ w / 200**2 - 2 * w @ k(x, y).mean(1) / 200 + k(y, y).mean()

    assert discrepancy(mean_matching(x, y)) < 0.1 * discrepancy(np.ones(200))
    # The kernel mean over a set is that of the set: no weights are nearer than all 1.
    every = np.concatenate([x[:40], x[:40]])
    np.testing.assert_allclose(mean_matching(every[:40], every, near=1e-16), 1, atol=1e-5)


@pytest.mark.slow
def test_many_rows_are_matched_by_landmarks_almost_as_well(caplog):
    x, y = sets(700, 300, 4)
    full = mean_matching(x, y, landmarks=1000)
    few = mean_matching(x, y, landmarks=250)
    factor = reweight.nystroem(x, np.concatenate([x, y]), reweight.mean_square(x, y)) / 700
    toward = factor @ reweight.nystroem(y, np.concatenate([x, y]), reweight.mean_square(x, y)).mean(0)

    def above(w):
        return w @ factor @ factor.T @ w / 2 - w @ toward

    assert above(few) - above(full) < 1e-6
    assert above(np.ones(700)) - above(full) > 1e-3
    # The landmarks are the same each time.
    np.testing.assert_array_equal(few, mean_matching(x, y, landmarks=250))
    assert not caplog.records


def test_an_unsolved_programme_says_so(caplog):
    x, y = sets()
    factor = reweight.nystroem(x, y, 1.0)
    with caplog.at_level(logging.WARNING):
        actual = reweight.bounded(factor, factor @ np.ones(factor.shape[1]), 5.0, 0.5, 1e-12, steps=2)
    assert "after 2 steps; expected within 1e-12" in caplog.text
    assert actual.min() >= 0 and actual.max() <= 5


@pytest.mark.parametrize("slack", [0.01, 0.4])
def test_the_linear_programme_is_that_of_scipy(slack):
    from scipy.optimize import linprog

    random = np.random.default_rng(1)
    for shift in (-2.0, 0.0, 2.0):
        slope = random.normal(size=11) + shift
        actual = reweight.least_linear(slope, 2.5, slack)
        sums = np.stack([np.ones(11), -np.ones(11)])
        result = linprog(slope, sums, [11 * (1 + slack), -11 * (1 - slack)], bounds=(0, 2.5))
        assert slope @ actual == pytest.approx(result.fun, rel=1e-9)
        assert actual.min() >= 0 and actual.max() <= 2.5 and abs(actual.mean() - 1) <= slack + 1e-12


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_kliep_is_its_concave_programme(scale):
    x, y = sets(31, 14)
    weights = likelihood_ratio(x, y, scales=(scale,), near=1e-14)
    k = kernel(x, y, scale)
    value, at = k(x, y), k(y, y)
    # As in the paper: coefficients of kernels around the target rows, with their mean over the source fixed at 1.
    mean = value.mean(0)
    actual = minimize(
        lambda a: -np.log(at @ a).mean(), np.full(14, 1 / mean.sum()), jac=lambda a: -(at / (at @ a)[:, None]).mean(0),
        method="SLSQP", bounds=[(0, None)] * 14, options={"ftol": 1e-15, "maxiter": 5000},
        constraints=[{"type": "eq", "fun": lambda a: a @ mean - 1, "jac": lambda a: mean}],
    )  # fmt: skip
    assert weights.mean() == pytest.approx(1.0)
    assert actual.success
    np.testing.assert_allclose(weights, value @ actual.x, rtol=1e-5, atol=1e-6)


def test_the_width_of_kliep_is_the_likeliest_on_held_out_examples():
    random = np.random.default_rng(2)
    x, y = random.uniform(-4, 4, size=(400, 1)), 0.3 * random.normal(size=(300, 1))
    scales = (0.0001, 0.001, 0.01, 0.1, 1.0)
    chosen = likelihood_ratio(x, y, scales=scales)
    fits = {scale: likelihood_ratio(x, y, scales=(scale,)) for scale in scales}
    assert [scale for scale, value in fits.items() if np.array_equal(value, chosen)] == [0.01]
    # Near the ratio of the two densities, which is known here.
    truth = np.exp(-(x[:, 0] ** 2) / (2 * 0.09)) / np.sqrt(2 * np.pi * 0.09) * 8
    assert np.corrcoef(chosen, truth)[0, 1] > 0.95
    # Two samples of one distribution: no example has much more weight than another.
    assert effective(likelihood_ratio(x, random.uniform(-4, 4, size=(60, 1)))) > 0.9


def test_inputs_that_cannot_be_weighted_are_refused():
    x, y = sets()
    for actual, message in (
        (lambda: mean_matching(x, y, most=1.0), "mean_matching: most is 1.0 ... above 1"),
        (lambda: mean_matching(x, y, slack=0.0), "mean_matching: slack is 0.0 ... above 0"),
        (lambda: mean_matching(x, y, landmarks=0), "mean_matching: landmarks is 0 ... 1 or more"),
        (lambda: likelihood_ratio(x, y, scales=()),
         "likelihood_ratio: scales are () ... one ... above 0"),
        (lambda: likelihood_ratio(x, y, centres=0), "likelihood_ratio: centres is 0 ... 1 or more"),
        (lambda: mean_matching(x, y[:, :2]),
         "source and target ... (23, 3) and (17, 2) ... rows of one width, [N, W] and [M, W]"),
        (lambda: likelihood_ratio(x, y * np.nan),
         "features of the source or the target are not finite, so ... model"),
    ):  # fmt: skip
        with pytest.raises(ValueError) as error:
            actual()
        for part in message.split(" ... "):
            assert part in str(error.value)
