"""A worker of a search: takes the next trial under a claim, has it executed, writes down what came of it."""

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from tlx import config
from tlx.records.studies import CELLS, CLAIMS
from tlx.sharding import Mesh
from tlx.tune import journal
from tlx.tune.asked import Asked, alone
from tlx.tune.attempt import Ended, Judge, Trial, execute
from tlx.tune.journal import UP_FRONT
from tlx.tune.space import Point, cell


class Crew:
    """One worker of a search, of as many as `share` it, which knows of the others by the journal and the claims."""

    def __init__(
        self,
        folder: Path,
        asked: Asked,
        pruner: Any,
        trials: int,
        together: int,
        share: int,
        quiet: bool,
        mesh: Mesh = Mesh(),
    ):
        self.folder, self.asked, self.trials, self.quiet, self.mesh = folder, asked, trials, quiet, mesh
        # What is judged runs by itself, and would only be kept from the others.
        self.together = together if asked.sampler in UP_FRONT and asked.pruner == "none" else 1
        with alone(folder):
            self.storage = journal.open_storage(folder)
            with journal.readable(folder):
                self.study = journal.open_study(self.storage, asked.direction, pruner)
            journal.check_trials(self.study, asked.space, folder)
            if asked.sampler in UP_FRONT:
                points = journal.points(asked.sampler, asked.space, asked.seed, trials)
                new = points[len(self.study.get_trials(deepcopy=False)) :]
                largest = max(1, min(self.together, math.ceil(len(new) / share)))
                journal.enqueue(self.study, asked.space, new, largest)
                self.trials = len(points)

    def work(self) -> None:
        """Tries points until so many have been tried, or are being tried by others."""
        while True:
            with contextlib.ExitStack() as claims:
                taken = self.next(claims)
                if not taken:
                    return
                self.attempt(taken)

    def attempt(self, taken: Sequence[tuple[Trial, Any]]) -> None:
        handles = {trial.number: handle for trial, handle in taken}

        def tell(ended: Ended) -> None:
            self.tell(handles[ended.trial.number], ended)

        execute([trial for trial, _ in taken], tell, self.mesh)

    def next(self, claims: contextlib.ExitStack) -> list[tuple[Trial, Any]]:
        """The next trials with Optuna's handles of them, under claims that last as long as `claims`: first those that a
        worker left when it died. Trials that are known beforehand come in the groups in which they were added."""
        with alone(self.folder):
            every = self.study.get_trials(deepcopy=False)
            left = [trial.number for trial in every if trial.state.name == "RUNNING"]
            waiting = [trial.number for trial in every if trial.state.name == "WAITING"]
            if self.asked.sampler in UP_FRONT:
                for number in [*left, *waiting]:
                    if found := self.take_group(every, journal.group_of(every, number), claims):
                        return found
                return []
            for number in [*left, *[None] * (self.trials - len(every))]:
                if found := self.take(number, claims):
                    return found
        return []

    def take_group(self, every: Sequence[Any], group: Sequence[int], claims: contextlib.ExitStack) -> list[Any]:
        """All trials of a group, those that have ended too, for without them the numbers of the others would differ;
        none where somebody runs one of their recipes now. A recipe that comes twice is taken once."""
        asked, members = self.asked, dict[str, tuple[int, Any]]()
        for number in group:
            made = cell(asked.recipe, self.point_of(number))
            pending = every[number].state.name in ("RUNNING", "WAITING")
            known = members.get(made.fingerprint)
            if known is None or (pending and every[known[0]].state.name not in ("RUNNING", "WAITING")):
                members[made.fingerprint] = number, made
        with contextlib.ExitStack() as held:
            for fingerprint in members:
                if not self.claim(fingerprint, held):
                    # Left as it is: whoever ends that run takes this one up, and finds it done.
                    return []
            claims.push(held.pop_all())
        return [self.given(every[number], made) for number, made in members.values()]

    def point_of(self, number: int) -> Point:
        """The point of a trial that is known beforehand."""
        asked = self.asked
        return journal.points(asked.sampler, asked.space, asked.seed, number + 1)[number]

    def given(self, trial: Any, made: Any) -> tuple[Trial, Any]:
        """A recorded trial to execute, with its handle; without one, if it has ended."""
        asked, number = self.asked, trial.number
        folder, state = self.folder / CELLS / made.fingerprint, trial.state.name
        if state not in ("RUNNING", "WAITING"):
            return Trial(number, self.point_of(number), made.recipe, folder, ended=True), None
        self.study.sampler = journal.sampler_of(asked.sampler, asked.seed, number)
        handle = (journal.begin if state == "WAITING" else journal.again)(self.study, self.storage, number)
        point = journal.suggested(handle, asked.space)
        return Trial(number, point, made.recipe, folder, self.judged(handle)), handle

    def take(self, number: int | None, claims: contextlib.ExitStack) -> list[tuple[Trial, Any]]:
        """The trial of that number, or a new one; none where somebody runs that recipe now."""
        asked, count = self.asked, len(self.study.get_trials(deepcopy=False))
        self.study.sampler = journal.sampler_of(asked.sampler, asked.seed, count if number is None else number)
        handle = self.study.ask() if number is None else journal.again(self.study, self.storage, number)
        point = journal.suggested(handle, asked.space)
        made = cell(asked.recipe, point)
        if not self.claim(made.fingerprint, claims):
            return []
        folder = self.folder / CELLS / made.fingerprint
        return [(Trial(handle.number, point, made.recipe, folder, self.judged(handle)), handle)]

    def claim(self, fingerprint: str, claims: contextlib.ExitStack) -> bool:
        """Whether this worker alone may now run the recipe of that fingerprint, until `claims` ends."""
        lock = FileLock(self.folder / CLAIMS / f"{fingerprint}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        claims.callback(lock.release)
        return True

    def judged(self, handle: Any) -> Judge | None:
        return self.judge_of(handle) if self.asked.pruner != "none" else None

    def tell(self, handle: Any, ended: Ended) -> None:
        """Writes down what came of a trial, and says it."""
        value = ended.result["metrics"][f"validation/{self.asked.metric}"] if ended.result else None
        error = ended.error
        if value is not None and not np.isfinite(value):
            error, value = f"validation/{self.asked.metric} is {value}", None
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
        names = " ".join(f"{path}={config.source(given)}" for path, given in ended.trial.point.items())
        what = f"failed, {error}" if error else f"validation/{self.asked.metric} {value:.4f}"
        if ended.state == "stopped" and ended.result:
            what += f", stopped at step {ended.result['steps']}"
        return f"{ended.trial.number + 1}/{self.trials}  {names}: {what}"

    def judge_of(self, handle: Any) -> Judge:
        """A judge that reports what was measured, and stops the run where the pruner would."""
        known = set(self.study.get_trials(deepcopy=False)[handle.number].intermediate_values)

        def judge(step: int, measured: Mapping[str, float]) -> bool:
            # A run that goes on may measure again what is known.
            if step not in known:
                handle.report(measured[self.asked.metric], step)
            return not handle.should_prune()

        return judge
