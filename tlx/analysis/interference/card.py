"""Compute the report as one document: every effect with its interval and verdict, from the runs' own records.

The effect of a member on another one is the metric of the other with it minus the metric without it. Shapes: S paired
seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlx.analysis.interference.arms import MEMBERS, Interference
from tlx.analysis.negative.card import finite, turned
from tlx.functional import significance
from tlx.functional.metrics import Metric, document
from tlx.functional.mixtures import AVERAGE
from tlx.records.studies import Arm, Comparison, StudyRecords, Summary, against, judged, summarise
from tlx.trees import Json

Key = tuple[str, ...]
# The row and the column of an effect, and the members of the arms with the row and without it.
Contrast = tuple[str, str, Key, Key]


def card(plan: Interference, study: StudyRecords) -> Json:
    """Return all results of the report that come from the runs' records.

    Raises:
        ValueError: No run of the whole mixture has finished.
    """
    arms = {tuple(arm.names[MEMBERS].split(" + ")): arm for arm in study.arms}
    whole = arms.get(plan.names)
    if whole is None or not whole.done_cells:
        failed = next((cell.failed["error"] for cell in study.cells if cell.failed), "no error is recorded")
        raise ValueError(f"no run of the whole mixture in {study.folder} has finished: {failed}")
    declared = study.declared(plan.metric(AVERAGE))
    summaries = Summaries(plan, arms, declared)
    result = whole.done_cells[0].result or {}
    return {
        "question": study.question,
        "metric": plan.recipe.task.primary,
        "split": plan.split,
        "measures": {plan.recipe.task.primary: document(declared)},
        "higher": declared.higher_is_better,
        "smallest": plan.smallest,
        "budget": plan.budget,
        "selection": result.get("selection", "last"),
        "seeds": sorted({cell.seed for cell in whole.done_cells}),
        "members": [
            {"name": name, "rate": plan.rates[name], "examples": (result.get("members") or {})[name]["examples"]}
            for name in plan.names
        ],
        "arms": [{"members": list(key), "steps": plan.steps(key)} for key in plan.subsets],
        "effects": effects(summaries, left_out(plan.names)),
        "pairs": effects(summaries, pairwise(plan.names)) if plan.pairs else [],
        "table": table(summaries),
        "notes": notes(study, summaries),
    }


class Summaries:
    """The summary of each arm by the metric of each member, computed once."""

    def __init__(self, plan: Interference, arms: Mapping[Key, Arm], declared: Metric):
        self.plan, self.arms, self.declared = plan, arms, declared
        self.computed: dict[tuple[Key, str], Summary | None] = {}

    def of(self, key: Key, member: str) -> Summary | None:
        """Return the summary of an arm by the metric of a member; None if it has no finished run with this metric."""
        if (key, member) not in self.computed:
            arm, bounds = self.arms.get(key), self.declared.bounds
            summary = None if arm is None else summarise(arm, self.plan.metric(member), bounds)
            self.computed[key, member] = summary
        return self.computed[key, member]

    def compared(self, key: Key, other: Key, member: str) -> Comparison | None:
        """Return the comparison of two arms by the metric of a member, without a verdict; None if they share no
        seed."""
        summary, baseline = self.of(key, member), self.of(other, member)
        if summary is None or baseline is None or not summary.scores.keys() & baseline.scores.keys():
            return None
        return against(summary, baseline, self.plan.smallest, self.plan.metric(member), self.declared.bounds)

    def judged(self, comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
        """Return comparisons with p corrected over all of them (Holm), and with verdicts."""
        return judged(comparisons, self.plan.smallest, self.declared.higher_is_better, self.declared.bounds)


def left_out(names: Key) -> list[Contrast]:
    """Return the contrasts of the matrix: all members, and all but the row, by the metric of the column."""
    return [
        (row, column, names, tuple(name for name in names if name != row))
        for row in names
        for column in names
        if row != column
    ]


def pairwise(names: Key) -> list[Contrast]:
    """Return the contrasts of the pairs: the row and the column, and the column alone."""
    return [
        (row, column, tuple(name for name in names if name in (row, column)), (column,))
        for row in names
        for column in names
        if row != column
    ]


def effects(summaries: Summaries, contrasts: Sequence[Contrast]) -> list[Json]:
    """Return the effect of each row on each column, with p corrected over all of them (Holm)."""
    pairs = [
        (contrast, comparison)
        for contrast in contrasts
        if (comparison := summaries.compared(contrast[2], contrast[3], contrast[1])) is not None
    ]
    rows = []
    for (contrast, _), comparison in zip(pairs, summaries.judged([item for _, item in pairs]), strict=True):
        row, column, key, other = contrast
        rows.append({"row": row, "column": column, **effect(summaries, comparison, key, other, column)})
    return rows


def effect(summaries: Summaries, comparison: Comparison, key: Key, other: Key, member: str) -> Json:
    """Return a comparison as an effect: the metric with the member and without it, and the difference."""
    values = turned(comparison, 1.0)
    means = {
        side: float(np.mean([summary.scores[seed].value for seed in comparison.seeds]))
        for side, arm in (("with", key), ("without", other))
        if (summary := summaries.of(arm, member)) is not None
    }
    return {**means, "effect": values.pop("gap"), **values, "lacking": comparison.lacking}


def table(summaries: Summaries) -> list[Json]:
    """Return for each member its metric alone, in the mixture, and the difference, with p corrected over the table; the
    last row is the unweighted average over the members."""
    names = summaries.plan.names
    pairs = [
        (name, comparison) for name in names if (comparison := summaries.compared(names, (name,), name)) is not None
    ]
    if len(pairs) == len(names) and (average := average_of(summaries, [item for _, item in pairs])) is not None:
        pairs.append((AVERAGE, average))
    rows: list[Json] = []
    for (name, _), comparison in zip(pairs, summaries.judged([item for _, item in pairs]), strict=True):
        values = turned(comparison, 1.0)
        if name == AVERAGE:
            values["folders"] = list(dict.fromkeys(folder for row in rows for folder in row["folders"]))
        sides = [comparison.baseline, comparison.arm]
        ends = [
            ends_of([value_of(summaries, arm, name, seed) for seed in comparison.seeds], summaries.declared)
            for arm in sides
        ]
        rows.append({"member": name, "alone": ends[0], "mixture": ends[1], "difference": values.pop("gap"), **values})
    return rows


def value_of(summaries: Summaries, arm: Arm, member: str, seed: Any) -> float:
    """Return the metric of a member in a run; for the average of the arms of single members that over all of them."""
    names = summaries.plan.names
    key = tuple(arm.names[MEMBERS].split(" + "))
    pairs = [(key, member)]
    if member == AVERAGE:
        pairs = [(names if key == names else (name,), name) for name in names]
    values = [summary.scores[seed].value for pair in pairs if (summary := summaries.of(*pair)) is not None]
    return float(np.mean(values))


def average_of(summaries: Summaries, comparisons: Sequence[Comparison]) -> Comparison | None:
    """Return the comparison of the averages over the members: in the mixture, and of each member alone."""
    first = comparisons[0]
    seeds = tuple(seed for seed in first.seeds if all(seed in item.seeds for item in comparisons))
    if not seeds:
        return None
    mixture, alone = (
        [value_of(summaries, arm, AVERAGE, seed) for seed in seeds] for arm in (first.arm, first.baseline)
    )
    difference = significance.paired(mixture, alone, summaries.declared.bounds)
    several = difference.pairs > 1
    return first._replace(
        seeds=seeds,
        difference=difference,
        p=significance.t_test(difference, summaries.plan.smallest) if several else None,
        detectable_alone=None,
        boot=None,
        lacking="the average is no mean over examples",
        mcnemar=None,
    )


def ends_of(values: Sequence[float], declared: Metric) -> Json:
    """Return the mean of an arm over its seeds, with the ends of its interval."""
    mean, low, high = significance.over_seeds(values, declared.bounds)
    return {"mean": mean, "low": finite(low), "high": finite(high), "values": list(values)}


def notes(study: StudyRecords, summaries: Summaries) -> list[str]:
    """Return the notes for the reader of the numbers."""
    messages = []
    if unfinished := {state: count for state, count in study.counts.items() if count and state != "done"}:
        listed = ", ".join(f"{count} {state}" for state, count in unfinished.items())
        messages.append(f"not all runs have finished: {listed}")
    seeds = len(summaries.arms[summaries.plan.names].done_cells)
    if seeds < 2:
        messages.append("there is one seed, so there are no intervals and nothing is compared; run three or more seeds")
    elif seeds == 2:
        messages.append("two seeds say little: intervals are very wide; run three or more seeds")
    if len(summaries.plan.names) == 2:
        messages.append("with two members, the mixture without one of them is the other one alone")
    return messages
