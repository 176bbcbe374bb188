"""Run the cells of a study on a cluster: each group of cells that train together is a task."""

import os
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tlx.files.durable import StorageError, guarded
from tlx.records.log import METRICS
from tlx.records.studies import CELLS, CLAIMS
from tlx.records.studies.reading import is_locked
from tlx.sharding import Mesh
from tlx.study import groups
from tlx.study.base import Study
from tlx.study.board import Board
from tlx.study.claims import settled
from tlx.study.clusters.base import Cluster, TaskOrder
from tlx.study.clusters.drive import Work, drive
from tlx.study.clusters.entry import identity
from tlx.study.work import AGAIN, NO_STORAGE, listed, run_group
from tlx.training.loop import How
from tlx.training.run_many import CELLS as CELLS_HOW

# Seconds between two counts of the running cells; a count takes at most this share of the time.
PACE, SHARE = 2.0, 0.05


def run_cells(cluster: Cluster, worker: Sequence[str], board: Board, most: int) -> None:
    """Run the remaining cells of a board's study on a cluster.

    Args:
        cluster: the cluster.
        worker: the command that the local runner starts as a worker.
        board: the progress of the study.
        most: the largest number of cells in a group.

    Raises:
        ValueError, ChildProcessError: see `drive`.
    """
    if board.remaining:
        drive(cluster, StudyWork(worker, board, most))


def run_part(
    study: Study,
    directory: Path,
    since: float,
    names: Sequence[str],
    *,
    most: int,
    mesh: Mesh = Mesh(),
    how: How = CELLS_HOW,
) -> None:
    """Run, in the worker of a cluster, one group of cells; return at once if another process runs them all.

    Args:
        study: the study.
        directory: its directory.
        since: cells that failed before this time (seconds since the epoch) run again.
        names: fingerprints; the group has one of them.
        most: the largest number of cells in a group. If the worker decides how a group is divided, it keeps the first
            part, and the others become further tasks.
        mesh: how many devices share a batch of a cell.
        how: how the cells are carried out, apart from the mesh.

    Raises:
        SystemExit: With the code `NO_STORAGE`, if the directory cannot be written.
    """
    cells = {name: cell for name, cell in study.by_fingerprint.items() if name in names}
    try:
        with guarded(directory, AGAIN):
            cells = {name: cell for name, cell in cells.items() if not settled(directory / CELLS / name, since)}
            for group in listed(directory, cells):
                if run_group(study.by_fingerprint, directory, group, since, most, lambda: None, mesh, how):
                    return
    except StorageError:
        raise SystemExit(NO_STORAGE) from None


class StudyWork(Work):
    """The groups of a study, by their fingerprints."""

    def __init__(self, worker: Sequence[str], board: Board, most: int):
        self.worker, self.board, self.most = tuple(worker), board, most
        self.path = board.directory
        self.directory = os.path.abspath(self.path)
        self.identity, self.version = identity(self.path), version("tlx")
        self.counted = 0.0
        self.running = 0

    def remaining(self) -> int:
        """Return the number of cells that are not settled."""
        return len(self.board.remaining)

    def orders(self, running: Mapping[Hashable, Any]) -> Iterator[tuple[Hashable, TaskOrder]]:
        """Yield the groups that no task of `running` and no other process executes."""
        cells = self.board.study.by_fingerprint
        unsettled = {name: cells[name] for name in self.board.remaining}
        waiting = [group for group in listed(self.path, unsettled) if group.cells not in running]
        if not running and not waiting:
            # A cell that could not be opened is in no group.
            groups.record(self.path, cells, self.most)
        for group in waiting:
            if not any(self.is_running(name) for name in group.cells):
                yield group.cells, self.order(group.cells)

    def is_running(self, name: str) -> bool:
        """Return whether a process runs a cell."""
        return is_locked(self.path / CLAIMS / f"{name}.lock")

    def order(self, names: Sequence[str]) -> TaskOrder:
        """Return the order that runs a group."""
        words = "--worker", str(self.board.since), "--part", ",".join(names)
        return TaskOrder((*self.worker, *words), os.getcwd(), self.directory, self.identity, self.version)

    def progress(self, key: Hashable) -> list[int]:
        """Return the number of the group's settled cells, and the sizes of the logs of the others."""
        folders = [self.path / CELLS / name for name in names_of(key)]
        logs = [folder / METRICS for folder in folders if not settled(folder, self.board.since)]
        return [len(folders) - len(logs), *(log.stat().st_size if log.is_file() else 0 for log in logs)]

    def effective(self, key: Hashable) -> bool:
        """Return whether a cell of the group is settled, or the group is divided."""
        names = names_of(key)
        if any(settled(self.path / CELLS / name, self.board.since) for name in names):
            return True
        recorded = groups.read(self.path)
        return recorded is None or all(group.cells != names for group in recorded.groups)

    def look(self, running: Mapping[Hashable, Any]) -> None:
        """Print every cell that is settled, and how many run and wait."""
        start = time.monotonic()
        if start >= self.counted:
            names = {name for key in running for name in names_of(key)}
            self.running = sum(self.is_running(name) for name in self.board.remaining if name in names)
            self.counted = max(start + PACE, time.monotonic() + (time.monotonic() - start) / SHARE)
        self.board.look()
        self.board.count(self.running)
        if not running and self.board.remaining:
            self.board.wait()

    def say(self, text: str) -> None:
        """Print a line."""
        self.board.say(text)


def names_of(key: Hashable) -> tuple[str, ...]:
    """Return the fingerprints that are the key of a group."""
    if not isinstance(key, tuple):
        raise TypeError(f"the key of a group is {key!r}; expected a tuple of fingerprints")
    return key
