"""What a frozen prefix gives of every example: computed once, kept in the cache folder, read as tables.

The key of a store is a hash of everything that decides its numbers: the weights below the cut, the architecture, the
cut, what is read of it, the data, what perturbs their inputs, how they are made inputs, and the type of the
activations.

Shapes: B batch, T tokens.
"""

import hashlib
import json
import re
import shutil
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
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
from tlx.data.pipeline import reader
from tlx.functional.selection import SOURCE, TARGET
from tlx.training.feature_cache.cut import Cut, prefix
from tlx.training.interrupt import locked, look
from tlx.training.prepare import Prepared
from tlx.trees import flatten, subtree


class Sources(NamedTuple):
    """What the batches of a phase are read by, by the name of the stream or split: the tables of the stage `start`,
    or the recipe's processor where it is None. `told` says what was done, and what it saved, or why not; `computed`
    how many rows were."""

    start: str | None
    readers: Mapping[str, Any]
    told: str
    computed: int = 0


def nothing(ready: Prepared, why: str) -> Sources:
    """The inputs themselves."""
    names = (*ready.streams, "validation", "test", *(test.name for test in ready.recipe.data.tests), SOURCE, TARGET)
    return Sources(None, dict.fromkeys(names, ready.processor), f"no prefix is stored: {why}")


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
        # Whatever else lies there is not ours.
        if re.fullmatch(r"[0-9a-f]{24}", folder.name) and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
    return before - stored()[1]


def digest(ready: Prepared, cut: Cut, name: str, examples: Examples) -> str:
    """The key of the store of one stream or split."""
    assert cut.stage is not None
    model, recipe = ready.model, ready.recipe
    names = [stage.name for stage in model.stages]
    made = hashlib.sha256()
    for stage in names[: names.index(cut.stage)]:
        for kind, tree in zip(("params", "stats"), ready.variables, strict=True):
            for path, leaf in flatten(subtree(tree, stage)).items():
                made.update(f"{kind} {stage}/{path} {leaf.shape} {leaf.dtype}".encode())
                made.update(numbers(leaf))
    side = sorted(flatten(subtree(ready.variables.params, f"{names[-1]}/side")))
    views = views_of(ready, name)
    augment = config.dump(recipe.data.augment) if augments(ready, name) else None
    reads = [["/".join(path), str(shape.dtype)] for path, shape in cut.reads]
    data = [examples.key or f"{examples.name} {examples.content}", examples.split, views, augment]
    if examples.perturbation is not None and (seen := examples.perturbation.of_inputs) is not None:
        data.append(seen.spelled)
    # Another version may compute the same stages otherwise.
    versions = [version("tlx"), jax.__version__]
    rest = [
        versions,
        config.dump(model.config),
        # Code of the user's own, in the model or in what changes its inputs.
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
    made.update(json.dumps(rest, sort_keys=True).encode())
    return made.hexdigest()[:24]


def numbers(leaf: Any) -> bytes:
    """The bytes of an array, hashed once for as long as it lives."""
    place = id(leaf)
    if place not in DIGESTS:
        # Gone with the array, so that neither is it kept alive nor another one taken for it.
        gone = weakref.ref(leaf, lambda _: DIGESTS.pop(place, None))
        DIGESTS[place] = gone, hashlib.sha256(np.ascontiguousarray(leaf).data).digest()
    return DIGESTS[place][1]


DIGESTS: dict[int, tuple[weakref.ref[Any], bytes]] = {}


def augments(ready: Prepared, name: str) -> bool:
    """Whether the examples are augmented: only those of training are."""
    return name in ready.recipe.data.stream_names and bool(ready.recipe.data.augment)


def views_of(ready: Prepared, name: str) -> int:
    """How many rows an example of the split has."""
    return (ready.recipe.data.views or 1) if augments(ready, name) else 1


def sources(
    pairs: Sequence[tuple[Prepared, Splits]], cut: Cut, reads: int, say: Callable[[str], None]
) -> list[Sources]:
    """The tables of `cut` for each recipe, filled with what they lack, where each reads `reads` training examples in
    all; the inputs, for all of them, where nothing may be cut, or too little is read for it to pay, or the disk has no
    room. The recipes differ in numbers alone, so `cut` is that of any."""
    if cut.stage is None:
        return [nothing(ready, cut.why) for ready, _ in pairs]
    asked: dict[Path, list[tuple[Prepared, str, Examples]]] = {}
    opened_at: list[dict[str, Path]] = []
    tables: dict[Path, Table] = {}
    for ready, splits in pairs:
        mine = {}
        for name, examples in splits.named.items():
            if isinstance(examples, Sealed):
                continue
            folder = room() / digest(ready, cut, name, examples)
            if folder not in tables:
                tables[folder] = Table(folder, cut.leaves, views_of(ready, name), ready.processor)
            asked.setdefault(folder, []).append((ready, name, examples))
            mine[name] = folder
        opened_at.append(mine)
    short = {folder: lacking(tables[folder], [own[2] for own in asked[folder]]) for folder in tables}
    streams = pairs[0][1].streams
    trained = sum(len(short[folder]) for folder in {mine[name] for mine in opened_at for name in streams})
    if trained > reads * len(pairs) * len(streams):
        told = f"{len(pairs)} runs read {reads:,} examples" if len(pairs) > 1 else f"the phase reads {reads:,} examples"
        return [nothing(ready, f"{told}, fewer than the {trained:,} to compute") for ready, _ in pairs]
    computed = sum(map(len, short.values()))
    most = pairs[0][0].processor.longest or max(pairs[0][0].recipe.data.lengths)
    sizes = zip(cut.leaves, cut.reads, strict=True)
    size = computed * sum(row_bytes(leaf, shape, most) for leaf, (_, shape) in sizes)
    free = free_bytes()
    if size > free / 2:
        why = f"it may take {size / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left"
        return [nothing(ready, why) for ready, _ in pairs]
    start = time.perf_counter()
    if computed:
        say(f"computing once what lies below {cut.stage!r}, of {computed:,} examples")
    damaged = [reason for table in tables.values() for reason in table.damaged.values()]
    for reason in damaged:
        say(f"note: {reason}; it is not used, and its rows are computed again")
    for folder, rows in short.items():
        if not len(rows):
            continue
        ready, name, examples = asked[folder][0]
        try:
            tables[folder] = fill(ready, cut, name, examples.whole(), rows, tables[folder])
        except OSError as error:
            # The store only saves time: a full or read-only cache must not stop a run.
            return [nothing(ready, f"{folder} cannot be written ({error.strerror or error})") for ready, _ in pairs]
    spent = f"computed {computed:,} in {time.perf_counter() - start:.1f} s" if computed else "all of it was there"
    told = (
        f"prefix: {cut.why}, so what it gives is stored ({spent}) and not computed again for the {reads:,} training "
        "examples of this phase"
    )
    told += f"; note: {'; '.join(damaged)}; it is not used, and its rows are computed again" if damaged else ""
    found = [{name: tables[folder] for name, folder in mine.items()} for mine in opened_at]
    return [Sources(cut.stage, readers, told, computed) for readers in found]


def lacking(table: Table, asked: Sequence[Examples]) -> np.ndarray:
    """The rows, ascending, that these examples need and the table does not have."""
    every = np.unique(np.concatenate([rows_of(examples, table.views) for examples in asked]))
    return table.missing(every)


def row_bytes(leaf: Leaf, shape: Any, tokens: int) -> int:
    """At most so many bytes an example."""
    sizes = [tokens + leaf.extra, *shape.shape[2:]] if leaf.tokens else shape.shape[1:]
    return int(np.prod(sizes)) * shape.dtype.itemsize


def rows_of(examples: Examples, views: int) -> np.ndarray:
    """The rows that these examples need, int64."""
    return (examples.rows[:, None] * views + np.arange(views)).reshape(-1)


def fill(ready: Prepared, cut: Cut, name: str, whole: Examples, rows: np.ndarray, table: Table) -> Table:
    """The table with what it lacks of `rows`, numbers of rows of the `whole` split, computed once: other processes that
    want the same wait."""
    from filelock import FileLock

    table.folder.mkdir(parents=True, exist_ok=True)
    with locked(FileLock(table.folder / ".lock")):
        table = Table(table.folder, table.leaves, table.views, table.processor)
        short = table.missing(rows)
        for view in range(table.views):
            here = short[short % table.views == view] // table.views
            if len(here):
                changed = view if augments(ready, name) else None
                table = table.grown(*computed(ready, cut, whole.view(here), table, changed))
    return table


def computed(
    ready: Prepared, cut: Cut, examples: Examples, table: Table, view: int | None
) -> tuple[np.ndarray, np.ndarray | None, list[np.ndarray]]:
    """`(indices, lengths, arrays)` of a new shard: one pass over the examples, short texts with short ones. `view` is
    the number of the augmentation, None where the split has none."""
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
        real = batch["weight"] > 0
        if view is not None:
            rows = zip(batch["image"], batch["index"].tolist(), strict=True)
            made = [augmented(image, recipe.data.augment, seed=0, step=view, index=index) for image, index in rows]
            batch["image"] = np.stack(made)
        found = [np.asarray(array)[real] for array in run(variables, inputs_of(batch))]
        check_numbers(found, batch["index"][real], examples, cut.stage)
        indices.append(batch["index"][real].astype(np.int64) * table.views + (view or 0))
        sizes = measured.lengths(batch["position"][real]) if ready.processor.ragged else None
        if sizes is not None:
            lengths.append(sizes.astype(np.int32))
        for piece, leaf, array in zip(pieces, table.leaves, found, strict=True):
            if leaf.tokens and sizes is not None:
                # The tokens that are padding say nothing that anyone reads.
                piece.append(array[np.arange(array.shape[1]) < (sizes + leaf.extra)[:, None]])
            else:
                piece.append(array)
    together = [np.concatenate(piece) for piece in pieces]
    return np.concatenate(indices), np.concatenate(lengths) if lengths else None, together


def check_numbers(found: Sequence[np.ndarray], indices: np.ndarray, examples: Examples, stage: str) -> None:
    """ValueError, with the example, where what lies below `stage` gives NaN."""
    for array in found:
        wrong = np.flatnonzero(np.isnan(array.reshape(len(array), -1)).any(1))
        if len(wrong):
            raise ValueError(
                f"what lies below {stage!r} gives NaN for {examples.name} {examples.split}[{indices[wrong[0]]}]; look "
                "at that example, and at the weights"
            )
