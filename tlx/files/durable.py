"""Write files that survive a crash: whole, synced before they count, and checked when they are read.

A file is written under another name, synced, and renamed, so a reader sees the old file or the new one. Errors of the
storage (no space, a quota, a read-only file system, a failing device) become one `StorageError` that says which data
are safe.
"""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = ("No space left", "File too large", "quota exceeded")
REFUSED = (errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE)


RESUME = "continue with --resume"


class StorageError(OSError):
    """The storage of a run cannot be written or read; everything saved before is intact.

    Args:
        reason: The file or directory, and its fault.
        cure: How to repair the storage, where that is known.
        then: What the user does after that.
    """

    def __init__(self, reason: str, cure: str = "", then: str = RESUME):
        super().__init__(f"{reason}. Everything saved before is intact; {cure} and {then}" if cure else reason)
        self.reason, self.cure, self.then = reason, cure, then


class DiskFull(StorageError):
    """The disk, a quota or a limit on file size has no room for a file; everything saved before is intact."""


class DamagedWarning(UserWarning):
    """A stored file is damaged, and an older or recomputed one takes its place."""


@contextmanager
def guarded(folder: Path, then: str = RESUME) -> Iterator[None]:
    """Turn the errors of a full or failing storage within the block into one `StorageError`.

    Args:
        folder: The directory that the block writes; the message names it.
        then: What the user does once the storage works again. It replaces the general advice of an inner block.

    Raises:
        DiskFull: The disk, a quota or a file size limit is exhausted, whichever library noticed.
        StorageError: A file in `folder` cannot be written or read for another reason of the storage.
    """
    try:
        yield
    except StorageError as error:
        if then == RESUME or error.then != RESUME or not error.cure:
            raise
        raise type(error)(error.reason, error.cure, then) from error
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or any(words in str(error) for words in FULL_WORDS):
            raise DiskFull(f"the disk is full: {folder} cannot be written", "free some space", then) from error
        if number in REFUSED and isinstance(error, OSError) and _concerns(error, folder):
            place = error.filename or folder
            raise StorageError(f"{place}: {error.strerror}", f"make {folder} writable", then) from error
        raise


def common_folder(folders: Sequence[Path]) -> Path:
    """Return the only folder, or the nearest directory that contains all of them."""
    return (
        folders[0] if len(folders) == 1 else Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
    )


def _concerns(error: OSError, folder: Path) -> bool:
    """Return whether an error is about a file in `folder`. Errors of read-only and failing devices may name no file."""
    if error.filename is None:
        return error.errno in (errno.EROFS, errno.EIO, errno.ESTALE)
    directory = Path(os.path.abspath(folder))
    path = Path(os.path.abspath(os.fsdecode(error.filename)))
    return path == directory or directory in path.parents


def write_all_of(descriptor: int, content: bytes | memoryview) -> None:
    """Write every byte to an open file; a single `write` may stop early where the disk becomes full."""
    view = memoryview(content).cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]


def write_whole(
    path: Path, pieces: Iterable[bytes | memoryview], *, sync: bool = False, shared: bool = False
) -> None:  # fmt: skip
    """Write a file so that a reader sees the old content or the new one, also after a crash.

    Args:
        path: The file; its directory exists.
        pieces: The content, in order.
        sync: Whether the content is on the disk before the file gets its name, and the name before this returns.
        shared: Whether other processes may write the same file at the same time, as in the cache. The partial file
            then has a name that no other writer has.

    Raises:
        OSError: The storage refuses; `path` is unchanged and no partial file stays.
    """
    writer = f".{uuid.uuid4().hex[:12]}" if shared else ""
    partial = path.with_name(f".{path.name}{writer}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
        try:
            for piece in pieces:
                write_all_of(descriptor, piece)
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if sync:
        sync_path(path.parent)


def delete(path: Path, seconds: float = 0.0) -> None:
    """Delete a file or a directory as far as that is possible.

    Args:
        path: The file or directory; it need not exist.
        seconds: How long to try again while another thread still writes there.
    """
    end, quiet = time.monotonic() + seconds, 0
    while True:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
        quiet = 0 if path.exists() else quiet + 1
        # Twice, since a writer may make the directory again.
        if quiet == 2 or time.monotonic() >= end:
            return
        time.sleep(0.05)


def sync_path(path: Path) -> None:
    """Force a file, or the names in a directory, onto the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        # Windows opens no directory.
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a directory.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force every file below `folder`, and every name, onto the disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync_path(Path(root) / name)
        sync_path(Path(root))


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


DIGESTS = "files.sha256"
LARGEST_DIGESTS = 2**26


def _entries(folder: Path) -> dict[str, os.stat_result]:
    """Return the status of everything below `folder` by path with forward slashes. Links are not followed."""

    def stop(error: OSError) -> None:
        raise error

    entries = {}
    for root, directories, names in os.walk(folder, onerror=stop):
        for name in [*directories, *names]:
            path = Path(root) / name
            entries[path.relative_to(folder).as_posix()] = path.lstat()
    return entries


def stamp_of(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return names, sizes, times and inodes of everything below `folder`. They are equal as long as nothing was
    written."""
    entries = sorted(_entries(folder).items())
    return tuple((name, status.st_size, status.st_mtime_ns, status.st_ino) for name, status in entries)


def write_digests(folder: Path) -> None:
    """Record the sha256 of every file below `folder` in its `files.sha256`, which `sha256sum --check` can also read.

    The last line, a comment, is the sha256 of the lines before it.
    """
    names = sorted(name for name, status in _entries(folder).items() if stat.S_ISREG(status.st_mode))
    lines = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names).encode()
    write_whole(folder / DIGESTS, [lines, f"# {hashlib.sha256(lines).hexdigest()}\n".encode()])


def check_digests(folder: Path) -> None:
    """Compare everything below `folder` with its `files.sha256`.

    Raises:
        ValueError: A file is changed, missing or not listed; the message begins with its path.
        OSError: A file cannot be read.
    """
    record = folder / DIGESTS
    entries = _entries(folder)
    if DIGESTS not in entries:
        raise ValueError(f"{record} is missing")
    status_of_record = entries.pop(DIGESTS)
    if not stat.S_ISREG(status_of_record.st_mode) or status_of_record.st_size > LARGEST_DIGESTS:
        raise ValueError(f"{record} is not a list of checksums")
    content = record.read_bytes()
    lines = content[: content[:-1].rfind(b"\n") + 1]
    if content != lines + f"# {hashlib.sha256(lines).hexdigest()}\n".encode():
        raise ValueError(f"{record} was changed: its checksum does not match")
    recorded = {name: digest for digest, name in (line.split("  ", 1) for line in lines.decode().splitlines())}
    directories = {parent.as_posix() for name in recorded for parent in Path(name).parents}
    for name, status in entries.items():
        if name in recorded and not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{folder / name} is not a regular file")
        if name not in recorded and not (stat.S_ISDIR(status.st_mode) and name in directories):
            raise ValueError(f"{folder / name} is an unknown file: {DIGESTS} does not list it")
    for name, digest in recorded.items():
        if name not in entries:
            raise ValueError(f"{folder / name} is missing")
        if sha256_of(folder / name) != digest:
            raise ValueError(f"{folder / name} was changed: its checksum does not match")


def check_room(folder: Path, size: int) -> None:
    """Check that a file of `size` bytes fits into `folder` now, without leaving one.

    Raises:
        OSError: The disk is full, or a quota or a limit on the size of files is below `size`.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    # Several processes that share the folder may check it at the same time.
    descriptor, path = tempfile.mkstemp(prefix=".room-", suffix=".partial", dir=folder)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        # Some file systems cannot reserve space.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENODEV):
            raise
    finally:
        os.close(descriptor)
        os.unlink(path)


_CHECKED: dict[str, tuple[tuple[int, ...], str]] = {}


def sha256_once(path: Path) -> str:
    """Return the sha256 of a file, computed once per process while size, inode and times stay the same."""
    status = path.stat()
    mark = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    name = os.path.abspath(path)
    if name not in _CHECKED or _CHECKED[name][0] != mark:
        _CHECKED[name] = mark, sha256_of(path)
    return _CHECKED[name][1]
