"""Run a study: each cell once, by this process or by workers, while other processes may work in the same directory."""

import json
import os
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from tlx import processes, report
from tlx.files import run_files
from tlx.files.durable import StorageError, guarded
from tlx.records import studies
from tlx.records.log import write_json
from tlx.records.run_directory import RECIPE
from tlx.records.studies import CELLS, FAILED, PLAN, StudyRecords
from tlx.sharding import Mesh
from tlx.study import groups, hosts
from tlx.study.base import Study, check_tested, document, settle
from tlx.study.board import Board
from tlx.study.claims import Claim, claim_group, followed, settled
from tlx.study.clusters.base import Cluster
from tlx.study.groups import Together
from tlx.study.sweeps import Cell
from tlx.study.table import write_results
from tlx.training import run_many
from tlx.training.loop import How, Run
from tlx.training.run_many import CELLS as CELLS_HOW
from tlx.training.run_many import MOST_ARMS
from tlx.training.saving import check_best
from tlx.trees import Json

# One line for every cell that ended: time, cell, outcome, process.
EXECUTIONS = "executions.jsonl"
# Exit code of a worker that could not write: its parent process reports the error once.
NO_STORAGE = 74
AGAIN = "run the same command again"
# Seconds between two checks of the other processes.
PAUSE = 0.5


def run_study(
    study: Study,
    out: str | Path,
    *,
    jobs: int = 1,
    most: int = MOST_ARMS,
    quiet: bool = False,
    command: str = "",
    file: str = "",
    worker: Sequence[str] = (),
    mesh: Mesh = Mesh(),
    on: Cluster | None = None,
    how: How = CELLS_HOW,
) -> StudyRecords:
    """Run every cell of the study that is not done, in the directory `out`, and read the records back.

    A cell is identified by the fingerprint of its recipe: a finished cell is never run again, an interrupted one
    continues, a failed one keeps its traceback and is retried by the next call. Many processes may call this for one
    directory at once; each returns when no cell is left. Cells that differ only in numbers train together, in groups
    that follow from the study and are recorded in `groups.json`; later calls and other workers keep them. The page is
    drawn if the extra is installed and a cell is done.

    Args:
        study: the study.
        out: its directory.
        jobs: how many processes of the command `worker` to start, if more than 1.
        most: the largest number of cells in a group that is not recorded yet.
        quiet: print nothing.
        command: the command line, for the record.
        file: the study's file, for the record.
        worker: a command that calls `work`.
        mesh: how many devices share a batch of a cell.
        on: the cluster that executes the command `worker` for each group of cells, in place of this machine.
        how: how the cells are carried out, apart from the mesh.

    Raises:
        FileExistsError: The directory contains other files.
        ChildProcessError: Workers died and left cells.
    """
    directory = Path(out)
    for name, value in {"jobs": jobs, "most": most}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    if (jobs > 1 or on) and not worker:
        raise ValueError(
            f"{'jobs above 1 need' if jobs > 1 else 'a cluster needs'} worker=, a command that calls "
            "tlx.study.work.work; the command `tlx study` passes it"
        )
    check_tested(study)
    hosts.check(study, jobs, most, mesh)
    for cell in study.by_fingerprint.values():
        check_best(how.keep_best, cell.recipe)
    with guarded(directory, AGAIN), on or nullcontext():
        return directed(study, directory, jobs, most, quiet, command, file, worker, mesh, on, how)


def directed(
    study: Study,
    directory: Path,
    jobs: int,
    most: int,
    quiet: bool,
    command: str,
    file: str,
    worker: Sequence[str],
    mesh: Mesh,
    on: Cluster | None,
    how: How,
) -> StudyRecords:
    """Run the study as in `run_study`, in a directory that the caller guards."""
    processes.decided(lambda: settle(directory, document(study, Path(file).stem or directory.name, command, file)))
    since = processes.decided(now)
    with Board(study, directory, since, quiet or not processes.leads()) as board:
        board.begin()
        for note in processes.decided(lambda: groups.record(directory, study.by_fingerprint, most)):
            board.say(f"note: {note}")
        if on:
            from tlx.study.clusters.cells import run_cells

            run_cells(on, worker, board, most)
        elif jobs == 1 or len(board.remaining) < 2:
            work(study, directory, since, most=most, look=board.look, wait=board.wait, mesh=mesh, how=how)
        else:
            employ([*worker, "--worker", str(since)], min(jobs, len(board.remaining)), board)
        board.look(at_once=True)
    records = studies.read(directory)
    processes.decided(lambda: conclude(directory, records))
    return records


def conclude(directory: Path, records: StudyRecords) -> None:
    """Write the tables of a study, and its page if the extra is installed and a cell is done."""
    write_results(directory)
    if records.counts["done"] and report.available():
        report.write_study(directory)


def now() -> float:
    """Return the seconds since the epoch."""
    return round(time.time(), 3)


def work(
    study: Study,
    directory: Path,
    since: float,
    *,
    share: int = 1,
    most: int = MOST_ARMS,
    look: Callable[[], None] = lambda: None,
    wait: Callable[[], None] = lambda: None,
    employed: bool = False,
    mesh: Mesh = Mesh(),
    how: How = CELLS_HOW,
) -> None:
    """Run one worker: claim groups of cells and run them until all cells are settled, by any process.

    Args:
        study: the study.
        directory: its directory.
        since: cells that failed before this time (seconds since the epoch) are retried.
        share: how many workers share the study. It decides how many groups this worker keeps after it has grouped some
            cells, and affects no number of any run.
        most: the largest new group.
        look: called after every cell.
        wait: called while other processes run all remaining cells.
        employed: return when the parent process has died, and exit with the code `NO_STORAGE` if the directory cannot
            be written.
        mesh: how many devices share a batch of a cell.
        how: how the cells are carried out, apart from the mesh.
    """
    try:
        with guarded(directory, AGAIN):
            claimed(study, directory, since, share, most, look, wait, employed, mesh, how)
    except StorageError:
        if employed:
            raise SystemExit(NO_STORAGE) from None
        raise


def claimed(
    study: Study,
    directory: Path,
    since: float,
    share: int,
    most: int,
    look: Callable[[], None],
    wait: Callable[[], None],
    employed: bool,
    mesh: Mesh,
    how: How,
) -> None:
    """Claim and run cells until all are settled, as in `work`."""
    cells, employer = study.by_fingerprint, os.getppid()
    unsettled: Mapping[str, Cell] = cells
    processes.decided(lambda: note_groups(directory, cells, most))
    while unsettled := still_unsettled(directory, unsettled, since):
        claimed_any = False
        # To look for unsettled cells after every group would take the square of their number.
        for group in processes.decided(partial(listed, directory, unsettled)):
            if employed and os.getppid() != employer:
                return
            claimed_any |= run_group(cells, directory, Together.of(*group), since, share, look, mesh, how)
        if not claimed_any:
            # A cell that could not be opened is in no group, and a worker may have died before it recorded a new one.
            processes.decided(lambda: note_groups(directory, cells, most))
            wait()
            time.sleep(PAUSE)
            look()


def note_groups(directory: Path, cells: Mapping[str, Cell], most: int) -> None:
    """Record groups for the cells that have none."""
    groups.record(directory, cells, most)


def still_unsettled(directory: Path, cells: Mapping[str, Cell], since: float) -> dict[str, Cell]:
    """Return those of the cells that are not settled."""
    names = processes.decided(lambda: [name for name in cells if not settled(directory / CELLS / name, since)])
    return {name: cells[name] for name in names}


def listed(directory: Path, cells: Mapping[str, Cell]) -> list[Together]:
    """Return the recorded groups that contain one of the cells."""
    recorded = groups.read(directory)
    return [group for group in (recorded.groups if recorded else ()) if cells.keys() & {*group.cells}]


def run_group(
    cells: Mapping[str, Cell],
    directory: Path,
    group: Together,
    since: float,
    share: int,
    look: Callable[[], None],
    mesh: Mesh = Mesh(),
    how: How = CELLS_HOW,
) -> bool:
    """Claim a group and run it; return whether it could be claimed. Of several processes that train together the first
    one claims, and all of them run."""
    with ExitStack() as locks:
        claims: list[Claim] = []

        def claim() -> list[bool]:
            held = claim_group(directory, cells, group.cells, since)
            for item in held:
                locks.callback(item.lock.release)
            # Another worker may have decided between the check and the locks.
            recorded = groups.read(directory) if held else None
            if recorded is not None and group in recorded.groups:
                claims.extend(held)
            return [item.done for item in claims]

        done = processes.decided(claim)
        if not done:
            return False
        members = zip(group.cells, done, strict=True)
        claims = claims or [followed(directory, name, cells[name], of_cell) for name, of_cell in members]
        fulfil(directory, group, claims, share, look, replace(how, mesh=mesh))
    return True


def fulfil(
    directory: Path, group: Together, claims: Sequence[Claim], share: int, look: Callable[[], None], how: How
) -> None:
    """Run the cells of a claimed group, record the outcome of each, and release it."""
    decided: list[Together] = []

    def note(choice: Json) -> None:
        processes.decided(lambda: append(directory / PLAN, choice))
        decided.extend(Together(tuple(part), True, choice["why"]) for part in choice["groups"])

    def admit(parts: run_many.Groups) -> run_many.Groups:
        if group.decided:
            return parts
        processes.decided(lambda: groups.decide(directory, group, decided))
        return parts[: groups.share_of(parts, share)]

    def freed(parts: run_many.Groups) -> None:
        for position in (position for part in parts for position in part):
            claims[position].lock.release()

    def record_outcome(position: int, outcome: Run | Exception) -> None:
        processes.decided(lambda: write_outcome(position, outcome))

    def write_outcome(position: int, outcome: Run | Exception) -> None:
        claim = claims[position]
        if isinstance(outcome, StorageError):
            # This is not a failure of the cell: the next cell would fail too.
            raise outcome
        if claim.done:
            return
        failed = isinstance(outcome, Exception)
        if isinstance(outcome, Exception):
            keep_failure(claim.folder, outcome)
        line = {"time": now(), "cell": claim.fingerprint, "state": "failed" if failed else "done"}
        append(directory / EXECUTIONS, line | {"host": socket.gethostname(), "process": os.getpid()})
        look()

    processes.decided(lambda: make_way([claim.folder for claim in claims if not claim.done]))
    run_many.run_many(
        [claim.cell.recipe for claim in claims],
        [claim.folder for claim in claims],
        how=how,
        most=len(claims),
        together=[range(len(claims))] if group.decided else None,
        note=note,
        admit=admit,
        freed=freed,
        on_outcome=record_outcome,
    )


def make_way(folders: Sequence[Path]) -> None:
    """Remove the records of earlier failures, and the files of attempts that died before they had claimed their
    folder."""
    for folder in folders:
        if not (folder / RECIPE).is_file():
            run_files.delete(folder)
        (folder / FAILED).unlink(missing_ok=True)


def keep_failure(folder: Path, error: Exception) -> None:
    """Write `failed.json`: the error, its traceback, and the time."""
    folder.mkdir(parents=True, exist_ok=True)
    trace = "".join(traceback.format_exception(error))
    write_json(folder / FAILED, {"error": f"{type(error).__name__}: {error}", "traceback": trace, "time": now()})


def append(path: Path, line: Json) -> None:
    """Append a JSON line with one write to a file opened for appending, so that the lines of many workers do not
    mix."""
    with path.open("ab", buffering=0) as stream:
        stream.write(json.dumps(line).encode() + b"\n")


def employ(command: Sequence[str], count: int, board: Board) -> None:
    """Start `count` workers and watch until they have ended.

    Raises:
        ChildProcessError: The workers left cells.
    """
    workers = [subprocess.Popen(command) for _ in range(count)]
    try:
        while any(worker.poll() is None for worker in workers):
            time.sleep(PAUSE / 2)
            board.look()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
    board.look(at_once=True)
    if board.remaining and any(worker.returncode == NO_STORAGE for worker in workers):
        place = board.directory
        raise StorageError(f"the workers could not write {place}", "free some space or make it writable", AGAIN)
    if board.remaining:
        codes = ", ".join(str(worker.returncode) for worker in workers)
        raise ChildProcessError(f"the workers ended (exit codes {codes}) before {len(board.remaining)} cells were done")
