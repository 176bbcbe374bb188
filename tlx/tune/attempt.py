"""Run the trials of a search: the definition of a trial, and the function that executes several together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from tlx import processes
from tlx.files import run_files
from tlx.files.durable import StorageError
from tlx.recipe import Recipe
from tlx.records.run_directory import RECIPE
from tlx.sharding import Mesh
from tlx.training.loop import How, Run, run
from tlx.training.run_many import CELLS, run_many
from tlx.trees import Json
from tlx.tune.space import Point

State = Literal["done", "stopped", "failed"]
Judge = Callable[[int, Mapping[str, float]], bool]


class Trial(NamedTuple):
    """A trial with its `number`, which only this worker executes: the `recipe` at a `point` of the space, to run in
    `folder`.

    `judge` may stop it. A trial that has `ended` already is included for the other trials of its group: its outcome is
    known.
    """

    number: int
    point: Point
    recipe: Recipe
    folder: Path
    judge: Judge | None = None
    ended: bool = False


class Ended(NamedTuple):
    """Outcome of a trial: the run's `result` if it was "done" or "stopped", an `error` if it has "failed"."""

    trial: Trial
    state: State
    result: Json | None = None
    error: str | None = None


def execute(trials: Sequence[Trial], report: Callable[[Ended], None], mesh: Mesh = Mesh(), how: How = CELLS) -> None:
    """Run the trials without the test split, and report each as it ends.

    The trials were drawn without knowledge of one another, so trials whose recipes differ only in numbers train
    together, unless they are judged (see `tlx.training.run_many`). The groups follow from the given trials. An
    interrupted run continues. A failed run is reported and stops no other run. A full or failing storage is not a
    failure of a trial.

    Raises:
        durable.StorageError: The storage is full or fails.
    """

    def ended(trial: Trial, outcome: Run | Exception) -> None:
        processes.decided(lambda: settle(trial, outcome))

    def settle(trial: Trial, outcome: Run | Exception) -> None:
        if isinstance(outcome, StorageError):
            raise outcome
        if trial.ended:
            return
        if isinstance(outcome, Exception):
            report(Ended(trial, "failed", error=f"{type(outcome).__name__}: {outcome}"))
        else:
            result = outcome.result
            # A run that lost patience is complete.
            short = result["steps"] < result["asked_steps"] and result.get("stopped") != "patience"
            report(Ended(trial, "stopped" if short else "done", result))
        # The run has ended, so its checkpoints are no longer needed.
        run_files.delete(trial.folder, checkpoints_only=True)

    processes.decided(lambda: make_way(trials))
    how = replace(how, test=False, mesh=mesh)
    judged = [trial for trial in trials if trial.judge is not None]
    free = [trial for trial in trials if trial.judge is None]
    run_many(
        [trial.recipe for trial in free], [trial.folder for trial in free], how=how,
        on_outcome=lambda n, outcome: ended(free[n], outcome),
    )  # fmt: skip
    for trial in judged:
        judging = replace(how, judge=trial.judge)
        # Whatever a recipe of the space may raise, the search outlives it.
        ended(trial, processes.attempt(partial(run, trial.recipe, trial.folder, resume=True, how=judging)))


def make_way(trials: Sequence[Trial]) -> None:
    """Remove the files that a worker may have left which died before it claimed the folder."""
    for trial in trials:
        if not (trial.folder / RECIPE).is_file():
            run_files.delete(trial.folder)
