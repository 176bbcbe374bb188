"""Compute the card: every number with its interval, from the records of the study's cells alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tlx.analysis.benefit.arms import ARM, LABELS, PRETRAINED, SCRATCH
from tlx.analysis.benefit.intervals import Ratio, of_sums
from tlx.analysis.benefit.reach import labels_saved, reached
from tlx.functional import significance
from tlx.functional.metrics import Metric, document
from tlx.records.studies import Arm, CellRecord, StudyRecords
from tlx.training.energy import POUNDS_2018, PUE_2018, Used, strubell
from tlx.training.flops import Operations
from tlx.trees import Json

# Steps, seconds, operations, energy and labels cannot be negative.
POSITIVE = (0.0, np.inf)


class Side(NamedTuple):
    """The cells of one arm with the most labels, paired by seed with the other arm's, and the operations of its
    steps."""

    cells: tuple[CellRecord, ...]
    operations: Operations

    def each(self, value: Callable[[CellRecord], float]) -> list[float]:
        return [value(cell) for cell in self.cells]

    @property
    def folders(self) -> list[str]:
        return [f"{cell.folder.parent.name}/{cell.folder.name}" for cell in self.cells]


def card(
    study: StudyRecords,
    operations: Mapping[str, Operations],
    *,
    at_once: int = 1,
    pue: float = PUE_2018,
    pounds_per_kwh: float = POUNDS_2018,
) -> Json:
    """Return the content of the card as JSON.

    Args:
        study: the study of both arms.
        operations: the operations of a run of either arm with the most labels.
        at_once: the number of processes that ran the study in parallel on one machine.
        pue: power usage effectiveness, for the formula of Strubell et al. (2019).
        pounds_per_kwh: pounds of CO2e per kWh, for the same formula.

    Raises:
        ValueError: No seed has finished in both arms with the most labels.
    """
    metric = study.metric
    declared = study.declared(metric)
    higher = declared.higher_is_better
    labels = sorted({arm.names[LABELS] for arm in study.arms})
    ours, theirs = pair(study, labels[-1], operations)
    saved, short = saved_labels(study, labels, higher)
    looked, steps, ends = arrivals(ours, theirs, metric, higher)
    notes = [*short, *few_seeds(len(ours.cells))]
    if late := sum(not first for first in ends):
        notes.append(f"{late} of {len(ends)} pretrained runs never reach the final value of scratch")
    packs = sorted({together(cell) for cell in (*ours.cells, *theirs.cells)})
    if packs[-1] > 1:
        notes.append(
            f"runs trained together, up to {packs[-1]} at a time; the time and energy of each run are its equal share "
            "of the group"
        )
    if at_once > 1:
        notes.append(
            f"up to {at_once} processes ran at the same time on one machine: the energy and CO2e of a run include "
            "the whole machine during that time, so they count the other runs too; --jobs 1 measures each run "
            "alone"
        )
    reach, whole = to_reach(ours, theirs, steps, ends), in_all(ours, theirs)
    return {
        "question": study.question,
        "metric": metric,
        "higher": higher,
        "labels": labels,
        "seeds": [cell.seed for cell in ours.cells],
        "selection": result_of(ours.cells[0])["selection"],
        "looked": looked,
        "declared": {metric.rpartition("/")[2]: document(declared)},
        "measures": [final(ours, theirs, metric, declared), *reach, *([saved] if saved else []), *whole],
        "learning": [learned(arm, metric, declared) for arm in study.arms if arm.values(metric)],
        "training": [*lines(ours, PRETRAINED, metric), *lines(theirs, SCRATCH, metric)],
        "threshold": float(np.mean([ended_with(cell, metric) for cell in theirs.cells])),
        "counted": ours.operations.how,
        "energy": result_of(ours.cells[0])["energy"]["how"],
        "strubell": older(ours, pue, pounds_per_kwh),
        "notes": notes,
    }


def few_seeds(count: int) -> list[str]:
    """Return a note if the number of seeds allows little or no conclusion."""
    if count < 2:
        return ["there is one seed, so there are no intervals and nothing is compared; run three or more seeds"]
    return (
        ["two seeds say little: intervals are very wide; run three or more seeds"] if count < significance.FEW else []
    )


def pair(study: StudyRecords, labels: int, operations: Mapping[str, Operations]) -> tuple[Side, Side]:
    """Return the finished cells of both arms with `labels` labels, for the seeds that both have."""
    arms = [arm for arm in study.arms if arm.names[LABELS] == labels]
    cells = {arm.names[ARM]: {cell.seed: cell for cell in arm.done_cells} for arm in arms}
    seeds = [seed for seed in cells[PRETRAINED] if seed in cells[SCRATCH]]
    if not seeds:
        failed = next(
            (cell.failed["error"] for cell in study.cells if cell.failed),
            "no error is recorded; run the same command again",
        )
        raise ValueError(f"no seed has finished in both arms of {study.folder}: {failed}")
    ours, theirs = (
        Side(tuple(cells[name][seed] for seed in seeds), operations[name]) for name in (PRETRAINED, SCRATCH)
    )
    return ours, theirs


def final(ours: Side, theirs: Side, metric: str, declared: Metric) -> Json:
    """Return the row of the metric on the test split at the end."""
    pretrained, scratch = (side.each(lambda cell: cell.metrics[metric]) for side in (ours, theirs))
    difference = significance.paired(pretrained, scratch, declared.bounds)
    verdict = significance.verdict(
        *((difference.low, difference.high) if declared.higher_is_better else (-difference.high, -difference.low))
    )
    low, high = finite(difference.low), finite(difference.high)
    gain = {"kind": "difference", "value": difference.mean, "low": low, "high": high, "bound": "", "verdict": verdict}
    return measured("final", f"{metric} at the end", "", ours, theirs, pretrained, scratch, gain, declared.bounds)


def arrivals(
    ours: Side, theirs: Side, metric: str, higher: bool
) -> tuple[int, tuple[list[int], list[int]], list[bool]]:
    """Return `(interval, (ours, theirs), reached)` for the time to reach the final metric of the run from scratch.

    `ours` and `theirs` are the steps at which each run first has the validation metric with which its seed's run from
    scratch ends. The validation split is evaluated every `interval` steps. If our run never `reached` it, its step is
    its last one.
    """
    steps: tuple[list[int], list[int]] = ([], [])
    ends = []
    for cell, base in zip(ours.cells, theirs.cells, strict=True):
        threshold = ended_with(base, metric)
        first, second = (reached(curve(cell, metric), threshold, higher) for cell in (cell, base))
        steps[0].append(first or steps_of(cell))
        steps[1].append(second or steps_of(base))
        ends.append(first is not None)
    return min(curve(ours.cells[0], metric)), steps, ends


def to_reach(ours: Side, theirs: Side, steps: tuple[list[int], list[int]], ends: list[bool]) -> list[Json]:
    """Return the rows of steps, time, operations, energy and CO2e until that step."""
    rows = []
    for name, title, unit, price in PRICES:
        a, b = (
            [count * price(cell, side.operations) for count, cell in zip(counts, side.cells, strict=True)]
            for side, counts in ((ours, steps[0]), (theirs, steps[1]))
        )
        row = measured(
            name, f"{title} to reach the final value of scratch", unit, ours, theirs, a, b, ratio(of_sums(a, b, ends))
        )
        row["pretrained"]["bound"] = "" if all(ends) else "at least"
        rows.append(row)
    return rows


def in_all(ours: Side, theirs: Side) -> list[Json]:
    """Return the rows of the costs of whole runs."""
    rows = []
    for name, title, unit, price in PRICES[1:]:
        a, b = (
            [steps_of(cell) * price(cell, side.operations) for cell in side.cells] for side in (ours, theirs)
        )  # fmt: skip
        gain = ratio(of_sums(a, b, [True] * len(a)))
        rows.append(measured(f"{name} in all", f"{title} of all steps", unit, ours, theirs, a, b, gain))
    return rows


def saved_labels(study: StudyRecords, labels: list[int], higher: bool) -> tuple[Json | None, list[str]]:
    """Return the row of the labels with which pretraining equals scratch with the most labels; None, with the
    reason, if that is unknown."""
    metric = study.metric
    if len(labels) < 2:
        return None, [
            "the labels needed for equal accuracy are not measured, because there is only one number of labels"
        ]
    arms = {(arm.names[ARM], arm.names[LABELS]): arm for arm in study.arms}
    curves = [arms[PRETRAINED, count].values(metric) for count in labels]
    most = arms[SCRATCH, labels[-1]].values(metric)
    seeds = [seed for seed in most if all(seed in values for values in curves)]
    if not seeds:
        return None, [
            (
                "the labels needed for equal accuracy are unknown, because no seed has finished with every number of "
                "labels"
            )
        ]
    ours = np.array([[values[seed] for values in curves] for seed in seeds])
    theirs = np.array([most[seed] for seed in seeds])
    saved = labels_saved(labels, ours, theirs, higher)
    turned = {"": "", "at least": "at most", "at most": "at least"}[saved.bound]
    ends = {"low": over(labels, saved.high), "high": over(labels, saved.low)}
    needed = {"mean": labels[-1] / saved.value, **ends, "bound": turned}
    folders = [f"{cell.folder.parent.name}/{cell.folder.name}" for arm in study.arms for cell in arm.done_cells]
    full = {"mean": labels[-1], "low": None, "high": None, "bound": ""}
    return {
        "name": "labels", "title": "labels to equal scratch with all labels", "unit": "", "pretrained": needed,
        "scratch": full, "gain": ratio(saved), "folders": folders,
    }, []  # fmt: skip


def over(labels: list[int], value: float | None) -> float | None:
    return labels[-1] / value if value else None


def measured(
    name: str,
    title: str,
    unit: str,
    ours: Side,
    theirs: Side,
    a: Sequence[float],
    b: Sequence[float],
    gain: Json,
    within: significance.Bounds = POSITIVE,
) -> Json:
    """Return one row of the card: both arms' means with 95 % t-intervals, cut to `within`, and the gain."""
    return {
        "name": name,
        "title": title,
        "unit": unit,
        "pretrained": interval(a, within),
        "scratch": interval(b, within),
        "gain": gain,
        "folders": ours.folders + theirs.folders,
    }


def interval(values: Sequence[float], within: significance.Bounds) -> Json:
    mean, low, high = significance.over_seeds(values, within)
    return {"mean": mean, "low": finite(low), "high": finite(high), "bound": ""}


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def ratio(estimate: Ratio) -> Json:
    return {"kind": "ratio", **estimate._asdict()}


def curve(cell: CellRecord, metric: str) -> dict[int, float]:
    """Return the metric on the validation split by step."""
    return cell.curves()[validation(metric)]


def validation(metric: str) -> str:
    return f"validation/{metric.rpartition('/')[2]}"


def ended_with(cell: CellRecord, metric: str) -> float:
    """Return the metric on the validation split at the checkpoint that the run ends with."""
    return cell.metrics[validation(metric)]


def result_of(cell: CellRecord) -> Json:
    assert cell.result is not None
    return cell.result


def steps_of(cell: CellRecord) -> int:
    return int(result_of(cell)["steps"])


def pace(cell: CellRecord) -> float:
    """Return the seconds of a training step.

    Compilation and evaluation are excluded if some steps were timed without them. For runs that trained together, it is
    the time of a step of all of them.
    """
    result = result_of(cell)
    batch = (cell.recipe() or {})["train"]["batch"]
    speed, seconds = result["examples_per_second"], result["seconds"]
    return batch / speed if speed else (seconds["compile"] + seconds["train"]) / result["steps"]


def together(cell: CellRecord) -> int:
    """Return the number of runs that trained together."""
    return int(result_of(cell)["pack"]["arms"])


def seconds_a_step(cell: CellRecord) -> float:
    """Return the run's share of the seconds of a step."""
    return pace(cell) / together(cell)


def spent(cell: CellRecord) -> float:
    """Return the seconds over which the energy was measured."""
    seconds = result_of(cell)["seconds"]
    return max(sum(seconds[part] for part in ("compile", "train", "eval")), 1e-9)


def energy_a_step(cell: CellRecord, name: str) -> float:
    """Return the energy of a step: its time multiplied by the mean power of the run, without compilation."""
    return float(result_of(cell)["energy"][name]) * pace(cell) / spent(cell)


Price = Callable[[CellRecord, Operations], float]
# Name, title, unit, and the cost of a step.
PRICES: tuple[tuple[str, str, str, Price], ...] = (
    ("steps", "steps", "", lambda cell, operations: 1.0),
    ("time", "time", "s", lambda cell, operations: seconds_a_step(cell)),
    ("operations", "operations", "FLOP", lambda cell, operations: operations.a_step),
    ("energy", "energy", "kWh", lambda cell, operations: energy_a_step(cell, "kwh")),
    ("co2e", "CO2e", "kg", lambda cell, operations: energy_a_step(cell, "co2e_kg")),
)


def older(side: Side, pue: float, pounds_per_kwh: float) -> Json:
    """Return the estimate by the formula of Strubell et al. (2019), at the power computed from the measured energy.

    The values are means over the seeds with their intervals, and `how` describes a run of the mean power and time.
    """
    kwh = side.each(lambda cell: result_of(cell)["energy"]["kwh"])
    hours = side.each(lambda cell: spent(cell) / together(cell) / 3600)

    def formula(energy: float, time: float) -> Used:
        return strubell(time, processors=1000 * energy / time, memory=0.0, pue=pue, pounds_per_kwh=pounds_per_kwh)

    estimates = [formula(energy, time) for energy, time in zip(kwh, hours, strict=True)]
    return {
        "kwh": interval([used.kwh for used in estimates], POSITIVE),
        "co2e_kg": interval([used.co2e_kg for used in estimates], POSITIVE),
        "how": formula(float(np.mean(kwh)), float(np.mean(hours))).how,
    }


def learned(arm: Arm, metric: str, declared: Metric) -> Json:
    """Return a point of the learning curve."""
    values = arm.values(metric)
    folders = [f"{cell.folder.parent.name}/{cell.folder.name}" for cell in arm.done_cells]
    seeds = {str(seed): value for seed, value in values.items()}
    return {**arm.names, **interval(list(values.values()), declared.bounds), "values": seeds, "folders": folders}


def lines(side: Side, name: str, metric: str) -> list[Json]:
    """Return the validation curve of the arm over its seeds: mean, lowest and highest at the steps that all seeds
    have."""
    curves = [curve(cell, metric) for cell in side.cells]
    pace = float(np.mean([seconds_a_step(cell) for cell in side.cells]))
    rows = []
    for step in sorted(set.intersection(*map(set, curves))):
        values = [values_by_step[step] for values_by_step in curves]
        spread = {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
        rows.append({"arm": name, "step": step, "seconds": step * pace, **spread})
    return rows
