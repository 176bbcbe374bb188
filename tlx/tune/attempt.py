"""The runs of a search's trials: what one is, and the one function that executes some of them together."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tlx.checkpoint import DiskFull
from tlx.recipe import Recipe
from tlx.train import How, run
from tlx.tune.space import Point

State = Literal["done", "stopped", "failed"]
Judge = Callable[[int, Mapping[str, float]], bool]


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
        how = How(quiet=True, leave="learned", test=False, judge=trial.judge)
        try:
            found = run(trial.recipe, trial.folder, resume=True, how=how)
        except DiskFull:
            raise
        except Exception as error:  # whatever a recipe of the space may raise, the search outlives it
            yield Ended(trial, "failed", error=f"{type(error).__name__}: {error}")
        else:
            short = found.result["steps"] < found.result["asked_steps"]
            yield Ended(trial, "stopped" if short else "done", found.result)
            # Nobody goes on with it.
            shutil.rmtree(trial.folder / "checkpoints", ignore_errors=True)
