"""Folders that are filled once, with a record of the sha256 of every file; a changed one is filled again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tlx.files.durable import sha256_of, sha256_once, write_whole

# Ends the name of the file, beside a folder, with the sha256 of every file in it.
MANIFEST = ".sha256.json"


def filled(target: Path, fill: Callable[[Path], None], announce: Callable[[str], None] | None = None) -> Path:
    """Return the folder `target`, filled by `fill(folder)` where it does not exist or is not as it was filled.

    Each process compares the files with the record once. Processes that fill a folder at once wait for each other.

    Args:
        target: The folder.
        fill: Writes the files into an empty folder, which then becomes `target`.
        announce: Gets the reason why an existing folder is filled again.
    """
    if not changed(target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target):
        reason = changed(target)
        if not reason:
            return target
        if target.exists() and announce:
            announce(reason)
        with tempfile.TemporaryDirectory(prefix=".extract-", dir=target.parent) as scratch:
            folder = Path(scratch) / "files"
            folder.mkdir()
            fill(folder)
            files = sorted(path for path in folder.rglob("*") if not path.is_dir())
            hashes = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
            if target.exists():
                # A process that has one of its files open keeps that file.
                os.replace(target, Path(scratch) / "old")
            os.replace(folder, target)
            write_whole(target.with_name(target.name + MANIFEST), [(json.dumps(hashes, indent=2) + "\n").encode()])
    return target


def changed(folder: Path) -> str | None:
    """Return how a folder differs from its record; None where every file is as it was written."""
    try:
        hashes = json.loads(folder.with_name(folder.name + MANIFEST).read_text(encoding="utf-8"))
        present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        if differing := present ^ {*hashes}:
            name = min(differing)
            return f"{folder / name} {'was added' if name in present else 'is missing'}"
        return next((f"{folder / n} was changed" for n, sha in hashes.items() if sha256_once(folder / n) != sha), None)
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{folder} has no readable record of its files"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a file or folder that processes write."""
    from filelock import FileLock

    with FileLock(target.with_name(f".{target.name}.lock")):
        yield
