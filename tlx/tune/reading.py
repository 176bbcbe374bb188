"""What came of a search: its trials as the journal holds them, the best, what mattered."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from tlx import config
from tlx.files.documents.checks import check
from tlx.files.documents.records import TRIAL
from tlx.recipe import Recipe
from tlx.study.sweeps import shown
from tlx.tune import journal
from tlx.tune.asked import Asked
from tlx.tune.space import OneOf, Point, Range, Spec, cell

# Optuna's states, in the words of the house.
STATES = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


class Record(NamedTuple):
    """A trial as the journal holds it: `value` is the metric, of a stopped one where it stopped; `error` of a failed
    one; `seconds` of its run."""

    number: int
    state: str
    value: float | None
    point: Point
    fingerprint: str
    seconds: float | None
    error: str | None
    curve: dict[int, float]


class Found(NamedTuple):
    """What came of a search: its `folder`, what was `asked`, its `trials` in order, `best` of them (None where none is
    done), and how much of what sets the best apart each path accounts for."""

    folder: Path
    asked: Asked
    trials: tuple[Record, ...]
    best: Record | None
    importances: dict[str, float]

    @property
    def changes(self) -> list[str]:
        """The best point as `path=value`, for `--set`; nothing where no trial is done."""
        point = self.best.point if self.best else {}
        return [f"{path}={config.source(value)}" for path, value in point.items()]

    @property
    def recipe(self) -> Recipe:
        """The recipe at the best point; ValueError where no trial is done."""
        if self.best is None:
            raise ValueError(f"no trial of {self.folder} is done")
        return cell(self.asked.recipe, self.best.point).recipe

    def command(self, run: str) -> str:
        """The command that runs the best recipe, test split and all: `run` (`tlx run CONFIG`) with its changes."""
        return " ".join([run, *(f"--set {shlex.quote(change)}" for change in self.changes)])

    def document(self, run: str = "") -> dict[str, Any]:
        """All of it as JSON: what was asked, the trials, the best and its command, where `run` begins one."""
        asked = self.asked.document
        before = {path: shown_at(self.asked.recipe, path) for path in self.asked.space}
        trials = [
            one._asdict() | {"point": {path: shown(value) for path, value in one.point.items()}} for one in self.trials
        ]
        return asked | {
            "before": before,
            "kinds": {path: kind(spec) for path, spec in self.asked.space.items()},
            "trials": trials,
            "best": self.best.number if self.best else None,
            "importances": self.importances,
            "command": self.command(run) if run and self.best else "",
        }


def kind(spec: Spec) -> str:
    """How an axis shows a path: "log", "linear" or "choice"."""
    return "choice" if isinstance(spec, OneOf) else "log" if isinstance(spec, Range) and spec.log else "linear"


def shown_at(recipe: Recipe, path: str) -> Any:
    """What the recipe has at a path; None where it is there for some points alone."""
    try:
        return shown(config.at(recipe, path))
    except ValueError:
        return None


def read(folder: Path, asked: Asked, study: Any) -> Found:
    """What the journal holds."""
    records = tuple(record(folder, asked, trial) for trial in study.get_trials(deepcopy=False))
    done = [found for found in records if found.state == "done" and found.value is not None]
    sign = 1 if asked.direction == "maximize" else -1
    best = max(done, key=lambda found: (sign * (found.value or 0.0), -found.number)) if done else None
    return Found(folder, asked, records, best, journal.importances(study))


def record(folder: Path, asked: Asked, trial: Any) -> Record:
    """A trial of Optuna's; its point is empty where a worker died before it was given one."""
    params = trial.params | trial.system_attrs.get("fixed_params", {})
    point = journal.to_point(asked.space, params) if asked.space.keys() <= params.keys() else {}
    state = STATES[trial.state.name]
    attrs = check(trial.user_attrs, TRIAL, f"{folder / journal.JOURNAL}, trial {trial.number}", journal.RESTORE)
    return Record(
        number=trial.number,
        state=state,
        value=attrs.get("value") if state == "stopped" else trial.value if state == "done" else None,
        point=point,
        fingerprint=cell(asked.recipe, point).fingerprint if point else "",
        seconds=attrs.get("seconds"),
        error=attrs.get("error"),
        curve={int(step): float(value) for step, value in trial.intermediate_values.items()},
    )
