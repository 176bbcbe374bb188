"""Checkpoints: the state of a run that its recipe does not determine. The order of the data is a function of the step.

A checkpoint is a directory, `checkpoints/STEP/`: `arrays/`, written by orbax; `notes.json` with the step, the notes and
every array's path, type, shape and sha256; `files.sha256` with the sha256 of every file (see `durable.write_digests`).
It is written as `.STEP.partial`, synced and renamed, so a killed run or a full disk leaves the checkpoints before it.
The newest two are kept, unless the run asks for others: a damaged one falls back to the one before.
"""

import hashlib
import json
import math
import os
import threading
import warnings
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx import processes, sharding
from tlx.files.durable import (
    DIGESTS,
    DamagedWarning,
    DiskFull,
    StorageError,
    check_digests,
    delete,
    guarded,
    stamp_of,
    sync_path,
    sync_tree,
    write_digests,
    write_whole,
)
from tlx.training.placement import gathered_state
from tlx.training.stored_arrays import DamagedCheckpoint, check_disk, load, store

__all__ = ["Checkpoints", "DamagedCheckpoint", "DiskFull", "NewerCheckpoint", "Saved", "StorageError", "guarded"]

ARRAYS, NOTES = "arrays", "notes.json"
# The name of `NOTES` before this format, when nothing had a checksum.
OLD_NOTES = "rest/metadata"
# The version of this format. An older tlx refuses a checkpoint of a newer version.
FORMAT = 1
# The note with the measurement of each run at the step of a checkpoint: value and whether higher is better, or None.
JUDGED = "judged"


class NewerCheckpoint(ValueError):
    """A newer version of tlx wrote a checkpoint, in a form that this version cannot read."""


class Saved(NamedTuple):
    """The content of a checkpoint: `state` (with raw key data), `best` (or {}), `notes` (JSON)."""

    state: Any
    best: Any
    notes: dict[str, Any]


class Stored(NamedTuple):
    """The type, shape and sha256 of an array; no sha256 where it was written by several processes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str


class Checkpoints:
    """The checkpoints of one run in `folder`. A thread writes while training continues.

    The newest `keep_last` stay, and for each run the `keep_best` with the best measurements (the note `JUDGED`).
    `published` is called after each one that is complete, in the thread that wrote it. `shared` says that all processes
    see the folder; otherwise the leader gathers arrays that lie on several processes, and writes them.
    """

    def __init__(self, folder: Path, keep_last: int = 2, keep_best: int = 0):
        self.folder, self.keep_last, self.keep_best = folder.absolute(), keep_last, keep_best
        self.published: Callable[[], None] = lambda: None
        self.shared = True
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
          NewerCheckpoint: a newer version of tlx wrote the newest one.
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
            record = _notes(path)
            stored_step, form, writer = record["step"], record.get("format", FORMAT), record.get("tlx")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DamagedCheckpoint(f"{path} is damaged: {error.filename} is missing") from error
        except PermissionError:
            raise
        except OSError as error:
            raise DamagedCheckpoint(f"{path} is damaged: {error.filename or path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{path} is damaged: {error}") from error
        if form > FORMAT:
            raise NewerCheckpoint(
                f"{path} was written by tlx {writer} (checkpoint format {form}), but this is tlx {version('tlx')}, "
                f"which reads formats up to {FORMAT}; continue with tlx {writer} or newer, or start again from "
                "step 0 with tlx run CONFIG --overwrite"
            )
        if stored_step != step:
            raise DamagedCheckpoint(f"{path} contains step {stored_step}, which is not the step in its name")
        self.verified[step] = stamp

    def save(self, step: int, saved: Saved) -> None:
        """Start to write a checkpoint. The arrays are copied before this returns.

        Raises:
          DiskFull, StorageError: an earlier save failed.
        """
        self.wait()
        tree = {"state": saved.state, "best": saved.best}
        if any(map(sharding.is_elsewhere, jax.tree.leaves(tree))):
            if self.shared:
                self._write_together(step, saved.notes, tree)
                return
            tree = gathered_state(tree)
        # Every process has the whole state; the leader writes it.
        if not processes.leads():
            return
        # Here, since an import in a thread may meet another one half-way.
        import orbax.checkpoint  # noqa: F401

        for leaf in jax.tree.leaves(tree):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
        # A copy, since the next step may reuse the buffers.
        arrays = jax.tree.map(lambda leaf: np.array(leaf, order="C", copy=True), tree)
        self.thread = threading.Thread(
            target=self._write, args=(step, saved.notes, arrays), name=f"checkpoint-{step}", daemon=True
        )
        self.thread.start()

    def _write_together(self, step: int, notes: Mapping[str, Any], tree: Any) -> None:
        """Write a checkpoint of arrays that lie on several processes: each writes what its devices hold, on a disk that
        all of them share. Training waits."""
        partial = self.folder / f".{step}.partial"
        arrays = jax.tree.map(lambda leaf: leaf if sharding.is_elsewhere(leaf) else np.asarray(leaf), tree)
        processes.decided(lambda: self._begin(partial))
        processes.decided(lambda: check_disk(partial, arrays))
        processes.together(lambda: store(partial / ARRAYS, arrays))
        processes.decided(lambda: self._finish(partial, step, notes, arrays))

    def _begin(self, partial: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        delete(partial)
        partial.mkdir()

    def _finish(self, partial: Path, step: int, notes: Mapping[str, Any], arrays: Any) -> None:
        """Add the notes and the digests to a checkpoint whose arrays are written, and give it its name."""
        table = {name: [leaf.dtype.name, leaf.shape, _sha256(leaf)] for name, leaf in _flatten(arrays).items()}
        record = {"format": FORMAT, "tlx": version("tlx"), "step": step, "notes": notes, "arrays": table}
        text = json.dumps(record).encode()
        write_whole(partial / NOTES, [text])
        write_digests(partial)
        sync_tree(partial)
        self._name(partial, step)
        self._prune(step)
        self.published()

    def _write(self, step: int, notes: Mapping[str, Any], arrays: Any) -> None:
        partial = self.folder / f".{step}.partial"
        try:
            self._begin(partial)
            check_disk(partial, arrays)
            store(partial / ARRAYS, arrays)
            self._finish(partial, step, notes, arrays)
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
        """Delete all but the newest and the best. A later step than the one just written is damaged, or a run went back
        past it."""
        folders = self.folders()
        steps = [saved for saved in folders if saved <= step]
        kept = {*steps[-self.keep_last :], *self._best({saved: folders[saved] for saved in steps})}
        for old in folders.keys() - kept:
            # A concurrent reader sees a whole checkpoint or none.
            _move(folders[old], self.folder / f".{old}.partial")
        for partial in self.folder.glob(".*.partial"):
            delete(partial)

    def _best(self, folders: Mapping[int, Path]) -> Collection[int]:
        """Return the steps of the `keep_best` best checkpoints of each run; the earlier one of two equal ones."""
        values: dict[int, list[tuple[float, int]]] = {}
        for step, path in folders.items() if self.keep_best else ():
            try:
                judged = _notes(path)["notes"].get(JUDGED, ())
            except (OSError, ValueError, KeyError, TypeError):
                # It is damaged.
                continue
            for run, (value, higher_is_better) in ((n, pair) for n, pair in enumerate(judged) if pair is not None):
                if not math.isnan(value):
                    values.setdefault(run, []).append((-value if higher_is_better else value, step))
        return {step for of_run in values.values() for _, step in sorted(of_run)[: self.keep_best]}

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
        arrays = load(path / ARRAYS, target)
        _compare(path, {name: (array.dtype.name, array.shape) for name, array in _flatten(arrays).items()}, expected)
        for name, array in _flatten(arrays).items():
            if name in forms and forms[name].sha256 and _sha256(array) != forms[name].sha256:
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


def _sha256(array: Any) -> str:
    """Return the sha256 of an array; empty for one that lies on several processes, none of which has all of it."""
    if sharding.is_elsewhere(array):
        return ""
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
        f"{_format_form(ours.get(name))} in this run. The code may have changed since; start again with tlx run CONFIG "
        "--overwrite"
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
