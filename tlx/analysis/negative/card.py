"""Compute the report as one document: every gap with its interval and verdict, from the runs' own records.

A gap is the baseline's metric minus that of A(S,T), so a positive gap is negative transfer (Wang et al., 2019); the
sign is reversed if less of the metric is better. Shapes: S paired seeds, N test examples, C classes.
"""

from collections.abc import Sequence
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
from tlx.trees import Json

# Verdict about the source, by the verdict of A(S,T) against a baseline.
SAYS = {"worse": "hurts", "better": "helps", "no difference shown": "not shown", "not compared": "not compared"}


class ComparedSetting(NamedTuple):
    """One source with a number of labels and a noise level: the summary of A(S,T), and of the baselines by name."""

    source: str
    labels: float
    eps: float
    transfer: Summary
    others: dict[str, Summary]


def card(study: StudyRecords, classes: Sequence[str], target: str) -> Json:
    """Return all results of the report that come from the runs' records.

    Raises:
        ValueError: No run of A(S,T) has finished.
    """
    metric = study.metric
    declared = study.declared(metric)
    higher = declared.higher_is_better
    compared = read_settings(study, metric)
    if not compared:
        failed = next(
            (cell.failed["error"] for cell in study.cells if cell.failed),
            "no error is recorded; run the same command again",
        )
        raise ValueError(f"no run of {TRANSFER} in {study.folder} has finished: {failed}")
    gaps = [
        gap
        for name in (*BASELINES, CHANCE)
        for gap in gaps_to(name, compared, study.smallest, metric, declared, classes)
    ]
    result = compared[0].transfer.arm.done_cells[0].result or {}
    return {
        "question": study.question,
        "target": target,
        "metric": metric,
        "measures": {metric.rpartition("/")[2]: document(declared)},
        "higher": higher,
        "smallest": study.smallest,
        "seeds": sorted(compared[0].transfer.scores),
        "selection": result.get("selection", "last"),
        "steps": result.get("steps"),
        "baselines": {name: about for name, about in BASELINES.items() if any(gap["baseline"] == name for gap in gaps)},
        "arms": [
            arm_row(summary)
            for arm in study.arms
            if (summary := summarise(arm, metric, study.declared(metric).bounds)) is not None
        ],
        "gaps": gaps,
        "classes": by_class(compared, classes),
        "flips": flips(gaps),
        "rules": rules(compared, declared),
        "advice": advice(compared, gaps, higher),
        "notes": notes(study, compared, gaps),
    }


def read_settings(study: StudyRecords, metric: str) -> list[ComparedSetting]:
    """Return every setting for which A(S,T) has a finished run, in the order of the study."""
    summaries: dict[tuple[Any, ...], Summary] = {}
    for arm in study.arms:
        if (summary := summarise(arm, metric, study.declared(metric).bounds)) is not None:
            summaries[tuple(arm.names[column] for column in (ARM, SOURCE, LABELS, EPS))] = summary
    rows = []
    for (arm, source, labels, eps), transfer_summary in summaries.items():
        if arm != TRANSFER:
            continue
        # If the algorithm has only supervised terms, A(0,T) is the same recipe as target only.
        alone = summaries.get((ALONE, None, labels, None)) or summaries.get((TARGET_ONLY, None, labels, None))
        others = {
            ALONE: alone,
            SOURCE_ONLY: summaries.get((SOURCE_ONLY, source, None, eps)),
            TARGET_ONLY: summaries.get((TARGET_ONLY, None, labels, None)),
            SCRATCH: summaries.get((SCRATCH, None, labels, None)),
        }
        rows.append(
            ComparedSetting(
                source, labels, eps, transfer_summary, {name: item for name, item in others.items() if item is not None}
            )
        )
    return rows


def gaps_to(
    name: str,
    settings: Sequence[ComparedSetting],
    smallest: float,
    metric: str,
    declared: Metric,
    classes: Sequence[str],
) -> list[Json]:
    """Return the gap of every setting to one baseline, with p corrected over the settings (Holm).

    Without target labels A(0,T) has nothing to learn from, and is replaced by chance: the share of the most frequent
    class.
    """
    pairs: list[tuple[ComparedSetting, Comparison, float | None]] = []
    higher, bounds = declared.higher_is_better, declared.bounds
    for item in settings:
        if name == CHANCE:
            if item.labels == 0 and metric.endswith("/accuracy"):
                chance = of_chance(item, metric, classes)
                pairs.append((item, to_chance(item, chance, smallest, bounds), chance))
        elif name in item.others and item.transfer.scores.keys() & item.others[name].scores.keys():
            pairs.append((item, against(item.transfer, item.others[name], smallest, metric, bounds), None))
    compared = judged([comparison for _, comparison, _ in pairs], smallest, higher, bounds)
    sign = -1.0 if higher else 1.0
    return [
        {
            "source": setting.source, "labels": setting.labels, "eps": setting.eps, "baseline": name,
            "transfer": setting.transfer.mean,
            "without": chance if chance is not None else setting.others[name].mean,
            **turned(comparison, sign),
        }
        for (setting, _, chance), comparison in zip(pairs, compared, strict=True)
    ]  # fmt: skip


def of_chance(setting: ComparedSetting, metric: str, classes: Sequence[str]) -> float:
    """Return the accuracy of always predicting the most frequent class of the split; 1 / C if the runs have kept no
    labels."""
    for cell in setting.transfer.arm.done_cells:
        if (predictions := cell.predictions(metric.partition("/")[0])) is not None and len(predictions):
            return float(np.bincount(predictions.scores["label"]).max() / len(predictions))
    return 1 / len(classes)


def to_chance(setting: ComparedSetting, chance: float, smallest: float, bounds: significance.Bounds) -> Comparison:
    """Compare A(S,T) with chance, which does not vary."""
    values = [score.value for score in setting.transfer.scores.values()]
    difference = significance.paired(values, [chance] * len(values), bounds)
    several = len(values) > 1
    return Comparison(
        arm=setting.transfer.arm,
        baseline=setting.transfer.arm,
        seeds=tuple(setting.transfer.scores),
        difference=difference,
        p=significance.t_test(difference, smallest) if several else None,
        holm=None,
        verdict="not compared",
        detectable=None,
        detectable_alone=None,
        boot=None,
        lacking="chance has no examples",
    )


def turned(comparison: Comparison, sign: float) -> Json:
    """Convert a comparison to a gap."""
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
        "folders": [folder_of(cell) for arm in (comparison.arm, comparison.baseline) for cell in arm.done_cells],
    }


def arm_row(summary: Summary) -> Json:
    """Return the results of one arm."""
    values = {str(seed): score.value for seed, score in summary.scores.items()}
    ends = {"mean": summary.mean, "low": finite(summary.low), "high": finite(summary.high)}
    return {
        **summary.arm.names,
        **ends,
        "values": values,
        "folders": [folder_of(cell) for cell in summary.arm.done_cells],
    }


def by_class(settings: Sequence[ComparedSetting], classes: Sequence[str]) -> list[Json]:
    """Return the gap of every class (its recall) to the first available baseline, which the mean may hide.

    p is corrected over the classes of a setting.
    """
    rows: list[Json] = []
    for item in settings:
        name = next((name for name in (ALONE, SOURCE_ONLY) if name in item.others), None)
        if name is None:
            continue
        seeds = [seed for seed in item.transfer.scores if seed in item.others[name].scores]
        with_source, without_source = (
            recalls(side.arm, seeds, len(classes)) for side in (item.transfer, item.others[name])
        )
        if with_source is None or without_source is None:
            continue
        present = [n for n in range(len(classes)) if np.isfinite(with_source[:, n] + without_source[:, n]).all()]
        differences = [
            significance.paired(without_source[:, n].tolist(), with_source[:, n].tolist(), (0.0, 1.0)) for n in present
        ]
        corrected = significance.holm([significance.t_test(difference) for difference in differences])
        for n, gap, p in zip(present, differences, corrected, strict=True):
            verdict = significance.verdict(gap.low, gap.high)
            if p >= 1 - significance.LEVEL and gap.pairs > 1:
                verdict = "no difference shown"
            rows.append({
                "source": item.source, "labels": item.labels, "eps": item.eps, "baseline": name, "class": classes[n],
                "transfer": float(with_source[:, n].mean()), "without": float(without_source[:, n].mean()),
                "gap": gap.mean, "low": finite(gap.low), "high": finite(gap.high), "holm": p,
                # The gap is the recall without the source minus the recall with it: above 0 the source hurts.
                "verdict": SAYS[{"better": "worse", "worse": "better"}.get(verdict, verdict)],
            })  # fmt: skip
    return rows


def recalls(arm: Arm, seeds: Sequence[Any], classes: int) -> np.ndarray | None:
    """Return the recall of each class, [S, C], nan without examples; None if no predictions were kept."""
    rows = []
    by_seed = {cell.seed: cell for cell in arm.done_cells}
    for seed in seeds:
        predictions = by_seed[seed].predictions()
        if predictions is None:
            return None
        labels, correct = (predictions.scores[name] for name in ("label", "correct"))
        counts = np.bincount(labels, minlength=classes)
        hits = np.bincount(labels, correct, minlength=classes)
        rows.append(np.where(counts > 0, hits / np.maximum(counts, 1), np.nan))
    return np.stack(rows) if rows else None


def flips(gaps: Sequence[Json]) -> list[Json]:
    """Return where a shown verdict turns into its opposite as labels, or noise, increase and the rest stays the same.

    Each row names the two values between which it turns.
    """
    changes = []
    for along, fixed in ((LABELS, EPS), (EPS, LABELS)):
        lines: dict[tuple[Any, ...], list[Json]] = {}
        for gap in gaps:
            lines.setdefault((gap["source"], gap["baseline"], gap[fixed]), []).append(gap)
        for (source, baseline, fixed_value), line in lines.items():
            verdicts = sorted((gap for gap in line if gap["verdict"] in ("helps", "hurts")), key=lambda gap: gap[along])
            changes += [
                {"source": source, "baseline": baseline, "fixed": fixed, "at": fixed_value, "along": along}
                | {"before": first[along], "after": second[along], "from": first["verdict"], "to": second["verdict"]}
                for first, second in pairwise(verdicts)
                if first["verdict"] != second["verdict"]
            ]
    return changes


def rules(settings: Sequence[ComparedSetting], declared: Metric) -> list[Json]:
    """Compute the cost of choosing a checkpoint by each rule, for every setting with measured criteria: the mean gap
    to the best step of the validation split, with its interval over the seeds (see `tlx.functional.selection.gaps`)."""
    # No step is better than the best one, so a gap lies between 0 and the width of the metric's range.
    bounds = (0.0, significance.difference_bounds(declared.bounds)[1])
    rows = []
    for item in settings:
        measured = [rule for cell in item.transfer.arm.done_cells if (rule := (cell.result or {}).get("rules"))]
        for name in measured[0] if measured else ():
            gap, value = ([rule[name][field] for rule in measured] for field in ("gap", "value"))
            mean, low, high = significance.over_seeds(gap, bounds)
            rows.append({
                "source": item.source, "labels": item.labels, "eps": item.eps, "rule": name, "seeds": len(measured),
                "value": float(np.mean(value)), "gap": mean, "low": finite(low), "high": finite(high),
            })  # fmt: skip
    return rows


def advice(settings: Sequence[ComparedSetting], gaps: Sequence[Json], higher: bool) -> list[Json]:
    """Return for each number of labels which source to use, or none, at the lowest noise level.

    A source is advised if it is shown to help against A(0,T) (without labels: against chance). Of several sources, the
    one with the best mean is advised, together with those that are not shown to be worse by the paired 95 % interval.
    """
    rows = []
    least = min(item.eps for item in settings)
    for labels in dict.fromkeys(item.labels for item in settings):
        group = [item for item in settings if item.labels == labels and item.eps == least]
        baseline = ALONE if any(ALONE in item.others for item in group) else CHANCE
        verdicts = {
            gap["source"]: gap["verdict"]
            for gap in gaps
            if (gap["labels"], gap["eps"], gap["baseline"]) == (labels, least, baseline)
        }
        good = [item for item in group if verdicts.get(item.source) == "helps"]
        good.sort(key=lambda item: item.transfer.mean, reverse=higher)
        rows.append({
            "labels": labels, "eps": least, "baseline": baseline, "verdicts": verdicts,
            "use": good[0].source if good else None,
            "equal": [item.source for item in good[1:] if not is_worse(item.transfer, good[0].transfer, higher)],
        })  # fmt: skip
    return rows


def is_worse(summary: Summary, best: Summary, higher: bool) -> bool:
    """Return whether the whole paired interval of an arm's difference to the best lies on the wrong side."""
    seeds = [seed for seed in summary.scores if seed in best.scores]
    gap = significance.paired(
        [summary.scores[seed].value for seed in seeds], [best.scores[seed].value for seed in seeds]
    )
    return gap.high < 0 if higher else gap.low > 0


def notes(study: StudyRecords, settings: Sequence[ComparedSetting], gaps: Sequence[Json]) -> list[str]:
    """Return the notes for the reader of the numbers."""
    messages = []
    counts = study.counts
    if unfinished := {state: count for state, count in counts.items() if count and state != "done"}:
        messages.append(
            f"not all runs have finished: {', '.join(f'{count} {state}' for state, count in unfinished.items())}"
        )
    if len(settings[0].transfer.scores) < 2:
        messages.append("there is one seed, so there are no intervals and nothing is compared; run three or more seeds")
    elif len(settings[0].transfer.scores) == 2:
        messages.append("two seeds say little: intervals are very wide; run three or more seeds")
    if any(setting.labels == 0 for setting in settings):
        messages.append(
            "without labels of the target, A(0,T) has no data to train on; there A(S,T) is compared with chance, "
            "as in the protocol, and with the source's labels alone"
        )
    if not any(arm.names[ARM] == SCRATCH for arm in study.arms) and any(gap["baseline"] == TARGET_ONLY for gap in gaps):
        messages.append("the recipe has no pretrained weights, so target only is also from scratch")
    arms_by_note: dict[str, list[str]] = {}
    for arm in study.arms:
        arm_name = f"{arm.names[ARM]} from {arm.names[SOURCE]}" if arm.names[SOURCE] else arm.names[ARM]
        for note in dict.fromkeys(note for cell in arm.done_cells for note in (cell.result or {}).get("notes", ())):
            arms_by_note.setdefault(note, []).append(arm_name)
    messages += [f"{', '.join(dict.fromkeys(arms))}: {note}" for note, arms in arms_by_note.items()]
    for first_name, second_name in combinations(BASELINES, 2):
        signs = [
            {gap["baseline"]: gap["verdict"] for gap in gaps if where(gap) == where(first)}
            for first in gaps
            if first["baseline"] == first_name
        ]
        if apart := sum(
            {verdicts.get(first_name), verdicts.get(second_name)} == {"helps", "hurts"} for verdicts in signs
        ):
            messages.append(
                f"in {apart} settings, the verdict against {first_name} is the opposite of the verdict against "
                f"{second_name}"
            )
    return messages


def where(gap: Json) -> tuple[Any, ...]:
    return gap["source"], gap["labels"], gap["eps"]


def folder_of(cell: Any) -> str:
    return f"{cell.folder.parent.name}/{cell.folder.name}"


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
