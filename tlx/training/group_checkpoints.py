"""The checkpoints of runs that train together: one unit for all runs of a group.

The numbers of a run depend, beyond rounding after many steps, on how many runs its program trains. So a checkpoint of
a group holds all of its runs at one step, in one orbax checkpoint, and no other group of runs reads it: a kill at any
moment leaves either the checkpoint before or the whole new one.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tlx import config, partition, processes
from tlx.files import run_files
from tlx.training.active_run import CHECKPOINTS, ActiveRun, moved_part
from tlx.training.checkpoint import JUDGED, Checkpoints, Saved
from tlx.training.step import Parts, TrainState
from tlx.training.vectorize import Engine
from tlx.trees import flatten, nest

if TYPE_CHECKING:
    from tlx.training.loop import How


class GroupCheckpoints:
    """The checkpoints of runs that train in one program, in their order. Sets the step `begin` of each run: the step of
    the newest checkpoint of exactly these runs, or 0.

    The checkpoint of a single run is in its own folder; the checkpoint of several is in the folder of the first, under
    a name that follows from all recipes. `how` says which of them stay.
    """

    def __init__(self, runs: Sequence[ActiveRun], how: "How"):
        self.runs = list(runs)
        self.cells = [config.fingerprint(run.recipe) for run in runs]
        first = self.runs[0]
        if len(self.runs) == 1:
            self.checkpoints = first.checkpoints
        else:
            self.checkpoints = Checkpoints(first.path / CHECKPOINTS / name_of(self.cells))
        self.checkpoints.keep_last, self.checkpoints.keep_best = how.keep_last, how.keep_best
        self.begin = processes.decided(lambda: self.checkpoints.latest() or 0)
        for run in self.runs:
            run.begin = self.begin

    def save(self, engine: Engine, state: TrainState, measured: bool) -> None:
        """Start to write one checkpoint of all runs, also of those that have failed. `measured` says that the runs were
        measured at this step."""
        # A run that resumes here does not take the steps before it again.
        for run in self.runs:
            run.records.flush(sync=True)
        states = [engine.fetch(state, n) for n in range(len(self.runs))]
        saved = [run.saved(of_run) for run, of_run in zip(self.runs, states, strict=True)]
        step = int(states[0].step)
        judged = [run.judged() if measured and is_measured(run, step) else None for run in self.runs]
        if len(saved) == 1:
            self.checkpoints.save(step, saved[0]._replace(notes=saved[0].notes | {JUDGED: judged}))
            return
        best = any(of_run.notes["best"] for of_run in saved)
        self.checkpoints.save(
            step,
            Saved(
                state=by_place([of_run.state for of_run in saved]),
                # A run that failed before its first measurement has no best state; its last state stands in for it.
                best=by_place([of_run.best or self.best_of(n, states[n]) for n, of_run in enumerate(saved)])
                if best
                else {},
                notes={"best": best, "arms": by_place([of_run.notes for of_run in saved]), JUDGED: judged},
            ),
        )

    def restore(self, initial: Sequence[TrainState]) -> list[TrainState]:
        """Return the states of all runs at the group's newest checkpoint."""
        runs = self.runs
        states_to_read = [run.checkpoint_part(state) for run, state in zip(runs, initial, strict=True)]
        best = [self.best_of(n, state) for n, state in enumerate(initial)]
        if len(runs) == 1:
            saved = self.checkpoints.restore(states_to_read[0], best[0], self.begin, self.check)
            return [runs[0].restored(saved, initial[0])]
        saved = self.checkpoints.restore(by_place(states_to_read), by_place(best), self.begin, self.check)
        states = []
        for n, (run, state) in enumerate(zip(runs, initial, strict=True)):
            place = f"{n:03d}"
            of_run = Saved(saved.state[place], saved.best.get(place, {}), saved.notes["arms"][place])
            states.append(run.restored(of_run, state))
        return states

    def check(self, notes: Any) -> None:
        """Raise ValueError where the notes of a checkpoint are those of other recipes."""
        notes_of_runs = notes["arms"].values() if "arms" in notes else [notes]
        for run, note in zip(self.runs, notes_of_runs, strict=True):
            run_files.check_fingerprint(run.path, note, CHECKPOINTS)

    def best_of(self, n: int, state: TrainState) -> Any:
        """Return the best state of run n in the form of a checkpoint, with the numbers of `state`."""
        return moved_part(state.variables, self.runs[n].ready.trainable)._asdict()

    def wait(self) -> None:
        """Wait until the newest checkpoint is on the disk."""
        self.checkpoints.wait()

    def close(self) -> None:
        """Wait until all is on disk, and close the checkpoints."""
        if len(self.runs) > 1:
            self.checkpoints.close()


def is_measured(run: ActiveRun, step: int) -> bool:
    """Return whether the last measurement of a run is that of this step, at which its group was measured."""
    return bool(run.validated) and run.failed is None and run.ended in (None, step)


def name_of(cells: Sequence[str]) -> str:
    """Return the name of the checkpoints of the recipes with these fingerprints, in this order.

    >>> name_of(["a", "b"]) != name_of(["b", "a"])
    True
    """
    return f"group-{len(cells)}-{hashlib.sha256(' '.join(cells).encode()).hexdigest()[:16]}"


def by_place(values: Sequence[Any]) -> dict[str, Any]:
    """Return the values by the place of their run in the group."""
    return {f"{n:03d}": value for n, value in enumerate(values)}


def best_state(run: ActiveRun, state: TrainState, parts: Parts, step: int) -> tuple[TrainState, int]:
    """Return the state whose numbers are reported, and its step; `state` is the one after `step`."""
    best = run.best
    if best.variables is None or best.step == step:
        return state, step
    params = nest(flatten(state.variables.params) | flatten(best.variables.params))
    trainable, frozen = partition.split(params, parts.partition)
    return state._replace(trainable=trainable, frozen=frozen, stats=best.variables.stats), best.step
