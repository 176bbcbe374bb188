"""Results of a search: its trials as recorded in the journal, the best trial, and the importances."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from tlx import config
from tlx.files.documents.checks import check
from tlx.files.documents.records import TRIAL
from tlx.recipe import Recipe
from tlx.study.sweeps import table_value
from tlx.trees import Json
from tlx.tune import journal
from tlx.tune.settings import Settings
from tlx.tune.space import Categorical, Point, Range, Spec, cell

# Optuna's states, in the terms of tlx.
STATES = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


class TrialRecord(NamedTuple):
    """A trial as recorded in the journal.

    `value` is the metric (of a stopped trial at its last step), `error` the error of a failed trial, `seconds` the time
    of its run.
    """

    number: int
    state: str
    value: float | None
    point: Point
    fingerprint: str
    seconds: float | None
    error: str | None
    curve: dict[int, float]


class Found(NamedTuple):
    """Results of a search: its `folder`, the arguments `settings`, its `trials` in order, the `best` trial (None if
    none is done), and the `importances` of the paths."""

    folder: Path
    settings: Settings
    trials: tuple[TrialRecord, ...]
    best: TrialRecord | None
    importances: dict[str, float]

    @property
    def changes(self) -> list[str]:
        """The best point as `path=value`, for `--set`; empty if no trial is done."""
        point = self.best.point if self.best else {}
        return [f"{path}={config.source(value)}" for path, value in point.items()]

    @property
    def recipe(self) -> Recipe:
        """The recipe at the best point; ValueError if no trial is done."""
        if self.best is None:
            raise ValueError(f"no trial of {self.folder} is done")
        return cell(self.settings.recipe, self.best.point).recipe

    def command(self, run: str) -> str:
        """Return the command that runs the best recipe with the test split: `run` (`tlx run CONFIG`) with its
        changes."""
        return " ".join([run, *(f"--set {shlex.quote(change)}" for change in self.changes)])

    def document(self, run: str = "") -> Json:
        """Return all results as JSON: the arguments, the trials, the best trial and its command, which begins with
        `run`."""
        arguments = self.settings.document
        before = {path: shown_at(self.settings.recipe, path) for path in self.settings.space}
        trials = [
            trial._asdict() | {"point": {path: table_value(value) for path, value in trial.point.items()}}
            for trial in self.trials
        ]
        return arguments | {
            "before": before,
            "kinds": {path: kind(spec) for path, spec in self.settings.space.items()},
            "trials": trials,
            "best": self.best.number if self.best else None,
            "importances": self.importances,
            "command": self.command(run) if run and self.best else "",
        }


def kind(spec: Spec) -> str:
    """Return how an axis shows a path: "log", "linear" or "choice"."""
    return "choice" if isinstance(spec, Categorical) else "log" if isinstance(spec, Range) and spec.log else "linear"


def shown_at(recipe: Recipe, path: str) -> Any:
    """Return the recipe's value at a path; None if the path exists only for some points."""
    try:
        return table_value(config.at(recipe, path))
    except ValueError:
        return None


def read(folder: Path, settings: Settings, study: Any) -> Found:
    """Read the results of a search from its journal."""
    records = tuple(record(folder, settings, trial) for trial in study.get_trials(deepcopy=False))
    candidates = [trial for trial in records if trial.state == "done" and trial.value is not None]
    sign = 1 if settings.direction == "maximize" else -1
    best = max(candidates, key=lambda trial: (sign * (trial.value or 0.0), -trial.number)) if candidates else None
    return Found(folder, settings, records, best, journal.importances(study))


def record(folder: Path, settings: Settings, trial: Any) -> TrialRecord:
    """Convert a trial of Optuna; its point is empty if a worker died before the trial got one."""
    params = trial.params | trial.system_attrs.get("fixed_params", {})
    point = journal.to_point(settings.space, params) if settings.space.keys() <= params.keys() else {}
    state = STATES[trial.state.name]
    attrs = check(trial.user_attrs, TRIAL, f"{folder / journal.JOURNAL}, trial {trial.number}", journal.RESTORE)
    return TrialRecord(
        number=trial.number,
        state=state,
        value=attrs.get("value") if state == "stopped" else trial.value if state == "done" else None,
        point=point,
        fingerprint=cell(settings.recipe, point).fingerprint if point else "",
        seconds=attrs.get("seconds"),
        error=attrs.get("error"),
        curve={int(step): float(value) for step, value in trial.intermediate_values.items()},
    )
