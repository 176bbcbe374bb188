"""The arrays of a checkpoint on the disk, by orbax."""

import logging
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import sharding
from tlx.files.durable import check_room

# Upper bounds of what orbax writes beside the numbers: per array, and per checkpoint.
PER_ARRAY, PER_CHECKPOINT = 1024, 2**16


class DamagedCheckpoint(ValueError):
    """A checkpoint's bytes are not those that were written, or there is no intact one."""


def check_disk(folder: Path, arrays: Any) -> None:
    """Check that a tree of arrays, the parts on other processes included, fits on the disk of `folder`.

    Orbax stops half-way on a full disk, and leaves threads running and other processes waiting: better not to begin.

    Raises:
      OSError: the disk is full, or a limit is too low.
    """
    leaves = jax.tree.leaves(arrays)
    check_room(folder, sum(leaf.nbytes for leaf in leaves) + PER_ARRAY * len(leaves) + PER_CHECKPOINT)


def store(folder: Path, arrays: Any) -> None:
    """Write a tree of arrays by orbax; of an array on several processes each writes its part.

    Raises:
      OSError: the storage refuses.
    """
    import orbax.checkpoint as ocp

    leaves = jax.tree.leaves(arrays)
    _quieten()
    arguments = ocp.args.PyTreeSave(jax.tree.map(_storable, arrays))
    handler = ocp.PyTreeCheckpointHandler()
    try:
        if any(map(sharding.is_elsewhere, leaves)):
            # It makes the folder in one of the processes, and waits for all.
            with ocp.Checkpointer(handler) as writer:
                writer.save(folder, args=arguments)
        else:
            folder.mkdir()
            handler.save(folder, args=arguments)
            handler.finalize(folder)
    except ValueError as error:
        # Tensorstore reports an error of the operating system in this form.
        if (code := re.search(r"os_error_code='(\d+)'", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from None


def load(folder: Path, target: Any) -> Any:
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
