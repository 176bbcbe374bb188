"""Pool the runs of an arm over the folds of the data: every example is tested once for each seed.

The metric of an arm is computed over the examples of all folds (as Forman and Scholz, 2010, recommend for F1), and
averaged over the seeds. The unit that varies is the fold: its value is the mean over the seeds of the metric in this
fold.

Shapes: J folds, N examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tlx.functional import metrics, significance

if TYPE_CHECKING:
    from tlx.functional.significance import Bounds, Difference
    from tlx.records.studies.comparing import Score, Summary


def arm_interval(scores: Sequence[Score], metric: str, folds: int, bounds: Bounds) -> tuple[float, float, float]:
    """Return the metric over the examples of all folds, and the ends of its interval.

    Args:
        scores: the scores of the finished cells.
        metric: the metric.
        folds: the number of folds into which the data are divided.
        bounds: the range of the metric.
    """
    values = [float(np.mean(of_fold)) for of_fold in by_fold(scores, [score.value for score in scores]).values()]
    return significance.over_folds(pooled(scores, metric), values, test_ratio(scores, folds), bounds)


def arm_difference(
    scores: Sequence[Score], others: Sequence[Score], metric: str, folds: int, bounds: Bounds
) -> Difference:
    """Return the difference of two arms; `scores` and `others` are of the same folds and seeds, in one order."""
    gains = [score.value - other.value for score, other in zip(scores, others, strict=True)]
    means = [float(np.mean(of_fold)) for of_fold in by_fold(scores, gains).values()]
    ratio = (test_ratio(scores, folds) + test_ratio(others, folds)) / 2
    return significance.paired_folds(pooled(scores, metric) - pooled(others, metric), means, ratio, bounds)


def test_ratio(scores: Sequence[Score], folds: int) -> float:
    """Return the number of test examples over that of training examples, averaged over the cells of an arm.

    Folds in the order of time train on few examples at first, so that the ratio exceeds 1 / (K - 1), that of K folds.
    The latter counts where the runs did not record both numbers, and where they train on a drawn subset
    (`data.shots`, `data.fraction`): subsets of two folds share few examples, which a larger ratio does not describe.
    """
    data = (scores[0].cell.recipe() or {}).get("data", {})
    counts = [(score.cell.result or {}).get("examples") or {} for score in scores]
    subset = data.get("shots") is not None or data.get("fraction") is not None
    if subset or not all(count.get("train") and count.get("test") for count in counts):
        return 1 / (folds - 1)
    return float(np.mean([count["test"] / count["train"] for count in counts]))


def by_fold(scores: Sequence[Score], values: Sequence[float]) -> dict[int, list[float]]:
    """Return the values of the cells by fold."""
    groups: dict[int, list[float]] = {}
    for score, value in zip(scores, values, strict=True):
        assert score.cell.fold is not None
        groups.setdefault(score.cell.fold, []).append(value)
    return groups


def pooled(scores: Sequence[Score], metric: str) -> float:
    """Return the mean over the seeds of the metric over the examples of all folds."""
    by_seed: dict[object, list[Score]] = {}
    for score in scores:
        by_seed.setdefault(score.cell.seed, []).append(score)
    return float(np.mean([over_examples(of_seed, metric) for of_seed in by_seed.values()]))


def over_examples(scores: Sequence[Score], metric: str) -> float:
    """Return the metric over the examples of several cells.

    Where the scores of the examples are not known, or the metric cannot be computed from them, it is the mean over the
    cells, each with the weight of its number of examples, if this is known.
    """
    examples = [score.examples for score in scores if score.examples is not None]
    if len(examples) == len(scores):
        return float(np.concatenate(examples).mean())
    declared = scores[0].cell.declared(metric)
    arrays = [score.arrays for score in scores if score.arrays is not None]
    if declared.value is not None and len(arrays) == len(scores):
        joined = {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0]}
        return metrics.of_scores(declared, joined)
    counts = [0 if score.indices is None else len(score.indices) for score in scores]
    weights = counts if all(counts) else None
    return float(np.average([score.value for score in scores], weights=weights))


def fold_warnings(summaries: Sequence[Summary]) -> list[str]:
    """Return warnings on folds that are not finished, and on examples that several folds tested."""
    messages = []
    folds = max(summary.arm.folds for summary in summaries)
    if short := [summary for summary in summaries if len({s.cell.fold for s in summary.scores.values()}) < folds]:
        fewest = min(len({score.cell.fold for score in summary.scores.values()}) for summary in short)
        messages.append(
            f"{len(short)} of {len(summaries)} arms have not tested every fold ({fewest} of {folds}): their metric is "
            "over a part of the examples"
        )
    for summary in summaries:
        places: dict[object, list[np.ndarray]] = {}
        for score in summary.scores.values():
            if score.indices is not None:
                places.setdefault(score.cell.seed, []).append(score.indices)
        indices = next((np.concatenate(parts) for parts in places.values()), np.zeros(0, int))
        if twice := len(indices) - len(np.unique(indices)):
            messages.append(
                f"{twice:,} examples were tested in two folds of an arm, so the folds are not of one data set; the "
                "interval does not account for it"
            )
            break
    return messages
