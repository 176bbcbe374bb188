"""The report as one document: every gap with its interval and verdict, all of it from the runs' own records.

A gap is the baseline's metric less that of A(S,T), so that what is positive is negative transfer (Wang et al., 2019);
it is turned round where less of the metric is better. Shapes: S seeds that pair, N test examples, C classes.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np

from tlx.analysis.negative.arms import (
    ALONE,
    ARM,
    BASELINES,
    CHANCE,
    EPS,
    LABELS,
    SCRATCH,
    SOURCE,
    SOURCE_ONLY,
    TARGET_ONLY,
    TRANSFER,
)
from tlx.functional import significance
from tlx.functional.metrics import Metric, document
from tlx.records.studies import Arm, Comparison, StudyRecords, Summary, against, judged, summarise

# What the verdict of A(S,T) against a baseline says of the source.
SAYS = {"worse": "hurts", "better": "helps", "no difference shown": "not shown", "not compared": "not compared"}


class Setting(NamedTuple):
    """One source with so many labels and such noise, and what is compared there: baselines by name."""

    source: str
    labels: float
    eps: float
    own: Summary
    others: dict[str, Summary]


def card(study: StudyRecords, classes: Sequence[str], target: str) -> dict[str, Any]:
    """Every number of the report but what looks at the data themselves. Raises ValueError where no run of A(S,T) has
    finished."""
    metric = study.metric
    declared = study.declared(metric)
    higher = declared.higher_is_better
    found = settings(study, metric)
    if not found:
        failed = next((cell.failed["error"] for cell in study.cells if cell.failed), "none has been run to its end")
        raise ValueError(f"no run of {TRANSFER} in {study.folder} has finished: {failed}")
    gaps = [
        gap for name in (*BASELINES, CHANCE) for gap in gaps_to(name, found, study.smallest, metric, declared, classes)
    ]
    result = found[0].own.arm.done[0].result or {}
    return {
        "question": study.question,
        "target": target,
        "metric": metric,
        "measures": {metric.rpartition("/")[2]: document(declared)},
        "higher": higher,
        "smallest": study.smallest,
        "seeds": sorted(found[0].own.scores),
        "selection": result.get("selection", "last"),
        "steps": result.get("steps"),
        "baselines": {name: about for name, about in BASELINES.items() if any(gap["baseline"] == name for gap in gaps)},
        "arms": [
            told(summary)
            for arm in study.arms
            if (summary := summarise(arm, metric, study.declared(metric).bounds)) is not None
        ],
        "gaps": gaps,
        "classes": by_class(found, classes),
        "flips": flips(gaps),
        "rules": rules(found, declared),
        "advice": advice(found, gaps, higher),
        "notes": notes(study, found, gaps),
    }


def settings(study: StudyRecords, metric: str) -> list[Setting]:
    """Every setting of which A(S,T) has a finished run, in the order of the study."""
    known: dict[tuple[Any, ...], Summary] = {}
    for arm in study.arms:
        if (summary := summarise(arm, metric, study.declared(metric).bounds)) is not None:
            known[tuple(arm.names[column] for column in (ARM, SOURCE, LABELS, EPS))] = summary
    found = []
    for (arm, source, labels, eps), own in known.items():
        if arm != TRANSFER:
            continue
        # Where the algorithm has no term of its own, A(0,T) came to the same recipe as the target's labels alone.
        alone = known.get((ALONE, None, labels, None)) or known.get((TARGET_ONLY, None, labels, None))
        others = {
            ALONE: alone,
            SOURCE_ONLY: known.get((SOURCE_ONLY, source, None, eps)),
            TARGET_ONLY: known.get((TARGET_ONLY, None, labels, None)),
            SCRATCH: known.get((SCRATCH, None, labels, None)),
        }
        found.append(Setting(source, labels, eps, own, {name: one for name, one in others.items() if one is not None}))
    return found


def gaps_to(
    name: str, found: Sequence[Setting], smallest: float, metric: str, declared: Metric, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """The gap of every setting to one baseline, p corrected over them (Holm). Without labels of the target A(0,T) has
    nothing to learn from, and stands at chance: the share of the most frequent class."""
    pairs: list[tuple[Setting, Comparison, float | None]] = []
    higher, bounds = declared.higher_is_better, declared.bounds
    for one in found:
        if name == CHANCE:
            if one.labels == 0 and metric.endswith("/accuracy"):
                chance = of_chance(one, metric, classes)
                pairs.append((one, to_chance(one, chance, smallest, bounds), chance))
        elif name in one.others and one.own.scores.keys() & one.others[name].scores.keys():
            pairs.append((one, against(one.own, one.others[name], smallest, metric, bounds), None))
    compared = judged([comparison for _, comparison, _ in pairs], smallest, higher, bounds)
    sign = -1.0 if higher else 1.0
    return [
        {
            "source": setting.source, "labels": setting.labels, "eps": setting.eps, "baseline": name,
            "transfer": setting.own.mean,
            "without": chance if chance is not None else setting.others[name].mean,
            **turned(comparison, sign),
        }
        for (setting, _, chance), comparison in zip(pairs, compared, strict=True)
    ]  # fmt: skip


def of_chance(one: Setting, metric: str, classes: Sequence[str]) -> float:
    """The accuracy of whoever knows the most frequent class of the split and nothing else; of all classes alike where
    the runs have kept no labels of it."""
    for cell in one.own.arm.done:
        if (predictions := cell.predictions(metric.partition("/")[0])) is not None and len(predictions):
            return float(np.bincount(predictions.scores["label"]).max() / len(predictions))
    return 1 / len(classes)


def to_chance(one: Setting, chance: float, smallest: float, bounds: significance.Bounds) -> Comparison:
    """A(S,T) against a guess, which does not vary."""
    values = [score.value for score in one.own.scores.values()]
    difference = significance.paired(values, [chance] * len(values), bounds)
    several = len(values) > 1
    return Comparison(
        arm=one.own.arm,
        baseline=one.own.arm,
        seeds=tuple(one.own.scores),
        difference=difference,
        p=significance.t_test(difference, smallest) if several else None,
        holm=None,
        verdict="not compared",
        detectable=None,
        detectable_alone=None,
        boot=None,
        lacking="chance has no examples",
    )


def turned(comparison: Comparison, sign: float) -> dict[str, Any]:
    """A comparison as a gap."""
    difference = comparison.difference
    ends = sorted((sign * difference.low, sign * difference.high))
    boot = sorted(sign * end for end in comparison.boot) if comparison.boot else None
    return {
        "gap": sign * difference.mean,
        "low": finite(ends[0]),
        "high": finite(ends[1]),
        "boot": boot,
        "pairs": difference.pairs,
        "p": comparison.p,
        "holm": comparison.holm,
        "sign": difference.sign,
        "wilcoxon": difference.wilcoxon,
        "detectable": comparison.detectable,
        "verdict": SAYS[comparison.verdict],
        "folders": [folder_of(cell) for arm in (comparison.arm, comparison.baseline) for cell in arm.done],
    }


def told(summary: Summary) -> dict[str, Any]:
    """An arm by itself."""
    values = {str(seed): score.value for seed, score in summary.scores.items()}
    ends = {"mean": summary.mean, "low": finite(summary.low), "high": finite(summary.high)}
    return {**summary.arm.names, **ends, "values": values, "folders": [folder_of(cell) for cell in summary.arm.done]}


def by_class(found: Sequence[Setting], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The gap of every class (its recall) to the first baseline that is there, which the average may hide; p corrected
    over the classes of a setting."""
    rows: list[dict[str, Any]] = []
    for one in found:
        name = next((name for name in (ALONE, SOURCE_ONLY) if name in one.others), None)
        if name is None:
            continue
        seeds = [seed for seed in one.own.scores if seed in one.others[name].scores]
        ours, theirs = (recalls(side.arm, seeds, len(classes)) for side in (one.own, one.others[name]))
        if ours is None or theirs is None:
            continue
        there = [n for n in range(len(classes)) if np.isfinite(ours[:, n] + theirs[:, n]).all()]
        differences = [significance.paired(theirs[:, n].tolist(), ours[:, n].tolist(), (0.0, 1.0)) for n in there]
        corrected = significance.holm([significance.t_test(one) for one in differences])
        for n, gap, p in zip(there, differences, corrected, strict=True):
            shown = significance.verdict(gap.low, gap.high)
            if p >= 1 - significance.LEVEL and gap.pairs > 1:
                shown = "no difference shown"
            rows.append({
                "source": one.source, "labels": one.labels, "eps": one.eps, "baseline": name, "class": classes[n],
                "transfer": float(ours[:, n].mean()), "without": float(theirs[:, n].mean()),
                "gap": gap.mean, "low": finite(gap.low), "high": finite(gap.high), "holm": p,
                # The gap is the recall without the source less that with it: above 0 the source hurts.
                "verdict": SAYS[{"better": "worse", "worse": "better"}.get(shown, shown)],
            })  # fmt: skip
    return rows


def recalls(arm: Arm, seeds: Sequence[Any], classes: int) -> np.ndarray | None:
    """[S, C]: the share of each class that is right, nan of one without examples; None where no predictions are."""
    rows = []
    by_seed = {cell.seed: cell for cell in arm.done}
    for seed in seeds:
        predictions = by_seed[seed].predictions()
        if predictions is None:
            return None
        labels, correct = (predictions.scores[name] for name in ("label", "correct"))
        counts = np.bincount(labels, minlength=classes)
        hits = np.bincount(labels, correct, minlength=classes)
        rows.append(np.where(counts > 0, hits / np.maximum(counts, 1), np.nan))
    return np.stack(rows) if rows else None


def flips(gaps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where a shown verdict turns into its opposite as labels, or noise, are added and the rest stays: between which
    two values it does."""
    made = []
    for along, fixed in ((LABELS, EPS), (EPS, LABELS)):
        lines: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for gap in gaps:
            lines.setdefault((gap["source"], gap["baseline"], gap[fixed]), []).append(gap)
        for (source, baseline, held), line in lines.items():
            shown = sorted((one for one in line if one["verdict"] in ("helps", "hurts")), key=lambda one: one[along])
            made += [
                {"source": source, "baseline": baseline, "fixed": fixed, "at": held, "along": along}
                | {"before": one[along], "after": other[along], "from": one["verdict"], "to": other["verdict"]}
                for one, other in pairwise(shown)
                if one["verdict"] != other["verdict"]
            ]
    return made


def rules(found: Sequence[Setting], declared: Metric) -> list[dict[str, Any]]:
    """Compute the cost of choosing a checkpoint by each rule, for every setting with measured criteria: the mean gap to
    the best step of the validation split, with its interval over the seeds (see `tlx.functional.selection.gaps`)."""
    # No step is better than the best one, so a gap lies between 0 and the width of the metric's range.
    bounds = (0.0, significance.difference_bounds(declared.bounds)[1])
    made = []
    for one in found:
        known = [rule for cell in one.own.arm.done if (rule := (cell.result or {}).get("rules"))]
        for name in known[0] if known else ():
            gap, value = ([rule[name][of] for rule in known] for of in ("gap", "value"))
            mean, low, high = significance.over_seeds(gap, bounds)
            made.append({
                "source": one.source, "labels": one.labels, "eps": one.eps, "rule": name, "seeds": len(known),
                "value": float(np.mean(value)), "gap": mean, "low": finite(low), "high": finite(high),
            })  # fmt: skip
    return made


def advice(found: Sequence[Setting], gaps: Sequence[Mapping[str, Any]], higher: bool) -> list[dict[str, Any]]:
    """For each number of labels, of the sources as they are (the least noise): which to use, or none.

    A source is advised where it is shown to help against A(0,T) (without labels: against chance); of several the one
    with the best mean, beside those that are not shown to be worse than it by the paired 95 % interval.
    """
    made = []
    least = min(one.eps for one in found)
    for labels in dict.fromkeys(one.labels for one in found):
        at = [one for one in found if one.labels == labels and one.eps == least]
        baseline = ALONE if any(ALONE in one.others for one in at) else CHANCE
        verdicts = {
            gap["source"]: gap["verdict"]
            for gap in gaps
            if (gap["labels"], gap["eps"], gap["baseline"]) == (labels, least, baseline)
        }
        good = [one for one in at if verdicts.get(one.source) == "helps"]
        good.sort(key=lambda one: one.own.mean, reverse=higher)
        made.append({
            "labels": labels, "eps": least, "baseline": baseline, "verdicts": verdicts,
            "use": good[0].source if good else None,
            "equal": [other.source for other in good[1:] if not shown_worse(other.own, good[0].own, higher)],
        })  # fmt: skip
    return made


def shown_worse(one: Summary, best: Summary, higher: bool) -> bool:
    """Whether the paired interval of an arm's difference to the best lies all on the wrong side."""
    seeds = [seed for seed in one.scores if seed in best.scores]
    gap = significance.paired([one.scores[seed].value for seed in seeds], [best.scores[seed].value for seed in seeds])
    return gap.high < 0 if higher else gap.low > 0


def notes(study: StudyRecords, found: Sequence[Setting], gaps: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before the numbers."""
    made = []
    counts = study.counts
    if unfinished := {state: count for state, count in counts.items() if count and state != "done"}:
        made.append(f"not all runs are in: {', '.join(f'{count} {state}' for state, count in unfinished.items())}")
    if len(found[0].own.scores) < 2:
        made.append("there is one seed, so there are no intervals and nothing is compared; run three or more seeds")
    elif len(found[0].own.scores) == 2:
        made.append("two seeds say little: intervals are very wide; run three or more seeds")
    if any(one.labels == 0 for one in found):
        made.append(
            "without labels of the target A(0,T) has nothing to learn from: there A(S,T) is compared with chance, as "
            "the protocol does, and with the source's labels alone"
        )
    if not any(arm.names[ARM] == SCRATCH for arm in study.arms) and any(gap["baseline"] == TARGET_ONLY for gap in gaps):
        made.append("the network brings nothing, so the target's labels alone are from scratch")
    told: dict[str, list[str]] = {}
    for arm in study.arms:
        of = f"{arm.names[ARM]} from {arm.names[SOURCE]}" if arm.names[SOURCE] else arm.names[ARM]
        for note in dict.fromkeys(note for cell in arm.done for note in (cell.result or {}).get("notes", ())):
            told.setdefault(note, []).append(of)
    made += [f"{', '.join(dict.fromkeys(arms))}: {note}" for note, arms in told.items()]
    for one, other in combinations(BASELINES, 2):
        signs = [
            {gap["baseline"]: gap["verdict"] for gap in gaps if where(gap) == where(first)}
            for first in gaps
            if first["baseline"] == one
        ]
        if apart := sum({found.get(one), found.get(other)} == {"helps", "hurts"} for found in signs):
            made.append(f"in {apart} settings the verdict against {one} is the opposite of that against {other}")
    return made


def where(gap: Mapping[str, Any]) -> tuple[Any, ...]:
    return gap["source"], gap["labels"], gap["eps"]


def folder_of(cell: Any) -> str:
    return f"{cell.folder.parent.name}/{cell.folder.name}"


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
