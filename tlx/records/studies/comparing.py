"""What the arms of a study show of one another, from the predictions of every run.

Shapes: S seeds that pair, N examples. Differences are in the metric's own units, an arm's value less its baseline's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.functional import metrics, significance
from tlx.records.studies.reading import Arm, Cell, StudyRecords
from tlx.trees import near_miss

TOLERANCE = 1e-6


class Score(NamedTuple):
    """A cell's metric: `value`, made of its raw records as `source` says; `said` by `result.json`.

    Where the metric is a mean over examples, `examples` [N] are the values of each; `correct` [N] is kept of a
    classification, `indices` [N] wherever predictions are: places in the split, by which all three are sorted.
    """

    cell: Cell
    value: float
    said: float
    source: str
    indices: np.ndarray | None = None
    examples: np.ndarray | None = None
    correct: np.ndarray | None = None

    @property
    def agrees(self) -> bool:
        """Whether `result.json` says what the records come to."""
        return math.isclose(self.said, self.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


class Summary(NamedTuple):
    """An arm by itself: its `scores` by seed, their mean and 95 % t-interval (nan for one seed)."""

    arm: Arm
    scores: dict[Any, Score]
    mean: float
    low: float
    high: float


DIFFER = "the examples differ between runs"


class Comparison(NamedTuple):
    """An arm against its baseline arm, over the `seeds` that both have.

    `p` is that of the paired t-test against the smallest effect of interest, `holm` corrected over the table; both None
    for one pair, whose `verdict` is "not compared" and of which `mcnemar` compares the two models alone. `boot` is
    `(low, high)` of the bootstrap over seeds and examples, None where `lacking` says why. `detectable` is the minimum
    detectable difference: what this number of pairs shows with probability 0.8 after Holm's correction, if it is the
    only difference of the table; `detectable_alone` is the same without a correction. Both are None for one or two
    pairs, which say too little about the deviation, and where they exceed every possible difference of the metric.
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


class Table(NamedTuple):
    """All arms of a study by one `metric`. `higher` says that more is better; `alone` are the arms that have no
    baseline arm or share no finished seed with it, with the reason; `warnings` what a reader must know."""

    study: StudyRecords
    metric: str
    higher: bool
    smallest: float
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]
    alone: tuple[tuple[Arm, str], ...]
    warnings: tuple[str, ...]


def compare(study: StudyRecords, metric: str | None = None) -> Table:
    """Every arm against the arm that is equal to it but for the baseline's columns.

    `metric` is by default the study's own; the smallest effect of interest holds for that one alone. Raises ValueError
    where no cell has finished, none has the metric, or no arm has the baseline's values.
    """
    if not any(cell.state == "done" for cell in study.cells):
        told = ", ".join(f"{count} {state}" for state, count in study.counts.items() if count)
        since = f"; stale: {', '.join(study.changed)} changed since, so run the study again" if study.changed else ""
        raise ValueError(f"no cell of {study.folder} has finished yet: {told or 'it has none'}{since}")
    check_baseline(study)
    metric = study.check_metric(metric or study.metric)
    smallest = study.smallest if metric == study.metric else 0.0
    declared = study.declared(metric)
    higher = declared.higher_is_better
    arms = study.arms
    summaries = tuple(summary for arm in arms if (summary := summarise(arm, metric, declared.bounds)) is not None)
    known = {id(summary.arm): summary for summary in summaries}
    found: list[Comparison] = []
    alone: list[tuple[Arm, str]] = []
    for own in summaries:
        if not study.baseline or is_baseline(own.arm.names, study.baseline):
            continue
        arm = baseline_of(own.arm.names, arms, study.baseline)
        other = known.get(id(arm))
        if arm is None:
            alone.append((own.arm, "no arm of the baseline is equal to it in all else"))
        elif other is None:
            alone.append((own.arm, "its baseline has no finished cell"))
        elif not own.scores.keys() & other.scores.keys():
            alone.append((own.arm, "it shares no finished seed with its baseline"))
        else:
            found.append(against(own, other, smallest, metric, declared.bounds))
    compared = judged(found, smallest, higher, declared.bounds)
    return Table(
        study, metric, higher, smallest, summaries, compared, tuple(alone), warnings(summaries, compared, metric)
    )


def check_baseline(study: StudyRecords) -> None:
    """ValueError, with the near miss, where the baseline names a column or a value that no arm has."""
    for name, value in study.baseline.items():
        if name not in study.columns:
            raise ValueError(f"the baseline of {study.folder} names no column {name!r}{near_miss(name, study.columns)}")
        known = list(dict.fromkeys(str(arm.names.get(name)) for arm in study.arms))
        if str(value) not in known:
            raise ValueError(
                f"no arm of {study.folder} has the baseline {name}={value!r}{near_miss(str(value), known)}"
            )
    if study.baseline and not any(is_baseline(arm.names, study.baseline) for arm in study.arms):
        told = ", ".join(f"{name}={value!r}" for name, value in study.baseline.items())
        raise ValueError(f"no arm of {study.folder} has the whole baseline: {told}")


def is_baseline(names: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    return all(name in names and names[name] == value for name, value in baseline.items())


def baseline_of(names: Mapping[str, Any], arms: Sequence[Arm], baseline: Mapping[str, Any]) -> Arm | None:
    """The baseline arm that is equal in all columns but those of `baseline`, and those of which no baseline arm knows
    anything (such as the rank of a LoRA, None in each of them)."""
    bases = [arm for arm in arms if is_baseline(arm.names, baseline)]
    known = {name for arm in bases for name, value in arm.names.items() if value is not None} - baseline.keys()
    wanted = {name: names.get(name) for name in known}
    return next((arm for arm in bases if {name: arm.names.get(name) for name in known} == wanted), None)


def summarise(arm: Arm, metric: str, bounds: significance.Bounds) -> Summary | None:
    """None where no finished cell of the arm has the metric."""
    scores = {cell.seed: score(cell, metric) for cell in arm.done if metric in cell.metrics}
    if not scores:
        return None
    return Summary(arm, scores, *significance.over_seeds([one.value for one in scores.values()], bounds))


def score(cell: Cell, metric: str) -> Score:
    """The metric of a finished cell, computed again: from the scores of its split, else from the line of
    `metrics.jsonl` at the selected step, else as `result.json` says."""
    split = metric.partition("/")[0]
    said, predictions, declared = cell.metrics[metric], cell.predictions(split), cell.declared(metric)
    if predictions is not None:
        predictions = predictions.rows(np.argsort(predictions.indices, kind="stable"))
        scores, correct = predictions.scores, predictions.scores.get("correct")
        examples = None
        if declared.mean_of in scores:
            values = scores[declared.mean_of].astype(np.float64)
            examples = values.reshape(len(values), -1).mean(-1)
        if examples is not None or declared.value is not None:
            value = metrics.of_scores(declared, scores)
            return Score(cell, value, said, "predictions", predictions.indices, examples, correct)
    line = cell.curves().get(metric, {}).get(cell.result["selected_step"] if cell.result else -1)
    if line is not None:
        return Score(cell, line, said, "metrics.jsonl")
    return Score(cell, said, said, "result.json")


def against(own: Summary, other: Summary, smallest: float, metric: str, bounds: significance.Bounds) -> Comparison:
    """Without Holm's correction and what follows from it, for which the whole table is needed."""
    seeds = tuple(seed for seed in own.scores if seed in other.scores)
    ours, theirs = ([side.scores[seed] for seed in seeds] for side in (own, other))
    difference = significance.paired([one.value for one in ours], [one.value for one in theirs], bounds)
    several = len(seeds) > 1
    boot, lacking = None, unpaired(ours + theirs, metric)
    if several and not lacking:
        _, low, high = significance.over_seeds_and_examples(examples(ours), examples(theirs))
        boot = (low, high)
    return Comparison(
        arm=own.arm,
        baseline=other.arm,
        seeds=seeds,
        difference=difference,
        p=significance.t_test(difference, smallest) if several else None,
        holm=None,
        verdict="not compared",
        detectable=None,
        detectable_alone=detectable(difference, smallest, bounds),
        boot=boot,
        lacking=lacking if several else "one seed",
        mcnemar=None if several else models(ours[0], theirs[0]),
    )


def examples(scores: Sequence[Score]) -> np.ndarray:
    """[S, N]: a row a seed."""
    return np.stack([one.examples for one in scores if one.examples is not None])


def models(one: Score, other: Score) -> float | None:
    """McNemar's exact p of one pair of models; None of what is no classification, or not of the same examples."""
    if one.correct is None or other.correct is None or unlike([one, other]):
        return None
    return significance.mcnemar(one.correct, other.correct)


def unpaired(scores: Sequence[Score], metric: str) -> str:
    """Why examples cannot be drawn anew, in words; empty where they can."""
    if any(one.indices is None for one in scores):
        return "predictions were not kept"
    if any(one.examples is None for one in scores):
        return f"{metric} is no mean over examples"
    return DIFFER if unlike(scores) else ""


def unlike(scores: Sequence[Score]) -> bool:
    """Whether some of the runs were measured on other examples than the first."""
    places = [one.indices for one in scores if one.indices is not None]
    return any(not np.array_equal(places[0], other) for other in places[1:])


def detectable(
    difference: significance.Difference, smallest: float, bounds: significance.Bounds, level: float = significance.LEVEL
) -> float | None:
    """Compute the minimum detectable difference; None for fewer than `stats.FEW` pairs, whose deviation says too
    little, and where it exceeds every possible difference of values within `bounds`."""
    if difference.pairs < significance.FEW:
        return None
    found = smallest + significance.detectable(difference.deviation, difference.pairs, level=level)
    return found if found <= significance.difference_bounds(bounds)[1] else None


def judged(
    found: Sequence[Comparison], smallest: float, higher: bool, bounds: significance.Bounds = significance.UNBOUNDED
) -> tuple[Comparison, ...]:
    """With p corrected over the table, and the verdict: better or worse needs an interval that lies beyond the smallest
    effect of interest and a corrected p below 0.05 besides."""
    ps = [one.p for one in found if one.p is not None]
    corrected = iter(significance.holm(ps))
    made = []
    for one in found:
        if one.p is None:
            made.append(one)
            continue
        p, (_, low, high, *_) = next(corrected), one.difference
        shown: significance.Verdict = "no difference shown"
        if p < 1 - significance.LEVEL:
            shown = significance.verdict(low, high, smallest) if higher else significance.verdict(-high, -low, smallest)
        # Where one difference alone is there, Holm holds it to the level over the size of the table.
        seen = detectable(one.difference, smallest, bounds, level=1 - (1 - significance.LEVEL) / len(ps))
        made.append(one._replace(holm=p, verdict=shown, detectable=seen))
    return tuple(made)


def warnings(summaries: Sequence[Summary], compared: Sequence[Comparison], metric: str) -> tuple[str, ...]:
    """What a reader must know before the numbers: records that disagree, several selection rules, single seeds."""
    scores = [one for summary in summaries for one in summary.scores.values()]
    told = [
        f"result.json of cell {one.cell.fingerprint} says {metric} {one.said:.8g}, but its {one.source} come to "
        f"{one.value:.8g}, which is what counts here"
        for one in scores
        if not one.agrees
    ]
    if taken := sum(one.source == "result.json" for one in scores):
        told.append(f"{taken} of {len(scores)} values could not be computed again and are those of result.json")
    if len(rules := dict.fromkeys(one.cell.result["selection"] for one in scores if one.cell.result)) > 1:
        told.append(f"the checkpoints were chosen by different rules: {', '.join(rules)}")
    # Settings may have test splits of their own, as long as what is compared has the same.
    if any(one.lacking == DIFFER for one in compared) or (not compared and unlike(scores)):
        told.append("the runs were not all measured on the same examples: some differences are of examples too")
    if all(len(summary.scores) == 1 for summary in summaries):
        told.append(
            "every arm has one seed, so methods are not compared: one run says nothing about other seeds; run three or "
            "more seeds"
        )
    elif any(len(one.seeds) == 2 for one in compared):
        told.append(
            "two seeds say little: the deviation between seeds is hardly known, so intervals are very wide; run three "
            "or more seeds"
        )
    return tuple(told)
