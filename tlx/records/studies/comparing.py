"""Compare the arms of a study, from the predictions of every run.

Shapes: S paired seeds, N examples. Differences are in the units of the metric: the arm's value minus its baseline's.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.functional import metrics, significance
from tlx.functional.metrics import Metric
from tlx.records.members import measured_on
from tlx.records.run_directory import Predictions
from tlx.records.studies.pooling import arm_difference, arm_interval, fold_warnings
from tlx.records.studies.reading import Arm, CellRecord, StudyRecords
from tlx.trees import near_miss

TOLERANCE = 1e-6


class Score(NamedTuple):
    """Metric of a cell: `value` is recomputed from the records named by `source`; `result_value` is that in
    `result.json`.

    If the metric is a mean over examples, `examples` [N] are the values per example. `correct` [N] exists for a
    classification, `indices` [N] wherever predictions were kept: positions in the split. All three are sorted by
    position, and so are the `arrays` [N, ...] of the task's scores.
    """

    cell: CellRecord
    value: float
    result_value: float
    source: str
    indices: np.ndarray | None = None
    examples: np.ndarray | None = None
    correct: np.ndarray | None = None
    arrays: Mapping[str, np.ndarray] | None = None

    @property
    def agrees(self) -> bool:
        """Whether `result.json` agrees with the recomputed value."""
        return math.isclose(self.result_value, self.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


class Summary(NamedTuple):
    """Summary of one arm: its `scores` by seed, their mean and 95 % t-interval (nan for one seed).

    In a study over folds `scores` are by fold and seed, and the mean is the metric over the examples of all folds.
    """

    arm: Arm
    scores: dict[Any, Score]
    mean: float
    low: float
    high: float


DIFFER = "the examples differ between runs"


class Comparison(NamedTuple):
    """Comparison of an arm with its baseline arm, over the `seeds` (or folds) that both have.

    `p` is the p-value of the paired t-test against the smallest effect of interest, `holm` the same value corrected
    over the table. Both are None for one pair: then `verdict` is "not compared" and `mcnemar` compares only the two
    models. `boot` is `(low, high)` of the bootstrap over seeds and examples, None for the reason in `lacking`.
    `detectable` is the minimum detectable difference: the difference that this number of pairs detects with probability
    0.8 after Holm's correction, if it is the only difference of the table. `detectable_alone` is the same without a
    correction. Both are None for one or two pairs, which estimate the deviation too poorly, and where they exceed every
    possible difference of the metric.
    """

    arm: Arm
    baseline: Arm
    seeds: tuple[Any, ...]
    difference: significance.Difference
    p: float | None
    holm: float | None
    verdict: significance.Verdict
    detectable: float | None
    detectable_alone: float | None
    boot: tuple[float, float] | None
    lacking: str
    mcnemar: float | None = None


class StudyTable(NamedTuple):
    """Comparison of all arms of a study by one `metric`.

    `higher` is True if more is better. `alone` are the arms that have no baseline arm or share no finished seed with
    it, with the reason. `warnings` are sentences for the reader.
    """

    study: StudyRecords
    metric: str
    higher: bool
    smallest: float
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    alone: tuple[tuple[Arm, str], ...]
    warnings: tuple[str, ...]

    @property
    def repeat(self) -> str:
        """What is repeated in an arm: "fold" in a study over folds, else "seed"."""
        return "fold" if any(summary.arm.folds for summary in self.summaries) else "seed"


def compare(study: StudyRecords, metric: str | None = None) -> StudyTable:
    """Compare every arm with the arm that equals it except for the baseline's columns.

    Args:
        study: the study's records.
        metric: by default the study's metric. The smallest effect of interest applies to that metric only.

    Raises:
        ValueError: No cell has finished, none has the metric, or no arm has the baseline's values.
    """
    if not any(cell.state == "done" for cell in study.cells):
        counts = ", ".join(f"{count} {state}" for state, count in study.counts.items() if count)
        since = f"; stale: {', '.join(study.changed)} changed since, so run the study again" if study.changed else ""
        raise ValueError(f"no cell of {study.folder} has finished yet: {counts or 'it has no cells'}{since}")
    check_baseline(study)
    metric = study.check_metric(metric or study.metric)
    smallest = study.smallest if metric == study.metric else 0.0
    declared = study.declared(metric)
    higher = declared.higher_is_better
    arms = study.arms
    summaries = tuple(summary for arm in arms if (summary := summarise(arm, metric, declared.bounds)) is not None)
    by_arm = {id(summary.arm): summary for summary in summaries}
    comparisons: list[Comparison] = []
    alone: list[tuple[Arm, str]] = []
    for candidate in summaries:
        if not study.baseline or is_baseline(candidate.arm.names, study.baseline):
            continue
        arm = baseline_of(candidate.arm.names, arms, study.baseline)
        base = by_arm.get(id(arm))
        if arm is None:
            alone.append((candidate.arm, "no arm of the baseline equals it in all other columns"))
        elif base is None:
            alone.append((candidate.arm, "its baseline has no finished cell"))
        elif not candidate.scores.keys() & base.scores.keys():
            alone.append((candidate.arm, "it has no finished seed in common with its baseline"))
        else:
            comparisons.append(against(candidate, base, smallest, metric, declared.bounds))
    compared = judged(comparisons, smallest, higher, declared.bounds)
    remarks = (*undefined(arms, summaries, metric), *warnings(summaries, compared, metric))
    return StudyTable(study, metric, higher, smallest, summaries, compared, tuple(alone), remarks)


def check_baseline(study: StudyRecords) -> None:
    """Raise ValueError, with the nearest name, if the baseline has a column or a value that no arm has."""
    for name, value in study.baseline.items():
        if name not in study.columns:
            raise ValueError(
                f"the baseline of {study.folder} names the column {name!r}, which does not "
                f"exist{near_miss(name, study.columns)}"
            )
        values = list(dict.fromkeys(str(arm.names.get(name)) for arm in study.arms))
        if str(value) not in values:
            raise ValueError(
                f"no arm of {study.folder} has the baseline {name}={value!r}{near_miss(str(value), values)}"
            )
    if study.baseline and not any(is_baseline(arm.names, study.baseline) for arm in study.arms):
        values_text = ", ".join(f"{name}={value!r}" for name, value in study.baseline.items())
        raise ValueError(f"no arm of {study.folder} has the whole baseline: {values_text}")


def is_baseline(names: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    """Return whether the names of an arm contain all values of the baseline."""
    return all(name in names and names[name] == value for name, value in baseline.items())


def baseline_of(names: Mapping[str, Any], arms: Sequence[Arm], baseline: Mapping[str, Any]) -> Arm | None:
    """Return the baseline arm that is equal in all columns except those of `baseline` and those without a value in
    every baseline arm (such as the rank of a LoRA, which is None there)."""
    bases = [arm for arm in arms if is_baseline(arm.names, baseline)]
    shared = {name for arm in bases for name, value in arm.names.items() if value is not None} - baseline.keys()
    target = {name: names.get(name) for name in shared}
    return next((arm for arm in bases if {name: arm.names.get(name) for name in shared} == target), None)


def summarise(arm: Arm, metric: str, bounds: significance.Bounds) -> Summary | None:
    """Return the summary of an arm over the finished cells in which the metric is defined; None if there are none."""
    measured = {cell.repeat: score(cell, metric) for cell in arm.done_cells if metric in cell.metrics}
    scores = {seed: item for seed, item in measured.items() if not math.isnan(item.value)}
    if not scores:
        return None
    if arm.folds:
        return Summary(arm, scores, *arm_interval(list(scores.values()), metric, arm.folds, bounds))
    return Summary(arm, scores, *significance.over_seeds([item.value for item in scores.values()], bounds))


def score(cell: CellRecord, metric: str) -> Score:
    """Compute the metric of a finished cell from its records.

    The records are the scores of the split, else the line of `metrics.jsonl` at the selected step, else `result.json`.
    """
    split = metric.partition("/")[0]
    recorded, predictions, declared = cell.metrics[metric], cell.predictions(split), cell.declared(metric)
    parts = () if predictions is None else measured_on(predictions, metric, cell.result)
    computed = [part.rows(np.argsort(part.indices, kind="stable")) for part in parts]
    if len(computed) > 1 and all(is_computed(declared, part) for part in computed):
        # The average over the members of a mixture is no mean over examples.
        average = float(np.mean([metrics.of_scores(declared, part.scores) for part in computed]))
        indices = None if predictions is None else np.sort(predictions.indices)
        return Score(cell, average, recorded, "predictions", indices)
    if len(computed) == 1 and is_computed(declared, computed[0]):
        part, examples = computed[0], None
        if declared.mean_of:
            values = part.scores[declared.mean_of].astype(np.float64)
            examples = values.reshape(len(values), -1).mean(-1)
        value = metrics.of_scores(declared, part.scores)
        correct = part.scores.get("correct")
        return Score(cell, value, recorded, "predictions", part.indices, examples, correct, part.scores)
    line = cell.curves().get(metric, {}).get(cell.result["selected_step"] if cell.result else -1)
    if line is not None:
        return Score(cell, line, recorded, "metrics.jsonl")
    return Score(cell, recorded, recorded, "result.json")


def is_computed(declared: Metric, predictions: Predictions) -> bool:
    """Return whether a metric can be computed from the scores of a split."""
    return declared.mean_of in predictions.scores or (not declared.mean_of and declared.value is not None)


def against(summary: Summary, other: Summary, smallest: float, metric: str, bounds: significance.Bounds) -> Comparison:
    """Compare an arm with its baseline, without Holm's correction and the values that follow from it.

    The whole table is needed for those; see `judged`.
    """
    seeds = tuple(seed for seed in summary.scores if seed in other.scores)
    scores, base_scores = ([side.scores[seed] for seed in seeds] for side in (summary, other))
    folds = max(summary.arm.folds, other.arm.folds)
    boot = None
    if folds:
        difference = arm_difference(scores, base_scores, metric, folds, bounds)
        differ = any(map(unlike, zip(scores, base_scores, strict=True)))
        lacking = DIFFER if differ else "folds share training examples"
    else:
        difference = significance.paired([item.value for item in scores], [item.value for item in base_scores], bounds)
        lacking = unpaired(scores + base_scores, metric)
    several = difference.pairs > 1
    if several and not lacking:
        _, low, high = significance.over_seeds_and_examples(examples(scores), examples(base_scores))
        boot = (low, high)
    return Comparison(
        arm=summary.arm,
        baseline=other.arm,
        seeds=seeds,
        difference=difference,
        p=significance.t_test(difference, smallest) if several else None,
        holm=None,
        verdict="not compared",
        detectable=None,
        detectable_alone=detectable(difference, smallest, bounds),
        boot=boot,
        lacking=lacking if several or folds else "one seed",
        mcnemar=models(scores, base_scores) if folds or not several else None,
    )


def examples(scores: Sequence[Score]) -> np.ndarray:
    """Return the values per example, [S, N], a row per seed."""
    return np.stack([score.examples for score in scores if score.examples is not None])


def models(scores: Sequence[Score], others: Sequence[Score]) -> float | None:
    """Compute McNemar's exact p of one pair of models, or of those of all folds over all examples.

    It is None if the task is no classification, the examples differ, or several seeds tested the same examples.
    """
    pairs = list(zip(scores, others, strict=True))
    if len({score.cell.seed for score in scores}) > 1 or any(unlike(pair) for pair in pairs):
        return None
    correct = [(first.correct, second.correct) for first, second in pairs]
    if any(side is None for pair in correct for side in pair):
        return None
    first, second = (np.concatenate([np.asarray(pair[side]) for pair in correct]) for side in (0, 1))
    return significance.mcnemar(first, second)


def unpaired(scores: Sequence[Score], metric: str) -> str:
    """Return why examples cannot be resampled, in words; empty if they can."""
    if any(score.indices is None for score in scores):
        return "predictions were not kept"
    if any(score.examples is None for score in scores):
        return f"{metric} is not a mean over examples"
    return DIFFER if unlike(scores) else ""


def unlike(scores: Iterable[Score]) -> bool:
    """Return whether some runs were evaluated on other examples than the first run."""
    places = [score.indices for score in scores if score.indices is not None]
    return any(not np.array_equal(places[0], indices) for indices in places[1:])


def detectable(
    difference: significance.Difference, smallest: float, bounds: significance.Bounds, level: float = significance.LEVEL
) -> float | None:
    """Compute the minimum detectable difference.

    Returns:
        The difference; None for fewer than `significance.FEW` pairs, which estimate the deviation too poorly, and where
        it exceeds every possible difference of values within `bounds`.
    """
    if difference.pairs < significance.FEW:
        return None
    minimum = smallest + significance.detectable(difference.deviation, difference.pairs, level=level)
    return minimum if minimum <= significance.difference_bounds(bounds)[1] else None


def judged(
    comparisons: Sequence[Comparison],
    smallest: float,
    higher: bool,
    bounds: significance.Bounds = significance.UNBOUNDED,
) -> tuple[Comparison, ...]:
    """Return the comparisons with p corrected over the table, and with the verdict.

    "better" and "worse" require an interval beyond the smallest effect of interest and a corrected p below 0.05.
    """
    ps = [comparison.p for comparison in comparisons if comparison.p is not None]
    corrected = iter(significance.holm(ps))
    judgements = []
    for comparison in comparisons:
        if comparison.p is None:
            judgements.append(comparison)
            continue
        p, (_, low, high, *_) = next(corrected), comparison.difference
        verdict: significance.Verdict = "no difference shown"
        if p < 1 - significance.LEVEL:
            verdict = (
                significance.verdict(low, high, smallest) if higher else significance.verdict(-high, -low, smallest)
            )
        # If this is the only difference, Holm's correction divides the level by the number of comparisons.
        minimum = detectable(comparison.difference, smallest, bounds, level=1 - (1 - significance.LEVEL) / len(ps))
        judgements.append(comparison._replace(holm=p, verdict=verdict, detectable=minimum))
    return tuple(judgements)


def undefined(arms: Sequence[Arm], summaries: Sequence[Summary], metric: str) -> tuple[str, ...]:
    """Return a warning if the metric is not a number in some finished runs, which `summarise` leaves out."""
    runs = sum(metric in cell.metrics for arm in arms for cell in arm.done_cells)
    missing = runs - sum(len(summary.scores) for summary in summaries)
    return (f"{metric} is not defined in {missing} of {runs} runs, which are left out",) if missing else ()


def warnings(summaries: Sequence[Summary], compared: Sequence[Comparison], metric: str) -> tuple[str, ...]:
    """Return warnings for the reader: records that disagree, several selection rules, single seeds."""
    scores = [score for summary in summaries for score in summary.scores.values()]
    messages = [
        f"result.json of cell {score.cell.fingerprint} contains {metric} {score.result_value:.8g}, but its "
        f"{score.source} give {score.value:.8g}, which is used here"
        for score in scores
        if not score.agrees
    ]
    if copied := sum(score.source == "result.json" for score in scores):
        messages.append(f"{copied} of {len(scores)} values cannot be recomputed and are taken from result.json")
    if len(rules := dict.fromkeys(score.cell.result["selection"] for score in scores if score.cell.result)) > 1:
        messages.append(f"different rules chose the checkpoints: {', '.join(rules)}")
    # Settings may have different test splits, if the compared arms share one.
    folded = any(summary.arm.folds for summary in summaries)
    if folded:
        messages += fold_warnings(summaries)
    if any(score.lacking == DIFFER for score in compared) or (not compared and not folded and unlike(scores)):
        messages.append(
            "the runs were not all measured on the same examples, so a part of the differences comes from the examples"
        )
    if folded:
        return tuple(messages)
    if all(len(summary.scores) == 1 for summary in summaries):
        messages.append(
            "every arm has one seed, so methods are not compared: one run does not show the variation between "
            "seeds; run three or more seeds"
        )
    elif any(len(score.seeds) == 2 for score in compared):
        messages.append(
            "two seeds say little: the standard deviation between seeds is uncertain, so intervals are very wide; "
            "run three or more seeds"
        )
    return tuple(messages)
