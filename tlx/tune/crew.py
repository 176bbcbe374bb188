"""A worker of a search: claims the next trial, executes it, and records the outcome."""

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from tlx import config, processes
from tlx.records.studies import CELLS, CLAIMS
from tlx.sharding import Mesh
from tlx.training.loop import How
from tlx.training.run_many import CELLS as CELLS_HOW
from tlx.tune import journal
from tlx.tune.attempt import Ended, Judge, Trial, execute
from tlx.tune.journal import UP_FRONT
from tlx.tune.settings import Settings, alone
from tlx.tune.space import Point, cell


class Crew:
    """One of `share` workers of a search, which communicate through the journal and the claims."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        pruner: Any,
        trials: int,
        together: int,
        share: int,
        quiet: bool,
        mesh: Mesh = Mesh(),
        how: How = CELLS_HOW,
    ):
        self.how = how
        self.folder, self.settings, self.trials, self.quiet, self.mesh = folder, settings, trials, quiet, mesh
        # A judged trial runs alone, so a larger group would only block it for the other workers.
        self.together = together if settings.sampler in UP_FRONT and settings.pruner == "none" else 1
        with alone(folder):
            self.storage = journal.open_storage(folder)
            with journal.readable(folder):
                self.study = journal.open_study(self.storage, settings.direction, pruner)
            journal.check_trials(self.study, settings.space, folder)
            if settings.sampler in UP_FRONT:
                points = journal.points(settings.sampler, settings.space, settings.seed, trials)
                new = points[len(self.study.get_trials(deepcopy=False)) :]
                largest = max(1, min(self.together, math.ceil(len(new) / share)))
                # The others of several processes may see an older state of the journal.
                if processes.leads():
                    journal.enqueue(self.study, settings.space, new, largest)
                self.trials = len(points)

    def work(self, once: bool = False) -> None:
        """Execute trials until the requested number has been executed or is being executed by other workers; `once`
        executes only the next trials that train together."""
        while True:
            with contextlib.ExitStack() as claims:
                trials = self.drawn(claims)
                if not trials:
                    return
                self.attempt(trials)
            if once:
                return

    def drawn(self, claims: contextlib.ExitStack) -> list[tuple[Trial, Any]]:
        """Return the next trials, as `next` does. The first of several processes draws and claims them; the others get
        them without a handle."""
        pairs: list[tuple[Trial, Any]] = []
        space = self.settings.space

        def draw() -> list[Any]:
            pairs.extend(self.next(claims))
            return [
                (trial.number, journal.to_params(space, trial.point), trial.judge is not None, trial.ended)
                for trial, _ in pairs
            ]

        drawn = processes.decided(draw)
        return pairs or [(self.followed(number, params, *rest), None) for number, params, *rest in drawn]

    def followed(self, number: int, params: dict[str, Any], judged: bool, ended: bool) -> Trial:
        """Return a trial that another process has drawn, which also judges it."""
        point = journal.to_point(self.settings.space, params)
        recipe_cell = cell(self.settings.recipe, point)
        folder = self.folder / CELLS / recipe_cell.fingerprint
        return Trial(number, point, recipe_cell.recipe, folder, (lambda step, metrics: True) if judged else None, ended)

    def attempt(self, pairs: Sequence[tuple[Trial, Any]]) -> None:
        handles = {trial.number: handle for trial, handle in pairs}

        def report(ended: Ended) -> None:
            self.record(handles[ended.trial.number], ended)

        execute([trial for trial, _ in pairs], report, self.mesh, self.how)

    def next(self, claims: contextlib.ExitStack) -> list[tuple[Trial, Any]]:
        """Return the next trials with Optuna's handles, under claims that last as long as `claims`.

        Trials that a dead worker left come first. Trials that are known beforehand come in the groups in which they
        were added.
        """
        with alone(self.folder):
            recorded = self.study.get_trials(deepcopy=False)
            running = [trial.number for trial in recorded if trial.state.name == "RUNNING"]
            waiting = [trial.number for trial in recorded if trial.state.name == "WAITING"]
            if self.settings.sampler in UP_FRONT:
                for number in [*running, *waiting]:
                    if trials := self.take_group(recorded, journal.group_of(recorded, number), claims):
                        return trials
                return []
            for number in [*running, *[None] * (self.trials - len(recorded))]:
                if trials := self.take(number, claims):
                    return trials
        return []

    def take_group(self, every: Sequence[Any], group: Sequence[int], claims: contextlib.ExitStack) -> list[Any]:
        """Return all trials of a group, also ended ones, because without them the numbers of the others would differ.

        The list is empty if another worker runs one of their recipes now. A recipe that occurs twice is returned once.
        """
        settings, members = self.settings, dict[str, tuple[int, Any]]()
        for number in group:
            recipe_cell = cell(settings.recipe, self.point_of(number))
            pending = every[number].state.name in ("RUNNING", "WAITING")
            earlier = members.get(recipe_cell.fingerprint)
            if earlier is None or (pending and every[earlier[0]].state.name not in ("RUNNING", "WAITING")):
                members[recipe_cell.fingerprint] = number, recipe_cell
        with contextlib.ExitStack() as locks:
            for fingerprint in members:
                if not self.claim(fingerprint, locks):
                    # The trial stays as it is: the worker that ends that run continues this trial, and finds it done.
                    return []
            claims.push(locks.pop_all())
        return [self.prepare(every[number], recipe_cell) for number, recipe_cell in members.values()]

    def point_of(self, number: int) -> Point:
        """Return the point of a trial that is known beforehand."""
        settings = self.settings
        return journal.points(settings.sampler, settings.space, settings.seed, number + 1)[number]

    def prepare(self, trial: Any, recipe_cell: Any) -> tuple[Trial, Any]:
        """Return a recorded trial to execute, with its handle, or without a handle if it has ended."""
        settings, number = self.settings, trial.number
        folder, state = self.folder / CELLS / recipe_cell.fingerprint, trial.state.name
        if state not in ("RUNNING", "WAITING"):
            return Trial(number, self.point_of(number), recipe_cell.recipe, folder, ended=True), None
        self.study.sampler = journal.sampler_of(settings.sampler, settings.seed, number)
        handle = (journal.begin if state == "WAITING" else journal.again)(self.study, self.storage, number)
        point = journal.suggested(handle, settings.space)
        return Trial(number, point, recipe_cell.recipe, folder, self.judged(handle)), handle

    def take(self, number: int | None, claims: contextlib.ExitStack) -> list[tuple[Trial, Any]]:
        """Return the trial of that number, or a new one; an empty list if another worker runs that recipe now."""
        settings, count = self.settings, len(self.study.get_trials(deepcopy=False))
        self.study.sampler = journal.sampler_of(settings.sampler, settings.seed, count if number is None else number)
        handle = self.study.ask() if number is None else journal.again(self.study, self.storage, number)
        point = journal.suggested(handle, settings.space)
        recipe_cell = cell(settings.recipe, point)
        if not self.claim(recipe_cell.fingerprint, claims):
            return []
        folder = self.folder / CELLS / recipe_cell.fingerprint
        return [(Trial(handle.number, point, recipe_cell.recipe, folder, self.judged(handle)), handle)]

    def claim(self, fingerprint: str, claims: contextlib.ExitStack) -> bool:
        """Return whether this worker may now run the recipe of that fingerprint alone, until `claims` ends."""
        lock = FileLock(self.folder / CLAIMS / f"{fingerprint}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        claims.callback(lock.release)
        return True

    def judged(self, handle: Any) -> Judge | None:
        return self.judge_of(handle) if self.settings.pruner != "none" else None

    def record(self, handle: Any, ended: Ended) -> None:
        """Record the outcome of a trial, and print it."""
        value = ended.result["metrics"][f"validation/{self.settings.metric}"] if ended.result else None
        error = ended.error
        if value is not None and not np.isfinite(value):
            error, value = f"validation/{self.settings.metric} is {value}", None
        if ended.result:
            handle.set_user_attr("seconds", round(sum(ended.result["seconds"].values()), 3))
        if error:
            handle.set_user_attr("error", error)
        elif ended.state == "stopped":
            handle.set_user_attr("value", value)
        journal.close(self.study, handle.number, "failed" if error else ended.state, value)
        if not self.quiet:
            print(self.line(ended, value, error), file=sys.stderr, flush=True)

    def line(self, ended: Ended, value: float | None, error: str | None) -> str:
        names = " ".join(f"{path}={config.source(value_at)}" for path, value_at in ended.trial.point.items())
        outcome = f"failed, {error}" if error else f"validation/{self.settings.metric} {value:.4f}"
        if ended.state == "stopped" and ended.result:
            outcome += f", stopped at step {ended.result['steps']}"
        return f"{ended.trial.number + 1}/{self.trials}  {names}: {outcome}"

    def judge_of(self, handle: Any) -> Judge:
        """Return a judge that reports the metrics, and stops the run if the pruner would."""
        reported = set(self.study.get_trials(deepcopy=False)[handle.number].intermediate_values)

        def judge(step: int, measured: Mapping[str, float]) -> bool:
            # A resumed run may repeat measurements that are recorded already.
            if step not in reported:
                handle.report(measured[self.settings.metric], step)
            return not handle.should_prune()

        return judge
