"""Compute the features that a store lacks. Several processes share the work, and fill one folder.

Shapes: B batch, T tokens.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial

import jax
import numpy as np

from tlx import processes
from tlx.data import Examples, Table, evaluation_batches, inputs_of
from tlx.data.augment import augmented, augmented_example, begins_with_pictures
from tlx.data.readers import reader
from tlx.interrupt import locked, look
from tlx.training.feature_cache.cut import Cut, prefix
from tlx.training.prepare import Prepared
from tlx.training.shares import gathered
from tlx.types import ArrayMap

# Seconds until a file that one process has written must be seen by the others: network disks keep old listings.
SEEN = 10.0
STOPPED = "stopped by a signal"


def augments(ready: Prepared, name: str) -> bool:
    """Return whether the examples are augmented: only those of training are."""
    return name in ready.recipe.data.stream_names and bool(ready.recipe.data.augment)


def fill(ready: Prepared, cut: Cut, name: str, whole: Examples, rows: np.ndarray, table: Table) -> Table:
    """Return the table with its missing `rows` computed, numbers of rows of the `whole` split; other processes that
    need the same rows wait.

    Processes that train together share the work. Each computes whole batches, those that one process would compute, so
    the numbers are the same; and writes them as a shard.

    Raises:
        OSError: The shards cannot be written; in every process.
        KeyboardInterrupt: A signal came to one of the processes; in every process.
    """
    with ExitStack() as lock:
        # The first process keeps all processes of other runs away.
        processes.decided(lambda: hold(lock, table))
        table = table.opened_again()
        for view in range(table.views):
            missing = np.asarray(processes.decided(partial(still_missing, table, rows)), np.int64)
            places = missing[missing % table.views == view] // table.views
            if len(places):
                changed = view if augments(ready, name) else None
                grow(ready, cut, whole.view(places), table, changed)
                table = processes.together(partial(complete, table, places * table.views + view))
    return table


def hold(lock: ExitStack, table: Table) -> None:
    """Hold the lock of a table's folder until `lock` is closed, and delete damaged shards."""
    from filelock import FileLock

    table.folder.mkdir(parents=True, exist_ok=True)
    lock.enter_context(locked(FileLock(table.folder / ".lock")))
    table.opened_again().remove_damaged()


def still_missing(table: Table, rows: np.ndarray) -> list[int]:
    """Return those of the rows that the table lacks."""
    return list(table.missing(rows).tolist())


def grow(ready: Prepared, cut: Cut, examples: Examples, table: Table, view: int | None) -> None:
    """Compute the features of the examples and write them beside the table: a shard by each process that trains here.
    `view` is the number of the augmentation, None where the split has none. Raises as `fill`."""
    number = processes.decided(lambda: table.next_number) + jax.process_index()
    batches = evaluation_batches(
        examples, ready.processor, batch=ready.recipe.train.eval_batch, buckets=ready.recipe.data.lengths,
        process_index=jax.process_index(), process_count=jax.process_count(), whole_batches=True, gather=gathered,
    )  # fmt: skip

    def written() -> str:
        """Write the shard of this process, and return the reason where it could not."""
        try:
            if shard := computed(ready, cut, batches, examples, table, view):
                table.grown(*shard, number)
            return ""
        except OSError as error:
            return error.strerror or str(error)
        except KeyboardInterrupt:
            return STOPPED

    reasons = [reason for reason in processes.gathered(processes.together(written)) if reason]
    if STOPPED in reasons:
        raise KeyboardInterrupt
    if reasons:
        raise OSError(reasons[0])


def complete(table: Table, rows: np.ndarray) -> Table:
    """Return the table with these rows, which other processes may have written a moment ago.

    Raises:
        FileNotFoundError: They do not appear.
    """
    last = time.monotonic() + SEEN
    while len((table := table.opened_again()).missing(rows)):
        if time.monotonic() > last:
            raise FileNotFoundError(
                f"{table.folder} lacks features that another process has written; set TLX_CACHE to a folder on a disk "
                "that all processes see"
            )
        time.sleep(SEEN / 20)
    return table


def computed(
    ready: Prepared, cut: Cut, batches: Iterable[ArrayMap], examples: Examples, table: Table, view: int | None
) -> tuple[np.ndarray, np.ndarray | None, list[np.ndarray]] | None:
    """Return `(indices, lengths, arrays)` of a new shard, from batches of the examples, short texts with short ones;
    None where there is no batch. `view` is as in `grow`."""
    assert cut.stage is not None
    run = jax.jit(partial(prefix, ready, cut.stage, cut.reads))
    variables = jax.device_put(ready.variables)
    indices: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    pieces: list[list[np.ndarray]] = [[] for _ in table.leaves]
    measured = reader(examples, ready.processor)
    for batch in batches:
        look()
        is_real, inputs = batch["weight"] > 0, inputs_of(batch)
        if view is not None:
            inputs["image"] = images_of_view(ready, batch, examples, view)
        arrays = [np.asarray(array)[is_real] for array in run(variables, inputs)]
        check_numbers(arrays, batch["index"][is_real], examples, cut.stage)
        indices.append(batch["index"][is_real].astype(np.int64) * table.views + (view or 0))
        sizes = measured.lengths(batch["position"][is_real]) if ready.processor.ragged else None
        if sizes is not None:
            lengths.append(sizes.astype(np.int32))
        for piece, leaf, array in zip(pieces, table.leaves, arrays, strict=True):
            if leaf.tokens and sizes is not None:
                # Padding tokens are not stored: no stage reads them.
                piece.append(array[np.arange(array.shape[1]) < (sizes + leaf.extra)[:, None]])
            else:
                piece.append(array)
    if not indices:
        return None
    together = [np.concatenate(piece) for piece in pieces]
    return np.concatenate(indices), np.concatenate(lengths) if lengths else None, together


def images_of_view(ready: Prepared, batch: ArrayMap, examples: Examples, view: int) -> np.ndarray:
    """Return the images of a batch in one of their fixed views."""
    augment = ready.recipe.data.augment
    rows = zip(batch["image"], batch["index"].tolist(), batch["position"].tolist(), strict=True)
    if not begins_with_pictures(augment):
        return np.stack([augmented(image, augment, seed=0, step=view, index=index) for image, index, _ in rows])
    return np.stack(
        [
            augmented_example(examples[position], ready.processor, augment, seed=0, step=view, index=index)
            for _, index, position in rows
        ]
    )


def check_numbers(arrays: Sequence[np.ndarray], indices: np.ndarray, examples: Examples, stage: str) -> None:
    """Raise ValueError, with the example, where the features below `stage` contain NaN."""
    for array in arrays:
        bad = np.flatnonzero(np.isnan(array.reshape(len(array), -1)).any(1))
        if len(bad):
            raise ValueError(
                f"the features below {stage!r} contain NaN for {examples.name} {examples.split}[{indices[bad[0]]}]; "
                "check that example and the weights"
            )
