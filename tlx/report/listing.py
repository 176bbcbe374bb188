"""The rows of a list of runs: a recipe in a few words, the primary metric with its interval, filters and order.

An interval that needs resampling is computed once and kept in the cache, by the digest of the run's predictions.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tlx.assets import cache_dir
from tlx.files.documents import digests
from tlx.files.durable import write_whole
from tlx.functional.metrics import Metric, find_metric
from tlx.records import run_directory
from tlx.records.listing import ListedRun
from tlx.records.members import measured_on, member_of
from tlx.records.run_directory import Predictions, predictions_file
from tlx.report import intervals, words
from tlx.report.intervals import Interval
from tlx.trees import Json, near_miss

# The fields of a recipe that its summary has anyway.
SUMMARISED = ("model", "weights", "tuning", "objective", "seed", "data.target", "data.source", "data.shots",
              "data.labels", "data.fraction")  # fmt: skip


class ListRow(NamedTuple):
    """A run as a list shows it: `name` is its metric, with the split, and its `value`; both may be missing."""

    entry: ListedRun
    name: str
    value: float | None
    interval: Interval | None

    @property
    def document(self) -> Json:
        """Return the row as a JSON object."""
        entry = self.entry
        ends = None if self.interval is None else {"low": self.interval.low, "high": self.interval.high}
        return {
            "kind": entry.kind, "path": str(entry.folder), "state": entry.state, "date": date(entry),
            "fingerprint": entry.fingerprint, "summary": summary(entry), "metric": self.name, "value": self.value,
            "interval": ends, "method": self.interval.method if self.interval else "", "cells": entry.cells,
            "seconds": seconds(entry), "recipe": entry.recipe, "fault": entry.fault,
        }  # fmt: skip


def row(entry: ListedRun, metric: str | None = None) -> ListRow:
    """Return the row of a run; `metric` takes the place of its primary metric."""
    if entry.result is None:
        return ListRow(entry, entry.metric, None, None)
    metrics = entry.result["metrics"]
    name = primary(entry.result) if metric is None else metric
    if name not in metrics:
        return ListRow(entry, name, None, None)
    return ListRow(entry, name, metrics[name], interval(entry, name))


def primary(result: Json) -> str:
    """Return the primary metric of a run with its split: on the test split, where it was measured."""
    names = list(result.get("measures") or dict.fromkeys(name.rpartition("/")[2] for name in result["metrics"]))
    found = [f"{split}/{names[0]}" for split in ("test", "validation")] if names else []
    return next((name for name in found if name in result["metrics"]), next(iter(result["metrics"]), ""))


def interval(entry: ListedRun, name: str) -> Interval | None:
    """Return the 95 % interval of a metric over the examples of its split, as the page of the run has it; None where
    the records do not allow one."""
    result = entry.result or {}
    split, _, rest = name.partition("/")
    member, bare = member_of(name), name.rpartition("/")[2]
    metric, value = find_metric(name, result.get("measures")), result["metrics"][name]
    count = None if member else (result.get("examples") or {}).get(split)
    if metric.mean_of == "correct" and count and math.isclose(value * count, round(value * count), abs_tol=1e-4):
        return intervals.wilson(round(value * count), count)
    place = predictions_file(split)
    digest = digests.read(entry.folder).get(place)
    path = cache_dir() / "intervals" / f"{digest}-{rest.replace('/', '-')}.json"
    if digest is not None and path.is_file():
        ends = json.loads(path.read_text(encoding="utf-8"))
        return None if ends is None else Interval(*ends)
    predictions = run_directory.read_predictions(entry.folder, split)
    parts = [] if predictions is None else measured_on(predictions, name, result)
    computed = of_declared(bare, parts, metric)
    if digest is not None:
        write_cached(path, computed)
    return computed


def of_declared(name: str, parts: Sequence[Predictions], metric: Metric) -> Interval | None:
    """Return the interval of a metric, or of its average over several parts, from its declaration alone; None where
    only the task can compute it."""
    if not parts or any(metric.value is None and metric.mean_of not in part.scores for part in parts):
        return None
    task: Any = Declared({name: metric})
    return intervals.over_parts(name, parts, task)


class Declared(NamedTuple):
    """A task of which only the declarations of some metrics are known."""

    measures: dict[str, Metric]

    def metric(self, name: str) -> Metric:
        """Return the declaration of a metric."""
        return self.measures[name]


def write_cached(path: Path, computed: Interval | None) -> None:
    """Keep an interval in the cache, which only saves time: a full or read-only disk is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, [json.dumps(computed).encode()])
    except OSError:
        return


def summary(entry: ListedRun) -> str:
    """Return in a few words what a run trains on which data, and how; the question of a study."""
    if entry.fault:
        return entry.fault
    if entry.recipe is None:
        return entry.question
    recipe = entry.recipe
    try:
        parts = [words.headline(recipe)]
    except (KeyError, TypeError):
        return ""
    tuning, objective = recipe.get("tuning") or {}, recipe.get("objective") or []
    parts += [tuning["kind"]] if tuning.get("kind") not in (None, "Full") else []
    terms = [term.get("kind", "a term") for term in objective]
    parts += ["+".join(terms)] if terms not in ([], ["Supervised"]) else []
    data = recipe["data"]
    parts += [f"{data[name]:g} {name}" for name in ("shots", "labels", "fraction") if data.get(name) is not None]
    parts += [f"seed {recipe['seed']}"] if recipe.get("seed") else []
    parts += [f"{path} {value}" for path, value in entry.changes if not path.startswith(SUMMARISED)]
    return ", ".join(parts)


def interval_text(value: float, low: float | None, high: float | None, method: str = "") -> str:
    """Return a value and its interval as text.

    >>> interval_text(0.75, 0.7, 0.8), interval_text(0.75, None, None)
    ('0.7500 [0.7000, 0.8000]', '0.7500')
    """
    return f"{value:.4f}" + ("" if low is None or high is None else f" [{low:.4f}, {high:.4f}]")


def date(entry: ListedRun) -> str:
    """Return the date of a run in local time, to the minute."""
    return datetime.fromtimestamp(entry.date).isoformat(" ", "minutes") if entry.date else ""


def seconds(entry: ListedRun) -> float | None:
    """Return the time that a finished run took, in seconds."""
    spent = (entry.result or {}).get("seconds")
    return round(sum(spent.values()), 3) if spent else None


def where(entries: Sequence[ListedRun], conditions: Iterable[str]) -> list[ListedRun]:
    """Return the runs that have these values in their recipes.

    Args:
        entries: The runs.
        conditions: `path=value`, with a dotted path of the recipe. A record equals the name of its class.

    Raises:
        ValueError: A condition has another form, or no recipe has its path.
    """
    kept = list(entries)
    for condition in conditions:
        path, sign, value = condition.partition("=")
        if not sign:
            raise ValueError(f"--where {condition!r} is not of the form path=value, for example tuning=Lora")
        values = [(entry, at(entry.recipe, path.strip())) for entry in entries if entry.recipe is not None]
        if values and all(found is MISSING for _, found in values):
            paths = {name for entry, _ in values for name in paths_of(entry.recipe)}
            raise ValueError(f"no recipe here has the field {path!r}{near_miss(path, paths)}")
        equal = {id(entry) for entry, found in values if found is not MISSING and text(found) == value.strip()}
        kept = [entry for entry in kept if id(entry) in equal]
    return kept


MISSING = object()


def at(document: Any, path: str) -> Any:
    """Return the value at a dotted path of a dumped recipe."""
    for name in path.split("."):
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and name.isdigit() and int(name) < len(document):
            document = document[int(name)]
        else:
            return MISSING
    return document


def paths_of(document: Any, path: str = "") -> Iterable[str]:
    """Yield the dotted paths of a dumped recipe."""
    items = document if isinstance(document, dict) else {}
    if isinstance(document, list) and any(isinstance(item, dict) for item in document):
        items = {str(n): item for n, item in enumerate(document)}
    for name, value in items.items():
        if name not in ("kind", "class", "repr"):
            yield f"{path}{name}"
            yield from paths_of(value, f"{path}{name}.")


def text(value: Any) -> str:
    """Return a value of a dumped recipe as a user would write it in a condition; the class of a record."""
    if isinstance(value, dict):
        return str(value.get("kind", value.get("repr")))
    return value if isinstance(value, str) else words.source(value)


def order(rows: Sequence[ListRow], by: str) -> list[ListRow]:
    """Return the rows by date (newest first), by the metric (best first), by path, or by time (longest first)."""
    if by == "path":
        return sorted(rows, key=lambda row: str(row.entry.folder))
    keys: dict[str, Callable[[ListRow], float]] = {
        "date": lambda row: row.entry.date,
        "seconds": lambda row: seconds(row.entry) or -math.inf,
        "metric": goodness,
    }
    return sorted(rows, key=keys[by], reverse=True)


def goodness(row: ListRow) -> float:
    """Return the metric of a row, turned so that more is better; the lowest number for a row without one."""
    if row.value is None or math.isnan(row.value):
        return -math.inf
    measures = (row.entry.result or {}).get("measures")
    return row.value if find_metric(row.name, measures).higher_is_better else -row.value
