"""Compute a metric for many bootstrap resamples at once: sums, counts and ranks weighted by how often each example is
drawn, without a copy of the scores for each resample.

Shapes: N examples, C classes, K outputs, R resamples.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import numpy as np

from tlx.functional import agreement, ranking, regression, texts
from tlx.functional.agreement import ClassCounts
from tlx.functional.metrics import Value
from tlx.functional.scores import Scores, one_against_rest

# The most numbers that an array of weights [R, N] holds at a time.
CHUNK = 2_000_000
# All resamples of a metric read about `WORK` numbers, which takes a second, and never more than `LIMIT`. An interval
# needs at least `FEWEST` resamples.
WORK, LIMIT, FEWEST = 200_000_000, 400_000_000, 200
# The most resamples of a function that is called for each of them, and the most numbers that all of them copy, which
# takes some seconds.
CALLS, COPIED = 1000, 2_000_000_000
# The values of a metric in some resamples, [R], by their weights [R, N].
Weighted = Callable[[np.ndarray], np.ndarray]


class ResamplingPlan(NamedTuple):
    """How a metric is computed for resamples.

    Attributes:
        values: returns the values [R] for weights [R, N], or [R, M] where there are cells.
        columns: how many arrays of that size a resample needs.
        cell: the cell of each example, int[N] below M, where all examples of a cell count alike.
    """

    values: Weighted
    columns: int
    cell: np.ndarray | None = None


def replicates(value: Value, scores: Scores, count: int, most: int = 2000) -> np.ndarray | None:
    """Return the values of a metric in bootstrap resamples of the examples, with a fixed seed.

    Args:
        value: A function of `PLANS`, or any other function of scores, which is called for each resample with a dict.
        scores: The scores [N, ...].
        count: N.
        most: The number of resamples. A metric of many classes on many examples takes fewer.

    Returns:
        [R], nan where the metric is not defined for a resample, or the function raises an error; None where even
        `FEWEST` resamples take too long.
    """
    if value not in PLANS:
        most, copied = min(most, CALLS), sum(array.size for array in scores.values())
        if min(most, FEWEST) * copied > COPIED:
            return None
        most = min(most, max(FEWEST, COPIED // max(1, copied)))
        return called(lambda rows: value({name: array[rows] for name, array in scores.items()}), count, most)
    plan = PLANS[value](scores)
    if plan.cell is not None:
        return np.concatenate([plan.values(weights) for weights in cell_weights(plan.cell, most)])
    work = count * plan.columns
    most = min(most, max(FEWEST, WORK // work))
    if most * work > LIMIT:
        return None
    return np.concatenate([plan.values(weights_of(rows)) for rows in draws(count, most)])


def called(statistic: Callable[[np.ndarray], float], count: int, most: int = CALLS) -> np.ndarray:
    """Return the values of a function of the drawn examples, int[N], in `most` resamples of `count` examples: [R], nan
    where the function raises an error."""
    values = np.full(most, np.nan)
    for number, rows in enumerate(rows for batch in draws(count, most) for rows in batch):
        # The code is the user's, and a resample may lack a class that it relies on.
        with suppress(Exception):
            values[number] = statistic(rows)
    return values


def draws(count: int, most: int) -> Iterator[np.ndarray]:
    """Yield the examples of `most` resamples of `count` examples, int[R, N] in pieces of at most `CHUNK` numbers."""
    random = np.random.default_rng(0)
    size = max(1, CHUNK // count)
    for start in range(0, most, size):
        yield random.integers(0, count, (min(size, most - start), count), np.int32)


def weights_of(rows: np.ndarray, size: int | None = None) -> np.ndarray:
    """Return how often each example is drawn: int[R, N] -> float32[R, N], or [R, `size`] for the cells of examples."""
    size = rows.shape[1] if size is None else size
    # Whole numbers below 2**24 are exact in float32.
    weights = np.empty((len(rows), size), np.float32)
    for n, row in enumerate(rows):
        weights[n] = np.bincount(row, minlength=size)
    return weights


def cell_weights(cell: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Yield how often an example of each cell is drawn in `most` resamples, [R, M] in pieces: a multinomial
    distribution, which is drawn directly where there are few cells."""
    sizes = np.bincount(cell)
    if len(sizes) > len(cell) / 8:
        yield from (weights_of(cell[rows], len(sizes)) for rows in draws(len(cell), most))
        return
    random, piece = np.random.default_rng(0), max(1, CHUNK // len(sizes))
    for start in range(0, most, piece):
        yield random.multinomial(len(cell), sizes / len(cell), min(piece, most - start)).astype(np.float64)


def sums(value: Value, *names: str) -> Callable[[Scores], ResamplingPlan]:
    """Return the plan of a metric that reads only the sums over the examples of some scores."""

    def plan(scores: Scores) -> ResamplingPlan:
        arrays = {name: np.asarray(scores[name], np.float64) for name in names}

        def values(weights: np.ndarray) -> np.ndarray:
            weights = weights.astype(np.float64)
            totals = {name: np.tensordot(weights, array, 1) for name, array in arrays.items()}
            rows = ({name: array[n : n + 1] for name, array in totals.items()} for n in range(len(weights)))
            return np.array([value(row) for row in rows])

        return ResamplingPlan(values, 1)

    return plan


def counted(formula: Callable[[ClassCounts], np.ndarray]) -> Callable[[Scores], ResamplingPlan]:
    """Return the plan of a metric of `label` and `prediction` [N] that has a `formula` on counts."""

    def plan(scores: Scores) -> ResamplingPlan:
        labels, predictions = agreement.classes_of(scores)
        classes = int(max(labels.max(), predictions.max())) + 1
        # Examples with the same label and the same prediction are one cell of the confusion matrix.
        cells, cell = np.unique(labels * classes + predictions, return_inverse=True)
        true, predicted = (by_class(side, classes) for side in (cells // classes, cells % classes))
        hits = by_class(np.where(cells // classes == cells % classes, cells % classes, classes), classes + 1)

        def values(weights: np.ndarray) -> np.ndarray:
            return formula(ClassCounts(hits(weights)[:, :-1], predicted(weights), true(weights)))

        return ResamplingPlan(values, 1, cell)

    return plan


def by_class(labels: np.ndarray, classes: int) -> Weighted:
    """Return a function that sums weights [R, M] over the columns of each class: `labels` [M] -> [R, C]."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)

    def summed(weights: np.ndarray) -> np.ndarray:
        totals = np.zeros((len(weights), classes))
        totals[:, present] = np.add.reduceat(weights[:, order], starts, 1, np.float64)
        return totals

    return summed


def quadratic(scores: Scores) -> ResamplingPlan:
    """Return the plan of `agreement.quadratic_kappa`: chance gives the sum over all pairs of a label and a prediction
    of (i - j)^2, which follows from the first two moments of each."""
    labels, predictions = (side.astype(np.float64) for side in agreement.classes_of(scores))
    columns = np.stack([np.ones_like(labels), labels, predictions, labels**2, predictions**2, labels * predictions], -1)

    def values(weights: np.ndarray) -> np.ndarray:
        total, x, y, xx, yy, xy = (weights.astype(np.float64) @ columns).T
        return 1 - agreement.ratio(xx + yy - 2 * xy, xx + yy - 2 * x * y / total)

    return ResamplingPlan(values, 1)


class Ranks(NamedTuple):
    """The examples in ascending order of the number that ranks them.

    Attributes:
        order: the place of each example in the scores, [N].
        positive: where the M positive examples are in this order, [M].
        first: where the run of equal numbers of each positive example begins in this order, [M].
        last: where it ends, [M].
    """

    order: np.ndarray
    positive: np.ndarray
    first: np.ndarray
    last: np.ndarray


def ranks_of(positive: np.ndarray, numbers: np.ndarray) -> Ranks:
    """Return the ranks of examples by `numbers` [N], of which the `positive` ones, booleans [N], belong to a class."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    places = np.flatnonzero(positive[order])
    first, last = (np.searchsorted(ordered, ordered[places], side) for side in ("left", "right"))
    return Ranks(order, places, first, last - 1)


def ranked(curve: Callable[[np.ndarray, np.ndarray, Ranks], np.ndarray]) -> Callable[[Scores], ResamplingPlan]:
    """Return the plan of a metric that is the mean over the classes of a `curve` of the ranked examples.

    `curve(weights, below, ranks)` returns [R] for weights [R, M] of the positive examples and the sums [R, N + 1] of
    the weights of all examples before each place of the order.
    """

    def plan(scores: Scores) -> ResamplingPlan:
        labels, classes = scores["label"], scores["logits"].shape[1]

        # Sorted once, and not at all where there are too many classes for an interval.
        @cache
        def by_class() -> list[Ranks]:
            return [ranks_of(*pair) for pair in one_against_rest(scores) if pair[0].any()]

        def values(weights: np.ndarray) -> np.ndarray:
            curves = np.full((len(weights), max(1, len(by_class()))), np.nan)
            for column, ranks in enumerate(by_class()):
                ordered = weights[:, ranks.order]
                below = np.zeros((len(weights), weights.shape[1] + 1), weights.dtype)
                np.cumsum(ordered, 1, out=below[:, 1:])
                curves[:, column] = curve(ordered[:, ranks.positive].astype(np.float64), below, ranks)
            return mean_of_defined(curves)

        return ResamplingPlan(values, 2 if labels.ndim == 1 and classes == 2 else 2 * classes)

    return plan


def mean_of_defined(columns: np.ndarray) -> np.ndarray:
    """Compute the mean over the numbers of a row that are not nan: [R, K] -> [R]; nan where all are."""
    defined = ~np.isnan(columns)
    return agreement.ratio(np.where(defined, columns, 0.0).sum(-1), defined.sum(-1))


def area(weights: np.ndarray, below: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Compute AUROC of one class, as `ranked` calls it: the share of pairs of a positive and a negative example in
    which the positive one has the larger number; equal numbers count half."""
    beaten = (below[:, ranks.first].astype(np.float64) + below[:, ranks.last + 1]) / 2
    total, positive = below[:, -1].astype(np.float64), weights.sum(1)
    # Of the pairs of two positive examples, each counts half.
    return agreement.ratio((weights * beaten).sum(1) - positive**2 / 2, positive * (total - positive))


def precision(weights: np.ndarray, below: np.ndarray, ranks: Ranks) -> np.ndarray:
    """Compute the average precision of one class, as `ranked` calls it: the mean over the positive examples of the
    share of positive examples among those with at least their number."""
    total, positive = below[:, -1:].astype(np.float64), weights.sum(1)
    found = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(weights, 1)], 1)
    # The positive examples before the first place of the run of each positive example.
    earlier = found[:, np.searchsorted(ranks.positive, ranks.first)]
    share = np.nan_to_num(agreement.ratio(positive[:, None] - earlier, total - below[:, ranks.first]))
    return agreement.ratio((weights * share).sum(1), positive)


def root_mean_square(scores: Scores) -> ResamplingPlan:
    """Return the plan of `regression.rmse`."""
    labels, predictions = regression.columns_of(scores)
    squares = (predictions - labels) ** 2

    def values(weights: np.ndarray) -> np.ndarray:
        return np.sqrt(weights.astype(np.float64) @ squares / len(squares)).mean(-1)

    return ResamplingPlan(values, 1)


def explained(scores: Scores) -> ResamplingPlan:
    """Return the plan of `regression.r_squared`."""
    labels, predictions = regression.columns_of(scores)
    centred, residual = regression.deviations(labels)[1], ((predictions - labels) ** 2).sum(-1)

    def values(weights: np.ndarray) -> np.ndarray:
        weights = weights.astype(np.float64)
        spread = (weights @ centred**2 - (weights @ centred) ** 2 / weights.sum(1, keepdims=True)).sum(-1)
        # The variance of equal labels is rounding, not variance.
        spread = np.where(spread > 1e-12 * (weights @ centred**2).sum(-1), spread, 0.0)
        return 1 - agreement.ratio(weights @ residual, spread)

    return ResamplingPlan(values, 1)


def pooled(scores: Scores) -> ResamplingPlan:
    """Return the plan of `regression.pearson`."""
    labels, predictions = (regression.deviations(side)[1] for side in regression.columns_of(scores))
    return ResamplingPlan(lambda weights: correlation(weights, labels, predictions), 1)


def correlation(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the weighted correlation, its moments summed over outputs: [R, N], [N, K], [N, K] -> [R]."""
    weights = weights.astype(np.float64)
    total = weights.sum(1, keepdims=True)

    def moment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        product = weights @ (a * b)
        centred = product - (weights @ a) * (weights @ b) / total
        return np.where(np.abs(centred) > 1e-12 * np.abs(weights @ np.abs(a * b)), centred, 0.0).sum(-1)

    return np.clip(agreement.ratio(moment(x, y), np.sqrt(moment(x, x) * moment(y, y))), -1, 1)


def by_rank(scores: Scores) -> ResamplingPlan:
    """Return the plan of `regression.spearman`: within a resample, an example has the mean rank of its copies."""
    pairs = list(zip(*(side.T for side in regression.columns_of(scores)), strict=True))
    orders = [tuple(map(runs, pair)) for pair in pairs]

    def values(weights: np.ndarray) -> np.ndarray:
        columns = [rank_correlation(weights, *(middle_ranks(weights, *order) for order in pair)) for pair in orders]
        return mean_of_defined(np.stack(columns, -1))

    return ResamplingPlan(values, 8 * len(pairs))


def runs(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ascending order of `x` [N], the places where runs of equal numbers begin in it, and the run of each
    example."""
    order = np.argsort(x, kind="stable")
    first = np.append(True, np.diff(x[order]) != 0)
    run = np.empty(len(x), int)
    run[order] = np.cumsum(first) - 1
    return order, np.flatnonzero(first), run


def middle_ranks(weights: np.ndarray, order: np.ndarray, starts: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Return the mean rank of the copies of each example, [R, N]; equal numbers share their mean rank."""
    sizes = np.add.reduceat(weights[:, order], starts, 1, np.float64)
    return (np.cumsum(sizes, 1) - (sizes - 1) / 2)[:, run]


def rank_correlation(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the weighted correlation of ranks that differ between resamples: three arrays [R, N] -> [R]."""
    # All ranks have this mean.
    middle = (weights.shape[1] + 1) / 2
    x, y = x - middle, y - middle

    def moment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.einsum("rn,rn,rn->r", weights, a, b)

    return agreement.ratio(moment(x, y), np.sqrt(moment(x, x) * moment(y, y)))


PLANS: dict[Value, Callable[[Scores], ResamplingPlan]] = {
    agreement.micro_f1: sums(agreement.micro_f1, "tp", "fp", "fn"),
    agreement.class_f1: sums(agreement.class_f1, "tp", "fp", "fn"),
    **{
        value: sums(value, "entity_tp", "entity_fp", "entity_fn")
        for value in (
            agreement.entity_f1,
            agreement.entity_macro_f1,
            agreement.entity_precision,
            agreement.entity_recall,
        )
    },
    agreement.token_accuracy: sums(agreement.token_accuracy, "right", "tokens"),
    agreement.token_loss: sums(agreement.token_loss, "loss", "tokens"),
    agreement.perplexity: sums(agreement.perplexity, "loss", "tokens"),
    texts.bleu: sums(texts.bleu, "bleu_matches", "bleu_totals", "bleu_lengths"),
    agreement.macro_f1: counted(agreement.mean_f1),
    agreement.weighted_f1: counted(agreement.weighted_f1_of),
    agreement.balanced_accuracy: counted(agreement.balanced_accuracy_of),
    agreement.matthews: counted(agreement.matthews_of),
    agreement.kappa: counted(agreement.kappa_of),
    agreement.quadratic_kappa: quadratic,
    ranking.auroc: ranked(area),
    ranking.average_precision: ranked(precision),
    regression.rmse: root_mean_square,
    regression.r_squared: explained,
    regression.pearson: pooled,
    regression.spearman: by_rank,
}
