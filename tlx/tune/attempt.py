"""The runs of a search's trials: what one is, and the one function that executes some of them together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tlx.files import run_files
from tlx.files.durable import StorageError
from tlx.recipe import Recipe
from tlx.records.run_directory import RECIPE
from tlx.sharding import Mesh
from tlx.training.loop import Run, run
from tlx.training.run_many import CELLS, run_many
from tlx.tune.space import Point

State = Literal["done", "stopped", "failed"]
Judge = Callable[[int, Mapping[str, float]], bool]


class Trial(NamedTuple):
    """A trial of that `number`, which this worker alone executes: the `recipe` at a `point` of the space, to run in
    `folder`. `judge` may stop it. One that has `ended` already is here for the other trials of its group: its outcome
    is known."""

    number: int
    point: Point
    recipe: Recipe
    folder: Path
    judge: Judge | None = None
    ended: bool = False


class Ended(NamedTuple):
    """What came of a trial: the run's `result` where it was "done" or "stopped", an `error` where it has "failed"."""

    trial: Trial
    state: State
    result: dict[str, Any] | None = None
    error: str | None = None


def execute(trials: Sequence[Trial], tell: Callable[[Ended], None], mesh: Mesh = Mesh()) -> None:
    """Runs the trials, none of which looks at the test split, and tells of each as it ends.

    They were drawn without knowledge of one another, so those whose recipes differ in numbers alone train together,
    unless somebody judges them (see `tlx.training.run_many`); the groups follow from the trials that are given. An
    interrupted run continues; one that fails is reported and stops no other. A full or failing storage is no failure
    of a trial: `durable.StorageError` is raised.
    """

    def ended(trial: Trial, outcome: Run | Exception) -> None:
        if isinstance(outcome, StorageError):
            raise outcome
        if trial.ended:
            return
        if isinstance(outcome, Exception):
            tell(Ended(trial, "failed", error=f"{type(outcome).__name__}: {outcome}"))
        else:
            short = outcome.result["steps"] < outcome.result["asked_steps"]
            tell(Ended(trial, "stopped" if short else "done", outcome.result))
        # Nobody goes on with it.
        run_files.delete(trial.folder, checkpoints_only=True)

    for trial in trials:
        # A worker that died before the folder was a run's may have left something in it.
        if not (trial.folder / RECIPE).is_file():
            run_files.delete(trial.folder)
    how = replace(CELLS, test=False, mesh=mesh)
    judged = [trial for trial in trials if trial.judge is not None]
    free = [trial for trial in trials if trial.judge is None]
    run_many(
        [trial.recipe for trial in free], [trial.folder for trial in free], how=how,
        done=lambda n, outcome: ended(free[n], outcome),
    )  # fmt: skip
    for trial in judged:
        try:
            found: Run | Exception = run(trial.recipe, trial.folder, resume=True, how=replace(how, judge=trial.judge))
        except Exception as error:  # whatever a recipe of the space may raise, the search outlives it
            found = error
        ended(trial, found)
