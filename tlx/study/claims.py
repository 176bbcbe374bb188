"""Who runs which cell: a lock a cell, which the kernel frees when its holder dies, however it dies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from tlx.cells import CELLS, CLAIMS, FAILED
from tlx.documents import read_json, records
from tlx.folder import RESULT
from tlx.sweeps import Cell


class Claim(NamedTuple):
    """A cell that this process alone may run, in `folder`, as long as it holds the lock."""

    fingerprint: str
    cell: Cell
    folder: Path
    lock: BaseFileLock


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
    lock = FileLock(directory / CLAIMS / f"{fingerprint}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    if isinstance(lock, SoftFileLock):
        # Where there is no flock, filelock leaves a mere file instead, which outlives whoever made it.
        lock.release()
        raise OSError(f"the file system of {directory} has no locks (flock), so no claim there ends with its process")
    # Its last holder may have finished between the look and the lock.
    if settled(folder, since):
        lock.release()
        return None
    return Claim(fingerprint, cell, folder, lock)


def claim_group(
    directory: Path, cells: Mapping[str, Cell], groups: Sequence[Sequence[str]], most: int, since: float
) -> list[Claim]:
    """Up to `most` claims on `cells` of one group, the first that has one left; none where all are settled or held by
    others. `groups` are the fingerprints of cells that one program can train."""
    for group in groups:
        held: list[Claim] = []
        for fingerprint in group:
            if len(held) < most and fingerprint in cells:
                found = claim(directory, fingerprint, cells[fingerprint], since)
                held += [found] if found else []
        if held:
            return held
    return []
