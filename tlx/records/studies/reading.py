"""Read the records of a study: `study.json`, one run folder per cell, claims, and the planner's decisions.

    DIR/study.json                    the question, the baseline, the metric, the cells and their changes
    DIR/cells/FINGERPRINT/            a run's folder (see `tlx.records.run_directory`), `failed.json`
                                      if the last attempt failed
    DIR/claims/FINGERPRINT.lock       locked by the worker that runs the cell
    DIR/groups.json                   which cells train together (see `tlx.study.groups`)
    DIR/plan.jsonl                    one line per decision of the planner

This module imports neither JAX nor pandas, and writes nothing.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tlx.files.documents import digests, holds_file, read_json, read_lines, records
from tlx.files.documents.checks import Form
from tlx.functional.metrics import Metric, find_metric
from tlx.notebooks import html_of
from tlx.records.log import read_metrics
from tlx.records.run_directory import RECIPE, RESULT, Predictions, read_predictions, stale
from tlx.trees import Json, near_miss

STUDY, CELLS, CLAIMS, PLAN, FAILED = "study.json", "cells", "claims", "plan.jsonl", "failed.json"
GROUPS = "groups.json"
# The columns of repeated runs: cells that differ only in them are one arm.
SEED, FOLD = "seed", "data.fold"
REMEDY = "restore the file, or run the study's command again to write it"
State = Literal["done", "running", "failed", "waiting", "stale"]
STATES: tuple[State, ...] = ("done", "running", "failed", "waiting", "stale")


class CellRecord(NamedTuple):
    """One run of a study.

    `names` are its columns (`{"method": "LoRA", "labels": 16, "seed": 3}`), `changes` the `[path, before, after]` from
    the study's base, `result` the content of `result.json` if the cell is done, `failed` the content of `failed.json`
    (`error`, `traceback`, `time`) if its last attempt failed. A stale cell is done, and `changed` are the source files
    that changed since: its result belongs to the earlier code and is left out.
    """

    fingerprint: str
    names: dict[str, Any]
    changes: tuple[tuple[str, str, str], ...]
    folder: Path
    state: State
    result: Json | None = None
    failed: Json | None = None
    changed: tuple[str, ...] = ()

    @property
    def state_text(self) -> str:
        """The state in words: `stale: net.py changed since`."""
        return f"stale: {', '.join(self.changed)} changed since" if self.changed else self.state

    @property
    def seed(self) -> Any:
        """The seed, by which cells are paired; None if the study has no such column."""
        return self.names.get(SEED)

    @property
    def fold(self) -> int | None:
        """The part of the data that the run tested; None if the study does not divide them into folds."""
        return self.names.get(FOLD)

    @property
    def repeat(self) -> Any:
        """The name of the run among those of its arm: its seed, its fold, or both."""
        if self.fold is None:
            return self.seed
        return f"fold {self.fold}" if self.seed is None else f"fold {self.fold}, seed {self.seed}"

    @property
    def arm(self) -> dict[str, Any]:
        return {name: value for name, value in self.names.items() if name not in (SEED, FOLD)}

    @property
    def metrics(self) -> dict[str, float]:
        return self.result["metrics"] if self.result else {}

    def declared(self, metric: str) -> Metric:
        """Return the task's declaration of a metric, whose name may begin with the name of its split."""
        return find_metric(metric, (self.result or {}).get("measures"))

    def predictions(self, split: str = "test") -> Predictions | None:
        """Return the run's predictions on every example of a split; None if none were kept."""
        return read_predictions(self.folder, split)

    def recipe(self) -> Json | None:
        """Return the dumped recipe, once the cell has begun."""
        path = self.folder / RECIPE
        if not path.is_file():
            return None
        digests.verify(self.folder, RECIPE)
        return read_json(path, records.BRIEF, remedy=records.RERUN, finite=False)["recipe"]

    def curves(self) -> dict[str, dict[int, float]]:
        """Return every metric that the run logged, by name and step."""
        curves: dict[str, dict[int, float]] = {}
        for line in read_metrics(self.folder):
            curves.setdefault(line["name"], {})[line["step"]] = line["value"]
        return curves


class Arm(NamedTuple):
    """Cells that differ only in their seeds and folds; `names` are the columns that they share."""

    names: dict[str, Any]
    cells: tuple[CellRecord, ...]

    @property
    def done_cells(self) -> tuple[CellRecord, ...]:
        return tuple(cell for cell in self.cells if cell.state == "done")

    @property
    def folds(self) -> int:
        """The number of folds into which the recipe divides the data, also those that the study does not test; 0 if the
        study has none."""
        tested = {cell.fold for cell in self.cells if cell.fold is not None}
        if not tested:
            return 0
        # All cells of an arm have the same number of folds.
        recipes = (cell.recipe() for cell in self.cells)
        # A record of an earlier version has no folds.
        begun: Json = next((recipe for recipe in recipes if recipe is not None), {})
        return max(begun.get("data", {}).get("folds") or 0, len(tested), max(tested) + 1, 2)

    def values(self, metric: str) -> dict[Any, float]:
        """Return the metric of every finished cell by its seed and fold, as in `result.json`."""
        return {cell.repeat: cell.metrics[metric] for cell in self.done_cells if metric in cell.metrics}


class StudyRecords(NamedTuple):
    """A study as read from its directory.

    `baseline` are the column values that define a baseline arm. `smallest` is the smallest difference of interest, in
    the units of `metric`.
    """

    folder: Path
    name: str
    question: str
    baseline: dict[str, Any]
    metric: str
    smallest: float
    command: str
    file: str
    cells: tuple[CellRecord, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that name cells, in the order in which they first occur."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.names))

    @property
    def counts(self) -> dict[State, int]:
        """The number of cells in each state; "stale" is included only if a cell is stale."""
        counts = {state: sum(cell.state == state for cell in self.cells) for state in STATES}
        return {state: count for state, count in counts.items() if count or state != "stale"}

    @property
    def changed(self) -> tuple[str, ...]:
        """The source files that changed since stale cells ran."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.changed))

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms in the order of the study, in whatever state their cells are."""
        groups: dict[str, list[CellRecord]] = {}
        for cell in self.cells:
            groups.setdefault(_key(cell.arm), []).append(cell)
        return tuple(Arm(cells[0].arm, tuple(cells)) for cells in groups.values())

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of all finished cells."""
        return tuple(dict.fromkeys(name for cell in self.cells for name in cell.metrics))

    def declared(self, metric: str) -> Metric:
        """Return the tasks' declaration of a metric; if cells disagree, the first finished cell counts."""
        cells = (cell for cell in self.cells if metric in cell.metrics)
        return next((cell.declared(metric) for cell in cells), find_metric(metric))

    def _repr_html_(self) -> str | None:
        return html_of("tlx.report.notebook:results_html", self)

    def plan(self) -> list[Json]:
        """Return the planner's decisions, without a line that a killed worker left half written."""
        return read_lines(self.folder / PLAN, records.PLAN, skip_damaged=True)

    def check_metric(self, metric: str) -> str:
        """Return the metric; raise ValueError, with the nearest name, if no finished cell has it."""
        if self.metrics and metric not in self.metrics:
            raise ValueError(f"no cell of {self.folder} has the metric {metric!r}{near_miss(metric, self.metrics)}")
        return metric


def is_study(directory: str | Path) -> bool:
    """Return whether a directory contains a study."""
    return holds_file(Path(directory) / STUDY)


def read(directory: str | Path) -> StudyRecords:
    """Read the study in `directory`, each cell with its state.

    A cell is running if its claim is locked, else its files decide. It is stale if it is done and source code that it
    used has changed since.

    Raises:
        FileNotFoundError: The directory contains no study.
        ValueError: The study's file lists no cells, or two cells have the same names.
    """
    folder = Path(directory)
    if not is_study(folder):
        raise FileNotFoundError(f"{folder} contains no study: there is no {STUDY}")
    document = read_json(folder / STUDY, records.STUDY, remedy=REMEDY, finite=False)
    cells = tuple(_cell(folder, item) for item in document["cells"])
    _check(folder, cells)
    texts = {name: document.get(name) or "" for name in ("name", "question", "metric", "command", "file")}
    baseline, smallest = document.get("baseline") or {}, float(document.get("smallest") or 0.0)
    return StudyRecords(folder=folder, baseline=baseline, smallest=smallest, cells=cells, **texts)


def _cell(folder: Path, item: Json) -> CellRecord:
    fingerprint = item["fingerprint"]
    path = folder / CELLS / fingerprint
    result, failed = _document(path / RESULT, records.RESULT), _document(path / FAILED, records.FAILED)
    state: State = "done" if result else "failed" if failed else "waiting"
    if not result and is_locked(folder / CLAIMS / f"{fingerprint}.lock"):
        state = "running"
        # The run may have finished between the two checks.
        if result := _document(path / RESULT, records.RESULT):
            state = "done"
    if result and result.get("fingerprint", fingerprint) != fingerprint:
        raise ValueError(
            f"{path} contains the result of another recipe (fingerprint {result['fingerprint']}); remove that "
            "directory and run the study again"
        )
    edited = tuple(stale(path)) if result else ()
    if edited:
        state, result = "stale", None
    changes = tuple((path, str(before), str(after)) for path, before, after in item.get("changes", ()))
    failed = failed if state == "failed" else None
    return CellRecord(fingerprint, dict(item["names"]), changes, path, state, result, failed, edited)


def is_locked(path: Path) -> bool:
    """Return whether another process has locked this file. The check locks it for an instant, so a worker tries
    repeatedly."""
    if not path.is_file():
        return False
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except PermissionError:
        # The study belongs to another user, and this process may not write its lock.
        return False


def _check(folder: Path, cells: Iterable[CellRecord]) -> None:
    fingerprints: dict[str, str] = {}
    for cell in cells:
        earlier = fingerprints.setdefault(_key(cell.names), cell.fingerprint)
        if earlier != cell.fingerprint:
            raise ValueError(
                f"{folder}: cells {earlier} and {cell.fingerprint} have the same names {cell.names}; add a label "
                "that shows their difference"
            )


def _document(path: Path, form: Form) -> Json | None:
    # A worker that retries may remove a file at any moment.
    try:
        document = read_json(path, form, remedy=records.RERUN, finite=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    digests.verify(path.parent, path.name)
    return document


def _key(names: Mapping[str, Any]) -> str:
    return json.dumps(names, sort_keys=True)


def costs(result: Json) -> dict[str, float]:
    """Return the costs that a run's `result.json` records.

    The names are `seconds` and its parts `seconds/train`, ..., `peak_memory_bytes`, `flops`, `parameters/trainable`,
    ... For runs that trained side by side, each run has an equal share of the time.

    >>> costs({"seconds": {"train": 2.0, "eval": 1.0}, "steps": 10, "energy": None, "pack": {"arms": 2, "place": 0}})
    {'steps': 10, 'seconds/train': 1.0, 'seconds/eval': 0.5, 'seconds': 1.5}
    """
    arms = (result.get("pack") or {}).get("arms", 1)
    costs_by_name: dict[str, float] = {}
    for name in ("steps", "examples_per_second", "peak_memory_bytes", "flops", "parameters", "energy", "seconds"):
        amount = result.get(name)
        parts = {f"{name}/{part}": value for part, value in amount.items()} if isinstance(amount, Mapping) else {}
        for part, value in (parts or {name: amount}).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                costs_by_name[part] = value / arms if name == "seconds" and arms > 1 else value
        if name == "seconds" and parts:
            costs_by_name[name] = sum(costs_by_name[part] for part in parts)
    if arms > 1 and "examples_per_second" in costs_by_name:
        costs_by_name["examples_per_second"] *= arms
    return costs_by_name
