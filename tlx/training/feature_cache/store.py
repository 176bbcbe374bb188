"""Store the features of a frozen prefix for every example: computed once, kept in the cache folder, read as tables.

The key of a store is a hash of everything that decides its numbers: the weights below the cut, the architecture, the
cut, the entries read at the cut, the data, the perturbations of their inputs, their processing, and the type of the
activations.

Shapes: B batch, T tokens.
"""

import hashlib
import json
import re
import shutil
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx import config
from tlx.assets import cache_dir
from tlx.data import Examples, Leaf, Sealed, Splits, Table, evaluation_batches, inputs_of
from tlx.data.augment import augmented
from tlx.data.readers import reader
from tlx.functional.selection import SOURCE, TARGET
from tlx.training.feature_cache.cut import Cut, prefix
from tlx.training.interrupt import locked, look
from tlx.training.prepare import Prepared
from tlx.trees import flatten, subtree
from tlx.types import Array


class Sources(NamedTuple):
    """The readers of the batches of a phase, by the name of the stream or split: the tables of the stage `start`, or
    the recipe's processor where it is None. `message` says what was computed and saved, or why nothing was; `computed`
    is the number of computed rows."""

    start: str | None
    readers: Mapping[str, Any]
    message: str
    computed: int = 0


def nothing(ready: Prepared, why: str) -> Sources:
    """Return the recipe's processor for every stream and split."""
    names = (*ready.streams, "validation", "test", *(test.name for test in ready.recipe.data.tests), SOURCE, TARGET)
    return Sources(None, dict.fromkeys(names, ready.processor), f"no features are cached: {why}")


def room() -> Path:
    """Return the folder of all stores, whether it exists or not."""
    return cache_dir() / "prefixes"


def free_bytes() -> int:
    """Return how many bytes the disk of the stores has left."""
    folder = room()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def stored() -> tuple[int, int]:
    """Return how many stores there are, and their bytes."""
    if not room().is_dir():
        return 0, 0
    return len(list(room().iterdir())), sum(file.stat().st_size for file in room().rglob("*") if file.is_file())


def clear() -> int:
    """Delete every stored prefix and return the bytes that were freed."""
    _, before = stored()
    for folder in room().iterdir():
        # Other files there do not belong to tlx.
        if re.fullmatch(r"[0-9a-f]{24}", folder.name) and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
    return before - stored()[1]


def digest(ready: Prepared, cut: Cut, name: str, examples: Examples) -> str:
    """Return the key of the store of one stream or split."""
    assert cut.stage is not None
    model, recipe = ready.model, ready.recipe
    names = [stage.name for stage in model.stages]
    sha = hashlib.sha256()
    for stage in names[: names.index(cut.stage)]:
        for kind, tree in zip(("params", "stats"), ready.variables, strict=True):
            for path, leaf in flatten(subtree(tree, stage)).items():
                sha.update(f"{kind} {stage}/{path} {leaf.shape} {leaf.dtype}".encode())
                sha.update(numbers(leaf))
    side = sorted(flatten(subtree(ready.variables.params, f"{names[-1]}/side")))
    views = views_of(ready, name)
    augment = config.dump(recipe.data.augment) if augments(ready, name) else None
    reads = [["/".join(path), str(shape.dtype)] for path, shape in cut.reads]
    data = [examples.key or f"{examples.name} {examples.content}", examples.split, views, augment]
    if examples.perturbation is not None and (of_inputs := examples.perturbation.of_inputs) is not None:
        data.append(of_inputs.spelled)
    # Another version may compute the same stages differently.
    versions = [version("tlx"), jax.__version__]
    rest = [
        versions,
        config.dump(model.config),
        # The user's code, in the model or in the processing of its inputs.
        *([config.fingerprint((model.config, recipe.data))] if config.sources((model.config, recipe.data)) else []),
        # A tuning that is merged in the step may change what a frozen stage computes.
        *([config.fingerprint(recipe.tuning)] if recipe.tuning.merged_in_step else []),
        cut.stage,
        side,
        reads,
        recipe.train.dtype,
        ready.processor.identity,
        data,
    ]
    sha.update(json.dumps(rest, sort_keys=True).encode())
    return sha.hexdigest()[:24]


def numbers(leaf: Array | np.ndarray) -> bytes:
    """Return the digest of an array; it is kept until the array is deleted."""
    place = id(leaf)
    if place not in DIGESTS:
        # A weak reference does not keep the array alive; its entry goes before another array can have the same id.
        reference = weakref.ref(leaf, lambda _: DIGESTS.pop(place, None))
        DIGESTS[place] = reference, hashlib.sha256(np.ascontiguousarray(leaf).data).digest()
    return DIGESTS[place][1]


DIGESTS: dict[int, tuple[weakref.ref[Any], bytes]] = {}


def augments(ready: Prepared, name: str) -> bool:
    """Return whether the examples are augmented: only those of training are."""
    return name in ready.recipe.data.stream_names and bool(ready.recipe.data.augment)


def views_of(ready: Prepared, name: str) -> int:
    """Return the number of rows of an example of the split."""
    return (ready.recipe.data.views or 1) if augments(ready, name) else 1


def sources(
    pairs: Sequence[tuple[Prepared, Splits]], cut: Cut, reads: int, say: Callable[[str], None]
) -> list[Sources]:
    """Return the tables of `cut` for each recipe, with all missing rows computed.

    Every recipe gets its processor instead where no cut is possible, where too little is read for a cache to pay, or
    where the disk has no room.

    Args:
        pairs: The prepared recipes and their data; they differ only in numbers.
        cut: The cut of any of them.
        reads: The number of training examples that each recipe reads, of all streams together.
        say: Prints a message.
    """
    if cut.stage is None:
        return [nothing(ready, cut.why) for ready, _ in pairs]
    requests, folders_by_run = requested(pairs, cut)
    tables = {
        folder: Table(folder, cut.leaves, views_of(ready, name), ready.processor)
        for folder, ((ready, name, _), *_) in requests.items()
    }
    missing = {folder: lacking(tables[folder], [request[2] for request in requests[folder]]) for folder in tables}
    trained = {folders[name] for folders in folders_by_run for name in pairs[0][1].streams}
    if why := too_much(pairs, cut, reads, missing, trained):
        return [nothing(ready, why) for ready, _ in pairs]
    start = time.perf_counter()
    computed = sum(map(len, missing.values()))
    if computed:
        say(f"computing the features below {cut.stage!r} once, for {computed:,} examples")
    damaged = [reason for table in tables.values() for reason in table.damaged.values()]
    for reason in damaged:
        say(f"note: {reason}; it is not used, and its rows are computed again")
    for folder, rows in missing.items():
        if not len(rows):
            continue
        ready, name, examples = requests[folder][0]
        try:
            tables[folder] = fill(ready, cut, name, examples.whole(), rows, tables[folder])
        except OSError as error:
            # The store only saves time: a full or read-only cache must not stop a run.
            return [nothing(ready, f"{folder} cannot be written ({error.strerror or error})") for ready, _ in pairs]
    spent = f"computed {computed:,} in {time.perf_counter() - start:.1f} s" if computed else "all were in the cache"
    message = (
        f"feature cache: {cut.why}, so its outputs are cached ({spent}) and not computed again for the {reads:,} "
        "training examples of this phase"
    )
    message += f"; note: {'; '.join(damaged)}; it is not used, and its rows are computed again" if damaged else ""
    tables_by_run = [{name: tables[folder] for name, folder in folders.items()} for folders in folders_by_run]
    return [Sources(cut.stage, readers, message, computed) for readers in tables_by_run]


Requests = dict[Path, list[tuple[Prepared, str, Examples]]]


def requested(pairs: Sequence[tuple[Prepared, Splits]], cut: Cut) -> tuple[Requests, list[dict[str, Path]]]:
    """Return what the recipes need of each folder of the store, and the folder of each split for each recipe."""
    requests: Requests = {}
    folders_by_run: list[dict[str, Path]] = []
    for ready, splits in pairs:
        folders = {}
        for name, examples in splits.by_name.items():
            if isinstance(examples, Sealed):
                continue
            folders[name] = room() / digest(ready, cut, name, examples)
            requests.setdefault(folders[name], []).append((ready, name, examples))
        folders_by_run.append(folders)
    return requests, folders_by_run


def too_much(
    pairs: Sequence[tuple[Prepared, Splits]],
    cut: Cut,
    reads: int,
    missing: Mapping[Path, np.ndarray],
    trained: Collection[Path],
) -> str:
    """Return why the rows that are missing in each folder are not worth computing, or have no room on the disk.

    `trained` are the folders of training examples; the result is empty if the rows may be computed.
    """
    count = sum(len(missing[folder]) for folder in trained)
    if count > reads * len(pairs):
        message = (
            f"{len(pairs)} runs read {reads:,} examples" if len(pairs) > 1 else f"the phase reads {reads:,} examples"
        )
        return f"{message}, fewer than the {count:,} that the cache must compute"
    longest = pairs[0][0].processor.longest or max(pairs[0][0].recipe.data.lengths)
    sizes = zip(cut.leaves, cut.reads, strict=True)
    row = sum(row_bytes(leaf, shape, longest) for leaf, (_, shape) in sizes)
    size, free = sum(map(len, missing.values())) * row, free_bytes()
    if size > free / 2:
        return f"the cache may need {size / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left"
    return ""


def lacking(table: Table, example_sets: Sequence[Examples]) -> np.ndarray:
    """Return the rows, ascending, that these examples need and the table does not have."""
    rows = np.unique(np.concatenate([rows_of(examples, table.views) for examples in example_sets]))
    return table.missing(rows)


def row_bytes(leaf: Leaf, shape: Any, tokens: int) -> int:
    """Return an upper bound of the bytes of an example."""
    sizes = [tokens + leaf.extra, *shape.shape[2:]] if leaf.tokens else shape.shape[1:]
    return int(np.prod(sizes)) * shape.dtype.itemsize


def rows_of(examples: Examples, views: int) -> np.ndarray:
    """Return the rows that these examples need, int64."""
    return (examples.rows[:, None] * views + np.arange(views)).reshape(-1)


def fill(ready: Prepared, cut: Cut, name: str, whole: Examples, rows: np.ndarray, table: Table) -> Table:
    """Return the table with its missing `rows` computed, numbers of rows of the `whole` split; other processes that
    need the same rows wait."""
    from filelock import FileLock

    table.folder.mkdir(parents=True, exist_ok=True)
    with locked(FileLock(table.folder / ".lock")):
        table = Table(table.folder, table.leaves, table.views, table.processor)
        missing = table.missing(rows)
        for view in range(table.views):
            places = missing[missing % table.views == view] // table.views
            if len(places):
                changed = view if augments(ready, name) else None
                table = table.grown(*computed(ready, cut, whole.view(places), table, changed))
    return table


def computed(
    ready: Prepared, cut: Cut, examples: Examples, table: Table, view: int | None
) -> tuple[np.ndarray, np.ndarray | None, list[np.ndarray]]:
    """Return `(indices, lengths, arrays)` of a new shard: one pass over the examples, short texts with short ones.
    `view` is the number of the augmentation, None where the split has none."""
    recipe = ready.recipe
    assert cut.stage is not None
    run = jax.jit(partial(prefix, ready, cut.stage, cut.reads))
    variables = jax.device_put(ready.variables)
    indices: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    pieces: list[list[np.ndarray]] = [[] for _ in table.leaves]
    batches = evaluation_batches(examples, ready.processor, batch=recipe.train.eval_batch, buckets=recipe.data.lengths)
    measured = reader(examples, ready.processor)
    for batch in batches:
        look()
        is_real = batch["weight"] > 0
        if view is not None:
            rows = zip(batch["image"], batch["index"].tolist(), strict=True)
            images = [augmented(image, recipe.data.augment, seed=0, step=view, index=index) for image, index in rows]
            batch["image"] = np.stack(images)
        arrays = [np.asarray(array)[is_real] for array in run(variables, inputs_of(batch))]
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
    together = [np.concatenate(piece) for piece in pieces]
    return np.concatenate(indices), np.concatenate(lengths) if lengths else None, together


def check_numbers(arrays: Sequence[np.ndarray], indices: np.ndarray, examples: Examples, stage: str) -> None:
    """Raise ValueError, with the example, where the features below `stage` contain NaN."""
    for array in arrays:
        bad = np.flatnonzero(np.isnan(array.reshape(len(array), -1)).any(1))
        if len(bad):
            raise ValueError(
                f"the features below {stage!r} contain NaN for {examples.name} {examples.split}[{indices[bad[0]]}]; "
                "check that example and the weights"
            )
