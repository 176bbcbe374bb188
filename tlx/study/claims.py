"""Assign cells to workers: one lock per cell, which the kernel frees when its holder dies, in whatever way."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from tlx.files.documents import read_json, records
from tlx.records.run_directory import RESULT
from tlx.records.studies import CELLS, CLAIMS, FAILED
from tlx.study.sweeps import Cell
from tlx.trees import Json


class Claim(NamedTuple):
    """A cell that only this process may run, in `folder`, as long as it holds the lock.

    A cell that is `done` trains again for the other cells of its group, and keeps its results.
    """

    fingerprint: str
    cell: Cell
    folder: Path
    lock: BaseFileLock
    done: bool = False


def settled(folder: Path, since: float) -> bool:
    """Return whether a cell need not be run: it is done, or failed at or after the time `since`."""
    if (folder / RESULT).is_file():
        return True
    failed = failure(folder)
    return failed is not None and failed["time"] >= since


def failure(folder: Path) -> Json | None:
    """Return the `failed.json` of a cell; None if there is none, because another process may be removing it."""
    try:
        return read_json(folder / FAILED, records.FAILED, remedy=f"delete {folder / FAILED} to run the cell again")
    except FileNotFoundError:
        return None


def claim(directory: Path, fingerprint: str, cell: Cell, since: float) -> Claim | None:
    """Return the claim on a cell, if it is still to be run and no process runs it."""
    folder = directory / CELLS / fingerprint
    if settled(folder, since):
        return None
    new_claim = locked(directory, fingerprint, cell)
    # Its last holder may have finished between the check and the lock.
    if new_claim is not None and settled(folder, since):
        new_claim.lock.release()
        return None
    return new_claim


def locked(directory: Path, fingerprint: str, cell: Cell) -> Claim | None:
    """Return the claim on a cell in any state, unless another process holds it."""
    lock = FileLock(directory / CLAIMS / f"{fingerprint}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    if isinstance(lock, SoftFileLock):
        # Without flock, filelock creates a plain file instead, which outlives its process.
        lock.release()
        raise OSError(
            f"the file system of {directory} does not support file locks (flock), so tlx cannot release the cells of a "
            "process that has died"
        )
    folder = directory / CELLS / fingerprint
    return Claim(fingerprint, cell, folder, lock, (folder / RESULT).is_file())


def followed(directory: Path, fingerprint: str, cell: Cell, done: bool) -> Claim:
    """Return the claim on a cell that the first of several processes holds, as the others see it."""
    return Claim(
        fingerprint, cell, directory / CELLS / fingerprint, FileLock(directory / CLAIMS / f"{fingerprint}.lock"), done
    )


def claim_group(directory: Path, cells: Mapping[str, Cell], group: Sequence[str], since: float) -> list[Claim]:
    """Return the claims on all cells of a group, in its order: all of them or none.

    Returns:
        An empty list if all cells are settled, if another process holds one, or if the study no longer has one.
    """
    if any(name not in cells for name in group) or all(settled(directory / CELLS / name, since) for name in group):
        return []
    claimed: list[Claim] = []
    try:
        for name in group:
            new_claim = locked(directory, name, cells[name])
            if new_claim is None:
                break
            claimed.append(new_claim)
        if len(claimed) == len(group) and not all(settled(item.folder, since) for item in claimed):
            claims, claimed = claimed, []
            return claims
    finally:
        for item in claimed:
            item.lock.release()
    return []
