"""Read the raw records of a finished run. A page shows nothing from any other place."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlx import config
from tlx.files.documents import check, format_value
from tlx.files.documents.records import DRAWN, RERUN
from tlx.functional.metrics import Metric, from_document
from tlx.records import run_directory
from tlx.records.log import METRICS, read_metrics
from tlx.records.migrations import rule_of
from tlx.records.run_directory import Predictions
from tlx.tasks import Task
from tlx.trees import Json
from tlx.types import Column


class RunRecords(NamedTuple):
    """All records of a run. `task` is resolved: its names are those that the run used.

    `weights` is the manifest (`source` and `entries`) of pretrained weights, `moved` the content of `moved.json` (see
    `tlx.analysis.changes`); each is None if the run has none.
    """

    folder: Path
    document: Json
    task: Any
    result: Json
    metrics: list[Json]
    predictions: dict[str, Predictions]
    mistakes: list[Json]
    parameters: Json
    environment: Json
    weights: Json | None
    moved: Json | None = None

    @property
    def split(self) -> str:
        """The split that the page reports: the test split, if there is one."""
        return "test" if "test" in self.predictions else "validation"

    @property
    def recipe(self) -> Json:
        return self.document["recipe"]

    def names(self, start: str) -> list[str]:
        """Return the names of the metrics that begin with `start`, in the order in which they first occur."""
        return list(dict.fromkeys(line["name"] for line in self.metrics if line["name"].startswith(start)))

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Return the steps and the values of one metric, in order of step; the last value written for a step counts."""
        values = {line["step"]: line["value"] for line in self.metrics if line["name"] == name}
        return sorted(values), [values[step] for step in sorted(values)]


def read(path: Path, task: Task | None = None) -> RunRecords:
    """Read the records of a finished run.

    Raises:
        FileNotFoundError: The folder contains no finished run; the message names the missing file.
    """
    result, document = run_directory.read(path), read_recipe(path)
    if changed := run_directory.stale(path):
        note = f"stale: {', '.join(changed)} changed since this run, so its numbers belong to other code"
        result = result | {"notes": [note, *(result.get("notes") or ())]}
    predictions = {}
    # A data set without a test split has only the validation split.
    tested = () if result.get("test_split") == "none" else ("test",)
    for split in ("validation", *tested, *result.get("tests", ())):
        split_predictions = run_directory.read_predictions(path, split)
        if split_predictions is None:
            raise FileNotFoundError(f"{path} contains an unfinished run: there is no predictions/{split}.npz")
        predictions[split] = split_predictions
    task = read_task(document["recipe"]["task"], result) if task is None else task
    metrics, mistakes = read_metrics(path), run_directory.read(path, "mistakes.json")
    if not metrics:
        raise ValueError(f"{path / METRICS} is empty; expected the metrics of a finished run; {RERUN}")
    # What a task of the user's own shows as a label only that task knows.
    ours = type(task).__module__.startswith("tlx.tasks.")
    for number, mistake in enumerate(mistakes if ours and task.exclusive else ()):
        if bool(task.names) != isinstance(mistake["label"], str):
            expected = "the name of a class" if task.names else "a number"
            raise ValueError(
                f"{path / 'mistakes.json'}: [{number}].label is {format_value(mistake['label'])}; expected {expected}; "
                f"{RERUN}"
            )
    return RunRecords(
        folder=path,
        document=document,
        task=task,
        result=result,
        metrics=metrics,
        predictions=predictions,
        mistakes=mistakes,
        parameters=run_directory.read(path, "parameters.json"),
        environment=run_directory.read(path, "environment.json"),
        weights=run_directory.read(path, run_directory.WEIGHTS) if (path / run_directory.WEIGHTS).exists() else None,
        moved=run_directory.read(path, run_directory.MOVED) if (path / run_directory.MOVED).exists() else None,
    )


def read_recipe(path: Path) -> Json:
    """Read `recipe.json`, and check the recipe against its fingerprint if the file alone allows it."""
    from tlx.recipe import classes

    document = check(run_directory.read(path, run_directory.RECIPE), DRAWN, path / run_directory.RECIPE, RERUN)
    if '{"repr":' in json.dumps(document) or "sources" in document or document.get("classes"):
        return document
    try:
        fingerprint = config.fingerprint(config.load(document["recipe"], classes()), schema=rule_of(document))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / run_directory.RECIPE}: {error}; {RERUN}") from None
    if fingerprint != document["fingerprint"]:
        raise ValueError(
            f"{path / run_directory.RECIPE}: its recipe has the fingerprint {fingerprint}, but the file records "
            f"{document['fingerprint']}; {RERUN}"
        )
    return document


class RecordedMetric(NamedTuple):
    """A metric of the user as a run records it: its `name` and its declaration, without its function."""

    name: str
    metric: Metric


class RecordedTask(Task):
    """The task of a run as its files describe it, if they cannot name its class: the `names` of its classes and its
    declared metrics."""

    def __init__(self, names: Sequence[str], measures: Json):
        self.names = tuple(names)
        self.metrics = {name: from_document(values) for name, values in measures.items()}  # type: ignore[misc]


def read_task(document: Json, result: Json) -> Task:
    """Return the task of a recipe, with the class names from the data.

    No code that a file names is imported: a task of the user's own is rebuilt from its declaration in the run's result.
    """
    from tlx.recipe import classes

    names, measures = tuple(result["classes"]), result.get("measures")
    if measures and (document.get("class") or document["kind"] not in classes()):
        return RecordedTask(names, measures)
    # The functions of the user's metrics are in a file that is not imported; their declarations are recorded.
    extra = tuple(
        RecordedMetric(item["name"], from_document(measures[item["name"]]))
        for item in document.get("extra_metrics", ())
        if measures and item["name"] in measures
    )
    task = config.load({name: value for name, value in document.items() if name != "extra_metrics"}, classes())
    task = task.resolve({"label": Column(result.get("label", "class" if names else "number"), names)})
    task = task.of_run(result)
    return config.replace(task, extra_metrics=extra) if extra else task


def thin(values: Sequence[float], limit: int = 2000) -> list[int]:
    """Return the positions of a long curve to draw: the lowest and the highest of every stretch, so that no spike is
    lost.

    >>> thin([1.0, 2.0, 3.0], 10)
    [0, 1, 2]
    >>> thin([0.0, 0.0, 9.0, 0.0, 0.0, 0.0, -9.0, 0.0], 6)
    [0, 2, 4, 6, 7]
    """
    count = len(values)
    if count <= limit:
        return list(range(count))
    positions = {0, count - 1}
    for stretch in np.array_split(np.arange(count), max(1, limit // 2 - 1)):
        part = np.nan_to_num(np.asarray(values, float)[stretch])
        positions |= {int(stretch[part.argmin()]), int(stretch[part.argmax()])}
    return sorted(positions)


def smooth(values: Sequence[float], span: float) -> list[float]:
    """Return the exponential moving average of about `span` values, corrected for its start; values that are not finite
    are skipped.

    >>> smooth([2.0, 2.0, 2.0], 4)
    [2.0, 2.0, 2.0]
    """
    keep, total, weight, smoothed = 1 - 2 / (span + 1), 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        smoothed.append(total / weight if weight else math.nan)
    return smoothed
