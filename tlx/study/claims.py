"""Who runs which cell: a lock a cell, which the kernel frees when its holder dies, however it dies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from tlx.files.documents import read_json, records
from tlx.records.run_directory import RESULT
from tlx.records.studies import CELLS, CLAIMS, FAILED
from tlx.study.sweeps import Cell


class Claim(NamedTuple):
    """A cell that this process alone may run, in `folder`, as long as it holds the lock. One that is `done` trains
    again for the other cells of its group, and keeps its results."""

    fingerprint: str
    cell: Cell
    folder: Path
    lock: BaseFileLock
    done: bool = False


def settled(folder: Path, since: float) -> bool:
    """Whether a cell is not to be run: it is done, or has failed at or after the time `since`."""
    if (folder / RESULT).is_file():
        return True
    failed = failure(folder)
    return failed is not None and failed["time"] >= since


def failure(folder: Path) -> dict[str, Any] | None:
    """The `failed.json` of a cell, if there is one: another process may be about to take it away."""
    try:
        return read_json(folder / FAILED, records.FAILED, remedy=f"delete {folder / FAILED}: the cell is tried again")
    except FileNotFoundError:
        return None


def claim(directory: Path, fingerprint: str, cell: Cell, since: float) -> Claim | None:
    """The claim on a cell, if it is still to be run and nobody runs it."""
    folder = directory / CELLS / fingerprint
    if settled(folder, since):
        return None
    found = locked(directory, fingerprint, cell)
    # Its last holder may have finished between the look and the lock.
    if found is not None and settled(folder, since):
        found.lock.release()
        return None
    return found


def locked(directory: Path, fingerprint: str, cell: Cell) -> Claim | None:
    """The claim on a cell, whatever its state, unless somebody holds it."""
    lock = FileLock(directory / CLAIMS / f"{fingerprint}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    if isinstance(lock, SoftFileLock):
        # Where there is no flock, filelock leaves a mere file instead, which outlives whoever made it.
        lock.release()
        raise OSError(f"the file system of {directory} has no locks (flock), so no claim there ends with its process")
    folder = directory / CELLS / fingerprint
    return Claim(fingerprint, cell, folder, lock, (folder / RESULT).is_file())


def claim_group(directory: Path, cells: Mapping[str, Cell], group: Sequence[str], since: float) -> list[Claim]:
    """The claims on all cells of a group, in its order: all of them or none.

    None where all are settled, where somebody holds one, or where the study has lost one.
    """
    if any(name not in cells for name in group) or all(settled(directory / CELLS / name, since) for name in group):
        return []
    held: list[Claim] = []
    try:
        for name in group:
            found = locked(directory, name, cells[name])
            if found is None:
                break
            held.append(found)
        if len(held) == len(group) and not all(settled(one.folder, since) for one in held):
            claims, held = held, []
            return claims
    finally:
        for one in held:
            one.lock.release()
    return []
