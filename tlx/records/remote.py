"""A run whose folder is at the URL of an object store or of another file system, such as `gs://bucket/run`, by fsspec.

The run works in a folder of the cache, and the URL gets a copy: when the run begins, after each checkpoint, and at the
end. A run that resumes makes the folder equal to the copy first. So a crash loses what happened after the last
checkpoint that was copied completely, whatever is left on the machine, and every machine continues from the same state.

No object store can rename a folder, so the order of the copies says what is complete: a checkpoint counts once its
`files.sha256` is there, which is copied last and deleted first, and a run is finished once `result.json` is there.
"""

import hashlib
import os
import re
import threading
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from tlx.assets import cache_dir
from tlx.files import run_files
from tlx.files.documents.digests import FILES as LISTED
from tlx.files.durable import DIGESTS, DamagedWarning, StorageError, check_digests, delete, sha256_of, write_whole
from tlx.files.locks import LOCK, InUse, writing
from tlx.files.run_files import CHECKPOINTS, METRICS, RESULT
from tlx.trees import near_miss

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# A URL that lacks a slash or both, and the URLs that can only be read.
MEANT = re.compile(r"(s3a?|gcs|gs|https?|file|memory):(?!//)(.*)", re.IGNORECASE | re.DOTALL)
READ_ONLY = ("http", "https", "git", "github", "gist", "data", "tar", "libarchive", "reference")
# The extra of tlx by the schemes that it adds, and the package of each.
EXTRAS = {"gs": ("gcs", "gcsfs"), "gcs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs"), "s3a": ("s3", "s3fs")}
# The protocol of the local file system.
LOCAL = ("file", "local")
# Beside the files of a run: which process writes it.
WRITER = ".writer"
# Files that grow while they are copied, and the largest others that are copied in one piece.
GROWING, WHOLE = (METRICS, "tensorboard/"), 64 * 2**20
BLOCK = 8 * 2**20


def is_url(place: object) -> bool:
    """Return whether a place is a URL and no path.

    >>> is_url("gs://bucket/run"), is_url("runs/demo")
    (True, False)

    Raises:
        ValueError: It is the path `s3:/bucket/run`, which is also what `pathlib.Path` makes of a URL.
    """
    if spelling := url_meant(place):
        raise ValueError(f"{place} is neither a URL nor a directory; write the URL as the text {spelling}")
    return isinstance(place, str) and URL.match(place) is not None


def url_meant(place: object) -> str:
    """Return the URL that a place without its two slashes means; an empty text for any other place.

    >>> url_meant("s3:/bucket/run"), url_meant("file:/shared/run"), url_meant("s3://bucket/run")
    ('s3://bucket/run', 'file:///shared/run', '')
    """
    match = MEANT.fullmatch(str(place)) if isinstance(place, str | Path) else None
    if match is None or (isinstance(place, Path) and place.exists()):
        return ""
    scheme, rest = match[1].lower(), match[2].strip("/")
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest or 'bucket/run'}"


def check_writable(url: str) -> None:
    """Raise ValueError where the store of a URL cannot be written."""
    scheme = url.partition(":")[0].lower()
    if scheme in READ_ONLY:
        raise ValueError(
            f"{url} cannot be written, because {scheme}:// is for reading only; expected a directory, or a URL such as "
            "gs://bucket/run, s3://bucket/run or file:///shared/run"
        )


class RemoteRun:
    """A run at a URL, and the local `folder` that it is copied from and to.

    Args:
        url: The URL.
        use: Says what the local folder is for: folders with different uses are different.

    Raises:
        ValueError: The scheme of the URL is unknown, or can only be read and `use` is not "read".
        ImportError: The package of the scheme is not installed.
    """

    def __init__(self, url: str, use: str = "run"):
        if use != "read":
            check_writable(url)
        self.store, root = opened_store(url)
        self.url = url.rstrip("/")
        self.root = str(root).rstrip("/")
        name = re.sub(r"[^\w.-]", "-", self.url.rpartition("/")[2])[:40]
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.folder = cache_dir() / "remote" / f"{name}-{digest}" / use
        # The files at the URL, each with the stamp of the local file that it is a copy of.
        self.copies: dict[str, tuple[int, ...] | None] = {}
        self.writer, self.claimed, self.lock = uuid.uuid4().hex, False, threading.Lock()

    def download(self, checkpoints: bool = True) -> bool:
        """Make the local folder equal to the copy; return whether there is one. Without `checkpoints` these are left
        out.

        Raises:
            StorageError: The URL cannot be read.
        """
        with reported(self.url, "read"):
            names = [name for name in self.listed() if checkpoints or not name.startswith(f"{CHECKPOINTS}/")]
            self.copies = dict.fromkeys(names)
            complete = {folder_of(name) for name in names if is_marker(name)}
            halves = {folder_of(name) for name in names if in_checkpoint(name)} - complete
            wanted = [name for name in names if not in_checkpoint(name) or folder_of(name) in complete]
            self.folder.mkdir(parents=True, exist_ok=True)
            self.remove_others(wanted)
            equal = self.unchanged(wanted)
            for name in wanted:
                if name not in equal:
                    self.get(name)
                self.copies[name] = stamp(self.folder / name)
        for folder in sorted(halves):
            message = f"{self.url}/{folder} was not copied completely; tlx skips it and uses an older checkpoint"
            warnings.warn(message, DamagedWarning, stacklevel=2)
        return bool(names)

    def listed(self) -> list[str]:
        """Return the files of the run at the URL, by their path below it."""
        self.store.invalidate_cache()
        with suppress(FileNotFoundError):
            paths = [str(path) for path in self.store.find(self.root)]
            names = [path[len(self.root) + 1 :] for path in paths if path.startswith(f"{self.root}/")]
            return sorted(name for name in names if is_of_run(name))
        return []

    def remove_others(self, wanted: Sequence[str]) -> None:
        """Remove everything from the local folder that is not at the URL, but for the lock."""
        kept = {LOCK, *wanted}
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):
                    path.rmdir()
            elif path.relative_to(self.folder).as_posix() not in kept:
                path.unlink()

    def unchanged(self, names: Sequence[str]) -> set[str]:
        """Return the files whose local copies are equal, by the digests of the run and of its checkpoints."""
        from tlx.files.documents import digests

        equal: set[str] = set()
        for name in names:
            if is_marker(name):
                local, folder = self.folder / name, folder_of(name)
                if local.is_file() and local.read_bytes() == self.store.cat_file(f"{self.root}/{name}"):
                    with suppress(OSError, ValueError):
                        check_digests(self.folder / folder)
                        equal |= {other for other in names if folder_of(other) == folder}
                        continue
                delete(self.folder / folder)
        if LISTED in names and RESULT in names:
            self.get(LISTED)
            self.get(RESULT)
            for name, digest in digests.read(self.folder).items():
                if name in names and (self.folder / name).is_file() and sha256_of(self.folder / name) == digest:
                    equal.add(name)
        return equal

    def get(self, name: str) -> None:
        """Copy one file from the URL."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.store.open(f"{self.root}/{name}", "rb") as stream:
            # Some file systems keep the place of the last reader.
            stream.seek(0)
            write_whole(path, iter(lambda: stream.read(BLOCK), b""), shared=True)

    def claim(self) -> None:
        """Copy what the folder contains, and become the only process that writes at the URL."""
        with reported(self.url, "written"):
            self.put_bytes(WRITER, self.writer.encode())
        self.claimed = True
        self.upload()

    def upload(self) -> None:
        """Make the copy equal to the local folder.

        Raises:
            InUse: This process has claimed the URL, and another process since.
            StorageError: The URL cannot be written.
        """
        with self.lock, reported(self.url, "written"):
            if self.claimed and self.store.cat_file(f"{self.root}/{WRITER}").decode() != self.writer:
                raise InUse(f"another process writes to {self.url} since; stop one of them, or choose another --out")
            local = self.local()
            for name in sorted(local, key=order):
                if self.copies.get(name) != local[name]:
                    self.put(name, local[name][0])
                    self.copies[name] = local[name]
            # The marker of a checkpoint goes first: what is half deleted must not count.
            old = sorted(self.copies.keys() - local.keys(), key=lambda name: not is_marker(name))
            for name in old:
                with suppress(FileNotFoundError):
                    self.store.rm_file(f"{self.root}/{name}")
                del self.copies[name]
            for folder in {folder_of(name) for name in old} - {folder_of(name) for name in self.copies} - {""}:
                # Where the file system has real directories, they are empty now.
                with suppress(FileNotFoundError):
                    self.store.rm(f"{self.root}/{folder}", recursive=True)

    def local(self) -> dict[str, tuple[int, ...]]:
        """Return the stamp of each file of the run in the local folder, by its path there."""
        paths = [path for path in run_files.written(self.folder) if not path.name.startswith(".")]
        for step in (self.folder / CHECKPOINTS).glob("[0-9]*"):
            paths += [path.relative_to(self.folder) for path in step.rglob("*") if path.is_file()]
        return {path.as_posix(): stamp(self.folder / path) for path in paths}

    def put(self, name: str, size: int) -> None:
        """Copy one file to the URL: as many bytes as it had when it was listed, since it may grow."""
        path = self.folder / name
        if size > WHOLE and not name.startswith(GROWING):
            self.placed(name, lambda: self.store.put_file(os.fspath(path), f"{self.root}/{name}"))
            return
        with path.open("rb") as stream:
            self.put_bytes(name, stream.read(size))

    def put_bytes(self, name: str, content: bytes) -> None:
        """Write a file at the URL. An object store shows the whole file or none, and so does the local file system."""
        if self.store.protocol == LOCAL:
            path = Path(self.root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, [content], sync=True)
            return
        self.placed(name, lambda: self.store.pipe_file(f"{self.root}/{name}", content))

    def placed(self, name: str, write: Any) -> None:
        """Write a file by `write`; where the file system has real directories, make its directory first."""
        try:
            write()
        except FileNotFoundError:
            # An object store has no directories, and would make a bucket that is misspelled.
            if URL.match(self.url)[1] in EXTRAS:  # type: ignore[index]
                raise
            self.store.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            write()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Copy the folder at the end of the block, also after an error. Messages name the URL, not the folder."""
        try:
            yield
        except (ValueError, FileNotFoundError, FileExistsError) as error:
            with suppress(Exception):
                self.upload()
            # A path of the cache would tell the user nothing.
            if len(error.args) == 1 and str(self.folder) in str(error):
                raise type(error)(str(error).replace(str(self.folder), self.url)) from error
            raise
        except StorageError:
            raise
        except BaseException:
            with suppress(Exception):
                self.upload()
            raise
        self.upload()


def opened_store(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path of the URL in it.

    Raises:
        ValueError: The scheme is unknown, or there is no path.
        ImportError: The package of the scheme is not installed.
    """
    import fsspec

    match = URL.match(url)
    scheme = "" if match is None else match[1]
    known = sorted({*fsspec.available_protocols(), *fsspec.registry})
    if scheme not in known:
        raise ValueError(
            f"{url}: the scheme {scheme!r} is unknown{near_miss(scheme, known)}; expected a directory, or a URL "
            "such as gs://bucket/run or s3://bucket/run"
        )
    if not url[len(scheme) + 3 :].strip("/"):
        raise ValueError(f"{url} names no place; expected a URL such as {scheme}://bucket/run")
    try:
        with reported(url, "opened"):
            store, path = fsspec.url_to_fs(url)
    except ImportError as error:
        extra, package = EXTRAS.get(scheme, ("", ""))
        advice = f"{scheme}:// needs the package {package}: pip install 'tlx[{extra}]'" if extra else str(error)
        raise ImportError(f"{url} cannot be opened: {advice}") from None
    return store, path


@contextmanager
def reported(url: str, action: str) -> Iterator[None]:
    """Turn the errors of a store within the block, of whatever library, into one `StorageError` that names the URL."""
    try:
        yield
    except (ImportError, StorageError, InUse):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason is known"
        raise StorageError(
            f"{url} cannot be {action} ({type(error).__name__}: {reason})",
            "check the bucket, the credentials and the network,",
        ) from error


def fetched(place: str | Path) -> Path:
    """Return the local folder of a finished run: the path itself, or the folder to which a URL was downloaded.

    Raises:
        FileNotFoundError: There is nothing at the URL.
        StorageError: The URL cannot be read.
    """
    if not is_url(place):
        return Path(place)
    copy = RemoteRun(str(place), "read")
    if not copy.download(checkpoints=False):
        raise FileNotFoundError(f"there is no run at {place}; check the URL")
    return copy.folder


@contextmanager
def edited(url: str) -> Iterator[Path]:
    """Download the records of a run at a URL, and copy the files that the block changes. Raises as `fetched`."""
    check_writable(url)
    copy = RemoteRun(url, "read")
    copy.folder.mkdir(parents=True, exist_ok=True)
    with writing(copy.folder):
        if not copy.download(checkpoints=False):
            raise FileNotFoundError(f"there is no run at {url}; check the URL")
        yield copy.folder
        copy.upload()


def stamp(path: Path) -> tuple[int, ...]:
    """Return the size of a file first, and what changes with its content."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def in_checkpoint(name: str) -> bool:
    """Return whether a file belongs to a checkpoint."""
    return name.startswith(f"{CHECKPOINTS}/")


def folder_of(name: str) -> str:
    """Return the folder of the checkpoint to which a file belongs.

    >>> folder_of("checkpoints/20/arrays/d/1")
    'checkpoints/20'
    """
    return "/".join(name.split("/")[:2]) if in_checkpoint(name) else ""


def is_marker(name: str) -> bool:
    """Return whether a file says that its checkpoint is complete."""
    return in_checkpoint(name) and name == f"{folder_of(name)}/{DIGESTS}"


def is_of_run(name: str) -> bool:
    """Return whether a run writes a file of this name.

    >>> is_of_run("checkpoints/20/notes.json"), is_of_run("checkpoints/20/../../../x"), is_of_run("../recipe.json")
    (True, False, False)
    """
    if in_checkpoint(name):
        parts = PurePosixPath(name).parts
        # What lies in a bucket must not name a file outside of the local folder.
        return parts[1].isdigit() and ".." not in parts
    return run_files.is_written(name)


def order(name: str) -> tuple[int, str]:
    """Return the place of a file in the order of the copies: records, checkpoints, their markers, the result."""
    place = 3 if name == RESULT else 2 if is_marker(name) else 1 if in_checkpoint(name) else 0
    return place, name
