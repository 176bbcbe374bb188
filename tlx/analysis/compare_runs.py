"""Compare finished runs that are no study: their recipes, their metrics with intervals, and tests over their examples.

The first run is the baseline. Two runs that were measured on the same test examples are compared example by example;
others as two independent samples, or not at all. Runs that differ only in their seeds form an arm; arms are compared
over their seeds as in a study.

Shapes: N examples of the test split.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlx import config
from tlx.functional import significance
from tlx.functional.metrics import Metric, find_metric, of_scores
from tlx.functional.texts import WRITTEN
from tlx.records import run_directory, studies
from tlx.records.members import read_measured
from tlx.records.run_directory import RECIPE, Predictions
from tlx.records.studies import SEED, CellRecord, StudyRecords
from tlx.report import listing, words
from tlx.trees import Json, near_miss

DOCUMENT, PAGE = "compare.json", "compare.html"
ARM = "arm"
# The settings of the data that choose no examples, and those that choose or change training examples by the seed.
SAME_EXAMPLES = (
    "tokens", "buckets", "group", "size", "channels", "seconds", "augment", "views", "sampling", "processor",
)  # fmt: skip
DRAWING = ("source", "labels", "shots", "fraction", "streams")
MODELS_ONLY = (
    "a test over examples says whether these trained models differ on such examples; whether one method is better than "
    "another takes several seeds of each"
)


class ComparedRun(NamedTuple):
    """A finished run: its directory, its recipe as JSON values, and its result."""

    folder: Path
    recipe: Json
    fingerprint: str
    result: Json

    @property
    def seed(self) -> Any:
        return self.recipe.get("seed", 0)

    def cell(self, arm: str) -> CellRecord:
        """Return the run as a cell of a study."""
        return CellRecord(self.fingerprint, {ARM: arm, SEED: self.seed}, (), self.folder, "done", self.result)


def compare_runs(folders: Sequence[str | Path], metric: str | None = None, smallest: float = 0.0) -> Json:
    """Compare runs with the first of them.

    Args:
        folders: The directories of two or more finished runs.
        metric: The metric to compare, with its split; by default the primary metric of the first run.
        smallest: The smallest difference worth reporting, in the unit of the metric.

    Returns:
        The document: `runs`, `differences` of their recipes, `metrics` with intervals, `comparisons` with the first
        run, `arms` where runs differ only in their seeds, and `notes`.

    Raises:
        FileNotFoundError: A directory contains no finished run.
        ValueError: Fewer than two runs are given, a directory is given twice or contains a study, a run was changed
            after it was written, or the first run does not have the metric.
    """
    if len(folders) < 2:
        raise ValueError(f"received {len(folders)} run; give two or more to compare")
    paths = [Path(folder) for folder in folders]
    resolved = [path.resolve() for path in paths]
    if twice := [str(path) for n, path in enumerate(paths) if resolved[n] in resolved[:n]]:
        raise ValueError(f"{twice[0]} is given twice; give different runs")
    if smallest < 0:
        raise ValueError(f"smallest is {smallest:g}; expected a difference of 0 or more")
    runs = [read_run(path) for path in paths]
    first = runs[0]
    name = metric or listing.primary(first.result)
    if name not in first.result["metrics"]:
        raise ValueError(f"{first.folder} has no metric {name!r}{near_miss(name, first.result['metrics'])}")
    labels = short_names([str(path) for path in paths])
    declared = find_metric(name, first.result.get("measures"))
    compared = judged([against(run, first, name, smallest) for run in runs[1:]], smallest, declared.higher_is_better)
    arms = arms_of(runs, labels, name, smallest)
    notes = [f"{run.folder} is stale: {', '.join(changed)} changed since it ran"
             for run in runs if (changed := run_directory.stale(run.folder))]  # fmt: skip
    rules = dict.fromkeys(run.result["selection"] for run in runs)
    notes += [f"different rules chose the checkpoints: {', '.join(rules)}"] if len(rules) > 1 else []
    notes += [MODELS_ONLY] if any(item["paired"] for item in compared) else []
    notes += arms.pop("notes") if arms else []
    return {
        "version": 1,
        "metric": name,
        "better": declared.better,
        "points": declared.points,
        "smallest": smallest,
        "runs": [described(run, label) for run, label in zip(runs, labels, strict=True)],
        "differences": differences([run.recipe for run in runs]),
        "metrics": measured(runs),
        "comparisons": compared,
        "arms": arms,
        "notes": notes,
    }


def read_run(folder: Path) -> ComparedRun:
    """Return the records of a finished run."""
    if studies.is_study(folder):
        raise ValueError(
            f"{folder} contains a study; tlx report compares its arms, and tlx runs --cells lists its runs"
        )
    result = run_directory.read(folder)
    document = run_directory.read(folder, RECIPE)
    return ComparedRun(folder, document["recipe"], document["fingerprint"], result)


def short_names(paths: Sequence[str]) -> list[str]:
    """Return the paths without the directories that all of them share.

    >>> short_names(["runs/a/1", "runs/b/1"]), short_names(["runs/a", "runs/a-2"])
    (['a/1', 'b/1'], ['a', 'a-2'])
    """
    parts = [Path(path).parts for path in paths]
    shared = 0
    while all(len(names) > shared + 1 for names in parts) and len({names[shared] for names in parts}) == 1:
        shared += 1
    return ["/".join(names[shared:]) for names in parts]


def described(run: ComparedRun, label: str) -> Json:
    """Return what the document says of a run itself."""
    result = run.result
    return {
        "path": str(run.folder), "name": label, "fingerprint": run.fingerprint, "seed": run.seed,
        "headline": words.headline(run.recipe), "selection": result["selection"], "steps": result["steps"],
        "step": result["selected_step"], "seconds": round(sum(result["seconds"].values()), 3),
        "trainable": result["parameters"]["trainable"], "examples": result["examples"],
    }  # fmt: skip


def differences(recipes: Sequence[Json]) -> list[Json]:
    """Return the fields in which dumped recipes differ: `path`, and the text of each recipe's value.

    Records of different classes differ as a whole. A recipe of an earlier version lacks later fields; its text is None.

    >>> differences([{"seed": 0, "tuning": {"kind": "Full"}}, {"seed": 1, "tuning": {"kind": "Probe"}}])
    [{'path': 'seed', 'values': ['0', '1']}, {'path': 'tuning', 'values': ['Full()', 'Probe()']}]
    """
    return [{"path": path, "values": values} for path, values in unequal(list(recipes), "")]


def unequal(values: list[Any], path: str) -> list[tuple[str, list[str | None]]]:
    """Return the paths below `path` at which some values differ, with their texts."""
    if all(value == values[0] for value in values):
        return []
    dicts = [value for value in values if isinstance(value, dict)]
    kinds = {(value.get("kind"), value.get("class")) for value in dicts}
    if len(dicts) == len(values) and len(kinds) == 1 and "repr" not in dicts[0]:
        names = dict.fromkeys(name for value in dicts for name in value if name not in ("kind", "class"))
        below = ([value.get(name, MISSING) for value in dicts] for name in names)
        return [row for name, inner in zip(names, below, strict=True)
                for row in unequal(inner, f"{path}.{name}" if path else name)]  # fmt: skip
    lists = [value for value in values if isinstance(value, list)]
    if len(lists) == len(values) and len({len(value) for value in lists}) == 1 and isinstance(lists[0][0], dict):
        return [row for n, inner in enumerate(zip(*lists, strict=True)) for row in unequal(list(inner), f"{path}.{n}")]
    return [(path, [None if value is MISSING else source_of(value) for value in values])]


MISSING = object()


def source_of(value: Any) -> str:
    """Return the text that a user would write for a dumped value, without fields at their defaults where its class is
    one of tlx."""
    from tlx.recipe import classes

    try:
        return config.source(config.load(value, classes()))
    except (ValueError, TypeError):
        return " ".join(words.source(value).split())


def measured(runs: Sequence[ComparedRun]) -> list[Json]:
    """Return each metric of the runs with its 95 % interval over the examples: `name`, and `values`, one for each run;
    None for a run without the metric."""
    names = dict.fromkeys(name for run in runs for name in run.result["metrics"])
    splits = {"test": 0, "validation": 2}
    ordered = sorted(names, key=lambda name: splits.get(name.partition("/")[0], 1))
    return [{"name": name, "values": [value_of(run, name) for run in runs]} for name in ordered]


def value_of(run: ComparedRun, name: str) -> Json | None:
    """Return the value of a metric of a run, and its interval where the records allow one."""
    if name not in run.result["metrics"]:
        return None
    entry = listing.ListedRun("run", run.folder, "done", 0.0, result=run.result)
    interval = listing.interval(entry, name)
    ends = (None, None, "") if interval is None else interval
    return {"value": run.result["metrics"][name], "low": ends[0], "high": ends[1], "method": ends[2]}


def against(run: ComparedRun, first: ComparedRun, name: str, smallest: float) -> Json:
    """Compare a run with the first one: `difference` with `low` and `high`, and `p` of `test`, where the examples are
    the same; `paired` says whether they are, and `reason` why something is missing."""
    document: Json = {
        "difference": None, "low": None, "high": None, "p": None, "holm": None, "test": "", "method": "",
        "paired": False, "examples": 0, "verdict": "not compared", "reason": "",
    }  # fmt: skip
    if name not in run.result["metrics"]:
        return document | {"reason": f"{run.folder} has no metric {name}"}
    split = name.partition("/")[0]
    sides = [read_measured(side.folder, name, side.result) for side in (run, first)]
    if sides[0] is None or sides[1] is None:
        lacking = run.folder if sides[0] is None else first.folder
        return document | {"reason": f"{lacking} kept no predictions that {name} is the metric of"}
    other, base = (side.rows(np.argsort(side.indices, kind="stable")) for side in sides if side is not None)
    metric = find_metric(name, first.result.get("measures"))
    if reason := incomparable(run, first, split):
        return document | {"reason": reason}
    if reason := unlike(other, base):
        compared = unpaired(other, base, metric)
        how = compared.get("reason", "compared as two independent samples")
        return document | compared | {"reason": f"{reason}; {how}"}
    return document | {"paired": True, "examples": len(other)} | paired(other, base, metric, smallest)


def incomparable(run: ComparedRun, first: ComparedRun, split: str) -> str:
    """Return why two runs measure different things; an empty text where they measure the same."""
    for field in ("target", "test_on", "target_classes", "target_shift", "tests"):
        values = [side.recipe["data"].get(field) for side in (run, first)]
        # A field that an earlier version did not have is at its default.
        if values[0] != values[1] and (field == "target" or None not in values):
            texts = [source_of(value) for value in values]
            return (
                f"the {split} examples are of different data: data.{field} is {texts[0]}, and {texts[1]} in the first"
            )
    if reason := changed_data(run, first):
        return reason
    if run.result["classes"] != first.result["classes"]:
        return f"the runs have different classes: {len(run.result['classes'])} and {len(first.result['classes'])}"
    return ""


def changed_data(run: ComparedRun, first: ComparedRun) -> str:
    """Return the fingerprints of the data of two runs where equal settings chose other examples, because the data set
    changed; an empty text where they are the same, or where the settings may choose different training examples."""
    settings = [
        {name: value for name, value in side.recipe["data"].items() if name not in SAME_EXAMPLES}
        for side in (run, first)
    ]
    shared = settings[0].keys() & settings[1].keys()
    is_drawn = any(settings[0].get(name) for name in DRAWING) and settings[0].get("subset_seed") is None
    if any(settings[0][name] != settings[1][name] for name in shared) or (is_drawn and run.seed != first.seed):
        return ""
    prints = [side.result.get("data") for side in (run, first)]
    if None in prints or prints[0] == prints[1]:
        return ""
    return (
        f"the data of the runs differ: {run.folder} has data with the fingerprint {prints[0]}, and {first.folder} has "
        f"{prints[1]}"
    )


def unlike(other: Predictions, base: Predictions) -> str:
    """Return how the examples of two splits differ; an empty text where they are the same, with the same labels."""
    if not np.array_equal(other.indices, base.indices):
        shared = len(np.intersect1d(other.indices, base.indices))
        return f"the test examples differ: {len(other):,} and {len(base):,}, of which {shared:,} are in both"
    labels = [side.scores.get("label") for side in (other, base)]
    if labels[0] is not None and labels[1] is not None and not np.array_equal(labels[0], labels[1], equal_nan=True):
        return "the labels of the test examples differ"
    return ""


def values_by_example(predictions: Predictions, metric: Metric) -> np.ndarray | None:
    """Return float64[N], the values of which the metric is the mean; None for another metric."""
    values = predictions.scores.get(metric.mean_of)
    return None if values is None else values.reshape(len(values), -1).mean(-1, dtype=np.float64)


def paired(other: Predictions, base: Predictions, metric: Metric, smallest: float) -> Json:
    """Compare two models on the same examples.

    A mean over examples has a t-interval; its p is that of McNemar's exact test where each example is right or wrong,
    else that of the paired t-test. Any other metric has a bootstrap interval, which resamples the examples of both.
    """
    sides = values_by_example(other, metric), values_by_example(base, metric)
    if sides[0] is not None and sides[1] is not None:
        difference = significance.paired(sides[0].tolist(), sides[1].tolist(), metric.bounds)
        binary = all(set(np.unique(side)) <= {0.0, 1.0} for side in sides if side is not None)
        exact = binary and not smallest
        return {
            "difference": difference.mean, "low": finite(difference.low), "high": finite(difference.high),
            "method": "t-interval over the paired examples",
            "p": difference.sign if exact else significance.t_test(difference, smallest),
            "test": "McNemar's exact test" if exact else "paired t-test over examples",
        }  # fmt: skip
    return resampled(other, base, metric, paired=True)


def unpaired(other: Predictions, base: Predictions, metric: Metric) -> Json:
    """Compare two models on different examples, as two independent samples."""
    return resampled(other, base, metric, paired=False)


def resampled(other: Predictions, base: Predictions, metric: Metric, *, paired: bool) -> Json:
    """Return the difference of two models with its bootstrap interval over examples."""
    if metric.value is None and not (metric.mean_of in other.scores and metric.mean_of in base.scores):
        return {"reason": "only the task can compute this metric, so its difference has no interval"}
    arrays = [arrays_of(side) for side in (other, base)]

    def gap(first: np.ndarray, second: np.ndarray) -> float:
        values = [
            of_scores(metric, {key: array[rows] for key, array in scores.items()})
            for scores, rows in zip(arrays, (first, second), strict=True)
        ]
        return values[0] - values[1]

    counts = len(other), len(base)
    difference = gap(*map(np.arange, counts))
    if min(counts) < 2:
        return {"difference": difference}
    low, high = significance.over_examples(gap, counts, paired=paired)
    what = "the paired examples" if paired else "two independent samples"
    return {"difference": difference, "low": finite(low), "high": finite(high),
            "method": f"bootstrap of {what}, 2,000 resamples"}  # fmt: skip


def arrays_of(predictions: Predictions) -> dict[str, np.ndarray]:
    """Return the scores without the logits and the written texts, which no metric reads."""
    return {name: array for name, array in predictions.scores.items() if name not in ("logits", WRITTEN)}


def finite(value: float) -> float | None:
    """Return a number as JSON has it: None for nan."""
    return None if np.isnan(value) else float(value)


def judged(comparisons: list[Json], smallest: float, higher: bool) -> list[Json]:
    """Return the comparisons with p corrected by Holm's method, and with verdicts; `higher`: more is better."""
    holm = iter(significance.holm([item["p"] for item in comparisons if item["p"] is not None]))
    for item in comparisons:
        item["holm"] = None if item["p"] is None else next(holm)
        if item["low"] is None:
            continue
        low, high = (item["low"], item["high"]) if higher else (-item["high"], -item["low"])
        shown = item["holm"] is None or item["holm"] < 1 - significance.LEVEL
        item["verdict"] = significance.verdict(low, high, smallest) if shown else "no difference shown"
    return comparisons


def arms_of(runs: Sequence[ComparedRun], names: Sequence[str], metric: str, smallest: float) -> Json | None:
    """Compare arms over their seeds, as a study does: runs that differ only in their seeds are one arm. A run on data
    that changed since another one is left out, with a note.

    Returns:
        `rows`, one for each arm, and `notes`; None where no arm has two seeds.
    """
    groups: dict[str, dict[Any, ComparedRun]] = {}
    labels: dict[str, str] = {}
    notes = []
    kept: list[ComparedRun] = []
    for run, name in zip(runs, names, strict=True):
        if reason := next(filter(None, (changed_data(run, other) for other in kept)), ""):
            notes.append(f"{reason}; the arms are without {run.folder}")
            continue
        kept.append(run)
        key = json.dumps({field: value for field, value in run.recipe.items() if field != "seed"}, sort_keys=True)
        labels.setdefault(key, name)
        group = groups.setdefault(key, {})
        if run.seed in group:
            notes.append(f"{run.folder} has the recipe and the seed of {group[run.seed].folder}; the arm has the first")
        group.setdefault(run.seed, run)
    if all(len(group) == 1 for group in groups.values()):
        return None
    cells = tuple(run.cell(labels[key]) for key, group in groups.items() for run in group.values())
    baseline = {ARM: names[0]}
    study = StudyRecords(Path(), "", "", baseline, metric, smallest, "", "", cells)
    table = studies.compare(study, metric)
    comparisons = {comparison.arm.names[ARM]: comparison for comparison in table.comparisons}
    rows = []
    for summary in table.summaries:
        arm, comparison = summary.arm.names[ARM], comparisons.get(summary.arm.names[ARM])
        row: Json = {"name": arm, "seeds": len(summary.scores), "mean": summary.mean, "low": finite(summary.low),
                     "high": finite(summary.high), "difference": None, "verdict": ""}  # fmt: skip
        if comparison is not None:
            gap = comparison.difference
            row |= {"difference": gap.mean, "difference_low": finite(gap.low), "difference_high": finite(gap.high),
                    "pairs": gap.pairs, "holm": comparison.holm, "verdict": comparison.verdict,
                    "detectable": comparison.detectable}  # fmt: skip
        rows.append(row)
    return {"rows": rows, "notes": [*notes, *table.warnings]}
