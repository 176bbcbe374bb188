"""Show the progress of a study: the start, one line per finished cell (from any process), and the remaining time."""

import time
from pathlib import Path

from tlx.records import run_directory, studies
from tlx.records.progress import LOG, Bar
from tlx.records.run_directory import RESULT
from tlx.records.studies import CELLS, State
from tlx.report.words import duration
from tlx.study.base import Study
from tlx.study.claims import failure, settled
from tlx.study.sweeps import names_text
from tlx.study.table import spent

STATES: tuple[State, ...] = ("done", "running", "failed", "waiting")


# A look of d seconds is followed by at least LOOKS * d seconds without one.
LOOKS = 50


class Board(Bar):
    """Watch a study's directory from the time `since` on, whichever processes work there."""

    def __init__(self, study: Study, directory: Path, since: float, quiet: bool):
        self.study, self.directory, self.since = study, directory, since
        self.began, self.settled_count = time.perf_counter(), 0
        self.remaining = [name for name in study.by_fingerprint if not (directory / CELLS / name / RESULT).is_file()]
        self.total = len(study.by_fingerprint)
        self.waits, self.next_look = False, 0.0
        # How many cells run on a cluster, and the time when this was last printed.
        self.running: int | None = None
        self.counted = 0.0
        super().__init__("cell", self.total, self.total - len(self.remaining), quiet)

    def begin(self) -> None:
        """Print the question and the number of cells in each state."""
        study = studies.read(self.directory)
        counts = ", ".join(f"{study.counts[state]} {state}" for state in STATES if study.counts[state])
        again = "; failed cells run again" if study.counts["failed"] else ""
        self.say(f"{study.name}: {study.question}\n{self.total} cells in {self.directory}: {counts}{again}")

    def look(self, *, at_once: bool = False) -> None:
        """Print every cell that was settled since the last look. A call soon after a look does nothing, unless
        `at_once`: looking at every cell after every cell would take the square of their number.
        """
        start = time.perf_counter()
        if start < self.next_look and not at_once:
            return
        new = [name for name in self.remaining if settled(self.directory / CELLS / name, self.since)]
        end = time.perf_counter()
        self.next_look = end + LOOKS * (end - start)
        if not new:
            return
        before = self.total - len(self.remaining)
        self.remaining = [name for name in self.remaining if name not in new]
        self.settled_count += len(new)
        # The pace is measured since the start, over all processes.
        seconds = (time.perf_counter() - self.began) / self.settled_count * len(self.remaining)
        remains = f"{self.queue()}about {plain_duration(round(seconds))} remain" if self.remaining else ""
        for number, name in enumerate(new, 1):
            names = names_text(self.study.by_fingerprint[name].names)
            after = f"; {remains}" if remains and number == len(new) else ""
            self.say(f"{before + number}/{self.total}  {names}: {self.outcome(name)}{after}")
        self.move(self.total - len(self.remaining), remains)

    def count(self, running: int) -> None:
        """Show how many cells run on a cluster; in a log, one line per minute at most."""
        changed, self.running = running != self.running, running
        if not (changed and self.remaining):
            return
        done = self.total - len(self.remaining)
        self.move(done, self.queue().removesuffix("; "))
        if time.perf_counter() - self.counted >= LOG:
            self.counted = time.perf_counter()
            self.say(f"{done} cells done, {self.queue().removesuffix('; ')}")

    def queue(self) -> str:
        """Return how many cells of a cluster run and wait, before further words."""
        if self.running is None:
            return ""
        running = min(self.running, len(self.remaining))
        return f"{running} running, {len(self.remaining) - running} waiting; "

    def outcome(self, fingerprint: str) -> str:
        """Return the result of a cell in a few words."""
        path = self.directory / CELLS / fingerprint
        if not (path / RESULT).is_file():
            return f"failed, {(failure(path) or {'error': 'and runs again'})['error']}"
        result = run_directory.read(path)
        seconds = plain_duration(spent(result))
        value = result["metrics"].get(self.study.metric)
        return f"{self.study.metric} {value:.4f}, {seconds}" if value is not None else seconds

    def wait(self) -> None:
        """Print once that other processes run all remaining cells."""
        if not self.waits:
            self.waits = True
            count = len(self.remaining)
            self.say(f"waiting for {count} {'cell' if count == 1 else 'cells'} that other processes run")


def plain_duration(seconds: float) -> str:
    """Return a duration in plain characters, for terminals and logs."""
    return duration(seconds).replace("\N{NO-BREAK SPACE}", " ")
