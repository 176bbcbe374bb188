"""Lock a directory for one writer at a time. The kernel frees the lock when its holder dies, for whatever reason."""

import errno
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# The lock file stays in the directory: removing it while others try to take it would split them.
LOCK = ".lock"
# How often a directory is created again where another process removes it at the same moment.
TRIES = 20


class InUse(FileExistsError):
    """Another process, or another thread, writes into the directory."""


# The directories that a thread of this process writes into: the lock, and how many times it was taken.
_held: dict[tuple[str, int, int], list[Any]] = {}


@contextmanager
def writing(directory: str | Path, *, keep: bool = True) -> Iterator[None]:
    """Hold the lock of a directory while it is written, and create the directory where it is missing.

    The same thread may take the lock again. A directory that this call created and that is still empty at the end is
    removed. A directory that cannot be written is not locked, so that commands that only read a finished run work in a
    read-only one.

    Args:
        directory: The directory. A path that is no directory is left to the checks of the caller.
        keep: Whether the lock file stays. False is for directories that are passed on, such as exported models.

    Raises:
        InUse: Another process or thread holds the lock.
        OSError: The file system has no locks, or the lock file belongs to another user.
    """
    folder = Path(directory)
    if folder.exists() and (not folder.is_dir() or not os.access(folder, os.W_OK)):
        yield
        return
    place = (os.path.realpath(folder), os.getpid(), threading.get_ident())
    if place in _held:
        _held[place][1] += 1
        try:
            yield
        finally:
            # The outermost call may have ended before this one.
            if place in _held:
                _held[place][1] -= 1
        return
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        lock = _acquire(folder)
    except OSError as error:
        if error.errno == errno.EROFS and folder.is_dir():
            yield
            return
        raise
    _held[place] = [lock, 1]
    try:
        yield
    finally:
        del _held[place]
        if missing and vacant(folder):
            with suppress(OSError):
                (folder / LOCK).unlink()
                for path in missing:
                    path.rmdir()
        elif not keep:
            with suppress(OSError):
                (folder / LOCK).unlink()
        lock.release()


def in_use(directory: Path) -> bool:
    """Return whether another process or thread writes into a directory.

    Asking takes the lock for an instant, which a process that begins to write could meet. Where the last holder was a
    process of this machine that has ended, the lock is not touched.
    """
    from filelock import FileLock, Timeout

    path = directory / LOCK
    if not path.is_file():
        return False
    with suppress(OSError, UnicodeDecodeError):
        holder = re.fullmatch(r"process (\d+) on (.*)", path.read_text(encoding="utf-8").strip())
        if holder is not None and holder[2] == socket.gethostname() and not alive(int(holder[1])):
            return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # The directory belongs to another user, and this process may not write its lock.
        return False


def alive(process: int) -> bool:
    """Return whether a process of this machine exists; True where the system does not say."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def vacant(directory: Path) -> bool:
    """Return whether a directory is missing, or contains nothing but the lock."""
    return not directory.exists() or (directory.is_dir() and all(path.name == LOCK for path in directory.iterdir()))


def _acquire(folder: Path) -> Any:
    """Acquire the lock of a directory and return it."""
    from filelock import FileLock, SoftFileLock, Timeout

    for tries_left in reversed(range(TRIES)):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(blocking=False)
        except (FileNotFoundError, Timeout) as error:
            # The last holder may have removed the directory, or the lock in it, a moment ago.
            if tries_left and not (folder / LOCK).exists():
                continue
            if not isinstance(error, Timeout):
                raise
            raise InUse(
                f"another run or command is writing to {folder}{_holder(folder)}; wait until it ends, or choose "
                "another directory"
            ) from None
        if isinstance(lock, SoftFileLock):
            # Without flock, filelock leaves a mere file, which stays locked when its process dies.
            lock.release()
            raise OSError(
                f"the file system of {folder} has no locks (flock); choose a directory on another file system"
            )
        with suppress(OSError):
            (folder / LOCK).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        return lock
    raise InUse(f"other processes create and remove {folder} all the time; choose another directory")


def _holder(folder: Path) -> str:
    """Return who holds the lock, in brackets, where that can be read."""
    with suppress(OSError, UnicodeDecodeError):
        if holder := (folder / LOCK).read_text(encoding="utf-8").strip()[:200]:
            return f" ({holder})"
    return ""
