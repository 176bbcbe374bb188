"""Keep a cluster busy with orders until all work is done: submit, watch, and submit again what was lost."""

import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

from tlx.files.durable import StorageError
from tlx.study.clusters.base import INTERRUPTED, Cluster, Ending, TaskOrder
from tlx.study.work import NO_STORAGE

# How often a task may lose its worker without any progress.
TRIES = 3
# Seconds between two looks at the tasks, and between two looks at the machines of the cluster.
PAUSE, LOOK = 0.25, 5.0
# Seconds until a task that had no effect is submitted again, and how often: another machine may hold a lock of a dead
# worker, or show a file late.
DELAY, FRUITLESS = 5.0, 12
# Seconds during which no machine may be able to run a task, after the start.
GRACE = 60.0
# Seconds for the tasks to end after their work is done, and to save their state after Ctrl-C.
LEAVING, SAVING = 10.0, 60.0


class Work(Protocol):
    """The work that a cluster does, in parts that have keys."""

    directory: str

    def remaining(self) -> int:
        """Return the number of cells or trials that are not done."""

    def orders(self, running: Mapping[Hashable, Any]) -> Iterator[tuple[Hashable, TaskOrder]]:
        """Yield the parts that no task of `running` and no other process executes."""

    def progress(self, key: Hashable) -> list[int]:
        """Return numbers that change when a part makes progress."""

    def effective(self, key: Hashable) -> bool:
        """Return whether the task of a part that has ended had an effect."""

    def look(self, running: Mapping[Hashable, Any]) -> None:
        """Show the progress."""

    def say(self, text: str) -> None:
        """Print a line."""


class LostTasks:
    """How often the parts of the work lost their worker, and when they may run again."""

    def __init__(self, work: Work):
        self.work = work
        self.counts: Counter[Hashable] = Counter()
        self.fruitless: Counter[Hashable] = Counter()
        self.marks: dict[Hashable, list[int]] = {}
        self.after: dict[Hashable, float] = {}
        self.lines: dict[Hashable, str] = {}

    def ready(self, key: Hashable) -> bool:
        """Return whether a part may run now."""
        return self.counts[key] < TRIES and time.monotonic() >= self.after.get(key, 0.0)

    def exhausted(self, keys: Iterable[Hashable]) -> bool:
        """Return whether there are parts that may run, and all of them have lost their worker too often."""
        counts = [self.counts[key] for key in keys]
        return bool(counts) and min(counts) >= TRIES

    def add(self, key: Hashable, ending: Ending) -> None:
        """Note how a task ended.

        Raises:
            StorageError: The worker could not write.
            ValueError: The worker refused the order, as every other one would.
            ChildProcessError: The tasks of a part end without an effect.
        """
        if ending.code == 0:
            self.counts.pop(key, None)
            self.fruitless[key] += 1
            if self.work.effective(key):
                del self.fruitless[key]
            elif self.fruitless[key] >= FRUITLESS:
                raise ChildProcessError(
                    f"tasks end without an error, but {self.work.directory} does not contain their results; set --out "
                    "to a directory on a disk that all machines share"
                )
            else:
                self.after[key] = time.monotonic() + DELAY
        elif ending.code is None or ending.code == INTERRUPTED:
            mark = self.work.progress(key)
            self.counts[key] = 1 if mark != self.marks.get(key) else self.counts[key] + 1
            self.marks[key], self.lines[key] = mark, ending.line or "its worker was stopped"
            again = f"it runs again ({self.counts[key]} of {TRIES - 1} times without progress)"
            self.work.say(
                f"note: a task was lost ({self.lines[key]}); "
                + (again if self.counts[key] < TRIES else f"it does not run again, after {TRIES} times")
            )
        elif ending.code == NO_STORAGE:
            raise StorageError(
                f"the workers could not write {self.work.directory}", "free some space or make it writable",
                "run the same command again",
            )  # fmt: skip
        else:
            raise ValueError(ending.line or f"a worker ended with exit code {ending.code} and no message")


def drive(cluster: Cluster, work: Work) -> None:
    """Execute the work on a connected cluster; return when none remains. However this ends, its tasks end too.

    Raises:
        ValueError: The cluster cannot run a task, or refuses it.
        ChildProcessError: Parts of the work lost their workers too often.
    """
    losses, tasks = LostTasks(work), dict[Hashable, Any]()
    if lack := cluster.lack():
        raise ValueError(lack)
    for note in cluster.notes():
        work.say(f"note: {note}")
    machines = Machines(cluster)
    try:
        while work.remaining():
            offers = (item for item in work.orders(tasks) if losses.ready(item[0]))
            new = dict(islice(offers, None if cluster.limit is None else cluster.limit - len(tasks)))
            if new:
                tasks |= zip(new, cluster.submit(list(new.values()), work.directory), strict=True)
            elif not tasks and losses.exhausted(key for key, _ in work.orders(tasks)):
                break
            time.sleep(PAUSE)
            endings = cluster.ended(list(tasks.values()))
            for key in [key for key, task in tasks.items() if task in endings]:
                losses.add(key, endings[tasks.pop(key)])
            work.look(tasks)
            machines.check()
        wait(cluster, tasks, LEAVING)
    finally:
        for task in tasks.values():
            with suppress(Exception):
                cluster.cancel(task)
        wait(cluster, tasks, SAVING)
    if count := work.remaining():
        line = next(iter(losses.lines.values()), "")
        raise ChildProcessError(
            f"{count} cells are not done, because their workers were lost {TRIES} times without progress ({line}); "
            "everything saved before is intact: run the same command again"
        )


class Machines:
    """Watch whether a machine of the cluster can still run the tasks."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.looked = cluster, time.monotonic()
        self.since: float | None = None

    def check(self) -> None:
        """Raise ChildProcessError where no machine has been able to run a task for some time."""
        now = time.monotonic()
        if now - self.looked < LOOK:
            return
        self.looked = now
        lack = self.cluster.lack()
        self.since = None if not lack else now if self.since is None else self.since
        if self.since is not None and now - self.since > GRACE:
            raise ChildProcessError(f"{lack}; then run the same command again")


def wait(cluster: Cluster, tasks: dict[Hashable, Any], seconds: float) -> None:
    """Wait until the tasks have ended, or the time is over; remove those that have ended."""
    end = time.monotonic() + seconds
    while tasks and time.monotonic() < end:
        endings = cluster.ended(list(tasks.values()))
        for key in [key for key, task in tasks.items() if task in endings]:
            del tasks[key]
        time.sleep(PAUSE if tasks else 0)
