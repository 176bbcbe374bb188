"""Checkpoints by orbax: what of a run cannot be had again from its recipe, together or not at all. The order of the
data is a function of the step.

A checkpoint is written to a folder of another name and renamed when it is whole, so a killed run or a full disk leaves
the one before.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TOLD = ("No space left", "File too large", "quota exceeded")


class Saved(NamedTuple):
    """What a checkpoint holds: `state` (with raw key data), `best` (or {}), `notes` (JSON)."""

    state: Any
    best: Any
    notes: dict[str, Any]


class DiskFull(OSError):
    """The disk does not take what is to be saved; what was saved before is whole."""


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Turns the many ways in which a full disk speaks into one `DiskFull` that says what is safe."""
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in FULL
        if not full and not any(told in str(error) for told in FULL_TOLD):
            raise
        raise DiskFull(
            f"the disk is full: {folder} could not be written. What was saved before is whole; make room and go on "
            "with --resume"
        ) from error


class Checkpoints:
    """The checkpoints of one run in `folder`: the newest is kept. Saving goes on in the background."""

    def __init__(self, folder: Path):
        self.folder = folder.absolute()

    @cached_property
    def manager(self) -> Any:
        """Made when it is first wanted: many a run is over before its first checkpoint."""
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, cleanup_tmp_directories=True)
        return ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self.manager.latest_step() if self.folder.is_dir() else None

    def save(self, step: int, saved: Saved) -> None:
        """Starts to write; the arrays are copied before this returns. An earlier save's failure is raised here."""
        import orbax.checkpoint as ocp

        self.manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave({"state": saved.state, "best": saved.best}),
                rest=ocp.args.JsonSave({"notes": saved.notes}),
            ),
        )

    def restore(self, state: Any, best: Any, check: Callable[[Any], None] = lambda notes: None) -> Saved:
        """The newest checkpoint in the shapes and shardings of the trees `state` and `best`; `check` sees its notes
        first."""
        import orbax.checkpoint as ocp

        step = self.latest()
        rest = self.manager.restore(step, args=ocp.args.Composite(rest=ocp.args.JsonRestore())).rest
        check(rest["notes"])
        target = {"state": state, "best": best if rest["notes"].get("best") else {}}
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        arrays = self.manager.restore(step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(abstract))).arrays
        return Saved(arrays["state"], arrays["best"], rest["notes"])

    def wait(self) -> None:
        """Returns when all is on disk."""
        if "manager" in self.__dict__:
            self.manager.wait_until_finished()

    def close(self) -> None:
        if "manager" in self.__dict__:
            self.manager.close()
