"""From examples to batches, by grain: seeded, checkpointable, sharded by process.

Every process walks the same order of global batches and processes its slice of each, so what a global batch holds, its
order and its padded length do not depend on how many processes there are. The length follows from a table of lengths,
which is cheap to measure.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tlx.assets import cache_dir
from tlx.data.augment import Augmentation, augmented_images
from tlx.data.collate import collate, padded
from tlx.data.examples import Examples, save_whole
from tlx.data.table import Table
from tlx.processors.base import Processor, length_of
from tlx.processors.columns import HEAVY, LABEL, spelled
from tlx.types import Arrays, Example, Field

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]
# Returns the arrays of all processes, [P, ...], on each process.
Gather = Callable[[np.ndarray], Any]

CACHE_BYTES = 256 * 2**20
# Two threads prepare batches while a step computes; more threads only take cores from the step.
_THREADS, _AHEAD = 2, 4
_ENDLESS = 2**31
# The arrays of a batch beside its inputs; the label only where it may be read.
TRUTH = (LABEL, "index")


def train_batches(
    examples: Examples,
    processor: Processor | Table,
    *,
    batch: int,
    seed: int,
    buckets: Sequence[int] = (),
    group: int = 1,
    augment: tuple[Augmentation, ...] = (),
    views: int | None = None,
    first: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    targets: Targets | None = None,
    gather: Gather | None = None,
) -> grain.DatasetIterator[Batch]:
    """Return an endless iterator of batches. Every epoch has a new order drawn from `seed`, and may end inside a batch.

    A batch holds the inputs of the model, `index` int32[B] and, for examples with labels, the arrays of `targets`, by
    default `label` int32[B] (float32[B] for numbers). B is the part of `batch` that this process computes.

    Args:
        examples: The examples.
        processor: Makes the inputs. With a `Table` a batch holds its rows in the place of inputs.
        batch: The examples of a step, over all processes.
        seed: Draws the order and the augmentations.
        buckets: The lengths that a batch of ragged examples may have.
        group: How many batches of ragged examples are drawn at a time and cut from the draw by length, so that less of
            a batch is padding.
        augment: The augmentations of images, in order.
        views: Augment each example in this many fixed ways, which its epochs take in turn. None augments differently
            at every step.
        first: The step at which the iterator begins, as if it had returned all batches before.
        process_index, process_count: The number of this process, and how many there are.
        targets: Makes the label arrays.
        gather: Exchanges lengths between several processes.

    Raises:
        ValueError: There are no examples, or the processes cannot share the batch equally.
    """
    import grain

    _check_trainable(examples, processor, augment)
    mine = _share(batch, process_index, process_count)
    ready = reader(examples, processor, targets)
    if process_count > 1:
        ready.measure(gather, process_index, process_count)
    order = Order(examples, processor, batch=batch, seed=seed, group=group, targets=targets)

    def assemble(step: int) -> Batch:
        positions, epochs = order(step)
        viewed = epochs % views if views else np.zeros_like(epochs)
        arrays = ready.batch(positions, mine, buckets, viewed)
        if augment and not isinstance(processor, Table):
            arrays["image"] = augmented_images(arrays, augment, (seed, step), viewed[mine] if views else None)
        return arrays

    return iter(grain.MapDataset.range(first, _ENDLESS).map(assemble).to_iter_dataset(_reading()))


def _check_trainable(examples: Examples, processor: Processor | Table, augment: tuple[Augmentation, ...]) -> None:
    """Raise ValueError where there are no examples, or where they are no images and `augment` is for images."""
    if not len(examples):
        raise ValueError(f"{examples!r} is empty; expected at least one training example")
    if augment and not processor.augments:
        raise ValueError(f"augment={augment} applies to images, but {examples.name!r} has {spelled(examples.columns)}")


class Order:
    """The order of the examples: `order(step)` returns their positions int64[B] and their epochs int64[B].

    It is a function of its arguments alone, so that every process, and every way to read rows, has the same order.
    """

    def __init__(
        self,
        examples: Examples,
        processor: Processor | Table,
        *,
        batch: int,
        seed: int,
        group: int = 1,
        targets: Targets | None = None,
    ):
        self.ready, self.count = reader(examples, processor, targets), len(examples)
        self.batch, self.seed = batch, seed
        self.group = group if self.ready.ragged else 1
        # Cached, because each batch of a group needs the whole group.
        self.grouped = functools.lru_cache(maxsize=4)(self._grouped)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        if self.group == 1:
            return _positions(self.count, self.batch, self.seed, step)
        positions, epochs = self.grouped(step // self.group)
        return positions[step % self.group], epochs[step % self.group]

    def _grouped(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions and epochs of `group` batches, [group, B] each, cut from the draw by length, in a random
        order."""
        positions, epochs = _positions(self.count, self.batch * self.group, self.seed, number)
        by_length = np.argsort(self.ready.lengths(positions), kind="stable").reshape(self.group, self.batch)
        mixed = by_length[
            np.argsort(np.random.Generator(np.random.PCG64([self.seed, number, self.group])).random(self.group))
        ]
        return positions[mixed], epochs[mixed]


def evaluation_batches(
    examples: Examples,
    processor: Processor | Table,
    *,
    batch: int,
    buckets: Sequence[int] = (),
    process_index: int = 0,
    process_count: int = 1,
    targets: Targets | None = None,
    gather: Gather | None = None,
) -> Iterator[Batch]:
    """Return an iterator over batches that hold every example once.

    Images keep their order. Texts are sorted from short to long, so that little of a batch is padding. A batch also has
    `position` int32[B], the place in `examples`, and `weight` float32[B]: 1, and 0 for copies that fill the last batch.
    """
    import grain

    mine = _share(batch, process_index, process_count)
    ready = reader(examples, processor, targets)
    if process_count > 1:
        ready.measure(gather, process_index, process_count)

    order = np.arange(len(examples), dtype=np.int32)
    if ready.ragged:
        order = order[np.argsort(ready.lengths(order), kind="stable")]

    def assemble(number: int) -> Batch:
        places = np.arange(number * batch, (number + 1) * batch)
        positions = order[np.minimum(places, len(examples) - 1)]
        weight = (places[mine] < len(examples)).astype(np.float32)
        return {**ready.batch(positions, mine, buckets), "position": positions[mine], "weight": weight}

    count = -(-len(examples) // batch)
    return iter(grain.MapDataset.range(count).map(assemble).to_iter_dataset(_reading())) if count else iter(())


def _positions(count: int, batch: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of global batch `step` and their epochs: the orders of the epochs end to end, cut into
    batches.

    It is a function of its arguments alone, so that grain can begin at any step. Grain's own shuffle has the same
    result, but makes one Python call per example, which costs ten times as much as the rest of the batch.
    """
    epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), count)
    parts = [_order(count, seed, epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
    return np.concatenate(parts), epochs


@functools.lru_cache(maxsize=64)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    # Sorting uniform numbers, as in `streams.subset`: the same order in every numpy.
    return np.argsort(np.random.Generator(np.random.PCG64([seed, epoch])).random(count), kind="stable")


class Targets(Protocol):
    """Makes the label arrays of an example; a task does so. `fields` declares their shapes, types and padding."""

    def fields(self) -> Mapping[str, Field]: ...

    def targets(self, example: Example, processor: Processor) -> dict[str, np.ndarray]: ...


class Labels:
    """The label arrays of examples: those of `targets`, else the label of each example as it is.

    There are none where the labels may not be read. Lists of labels need `targets`.
    """

    def __init__(self, examples: Examples, targets: Targets | None):
        self.examples, self.targets, self.fields = examples, targets, dict[str, Field]()
        # The label arrays that were made for a table, by position.
        self.known: dict[int, dict[str, Any]] = {}
        if examples.labelled and targets is not None:
            self.fields = dict(targets.fields())
        elif examples.labelled and examples.scalar:
            self.fields = {LABEL: Field((), np.dtype(examples.label_dtype).name)}

    def of(self, example: Example, processor: Processor) -> dict[str, Any]:
        """Return the label arrays of a raw example."""
        if self.targets is not None and self.fields:
            return self.targets.targets(example, processor)
        return {name: example[name] for name in self.fields}

    def at(self, positions: np.ndarray, processor: Processor, length: int) -> dict[str, np.ndarray]:
        """Return the label arrays of a batch, without reading an image or a sound."""
        if self.targets is None:
            return {name: self.examples.labels()[positions] for name in self.fields}
        if not self.fields:
            return {}
        for position in positions.tolist():
            if position not in self.known:
                self.known[position] = self.of(self.examples.light(position), processor)
        rows = [self.known[position] for position in positions.tolist()]
        return collate(rows, self.fields, (length,) if length else ())


class Processed:
    """The processed examples, cached up to `CACHE_BYTES`.

    The first examples stay in the cache. An epoch meets every example once, so a cache that removes the oldest entry
    would remove each example just before it is needed again.
    """

    def __init__(self, examples: Examples, processor: Processor, targets: Targets | None):
        self.examples, self.processor, self.known = examples, processor, dict[int, dict[str, Any]]()
        self.labels = Labels(examples, targets)
        self.fields = {**processor.fields, **self.labels.fields, "index": Field((), "int32")}
        self.bytes, self.ragged = 0, processor.ragged
        # The lengths that are known; -1 where one is not.
        self.sizes = np.full(len(examples) if self.ragged else 0, -1, np.int32)

    def __getitem__(self, position: int) -> dict[str, Any]:
        if (cached := self.known.get(position)) is not None:
            return cached
        example = self.examples[position]
        arrays = {**self.processor(example), **self.labels.of(example, self.processor), "index": example["index"]}
        if self.ragged:
            self.sizes[position] = length_of(arrays, self.processor.fields)
        if self.bytes < CACHE_BYTES:
            self.bytes += 1024 + sum(array.nbytes for array in arrays.values() if isinstance(array, np.ndarray))
            self.known[position] = arrays
        return arrays

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """Return the length of each of these examples along its ragged axes, int32."""
        for position in positions[self.sizes[positions] < 0].tolist():
            # Reading an example stores its length, and caches its arrays for later batches.
            _ = self[position]
        return self.sizes[positions]

    def measure(self, gather: Gather | None = None, process_index: int = 0, process_count: int = 1) -> None:
        """Measure the lengths of all examples without processing them.

        The lengths are stored on disk under the content of the data. Without a stored file each process measures its
        share and `gather` exchanges the shares; without `gather` each process measures all.
        """
        if not self.ragged or (self.sizes >= 0).all():
            return
        file = self.file()
        is_cached = file is not None and file.is_file()
        if gather is not None:
            # All processes read the file or none does, because a process that measures waits for the others.
            is_cached = bool(np.asarray(gather(np.array([is_cached], np.int32))).all())
        if file is not None and is_cached:
            lengths = np.load(file, allow_pickle=False)
        else:
            share = slice(process_index, None, process_count) if gather is not None else slice(None)
            lengths = np.zeros(len(self.examples), np.int32)
            lengths[share] = measured(self.examples, self.processor, np.arange(len(self.examples))[share])
            if gather is not None:
                # Each length is in the table of one process and 0 in those of the others.
                lengths = np.asarray(gather(lengths)).reshape(process_count, -1).sum(0).astype(np.int32)
            if file is not None:
                save_whole(file, lengths)
        self.sizes[:] = lengths

    def file(self) -> Path | None:
        """Return the file of the lengths of these examples; None where no key identifies their content."""
        if not self.examples.key:
            return None
        text = json.dumps([self.examples.key, self.examples.split, self.processor.identity], sort_keys=True)
        name = hashlib.sha256(text.encode() + self.examples.identity).hexdigest()[:24]
        return cache_dir() / "lengths" / f"{name}.npy"

    def batch(
        self, positions: np.ndarray, mine: slice, buckets: Sequence[int], views: np.ndarray | None = None
    ) -> Batch:
        """Return this process's slice of the batch of these positions, with label and index. `views` is not used here;
        `train_batches` augments."""
        # The longest of the global batch, because the processes must come to the same shapes.
        longest = int(self.lengths(positions).max()) if self.ragged else None
        rows = [self[position] for position in positions[mine].tolist()]
        return collate(rows, self.fields, limits(buckets, self.processor.longest), longest)


class Tabled:
    """The batches of examples whose rows lie in a table. It has the methods of `Processed`."""

    def __init__(self, examples: Examples, table: Table, targets: Targets | None):
        self.examples, self.table, self.ragged = examples, table, table.texts
        self.labels = Labels(examples, targets)

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        return self.table.lengths(self.examples.rows[positions] * self.table.views)

    def measure(self, gather: Gather | None = None, process_index: int = 0, process_count: int = 1) -> None:
        """Do nothing: the table knows all lengths."""

    def batch(
        self, positions: np.ndarray, mine: slice, buckets: Sequence[int], views: np.ndarray | None = None
    ) -> Batch:
        length = 0
        if self.table.ragged:
            length = padded(int(self.lengths(positions).max()), limits(buckets, self.table.processor.longest))
        share = positions[mine]
        indices = self.examples.rows[share]
        rows = indices * self.table.views + (0 if views is None else views[mine])
        labels = self.labels.at(share, self.table.processor, length)
        return {**self.table.gather(rows, length), **labels, "index": indices.astype(np.int32)}


def limits(buckets: Sequence[int], most: int) -> tuple[int, ...]:
    """Return the lengths that a batch may have: the buckets, and the largest length that the processor makes."""
    return tuple(sorted({*buckets, most})) if most else tuple(sorted(buckets))


def measured(examples: Examples, processor: Processor, positions: np.ndarray) -> list[int]:
    """Return the lengths of these examples, measured by the processor."""
    read = examples.light if not set(HEAVY) & set(processor.reads) else examples.__getitem__
    lengths: list[int] = []
    for start in range(0, len(positions), 1024):
        lengths += processor.measure([read(position) for position in positions[start : start + 1024].tolist()])
    return lengths


def reader(examples: Examples, processor: Processor | Table, targets: Targets | None = None) -> Processed | Tabled:
    """Return the reader that makes batches of these examples. It is stored with them, so that the second evaluation
    tokenises nothing."""
    key = processor, targets
    if key not in examples.memory:
        kind = Tabled if isinstance(processor, Table) else Processed
        examples.memory[key] = kind(examples, processor, targets)  # type: ignore[arg-type]
    return examples.memory[key]


def _share(batch: int, process_index: int, process_count: int) -> slice:
    if batch < 1 or batch % process_count:
        raise ValueError(
            f"a batch of {batch} examples cannot be divided among {process_count} processes; set a multiple"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index}; expected 0 to {process_count - 1}")
    size = batch // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _reading() -> grain.ReadOptions:
    import grain

    return grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)


# The arrays of a batch that only the host reads.
HOST_KEYS = (*TRUTH, "position", "weight")


def inputs_of(batch: Arrays, targets: Targets | None = None) -> dict[str, Any]:
    """Return the inputs of a model in a batch: all arrays but the label arrays and those that only the host reads."""
    labels = () if targets is None else targets.fields()
    return {name: array for name, array in batch.items() if name not in HOST_KEYS and name not in labels}
