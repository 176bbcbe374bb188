"""The card: every number with its interval, made of the records of the study's cells alone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.analysis.benefit.arms import ARM, LABELS, PRETRAINED, SCRATCH
from tlx.analysis.benefit.intervals import Ratio, of_sums
from tlx.analysis.benefit.reach import labels_saved, reached
from tlx.functional import significance
from tlx.functional.metrics import Metric, document
from tlx.records.studies import Arm, Cell, StudyRecords
from tlx.training.energy import POUNDS_2018, PUE_2018, Used, strubell
from tlx.training.flops import Operations

# Steps, seconds, operations, energy, labels: none of them can be negative.
POSITIVE = (0.0, np.inf)


class Side(NamedTuple):
    """One arm's cells with the most labels, paired by seed with the other's, and what its steps take."""

    cells: tuple[Cell, ...]
    operations: Operations

    def each(self, value: Callable[[Cell], float]) -> list[float]:
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
) -> dict[str, Any]:
    """Everything that the card says, as JSON. `operations` are those of a run of either arm with the most labels,
    `at_once` how many processes ran the study side by side on one machine; `pue` and `pounds_per_kwh` go into the
    formula of 2019.

    Raises ValueError where no seed has finished in both arms with the most labels.
    """
    metric = study.metric
    declared = study.declared(metric)
    higher = declared.higher_is_better
    labels = sorted({arm.names[LABELS] for arm in study.arms})
    ours, theirs = pair(study, labels[-1], operations)
    saved, short = saved_labels(study, labels, higher)
    looked, steps, ends = arrivals(ours, theirs, metric, higher)
    notes = [*short, *few_seeds(len(ours.cells))]
    if late := sum(not own for own in ends):
        notes.append(f"{late} of {len(ends)} pretrained runs never reached what scratch ended with")
    packs = sorted({together(cell) for cell in (*ours.cells, *theirs.cells)})
    if packs[-1] > 1:
        notes.append(f"runs trained as one, up to {packs[-1]} at a time; time and energy of each are its even share")
    if at_once > 1:
        notes.append(
            f"up to {at_once} processes worked at once on one machine: the energy and CO2e of a run are of all that "
            "the machine drew meanwhile, so they count the others' runs too; --jobs 1 measures each by itself"
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
    """Return a note where the number of seeds allows little or nothing to be said."""
    if count < 2:
        return ["there is one seed, so there are no intervals and nothing is compared; run three or more seeds"]
    return (
        ["two seeds say little: intervals are very wide; run three or more seeds"] if count < significance.FEW else []
    )


def pair(study: StudyRecords, labels: int, operations: Mapping[str, Operations]) -> tuple[Side, Side]:
    """Both arms' finished cells with so many labels, those of the seeds that both have."""
    arms = [arm for arm in study.arms if arm.names[LABELS] == labels]
    found = {arm.names[ARM]: {cell.seed: cell for cell in arm.done} for arm in arms}
    seeds = [seed for seed in found[PRETRAINED] if seed in found[SCRATCH]]
    if not seeds:
        failed = next((cell.failed["error"] for cell in study.cells if cell.failed), "none has been run to its end")
        raise ValueError(f"no seed has finished in both arms of {study.folder}: {failed}")
    ours, theirs = (
        Side(tuple(found[name][seed] for seed in seeds), operations[name]) for name in (PRETRAINED, SCRATCH)
    )
    return ours, theirs


def final(ours: Side, theirs: Side, metric: str, declared: Metric) -> dict[str, Any]:
    """The metric on the test split at the end."""
    a, b = (side.each(lambda cell: cell.metrics[metric]) for side in (ours, theirs))
    difference = significance.paired(a, b, declared.bounds)
    shown = significance.verdict(
        *((difference.low, difference.high) if declared.higher_is_better else (-difference.high, -difference.low))
    )
    low, high = finite(difference.low), finite(difference.high)
    gain = {"kind": "difference", "value": difference.mean, "low": low, "high": high, "bound": "", "verdict": shown}
    return measured("final", f"{metric} at the end", "", ours, theirs, a, b, gain, declared.bounds)


def arrivals(
    ours: Side, theirs: Side, metric: str, higher: bool
) -> tuple[int, tuple[list[int], list[int]], list[bool]]:
    """`(looked, (ours, theirs), reached)`: by which step each run first has what its seed's run from scratch ends with,
    on the validation split, which is looked at every `looked` steps; where ours never `reached` it, its last step."""
    steps: tuple[list[int], list[int]] = ([], [])
    ends = []
    for own, other in zip(ours.cells, theirs.cells, strict=True):
        threshold = ended_with(other, metric)
        first, second = (reached(curve(cell, metric), threshold, higher) for cell in (own, other))
        steps[0].append(first or steps_of(own))
        steps[1].append(second or steps_of(other))
        ends.append(first is not None)
    return min(curve(ours.cells[0], metric)), steps, ends


def to_reach(ours: Side, theirs: Side, steps: tuple[list[int], list[int]], ends: list[bool]) -> list[dict[str, Any]]:
    """Steps, time, operations, energy and CO2e until then."""
    found = []
    for name, title, unit, price in PRICES:
        a, b = (
            [count * price(cell, side.operations) for count, cell in zip(own, side.cells, strict=True)]
            for side, own in ((ours, steps[0]), (theirs, steps[1]))
        )
        row = measured(name, f"{title} to what scratch ends with", unit, ours, theirs, a, b, ratio(of_sums(a, b, ends)))
        row["pretrained"]["bound"] = "" if all(ends) else "at least"
        found.append(row)
    return found


def in_all(ours: Side, theirs: Side) -> list[dict[str, Any]]:
    """What whole runs take."""
    found = []
    for name, title, unit, price in PRICES[1:]:
        a, b = (
            [steps_of(cell) * price(cell, side.operations) for cell in side.cells] for side in (ours, theirs)
        )  # fmt: skip
        gain = ratio(of_sums(a, b, [True] * len(a)))
        found.append(measured(f"{name} in all", f"{title} of all steps", unit, ours, theirs, a, b, gain))
    return found


def saved_labels(study: StudyRecords, labels: list[int], higher: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """How many labels give pretrained what scratch has with the most; None, with the reason, where one cannot say."""
    metric = study.metric
    if len(labels) < 2:
        return None, ["labels needed for equal accuracy were not measured: there is one number of labels"]
    found = {(arm.names[ARM], arm.names[LABELS]): arm for arm in study.arms}
    curves = [found[PRETRAINED, count].values(metric) for count in labels]
    most = found[SCRATCH, labels[-1]].values(metric)
    seeds = [seed for seed in most if all(seed in values for values in curves)]
    if not seeds:
        return None, ["labels needed for equal accuracy are not known: no seed has finished with all numbers of them"]
    ours = np.array([[values[seed] for values in curves] for seed in seeds])
    theirs = np.array([most[seed] for seed in seeds])
    saved = labels_saved(labels, ours, theirs, higher)
    turned = {"": "", "at least": "at most", "at most": "at least"}[saved.bound]
    ends = {"low": over(labels, saved.high), "high": over(labels, saved.low)}
    needed = {"mean": labels[-1] / saved.value, **ends, "bound": turned}
    folders = [f"{cell.folder.parent.name}/{cell.folder.name}" for arm in study.arms for cell in arm.done]
    whole = {"mean": labels[-1], "low": None, "high": None, "bound": ""}
    return {
        "name": "labels", "title": "labels for what scratch has with the most", "unit": "", "pretrained": needed,
        "scratch": whole, "gain": ratio(saved), "folders": folders,
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
    gain: dict[str, Any],
    within: significance.Bounds = POSITIVE,
) -> dict[str, Any]:
    """Return one row of the card: both arms' means with 95 % t-intervals, cut to `within`, and what was gained."""
    return {
        "name": name,
        "title": title,
        "unit": unit,
        "pretrained": interval(a, within),
        "scratch": interval(b, within),
        "gain": gain,
        "folders": ours.folders + theirs.folders,
    }


def interval(values: Sequence[float], within: significance.Bounds) -> dict[str, Any]:
    mean, low, high = significance.over_seeds(values, within)
    return {"mean": mean, "low": finite(low), "high": finite(high), "bound": ""}


def finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def ratio(found: Ratio) -> dict[str, Any]:
    return {"kind": "ratio", **found._asdict()}


def curve(cell: Cell, metric: str) -> dict[int, float]:
    """The metric on the validation split by step."""
    return cell.curves()[validation(metric)]


def validation(metric: str) -> str:
    return f"validation/{metric.rpartition('/')[2]}"


def ended_with(cell: Cell, metric: str) -> float:
    """The metric on the validation split, of the checkpoint that the run ends with."""
    return cell.metrics[validation(metric)]


def result_of(cell: Cell) -> dict[str, Any]:
    assert cell.result is not None
    return cell.result


def steps_of(cell: Cell) -> int:
    return int(result_of(cell)["steps"])


def pace(cell: Cell) -> float:
    """Seconds of a training step, without compilation and evaluation where any step was timed apart from them; of a run
    that trained as one with others, of a step of all of them."""
    result = result_of(cell)
    batch = (cell.recipe() or {})["train"]["batch"]
    speed, seconds = result["examples_per_second"], result["seconds"]
    return batch / speed if speed else (seconds["compile"] + seconds["train"]) / result["steps"]


def together(cell: Cell) -> int:
    """How many runs trained as one."""
    return int(result_of(cell)["pack"]["arms"])


def seconds_a_step(cell: Cell) -> float:
    """The run's own share."""
    return pace(cell) / together(cell)


def spent(cell: Cell) -> float:
    """Seconds of all that the energy was measured of."""
    seconds = result_of(cell)["seconds"]
    return max(sum(seconds[part] for part in ("compile", "train", "eval")), 1e-9)


def energy_a_step(cell: Cell, name: str) -> float:
    """By the time of a step, at the mean power of the run: what compiling took is no part of it."""
    return float(result_of(cell)["energy"][name]) * pace(cell) / spent(cell)


Price = Callable[[Cell, Operations], float]
# Name, title, unit, and what a step takes.
PRICES: tuple[tuple[str, str, str, Price], ...] = (
    ("steps", "steps", "", lambda cell, operations: 1.0),
    ("time", "time", "s", lambda cell, operations: seconds_a_step(cell)),
    ("operations", "operations", "FLOP", lambda cell, operations: operations.a_step),
    ("energy", "energy", "kWh", lambda cell, operations: energy_a_step(cell, "kwh")),
    ("co2e", "CO2e", "kg", lambda cell, operations: energy_a_step(cell, "co2e_kg")),
)


def older(side: Side, pue: float, pounds_per_kwh: float) -> dict[str, Any]:
    """A run by the formula of 2019, at the power that its energy comes to: means over the seeds with their intervals,
    and `how` of a run of the mean power and time."""
    kwh = side.each(lambda cell: result_of(cell)["energy"]["kwh"])
    hours = side.each(lambda cell: spent(cell) / together(cell) / 3600)

    def formula(energy: float, time: float) -> Used:
        return strubell(time, processors=1000 * energy / time, memory=0.0, pue=pue, pounds_per_kwh=pounds_per_kwh)

    found = [formula(energy, time) for energy, time in zip(kwh, hours, strict=True)]
    return {
        "kwh": interval([one.kwh for one in found], POSITIVE),
        "co2e_kg": interval([one.co2e_kg for one in found], POSITIVE),
        "how": formula(float(np.mean(kwh)), float(np.mean(hours))).how,
    }


def learned(arm: Arm, metric: str, declared: Metric) -> dict[str, Any]:
    """A point of the learning curve."""
    values = arm.values(metric)
    folders = [f"{cell.folder.parent.name}/{cell.folder.name}" for cell in arm.done]
    seeds = {str(seed): value for seed, value in values.items()}
    return {**arm.names, **interval(list(values.values()), declared.bounds), "values": seeds, "folders": folders}


def lines(side: Side, name: str, metric: str) -> list[dict[str, Any]]:
    """The validation curve of the arm over its seeds: mean, lowest and highest at the steps that all of them have."""
    curves = [curve(cell, metric) for cell in side.cells]
    pace = float(np.mean([seconds_a_step(cell) for cell in side.cells]))
    found = []
    for step in sorted(set.intersection(*map(set, curves))):
        values = [own[step] for own in curves]
        spread = {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
        found.append({"arm": name, "step": step, "seconds": step * pace, **spread})
    return found
