"""From examples to batches, by grain: seeded, checkpointable, sharded by process.

Every process walks the same order of global batches and keeps its slice of each, so what a global batch holds, its
order and its padded length do not depend on how many processes there are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.augment import Augmentation, augmented
from tlx.data.examples import Examples
from tlx.data.table import Table
from tlx.processors import ImageProcessor, Inputs, Processor, TextProcessor

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

CACHE_BYTES = 256 * 2**20
# Two threads hide the making of a batch behind the step; more only take the cores that the step computes on.
_THREADS, _AHEAD = 2, 4
_ENDLESS = 2**31
# What a batch holds of an example beside its inputs; the label where it may be read.
TRUTH = ("label", "index")


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
) -> grain.DatasetIterator[Batch]:
    """An endless iterator of batches, every epoch in a new order drawn from `seed`. An epoch may end inside a batch.

    A batch holds the model's inputs, `index` int32[B] and, of examples that have one, `label` int32[B] (float32[B]
    for regression), B being this process's part of `batch`. Text is drawn `group` batches at a time, which are cut
    from the draw by length, so that less of a batch is padding. With `views`, an example is augmented in so many
    fixed ways, which its epochs take in turn. With a `Table` for a processor a batch holds its rows in the place of
    inputs. The iterator begins at the step `first`, as if it had given all before. Raises ValueError for no
    examples, or a batch the processes cannot share.
    """
    import grain

    if not len(examples):
        raise ValueError(f"{examples!r} is empty; there is nothing to train on")
    if augment and isinstance(processor, TextProcessor):
        raise ValueError(f"augment={augment} is for images and {examples.name!r} is text")
    mine = _share(batch, process_index, process_count)
    ready = reader(examples, processor)
    order = Order(examples, processor, batch=batch, seed=seed, group=group)

    def assemble(step: int) -> Batch:
        drawn, epochs = order(step)
        viewed = epochs % views if views else np.zeros_like(epochs)
        made = ready.batch(drawn, mine, buckets, viewed)
        if augment and isinstance(processor, ImageProcessor):
            # Fixed views are the same for every run, whatever its seed, so that what they give is computed once.
            draws = [(0, int(view)) for view in viewed[mine]] if views else [(seed, step)] * len(made["image"])
            rows = zip(made["image"], made["index"].tolist(), draws, strict=True)
            made["image"] = np.stack(
                [augmented(image, augment, seed=key, step=place, index=index) for image, index, (key, place) in rows]
            )
        return made

    return iter(grain.MapDataset.range(first, _ENDLESS).map(assemble).to_iter_dataset(_reading()))


class Order:
    """Which examples each step takes: `order(step)` gives their positions int64[B] and the epochs int64[B] that they
    are of. A function of its arguments alone, so that every process, and every way to read rows, comes to the same."""

    def __init__(self, examples: Examples, processor: Processor | Table, *, batch: int, seed: int, group: int = 1):
        self.ready, self.count = reader(examples, processor), len(examples)
        self.batch, self.seed = batch, seed
        self.group = group if self.ready.texts else 1
        # Kept, for each of a group's batches asks for the whole group.
        self.grouped = functools.lru_cache(maxsize=4)(self._grouped)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        if self.group == 1:
            return _positions(self.count, self.batch, self.seed, step)
        drawn, epochs = self.grouped(step // self.group)
        return drawn[step % self.group], epochs[step % self.group]

    def _grouped(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """`group` batches at a time, cut from the draw by length, in a random order: [group, B] each."""
        drawn, epochs = _positions(self.count, self.batch * self.group, self.seed, number)
        by_length = np.argsort(self.ready.lengths(drawn), kind="stable").reshape(self.group, self.batch)
        mixed = by_length[
            np.argsort(np.random.Generator(np.random.PCG64([self.seed, number, self.group])).random(self.group))
        ]
        return drawn[mixed], epochs[mixed]


def evaluation_batches(
    examples: Examples,
    processor: Processor | Table,
    *,
    batch: int,
    buckets: Sequence[int] = (),
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Every example once: images in order, text from short to long, so that little of a batch is padding.

    `position` int32[B] is an example's place in `examples`. `weight` float32[B] is 1, and 0 for the copies that fill
    the last batch.
    """
    import grain

    mine = _share(batch, process_index, process_count)
    ready = reader(examples, processor)

    order = np.arange(len(examples), dtype=np.int32)
    if ready.texts:
        order = order[np.argsort(ready.lengths(order), kind="stable")]

    def assemble(number: int) -> Batch:
        places = np.arange(number * batch, (number + 1) * batch)
        positions = order[np.minimum(places, len(examples) - 1)]
        weight = (places[mine] < len(examples)).astype(np.float32)
        return {**ready.batch(positions, mine, buckets), "position": positions[mine], "weight": weight}

    count = -(-len(examples) // batch)
    return iter(grain.MapDataset.range(count).map(assemble).to_iter_dataset(_reading())) if count else iter(())


def _positions(count: int, batch: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions of global batch `step`, and their epochs: the epochs' orders end to end, cut into batches.

    A function of its arguments alone, which is what lets grain begin at any step. Grain's own shuffle gives the same,
    one Python call an example, which cost ten times as much as the rest of the batch.
    """
    epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), count)
    parts = [_order(count, seed, epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()]
    return np.concatenate(parts), epochs


@functools.lru_cache(maxsize=64)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    # Sorting uniform numbers, as in `streams.subset`: the same order in every numpy.
    return np.argsort(np.random.Generator(np.random.PCG64([seed, epoch])).random(count), kind="stable")


class _Processed:
    """The processed examples, remembered up to `CACHE_BYTES`.

    The first to come stay: an epoch meets every example once, so a cache that lets the oldest go would have let it go
    just before it is met again.
    """

    def __init__(self, examples: Examples, processor: Processor):
        self.examples, self.processor, self.known = examples, processor, dict[int, dict[str, Any]]()
        self.bytes, self.texts = 0, isinstance(processor, TextProcessor)

    def __getitem__(self, position: int) -> dict[str, Any]:
        if (found := self.known.get(position)) is not None:
            return found
        example = self.examples[position]
        made = {**self.processor(example), **{name: example[name] for name in TRUTH if name in example}}
        if self.bytes < CACHE_BYTES:
            self.bytes += 1024 + sum(array.nbytes for array in made.values() if isinstance(array, np.ndarray))
            self.known[position] = made
        return made

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """How many tokens each of these texts has."""
        return np.array([len(self[position]["input_ids"]) for position in positions.tolist()])

    def batch(
        self, positions: np.ndarray, mine: slice, buckets: Sequence[int], views: np.ndarray | None = None
    ) -> Batch:
        """This process's slice of the batch of these positions, with label and index. The views are the caller's."""
        items = [self[position] for position in positions.tolist()]
        inputs: Inputs
        if isinstance(self.processor, TextProcessor):
            # The longest of the global batch, lest the processes come to different shapes.
            length = padded(max(len(item["input_ids"]) for item in items), buckets, self.processor.tokens)
            items = items[mine]
            inputs = self.processor.pad(items, length)
        else:
            items = items[mine]
            inputs = {"image": np.stack([item["image"] for item in items])}
        if self.examples.labelled:
            inputs["label"] = np.array([item["label"] for item in items], self.examples.label_dtype)
        return {**inputs, "index": np.array([item["index"] for item in items], np.int32)}


class _Tabled:
    """The same of rows that lie in a table."""

    def __init__(self, examples: Examples, table: Table):
        self.examples, self.table, self.texts = examples, table, table.texts

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        return self.table.lengths(self.examples.rows[positions] * self.table.views)

    def batch(
        self, positions: np.ndarray, mine: slice, buckets: Sequence[int], views: np.ndarray | None = None
    ) -> Batch:
        length = 0
        if self.table.ragged:
            length = padded(int(self.lengths(positions).max()), buckets, max(buckets))
        own = positions[mine]
        indices = self.examples.rows[own]
        rows = indices * self.table.views + (0 if views is None else views[mine])
        made = self.table.gather(rows, length)
        if self.examples.labelled:
            made["label"] = self.examples.labels()[own]
        return {**made, "index": indices.astype(np.int32)}


def padded(longest: int, buckets: Sequence[int], most: int) -> int:
    """The length of a batch whose longest text has so many tokens."""
    return min((bucket for bucket in buckets if bucket >= longest), default=most)


def reader(examples: Examples, processor: Processor | Table) -> _Processed | _Tabled:
    """What makes batches of these examples, kept with them, so that the second evaluation tokenises nothing."""
    if processor not in examples.memory:
        kind = _Tabled if isinstance(processor, Table) else _Processed
        examples.memory[processor] = kind(examples, processor)  # type: ignore[arg-type]
    return examples.memory[processor]


def _share(batch: int, process_index: int, process_count: int) -> slice:
    if batch < 1 or batch % process_count:
        raise ValueError(f"a batch of {batch} cannot be shared by {process_count} processes; give a multiple")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index={process_index}; expected 0 to {process_count - 1}")
    size = batch // process_count
    return slice(process_index * size, (process_index + 1) * size)


def _reading() -> grain.ReadOptions:
    import grain

    return grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)


# What a batch holds beside the inputs of a model.
HOST_KEYS = (*TRUTH, "position", "weight")


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model reads of a batch."""
    return {name: array for name, array in batch.items() if name not in HOST_KEYS}
