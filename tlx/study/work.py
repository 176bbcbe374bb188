"""The running of a study: each cell once, by this process or by workers, whoever else works in the same directory."""

import json
import os
import shutil
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from tlx import cells as records
from tlx.cells import CELLS, FAILED, StudyRecords
from tlx.folder import RECIPE
from tlx.records import write_json
from tlx.study.base import Study, document, settle
from tlx.study.board import Board
from tlx.study.claims import Claim, claim_group, settled
from tlx.study.table import write_results
from tlx.sweeps import Cell
from tlx.train import How, Run, run

EXECUTIONS = "executions.jsonl"
# What a cell leaves is what a table and a page of many runs need, and a checkpoint now and then.
HOW = How(quiet=True, leave="learned", checkpoint_seconds=20.0)
# Seconds between two looks at what others run.
PAUSE = 0.5


def run_study(
    study: Study,
    out: str | Path,
    *,
    jobs: int = 1,
    quiet: bool = False,
    command: str = "",
    file: str = "",
    worker: Sequence[str] = (),
) -> StudyRecords:
    """Runs every cell of the study that is not done, in the directory `out`, and reads back what is there.

    A cell is the fingerprint of its recipe: a finished one is never run again, an interrupted one goes on, a failed one
    keeps its traceback and is tried again by the next call. Many processes may call this for one directory at once;
    each returns when no cell is left. `jobs` above 1 starts as many processes of the command `worker`, which is to call
    `work`. `command` and `file` are for the record. Raises FileExistsError for a directory that holds something else,
    ChildProcessError where workers died and left cells.
    """
    directory = Path(out)
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; a study wants 1 or more")
    if jobs > 1 and not worker:
        raise ValueError("jobs above 1 need worker=, a command that calls tlx.study.work.work; `tlx study` has one")
    settle(directory, document(study, Path(file).stem or directory.name, command, file))
    since = now()
    with Board(study, directory, since, quiet) as board:
        board.begin()
        if jobs == 1 or len(board.left) < 2:
            work(study, directory, since, board.look, board.wait)
        else:
            employ([*worker, "--worker", str(since)], min(jobs, len(board.left)), board)
        board.look()
    write_results(directory)
    return records.read(directory)


def now() -> float:
    """Seconds since the epoch."""
    return round(time.time(), 3)


def work(
    study: Study,
    directory: Path,
    since: float,
    look: Callable[[], None] = lambda: None,
    wait: Callable[[], None] = lambda: None,
    employed: bool = False,
) -> None:
    """What one worker does: claims cells and runs them until all are settled, by whomever. What failed before the time
    `since` is tried again. `look` is called after every claim is settled, `wait` where others run all that is left.
    Who is `employed` goes home when the process that started this one has died."""
    left, employer = study.by_fingerprint, os.getppid()
    while left := {name: cell for name, cell in left.items() if not settled(directory / CELLS / name, since)}:
        if employed and os.getppid() != employer:
            return
        # One by one: a group has one cell.
        claims = claim_group(directory, left, [[name] for name in left], 1, since)
        if claims:
            fulfil(directory, claims)
        else:
            wait()
            time.sleep(PAUSE)
        look()


def fulfil(directory: Path, claims: Sequence[Claim]) -> None:
    """Runs the cells of the claims, writes down what came of each, and lets go of them."""
    try:
        for one in claims:
            make_way(one.folder)
        began = time.perf_counter()
        outcomes = execute([one.cell for one in claims], [one.folder for one in claims])
        for one, outcome in zip(claims, outcomes, strict=True):
            if isinstance(outcome, Exception):
                keep_failure(one.folder, outcome)
            note(directory, one.fingerprint, "failed" if isinstance(outcome, Exception) else "done", began)
    finally:
        for one in claims:
            one.lock.release()


def make_way(folder: Path) -> None:
    """Takes away the note of an earlier failure, and what a try has left that died before the folder was its own."""
    if not (folder / RECIPE).is_file():
        shutil.rmtree(folder, ignore_errors=True)
    (folder / FAILED).unlink(missing_ok=True)


def execute(cells: Sequence[Cell], folders: Sequence[Path]) -> list[Run | Exception]:
    """Runs the cells, each in its folder, where an interrupted one goes on; an exception is returned in the place of
    its run."""
    outcomes: list[Run | Exception] = []
    for cell, folder in zip(cells, folders, strict=True):
        try:
            outcomes.append(run(cell.recipe, folder, resume=True, how=HOW))
        except Exception as error:
            outcomes.append(error)
    return outcomes


def keep_failure(folder: Path, error: Exception) -> None:
    """`failed.json`: what went wrong, where, when."""
    folder.mkdir(parents=True, exist_ok=True)
    told = "".join(traceback.format_exception(error))
    write_json(folder / FAILED, {"error": f"{type(error).__name__}: {error}", "traceback": told, "time": now()})


def note(directory: Path, fingerprint: str, state: str, began: float) -> None:
    """A line in `executions.jsonl`: a cell was run to its end, by whom, and how long it took."""
    line = {
        "time": now(),
        "fingerprint": fingerprint,
        "state": state,
        "seconds": round(time.perf_counter() - began, 3),
        "host": socket.gethostname(),
        "process": os.getpid(),
    }
    # One write to a file opened for appending, so that the lines of many workers do not mix.
    with (directory / EXECUTIONS).open("ab", buffering=0) as stream:
        stream.write(json.dumps(line).encode() + b"\n")


def employ(command: Sequence[str], count: int, board: Board) -> None:
    """Starts so many workers and watches until they have gone home; ChildProcessError where they left cells behind."""
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
    board.look()
    if board.left:
        codes = ", ".join(str(worker.returncode) for worker in workers)
        raise ChildProcessError(f"the workers ended (exit codes {codes}) and left {len(board.left)} cells")
