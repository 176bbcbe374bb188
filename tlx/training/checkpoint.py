"""Checkpoints: the state of a run that its recipe does not determine. The order of the data is a function of the step.

A checkpoint is a directory, `checkpoints/STEP/`: `arrays/`, written by orbax; `notes.json` with the step, the notes and
every array's path, type, shape and sha256; `files.sha256` with the sha256 of every file (see `durable.write_digests`).
It is written as `.STEP.partial`, synced and renamed, so a killed run or a full disk leaves the checkpoints before it.
The newest two are kept: a damaged one falls back to the other.
"""

import hashlib
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.files.durable import (
    DIGESTS,
    DamagedWarning,
    DiskFull,
    StorageError,
    check_digests,
    check_room,
    delete,
    guarded,
    stamp_of,
    sync_path,
    sync_tree,
    write_digests,
    write_whole,
)

__all__ = ["Checkpoints", "DamagedCheckpoint", "DiskFull", "Saved", "StorageError", "guarded"]

ARRAYS, NOTES = "arrays", "notes.json"
# The name of `NOTES` before this format, when nothing had a checksum.
OLD_NOTES = "rest/metadata"
# Upper bounds of what orbax writes beside the numbers: per array, and per checkpoint.
PER_ARRAY, PER_CHECKPOINT = 1024, 2**16


class Saved(NamedTuple):
    """The content of a checkpoint: `state` (with raw key data), `best` (or {}), `notes` (JSON)."""

    state: Any
    best: Any
    notes: dict[str, Any]


class DamagedCheckpoint(ValueError):
    """A checkpoint's bytes are not those that were written, or there is no intact one."""


class Stored(NamedTuple):
    """The type, shape and sha256 of an array."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


class Checkpoints:
    """The checkpoints of one run in `folder`; the newest `keep` stay. A thread writes while training continues."""

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = folder.absolute(), keep
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None
        self.verified: dict[int, Any] = {}
        self.reported: set[Path] = set()

    def folders(self) -> dict[int, Path]:
        """Return the directory of every checkpoint by step, ascending, whether it is intact or not."""
        paths = self.folder.glob("[0-9]*") if self.folder.is_dir() else ()
        return dict(sorted((int(path.name), path) for path in paths if path.name.isdigit()))

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
        damaged: dict[Path, str] = {}
        for step, path in reversed(self.folders().items()):
            try:
                self._verify(step, path)
            except DamagedCheckpoint as error:
                # A run that is still training may have just deleted it.
                if path.exists():
                    damaged[path] = str(error)
                continue
            intact.append(step)
            if not every:
                break
        if damaged and not intact:
            # Starting again would throw the run's work away without a word.
            raise DamagedCheckpoint(
                f"no checkpoint in {self.folder} can be read: {'; '.join(damaged.values())}. Restore one of these "
                "directories from a copy, or delete them all to start again from step 0"
            )
        for path, reason in damaged.items():
            if path not in self.reported:
                self.reported.add(path)
                warnings.warn(f"{reason}; tlx skips it and uses an older checkpoint", DamagedWarning, stacklevel=3)
        return intact

    def _verify(self, step: int, path: Path) -> None:
        """Read every byte of a checkpoint; again only after its files have changed."""
        if _is_old(path):
            return
        try:
            stamp = stamp_of(path)
            if self.verified.get(step) == stamp:
                return
            check_digests(path)
            stored_step = _notes(path)["step"]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamagedCheckpoint(f"{path} is damaged: {error.filename} is missing") from error
        except PermissionError:
            raise
        except OSError as error:
            raise DamagedCheckpoint(f"{path} is damaged: {error.filename or path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{path} is damaged: {error}") from error
        if stored_step != step:
            raise DamagedCheckpoint(f"{path} contains step {stored_step}, which is not the step in its name")
        self.verified[step] = stamp

    def save(self, step: int, saved: Saved) -> None:
        """Start to write a checkpoint. The arrays are copied before this returns.

        Raises:
          DiskFull, StorageError: an earlier save failed.
        """
        self.wait()
        # Every process has the whole state; one writes it.
        if jax.process_index():
            return
        # Here, since an import in a thread may meet another one half-way.
        import orbax.checkpoint  # noqa: F401

        tree = {"state": saved.state, "best": saved.best}
        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        # A copy, since the next step may reuse the buffers.
        arrays = jax.tree.map(lambda leaf: np.array(leaf, order="C", copy=True), tree)
        self.thread = threading.Thread(
            target=self._write, args=(step, saved.notes, arrays), name=f"checkpoint-{step}", daemon=True
        )
        self.thread.start()

    def _write(self, step: int, notes: Mapping[str, Any], arrays: Any) -> None:
        partial = self.folder / f".{step}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            delete(partial)
            partial.mkdir()
            table = {name: [leaf.dtype.name, leaf.shape, _sha256(leaf)] for name, leaf in _flatten(arrays).items()}
            _store(partial / ARRAYS, arrays)
            text = json.dumps({"step": step, "notes": notes, "arrays": table}).encode()
            write_whole(partial / NOTES, [text])
            write_digests(partial)
            sync_tree(partial)
            self._name(partial, step)
            self._prune(step)
        except BaseException as error:
            self.failure = error
            # After an error of orbax, threads of tensorstore may write on for a moment.
            delete(partial, seconds=2.0)

    def _name(self, partial: Path, step: int) -> None:
        """Give a whole, synced checkpoint its name."""
        target = self.folder / str(step)
        # Only a damaged one, or one of a run that went back to an older step, is there already.
        if target.exists():
            _move(target, self.folder / f".{step}.replaced.partial")
        os.replace(partial, target)
        sync_path(self.folder)

    def _prune(self, step: int) -> None:
        """Delete all but the newest. A later step than the one just written is damaged, or a run went back past it."""
        folders = self.folders()
        older = [saved for saved in folders if saved <= step][: -self.keep]
        for old in [*older, *(saved for saved in folders if saved > step)]:
            # A concurrent reader sees a whole checkpoint or none.
            _move(folders[old], self.folder / f".{old}.partial")
        for partial in self.folder.glob(".*.partial"):
            delete(partial)

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
          DamagedCheckpoint: the checkpoint is not as it was written.
          FileNotFoundError: there is no checkpoint of that step.
          ValueError: the checkpoint holds other arrays than this run's.
        """
        step = self.latest() if step is None else step
        folders = self.folders()
        if step is None or step not in folders:
            raise FileNotFoundError(
                f"{self.folder} has no checkpoint of step {step}; it has checkpoints of these steps: "
                f"{', '.join(map(str, folders)) or 'none'}"
            )
        path = folders[step]
        self._verify(step, path)
        record = _notes(path)
        check(record["notes"])
        target = {"state": state, "best": best if record["notes"].get("best") else {}}
        expected = {name: (np.dtype(leaf.dtype).name, tuple(leaf.shape)) for name, leaf in _flatten(target).items()}
        forms = {name: Stored(dtype, tuple(shape), digest) for name, (dtype, shape, digest) in record["arrays"].items()}
        if not _is_old(path):
            _compare(path, {name: form[:2] for name, form in forms.items()}, expected)
        arrays = _load(path / ARRAYS, target)
        _compare(path, {name: (array.dtype.name, array.shape) for name, array in _flatten(arrays).items()}, expected)
        for name, array in _flatten(arrays).items():
            if name in forms and _sha256(array) != forms[name].sha256:
                raise DamagedCheckpoint(f"{path} is damaged: the checksum of {name} does not match")
        placed = jax.tree.map(_place, arrays, target)
        return Saved(placed["state"], placed["best"], record["notes"])

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


def _flatten(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by their path, in the order of `jax.tree.flatten`."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _compare(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Compare types and shapes of a checkpoint's arrays with those of this run.

    Raises:
      ValueError: with the first array that differs.
    """
    if theirs == ours:
        return
    name = next(name for name in [*ours, *theirs] if theirs.get(name) != ours.get(name))
    raise ValueError(
        f"{path} does not fit this run: {name} is {_format_form(theirs.get(name))} in the checkpoint and "
        f"{_format_form(ours.get(name))} in this run. The code may have changed since; pass --overwrite to start again"
    )


def _format_form(form: tuple[str, tuple[int, ...]] | None) -> str:
    return "missing" if form is None else f"{form[0]}{list(form[1])}"


def _place(array: np.ndarray, like: Any) -> Any:
    """Return the array where the leaf `like` lies: on its devices, or on the host."""
    return jax.device_put(array, like.sharding) if isinstance(like, jax.Array) else array


def _move(path: Path, aside: Path) -> None:
    """Rename a checkpoint in one operation; a killed run may have left something under the other name."""
    delete(aside)
    os.replace(path, aside)


def _is_old(path: Path) -> bool:
    """Return whether orbax alone wrote a checkpoint, as in tlx 0.1: there is nothing to compare its files with."""
    return (path / OLD_NOTES).is_file() and not (path / DIGESTS).exists() and not (path / NOTES).exists()


def _notes(path: Path) -> Any:
    """Return `step`, `notes` and the table of `arrays`; of an old checkpoint the notes alone."""
    if _is_old(path):
        return {"arrays": {}, **json.loads((path / OLD_NOTES).read_text(encoding="utf-8"))}
    return json.loads((path / NOTES).read_text(encoding="utf-8"))


def _store(folder: Path, arrays: Any) -> None:
    """Write a tree of NumPy arrays by orbax.

    Raises:
      OSError: the storage refuses.
    """
    import orbax.checkpoint as ocp

    leaves = jax.tree.leaves(arrays)
    # Orbax stops half-way on a full disk, and leaves several threads behind: better not to begin.
    check_room(folder.parent, sum(leaf.nbytes for leaf in leaves) + PER_ARRAY * len(leaves) + PER_CHECKPOINT)
    _quieten()
    folder.mkdir()
    handler = ocp.PyTreeCheckpointHandler()
    try:
        handler.save(folder, args=ocp.args.PyTreeSave(jax.tree.map(_storable, arrays)))
        handler.finalize(folder)
    except ValueError as error:
        # Tensorstore reports an error of the operating system in this form.
        if (code := re.search(r"os_error_code='(\d+)'", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from None


def _load(folder: Path, target: Any) -> Any:
    """Return the stored NumPy arrays in the structure of the tree `target`.

    Raises:
      DamagedCheckpoint: orbax cannot read the files.
    """
    import orbax.checkpoint as ocp

    _quieten()
    example = jax.tree.map(lambda leaf: _storable(np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)), target)
    form = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target)
    try:
        stored = ocp.PyTreeCheckpointHandler().restore(
            folder, args=ocp.args.PyTreeRestore(item=example, restore_args=form)
        )
    except Exception as error:
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedCheckpoint(f"{folder} cannot be read by orbax: {words}") from error
    return jax.tree.map(lambda array, like: array if like.size else np.zeros(like.shape, like.dtype), stored, target)


def _storable(array: np.ndarray) -> np.ndarray:
    """Return the array, or one element where it has none, which orbax refuses."""
    return array if array.size else np.zeros(1, array.dtype)


def _quieten() -> None:
    """Keep orbax from printing what it also raises: on a full disk, a traceback for every array and thread.

    They come from orbax's logger, from event loops that it closes with open tasks, and from tensorstore's threads that
    find these loops closed, some after the error was raised. Everything else is still printed.
    """
    for name in ("absl", "asyncio"):
        logger = logging.getLogger(name)
        if _is_news not in logger.filters:
            logger.addFilter(_is_news)
    before = sys.unraisablehook
    if getattr(before, "of_tlx", False):
        return

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    hook.of_tlx = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a log record is something else than an error that orbax also raises."""
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not any(words in str(error) for words in ("tensorstore_spec", "os_error_code", "RESOURCE_"))
