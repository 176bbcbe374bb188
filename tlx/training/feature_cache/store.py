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
import uuid
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx import config, processes
from tlx.assets import cache_dir
from tlx.data import Examples, Leaf, Sealed, Splits, Table
from tlx.functional.selection import SOURCE, TARGET
from tlx.training.feature_cache.cut import Cut
from tlx.training.feature_cache.filling import SEEN, augments, complete, fill
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
    why = apart(missing) or processes.decided(lambda: too_much(pairs, cut, reads, missing, trained))
    if why:
        return [nothing(ready, why) for ready, _ in pairs]
    start = time.perf_counter()
    computed = sum(map(len, missing.values()))
    if computed:
        say(f"computing the features below {cut.stage!r} once, for {computed:,} examples")
    damaged = [reason for table in tables.values() for reason in table.damaged.values()]
    for reason in damaged:
        say(f"note: {reason}; it is not used, and its rows are computed again")
    for folder, rows in agreed(missing).items():
        if not len(rows):
            if jax.process_count() > 1:
                # Another run may have written them between the looks of two processes.
                tables[folder] = processes.together(partial(complete, tables[folder], missing[folder]))
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


def apart(missing: Mapping[Path, np.ndarray]) -> str:
    """Return why several processes cannot fill the folders of one store, or need not; empty where they can.

    `missing` are the rows that each folder lacks, as this process sees them.
    """
    if jax.process_count() == 1:
        return ""
    views = processes.gathered({folder.name: len(rows) for folder, rows in missing.items()})
    if any(view.keys() != views[0].keys() for view in views):
        return "the processes have different weights or data below the first trainable stage"
    if not any(sum(view.values()) for view in views) or seen_by_all():
        return ""
    return f"{room()} is not on a disk that all processes see; set TLX_CACHE to a folder that is"


def agreed(missing: Mapping[Path, np.ndarray]) -> dict[Path, np.ndarray]:
    """Return the rows that each folder lacks, as the first process sees them."""
    if jax.process_count() == 1:
        return dict(missing)
    rows = processes.broadcast([rows.tolist() for rows in missing.values()])
    return {folder: np.asarray(lacked, np.int64) for folder, lacked in zip(missing, rows, strict=True)}


def seen_by_all() -> bool:
    """Return whether all processes see a file that the first one writes into the folder of the stores."""
    name = processes.broadcast(f".seen-{uuid.uuid4().hex}")
    path = room() / name

    def write() -> bool:
        try:
            room().mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:
            return False
        return True

    if not processes.decided(write):
        # `fill` says why nothing can be written.
        return True
    last = time.monotonic() + SEEN
    while not (seen := path.exists()) and time.monotonic() < last:
        time.sleep(SEEN / 20)
    everywhere = all(processes.gathered(seen))
    processes.decided(lambda: path.unlink(missing_ok=True))
    return everywhere


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
