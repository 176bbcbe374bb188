"""Run the trials of a search on a cluster: a task is the next trial, or the next group of trials."""

import os
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tlx import config
from tlx.records.log import METRICS
from tlx.records.studies import CELLS
from tlx.study.clusters.base import Cluster, TaskOrder
from tlx.study.clusters.drive import Work
from tlx.tune import journal
from tlx.tune.crew import Crew
from tlx.tune.journal import UP_FRONT
from tlx.tune.reading import TrialRecord, record


def workers_of(cluster: Cluster, trials: int) -> int:
    """Return how many workers of a cluster share a search.

    Raises:
        ValueError: The user names no number, and the cluster does not know how many it has room for.
    """
    workers = cluster.limit or cluster.room()
    if not workers:
        raise ValueError(
            "the number of trials that run at once decides which points a search tries, and this cluster does not know "
            "how many it has room for; set --jobs N"
        )
    return min(workers, trials)


class SearchWork(Work):
    """The open trials of a search. Its tasks have numbers, because each of them takes the next open trials."""

    def __init__(self, worker: Sequence[str], crew: Crew, share: int):
        self.worker, self.crew, self.share = (*worker, "--share", str(share), "--part", "next"), crew, share
        self.directory = os.path.abspath(crew.folder)
        self.ended = {trial.number for trial in self.trials() if not is_open(trial)}
        # For each task, the number of trials that had ended when it was submitted.
        self.marks: dict[Hashable, int] = {}

    def trials(self) -> list[Any]:
        """Return the trials of the journal."""
        return list(self.crew.study.get_trials(deepcopy=False))

    def remaining(self) -> int:
        """Return the number of trials that have not ended."""
        trials = self.trials()
        return sum(map(is_open, trials)) + max(self.crew.trials - len(trials), 0)

    def orders(self, running: Mapping[Hashable, Any]) -> Iterator[tuple[Hashable, TaskOrder]]:
        """Yield as many tasks as there are open trials, or groups of them."""
        trials = self.trials()
        parts = {tuple(journal.group_of(trials, trial.number)) for trial in trials if is_open(trial)}
        new = 0 if self.crew.settings.sampler in UP_FRONT else max(self.crew.trials - len(trials), 0)
        for key in range(min(self.share, len(parts) + new)):
            if key not in running and len(running) < len(parts) + new:
                self.marks[key] = len(trials) - sum(map(is_open, trials))
                yield key, TaskOrder(self.worker, os.getcwd(), self.directory, "", version("tlx"))

    def progress(self, key: Hashable) -> list[int]:
        """Return the number of ended trials, and the size of all logs: a task may continue any trial."""
        logs = [path.stat().st_size for path in Path(self.directory, CELLS).glob(f"*/{METRICS}")]
        return [self.crew.trials - self.remaining(), sum(logs)]

    def effective(self, key: Hashable) -> bool:
        """Return whether a trial has ended since the task was submitted."""
        trials = self.trials()
        return len(trials) - sum(map(is_open, trials)) > self.marks.get(key, -1)

    def look(self, running: Mapping[Hashable, Any]) -> None:
        """Print the trials that have ended."""
        trials = self.trials()
        for trial in trials:
            if not is_open(trial) and trial.number not in self.ended:
                self.ended.add(trial.number)
                ended = record(self.crew.folder, self.crew.settings, trial)
                count = sum(other.state.name == "RUNNING" for other in trials)
                waiting = self.crew.trials - len(self.ended) - count
                self.say(f"{self.line(ended)}; {count} running, {max(waiting, 0)} waiting")

    def line(self, trial: TrialRecord) -> str:
        """Return how a trial ended."""
        names = " ".join(f"{path}={config.source(value)}" for path, value in trial.point.items())
        metric = self.crew.settings.metric
        value = f"validation/{metric} {trial.value:.4f}" if trial.value is not None else trial.state
        return f"{trial.number + 1}/{self.crew.trials}  {names}: {f'failed, {trial.error}' if trial.error else value}"

    def say(self, text: str) -> None:
        """Print a line, unless the search is quiet."""
        if not self.crew.quiet:
            print(text, file=sys.stderr, flush=True)


def is_open(trial: Any) -> bool:
    """Return whether a trial of Optuna has not ended."""
    return trial.state.name in ("RUNNING", "WAITING")
