"""The runs of a search's trials: what one is, and the one function that executes some of them together."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tlx.checkpoint import DiskFull
from tlx.recipe import Recipe
from tlx.train import Judge, run
from tlx.tune.space import Point

State = Literal["done", "stopped", "failed"]
# What nobody asks of a trial, and what would fill the disk.
HEAVY = ("checkpoints", "model", "adapter")


class Trial(NamedTuple):
    """A trial of that `number`, which this worker alone executes: the `recipe` at a `point` of the space, to run in
    `folder`. `judge` may stop it."""

    number: int
    point: Point
    recipe: Recipe
    folder: Path
    judge: Judge | None = None


class Ended(NamedTuple):
    """What came of a trial: the run's `result` where it was "done" or "stopped", an `error` where it has "failed"."""

    trial: Trial
    state: State
    result: dict[str, Any] | None = None
    error: str | None = None


def execute(trials: Sequence[Trial]) -> Iterator[Ended]:
    """Runs the trials, none of which looks at the test split, and tells of each as it ends.

    They were drawn without knowledge of one another, so this is where recipes that share a program could be trained as
    one. A run that was interrupted goes on; one that fails is told of, and the others go on. A full disk is nobody's
    failure: `checkpoint.DiskFull` is raised.
    """
    for trial in trials:
        try:
            found = run(trial.recipe, trial.folder, resume=True, quiet=True, test=False, judge=trial.judge)
        except DiskFull:
            raise
        except Exception as error:  # whatever a recipe of the space may raise, the search outlives it
            yield Ended(trial, "failed", error=f"{type(error).__name__}: {error}")
        else:
            yield Ended(trial, "stopped" if "stopped" in found.result else "done", found.result)
        for name in HEAVY:
            shutil.rmtree(trial.folder / name, ignore_errors=True)


def judging(metric: str, report: Callable[[int, float], bool], how: str) -> Judge:
    """A judge that reports the metric of every validation and stops the run where the report says so."""

    def judge(step: int, measured: Any) -> str | None:
        return f"{how}: not among the best at this step" if report(step, measured[metric]) else None

    return judge
