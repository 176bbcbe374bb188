"""Checkpoints: everything of a run that its recipe cannot give again. The order of the data is a function of the step.

A checkpoint is one file, `STEP.checkpoint`. It begins with `MAGIC`, the length of the header (8 bytes, little-endian)
and the header's sha256 (32 bytes); the header, JSON, holds the notes and every array's path, type, shape and sha256;
the arrays' bytes follow in that order. The file is written under another name, synced and renamed, so a killed run or
a full disk leaves the checkpoints before it. The newest two are kept: a damaged one falls back to the other.
"""

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.durable import DamagedWarning, DiskFull, StorageError, guarded, write_whole

__all__ = ["Checkpoints", "DamagedCheckpoint", "DiskFull", "Saved", "StorageError", "guarded"]

MAGIC = b"tlx-ckp1"
SUFFIX = ".checkpoint"
PIECE = 2**20


class Saved(NamedTuple):
    """The content of a checkpoint: `state` (with raw key data), `best` (or {}), `notes` (JSON)."""

    state: Any
    best: Any
    notes: dict[str, Any]


class DamagedCheckpoint(ValueError):
    """A checkpoint's bytes are not those that were written, or there is no intact one."""


class Header(NamedTuple):
    """The first part of a checkpoint file: its `step`, `notes`, and the `arrays` as (path, type, shape, sha256)."""

    step: int
    notes: dict[str, Any]
    arrays: list[tuple[str, str, tuple[int, ...], str]]


class Checkpoints:
    """The checkpoints of one run in `folder`; the newest `keep` stay. A thread writes while training continues."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder.absolute(), keep
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.verified: dict[int, tuple[int, int, int]] = {}
        self.reported: set[Path] = set()

    def files(self) -> dict[int, Path]:
        """Return the file of every checkpoint by step, ascending, whether it is intact or not."""
        found = self.folder.glob(f"*{SUFFIX}") if self.folder.is_dir() else ()
        named = {path.name.removesuffix(SUFFIX): path for path in found}
        return dict(sorted((int(name), path) for name, path in named.items() if name.isdigit()))

    def steps(self) -> list[int]:
        """Return the steps of all intact checkpoints, ascending. Every file is read and checked.

        Raises:
          DamagedCheckpoint: there are checkpoints and none is intact.
        """
        self.wait()
        return sorted(self._intact(every=True))

    def latest(self) -> int | None:
        """Return the step of the newest intact checkpoint, None where there is no checkpoint at all.

        A damaged newer one is skipped with a `DamagedWarning` that names it.

        Raises:
          DamagedCheckpoint: there are checkpoints and none is intact.
        """
        self.wait()
        return max(self._intact(every=False), default=None)

    def _intact(self, every: bool) -> list[int]:
        intact: list[int] = []
        damaged = {path: f"{path} was written by an older tlx" for path in self._foreign()}
        for step, path in reversed(self.files().items()):
            try:
                self._verify(step, path)
            except FileNotFoundError:
                # A run that is going on has just deleted it.
                continue
            except DamagedCheckpoint as error:
                damaged[path] = str(error)
                continue
            intact.append(step)
            if not every:
                break
        if damaged and not intact:
            # Starting again would throw the run's work away without a word.
            raise DamagedCheckpoint(
                f"no checkpoint in {self.folder} can be read: {'; '.join(damaged.values())}. Restore one of these "
                "files from a copy, or delete that directory to start again from step 0"
            )
        for path, reason in damaged.items():
            if path not in self.reported:
                self.reported.add(path)
                warnings.warn(f"{reason}; it is skipped, and an older checkpoint is used", DamagedWarning, stacklevel=3)
        return intact

    def _foreign(self) -> list[Path]:
        """Return the checkpoints of tlx before this format, which were directories named by their step."""
        return sorted(path for path in self.folder.glob("[0-9]*") if path.name.isdigit() and path.is_dir())

    def _verify(self, step: int, path: Path) -> None:
        """Read every byte of a checkpoint once, as long as the file stays the same."""
        status = path.stat()
        mark = (status.st_size, status.st_mtime_ns, status.st_ino)
        if self.verified.get(step) != mark:
            _read(path, step, wanted=None)
            self.verified[step] = mark

    def save(self, step: int, saved: Saved) -> None:
        """Start to write a checkpoint. The arrays are copied before this returns.

        Raises:
          DiskFull, StorageError: an earlier save failed.
        """
        self.wait()
        # Every process has the whole state; one writes it.
        if jax.process_index():
            return
        leaves = _named({"state": saved.state, "best": saved.best})
        for leaf in leaves.values():
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        # A copy, since the next step may reuse the buffers.
        arrays = {path: np.array(leaf, order="C", copy=True) for path, leaf in leaves.items()}
        self.thread = threading.Thread(
            target=self._write, args=(step, saved.notes, arrays), name=f"checkpoint-{step}", daemon=True
        )
        self.thread.start()

    def _write(self, step: int, notes: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            table = [
                [path, array.dtype.name, list(array.shape), hashlib.sha256(_bytes(array)).hexdigest()]
                for path, array in arrays.items()
            ]
            header = json.dumps({"step": step, "notes": notes, "arrays": table}).encode()
            start = MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header
            target = self.folder / f"{step}{SUFFIX}"
            write_whole(target, [start, *map(_bytes, arrays.values())], sync=True)
            self._prune(step)
        except BaseException as error:
            self.failure = error

    def _prune(self, step: int) -> None:
        """Delete all but the newest. A later step than the one just written is damaged, or a run went back past it."""
        files = self.files()
        older = [own for own in files if own <= step][: -self.keep]
        for own in [*older, *(own for own in files if own > step)]:
            files[own].unlink(missing_ok=True)
        for partial in self.folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)

    def restore(
        self, state: Any, best: Any, step: int | None = None, check: Callable[[Any], None] = lambda notes: None
    ) -> Saved:
        """Read a checkpoint in the shapes and shardings of the trees `state` and `best`.

        Args:
          state: a tree like the saved one.
          best: a tree like the saved one, where the checkpoint has a best state.
          step: one of `steps()`; the newest intact checkpoint by default.
          check: called with the notes before any array is read; raises ValueError for those of another run.

        Raises:
          DamagedCheckpoint: the file is not as it was written.
          FileNotFoundError: there is no checkpoint of that step.
          ValueError: the checkpoint holds other arrays than this run's.
        """
        step = self.latest() if step is None else step
        files = self.files()
        if step is None or step not in files:
            raise FileNotFoundError(
                f"{self.folder} holds no checkpoint of step {step}; it holds: {', '.join(map(str, files)) or 'none'}"
            )
        path = files[step]
        names = _named({"state": state, "best": best})
        header, arrays = _read(path, step, wanted=names.keys())
        check(header.notes)
        target = {"state": state, "best": best if header.notes.get("best") else {}}
        leaves, tree = jax.tree.flatten(target)
        wanted = _named(target)
        shapes = {name: (dtype, shape) for name, dtype, shape, _ in header.arrays}
        ours = {name: (np.dtype(leaf.dtype).name, tuple(leaf.shape)) for name, leaf in wanted.items()}
        if shapes != ours:
            name = next(name for name in [*ours, *shapes] if shapes.get(name) != ours.get(name))
            raise ValueError(
                f"{path} does not fit this run: {name} is {_told(shapes.get(name))} there and {_told(ours.get(name))} "
                "here; was the code changed since? --overwrite starts again"
            )
        placed = [_place(arrays[name], leaf) for name, leaf in zip(wanted, leaves, strict=True)]
        found = jax.tree.unflatten(tree, placed)
        return Saved(found["state"], found["best"], header.notes)

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
          DiskFull, StorageError: the checkpoint could not be written.
        """
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            with guarded(self.folder.parent):
                raise failure

    def close(self) -> None:
        """Wait for the last save."""
        self.wait()


def _named(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their path, in the order of `jax.tree.flatten`."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _bytes(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _told(form: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if form is None else f"{form[0]}{list(form[1])}"


def _place(array: np.ndarray, like: Any) -> Any:
    """Return the array where the leaf `like` lies: on its devices, or on the host."""
    return jax.device_put(array, like.sharding) if isinstance(like, jax.Array) else array


def _read(path: Path, step: int, wanted: Any) -> tuple[Header, dict[str, np.ndarray]]:
    """Read and check a whole file; of the arrays only those among the paths `wanted` are kept, none where it is None.

    Raises:
      DamagedCheckpoint: with the file and the first thing in it that is wrong.
    """
    try:
        with path.open("rb", buffering=0) as stream:
            header = _read_header(path, step, stream)
            arrays = {}
            for name, dtype, shape, digest in header.arrays:
                array = np.empty(shape, jnp.dtype(dtype))
                _fill(path, name, stream, _bytes(array), digest)
                if wanted is not None and name in wanted:
                    arrays[name] = array
            if stream.read(1):
                raise DamagedCheckpoint(f"{path} is damaged: there are bytes behind its last array")
    except PermissionError:
        raise
    except OSError as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error.strerror}") from error
    return header, arrays


def _read_header(path: Path, step: int, stream: Any) -> Header:
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(len(MAGIC) + 40)
    length = int.from_bytes(start[len(MAGIC) : len(MAGIC) + 8], "little")
    if len(start) < len(MAGIC) + 40 or not start.startswith(MAGIC) or length > size:
        raise DamagedCheckpoint(f"{path} is damaged: it does not begin like a checkpoint ({size} bytes)")
    text = bytearray(length)
    _fill(path, "its header", stream, memoryview(text), start[-32:].hex())
    found = json.loads(text)
    if found["step"] != step:
        raise DamagedCheckpoint(f"{path} is not the checkpoint of its name: it holds step {found['step']}")
    arrays = [(name, dtype, tuple(shape), digest) for name, dtype, shape, digest in found["arrays"]]
    return Header(step, found["notes"], arrays)


def _fill(path: Path, name: str, stream: BinaryIO, view: memoryview, digest: str) -> None:
    """Read the next bytes into `view` and compare their sha256."""
    made, place = hashlib.sha256(), 0
    while place < len(view):
        piece = view[place : place + PIECE]
        count = stream.readinto(piece)  # type: ignore[attr-defined]
        if not count:
            raise DamagedCheckpoint(f"{path} is damaged: {name} is cut short")
        made.update(piece[:count])
        place += count
    if made.hexdigest() != digest:
        raise DamagedCheckpoint(f"{path} is damaged: the checksum of {name} does not match")
