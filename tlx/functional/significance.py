"""Compare two arms: paired differences, intervals, exact tests, verdicts, minimum detectable differences.

Shapes: S seeds (pairs of runs), J folds, N test examples, M comparisons of one table. All results have the units of the
input: accuracies as shares give differences as shares.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

LEVEL = 0.95
# With fewer pairs the standard deviation is too uncertain to compute a minimum detectable difference.
FEW = 3
Verdict = Literal["better", "worse", "no difference shown", "not compared"]
Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-np.inf, np.inf)


class Difference(NamedTuple):
    """The difference of S paired runs.

    Attributes:
        mean: the mean difference.
        low: the lower end of its 95 % t-interval; nan for one pair.
        high: the upper end; nan for one pair.
        deviation: the standard deviation of a pair's difference; nan for one pair.
        pairs: the number of pairs, S.
        sign: the two-sided p of the exact sign test; None over folds, which are not independent.
        wilcoxon: the two-sided p of the exact Wilcoxon test; None over folds.
    """

    mean: float
    low: float
    high: float
    deviation: float
    pairs: int
    sign: float | None
    wilcoxon: float | None


def over_seeds(values: Sequence[float] | np.ndarray, bounds: Bounds = UNBOUNDED) -> tuple[float, float, float]:
    """Compute `(mean, low, high)` of a few runs: the 95 % t-interval of their mean (Student, 1908).

    Args:
        values: one number per run, [S].
        bounds: the lowest and the highest value that the quantity can have. The interval is cut to them, which leaves
            its coverage as it is, because the true mean lies within them.

    Returns:
        The mean and both ends in the units of `values`; both ends are nan for one run.

    >>> [round(x, 3) for x in over_seeds([0.68, 0.69, 0.70])]
    [0.69, 0.665, 0.715]
    >>> [round(x, 3) for x in over_seeds([0.75, 0.81], (0.0, 1.0))]
    [0.78, 0.399, 1.0]
    """
    from scipy import stats

    numbers = np.asarray(values, np.float64)
    mean, count = float(numbers.mean()), len(numbers)
    if count < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * numbers.std(ddof=1) / np.sqrt(count))
    return mean, max(mean - half, bounds[0]), min(mean + half, bounds[1])


def difference_bounds(bounds: Bounds) -> Bounds:
    """Return the lowest and the highest difference of two values that lie within `bounds`.

    >>> difference_bounds((0.0, 1.0))
    (-1.0, 1.0)
    """
    width = bounds[1] - bounds[0]
    return -width, width


def paired(values: Sequence[float], against: Sequence[float], bounds: Bounds = UNBOUNDED) -> Difference:
    """Compare `values` [S] with `against` [S] pair by pair (Student, 1908; Wilcoxon, 1945).

    With five pairs the smallest p of either exact test is 2 / 2**5 = 0.0625: the interval is the sharper tool there.

    Args:
        values: one number per seed, [S].
        against: the numbers of the other side, [S], in the same order of seeds.
        bounds: the range of one value; the interval of the difference is cut to the range of a difference.

    Returns:
        The difference `values - against`.

    Raises:
        ValueError: the two sides are not equally many finite numbers.

    >>> found = paired([0.71, 0.73, 0.70], [0.68, 0.69, 0.68])
    >>> round(found.mean, 3), found.pairs, round(found.sign, 2)
    (0.03, 3, 0.25)
    """
    from scipy import stats

    a, b = (np.asarray(side, np.float64) for side in (values, against))
    if a.ndim != 1 or a.shape != b.shape or not len(a) or not np.isfinite(a - b).all():
        raise ValueError(f"the two sides have the shapes {a.shape} and {b.shape}; expected equally many finite numbers")
    gain = a - b
    deviation = float(gain.std(ddof=1)) if len(gain) > 1 else float("nan")
    nonzero = gain[gain != 0]
    sign = float(stats.binomtest(int((nonzero > 0).sum()), len(nonzero)).pvalue) if len(nonzero) else 1.0
    return Difference(*over_seeds(gain, difference_bounds(bounds)), deviation, len(gain), sign, wilcoxon(nonzero))


def over_folds(
    pooled: float, values: Sequence[float] | np.ndarray, ratio: float, bounds: Bounds = UNBOUNDED
) -> tuple[float, float, float]:
    """Compute `(mean, low, high)` of a cross-validation: the corrected 95 % t-interval (Nadeau and Bengio, 2003).

    The training examples of two folds overlap, so the results of folds vary less than those of new data. The squared
    standard error is therefore s^2 (1 / J + n_test / n_train) with the variance s^2 of the J results in the place of
    s^2 / J. Where all other examples are trained on, n_test / n_train is 1 / (K - 1) for K folds, as in Bouckaert and
    Frank (2004).

    Args:
        pooled: the result over the examples of all folds, about which the interval lies.
        values: the result of each fold, [J].
        ratio: the number of test examples over that of training examples, n_test / n_train, averaged over the folds.
        bounds: as in `over_seeds`.

    Returns:
        `pooled` and both ends; these are nan for one fold.

    >>> [round(x, 3) for x in over_folds(0.8, [0.78, 0.80, 0.82], 1 / 2)]
    [0.8, 0.721, 0.879]
    """
    from scipy import stats

    count = len(values)
    if count < 2:
        return pooled, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + LEVEL) / 2, count - 1) * fold_deviation(values, ratio) / np.sqrt(count))
    return pooled, max(pooled - half, bounds[0]), min(pooled + half, bounds[1])


def fold_deviation(values: Sequence[float] | np.ndarray, ratio: float) -> float:
    """Compute the standard deviation of J folds that, divided by the root of J, is the standard error of `over_folds`;
    nan for one fold."""
    count = len(values)
    return float(np.std(values, ddof=1) * np.sqrt(1 + count * ratio)) if count > 1 else float("nan")


def paired_folds(pooled: float, gains: Sequence[float], ratio: float, bounds: Bounds = UNBOUNDED) -> Difference:
    """Return the difference of two arms of a cross-validation, with the corrected deviation of `over_folds`.

    Args:
        pooled: the difference of the results over the examples of all folds.
        gains: the difference in each fold, [J].
        ratio: as in `over_folds`.
        bounds: the range of one value.
    """
    ends = over_folds(pooled, gains, ratio, difference_bounds(bounds))
    return Difference(*ends, fold_deviation(gains, ratio), len(gains), None, None)


def wilcoxon(apart: np.ndarray) -> float:
    """Compute the two-sided p of Wilcoxon's signed ranks of the nonzero differences, over all 2**S signs."""
    if len(apart) < 2:
        return 1.0
    from scipy import stats

    # The distribution over all signs is exact with equal differences too.
    exact: Any = stats.PermutationMethod(n_resamples=np.inf) if len(apart) <= 12 else "auto"
    return float(stats.wilcoxon(apart, method=exact).pvalue)


def over_seeds_and_examples(
    values: np.ndarray, against: np.ndarray, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Compute `(mean, low, high)` of the difference of two arms by a bootstrap over seeds and examples (Owen, 2007).

    It is the percentile bootstrap; the examples are the same for all seeds. The interval describes the variation under
    new seeds and new examples. Few seeds carry too little information for it, so report it beside `paired`, not in its
    place.

    Args:
        values: the results of the first arm, [S, N].
        against: the results of the second arm, [S, N].
        resamples: the number of bootstrap samples.
        seed: the seed of the bootstrap.

    Returns:
        The mean and both ends of the 95 % interval.

    Raises:
        ValueError: the shapes differ or are not [S, N].
    """
    a, b = (np.asarray(side, np.float64) for side in (values, against))
    if a.ndim != 2 or a.shape != b.shape or not a.size:
        raise ValueError(f"the two arms have the shapes {a.shape} and {b.shape}; expected [seeds, examples] for both")
    gain, draw = a - b, np.random.default_rng(seed)
    seeds, examples = gain.shape
    means = np.empty(resamples)
    for n in range(resamples):
        by_example = gain[draw.integers(0, seeds, seeds)].mean(0)
        means[n] = by_example[draw.integers(0, examples, examples)].mean()
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(gain.mean()), float(low), float(high)


def over_examples(
    gap: Callable[[np.ndarray, np.ndarray], float],
    counts: tuple[int, int],
    *,
    paired: bool,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute `(low, high)`, the percentile bootstrap of the difference of two models over examples (Efron, 1979).

    Args:
        gap: the difference of the two models on the rows [N] of the first and the rows [M] of the second.
        counts: the numbers of examples, N and M.
        paired: whether the examples are the same, N = M; both models then have the same rows.
        resamples: the number of bootstrap samples.
        seed: the seed of the bootstrap.

    Returns:
        Both ends of the 95 % interval.

    >>> score = np.array([0.0, 1.0, 1.0, 1.0])
    >>> over_examples(lambda a, b: score[a].mean() - score[b].mean(), (4, 4), paired=True)
    (0.0, 0.0)
    """
    draw, gaps = np.random.default_rng(seed), np.empty(resamples)
    for n in range(resamples):
        first = draw.integers(0, counts[0], counts[0])
        gaps[n] = gap(first, first if paired else draw.integers(0, counts[1], counts[1]))
    low, high = np.quantile(gaps, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def holm(ps: Sequence[float]) -> list[float]:
    """Correct the p of M comparisons of one table (Holm, 1979).

    The chance of any false positive then stays below the level.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(ps, kind="stable")
    corrected, highest = [0.0] * len(order), 0.0
    for place, n in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * float(ps[n])))
        corrected[int(n)] = highest
    return corrected


def t_test(difference: Difference, smallest: float = 0.0) -> float:
    """Compute the two-sided p of the paired t-test that the true difference is at most `smallest` in either direction.

    It is below 0.05 exactly where the 95 % interval lies beyond `smallest` (Murphy and Myors, 1999, test such minimum
    effects), so `holm` corrects the same question that `verdict` answers.

    Returns:
        The p; 1 for one pair. Where all pairs differ by the same amount, without any variation, it is 0 or 1.
    """
    if difference.pairs < 2:
        return 1.0
    # A deviation from the rounding of equal gains must not count.
    if difference.deviation <= 1e-12 * abs(difference.mean):
        return float(abs(difference.mean) <= smallest)
    from scipy import stats

    t = (abs(difference.mean) - smallest) / (difference.deviation / np.sqrt(difference.pairs))
    return min(1.0, float(2 * stats.t.sf(t, difference.pairs - 1)))


def verdict(low: float, high: float, smallest: float = 0.0) -> Verdict:
    """Say in words what the interval of a difference shows.

    Args:
        low: the lower end; nan for one pair of runs, which has no interval.
        high: the upper end.
        smallest: the smallest difference worth reporting; anything below counts as no effect.

    Returns:
        "better" where the whole interval lies above `smallest`, "worse" where it lies below -`smallest`, "not compared"
        where there is no interval.

    >>> verdict(0.2, 1.4), verdict(-0.3, 1.1), verdict(0.2, 1.4, smallest=0.5)
    ('better', 'no difference shown', 'no difference shown')
    >>> verdict(float("nan"), float("nan"))
    'not compared'
    """
    if np.isnan(low) or np.isnan(high):
        return "not compared"
    return "better" if low > smallest else "worse" if high < -smallest else "no difference shown"


def detectable(deviation: float, pairs: int, level: float = LEVEL, power: float = 0.8) -> float:
    """Compute the minimum detectable difference: the smallest mean difference that a two-sided paired t-test finds.

    Args:
        deviation: the standard deviation of a pair's difference.
        pairs: the number of pairs.
        level: the level of the test.
        power: the probability that the test finds the difference (Cohen, 1988).

    Raises:
        ValueError: there are fewer than two pairs.

    >>> round(detectable(1.0, 5), 2)
    1.68
    """
    if pairs < 2:
        raise ValueError(f"{pairs} pairs are too few to detect a difference; use at least two pairs")
    from scipy import optimize, stats

    bound = stats.t.ppf((1 + level) / 2, pairs - 1)

    def lacking(effect: float) -> float:
        shift = effect * np.sqrt(pairs)
        # The far tail is nan where it is too small for scipy.
        far = np.nan_to_num(stats.nct.cdf(-bound, pairs - 1, shift))
        return float(stats.nct.sf(bound, pairs - 1, shift) + far - power)

    enough = 1.0
    while lacking(enough) < 0:
        enough *= 1.5
    return float(deviation * optimize.brentq(lacking, 0.0, enough))


def spearman(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Compute `(rho, p)`: the correlation of ranks (Spearman, 1904), with its two-sided p.

    It is `(nan, 1)` for fewer than three pairs, or where one side does not vary.
    """
    from scipy import stats

    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return float("nan"), 1.0
    test = stats.spearmanr(x, y)
    return float(test.statistic), float(test.pvalue)


def mcnemar(correct: np.ndarray, against: np.ndarray) -> float:
    """Compute the exact two-sided p that two models err equally often on the same examples (McNemar, 1947).

    It is a sign test over the examples that exactly one of the models classifies correctly.

    Args:
        correct: booleans of the first model, [N].
        against: booleans of the second model, [N].
    """
    from scipy import stats

    a, b = (np.asarray(side, bool) for side in (correct, against))
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"the two models have the shapes {a.shape} and {b.shape}; expected booleans [examples] for both"
        )
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    return float(stats.binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def p_text(p: float | None) -> str:
    """Return a p as text for a table.

    >>> p_text(0.0312), p_text(0.00004), p_text(None)
    ('0.031', '< 0.001', '–')
    """
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
