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
from tlx.processors import ImageProcessor, Inputs, Processor, TextProcessor

if TYPE_CHECKING:
    import grain

Batch = dict[str, np.ndarray]

CACHE_BYTES = 256 * 2**20
# Two threads hide the making of a batch behind the step; more only take the cores that the step computes on.
_THREADS, _AHEAD = 2, 4
_ENDLESS = 2**31


def train_batches(
    examples: Examples,
    processor: Processor,
    *,
    batch: int,
    seed: int,
    buckets: Sequence[int] = (),
    group: int = 1,
    augment: tuple[Augmentation, ...] = (),
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Batch]:
    """An endless iterator of batches, every epoch in a new order drawn from `seed`. An epoch may end inside a batch.

    A batch holds the model's inputs, `label` int32[B] (float32[B] for regression) and `index` int32[B], B being this
    process's part of `batch`. Text is drawn `group` batches at a time, which are cut from the draw by length, so that
    less of a batch is padding. `get_state()` and `set_state()` continue it exactly. Raises ValueError for no examples,
    or a batch the processes cannot share.
    """
    import grain

    if not len(examples):
        raise ValueError(f"{examples!r} is empty; there is nothing to train on")
    if augment and not isinstance(processor, ImageProcessor):
        raise ValueError(f"augment={augment} is for images and {examples.name!r} is text")
    mine = _share(batch, process_index, process_count)
    ready = _processed(examples, processor)

    by_length = group > 1 and isinstance(processor, TextProcessor)

    # Kept, for each of a group's batches asks for the whole group.
    @functools.lru_cache(maxsize=4)
    def grouped(number: int) -> np.ndarray:
        drawn = _positions(len(examples), batch * group, seed, number)
        rows = drawn[np.argsort(ready.lengths(drawn), kind="stable")].reshape(group, batch)
        return rows[np.argsort(np.random.Generator(np.random.PCG64([seed, number, group])).random(group))]

    def assemble(step: int) -> Batch:
        drawn = grouped(step // group)[step % group] if by_length else _positions(len(examples), batch, seed, step)
        made = _collate(ready, drawn, mine, buckets)
        if augment:
            rows = zip(made["image"], made["index"].tolist(), strict=True)
            made["image"] = np.stack(
                [augmented(image, augment, seed=seed, step=step, index=index) for image, index in rows]
            )
        return made

    return iter(grain.MapDataset.range(_ENDLESS).map(assemble).to_iter_dataset(_reading()))


def evaluation_batches(
    examples: Examples,
    processor: Processor,
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
    ready = _processed(examples, processor)

    order = np.arange(len(examples), dtype=np.int32)
    if isinstance(processor, TextProcessor):
        order = order[np.argsort(ready.lengths(order), kind="stable")]

    def assemble(number: int) -> Batch:
        places = np.arange(number * batch, (number + 1) * batch)
        positions = order[np.minimum(places, len(examples) - 1)]
        weight = (places[mine] < len(examples)).astype(np.float32)
        return {**_collate(ready, positions, mine, buckets), "position": positions[mine], "weight": weight}

    count = -(-len(examples) // batch)
    return iter(grain.MapDataset.range(count).map(assemble).to_iter_dataset(_reading())) if count else iter(())


def _positions(count: int, batch: int, seed: int, step: int) -> np.ndarray:
    """The positions of global batch `step`: the epochs' orders laid end to end and cut into batches.

    A function of its arguments alone, which is what lets grain begin at any step. Grain's own shuffle gives the same,
    one Python call an example, which cost ten times as much as the rest of the batch.
    """
    epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), count)
    return np.concatenate([_order(count, seed, epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])


@functools.lru_cache(maxsize=8)
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
        self.bytes = 0

    def __getitem__(self, position: int) -> dict[str, Any]:
        if (found := self.known.get(position)) is not None:
            return found
        example = self.examples[position]
        made = {**self.processor(example), "label": example["label"], "index": example["index"]}
        if self.bytes < CACHE_BYTES:
            self.bytes += 1024 + sum(array.nbytes for array in made.values() if isinstance(array, np.ndarray))
            self.known[position] = made
        return made

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """How many tokens each of these texts has."""
        return np.array([len(self[position]["input_ids"]) for position in positions.tolist()])


def _processed(examples: Examples, processor: Processor) -> _Processed:
    """Kept with the examples, so that the second evaluation of a split tokenises nothing."""
    return examples.memory.setdefault(processor, _Processed(examples, processor))


def _collate(ready: _Processed, positions: np.ndarray, mine: slice, buckets: Sequence[int]) -> Batch:
    items = [ready[position] for position in positions.tolist()]
    inputs: Inputs
    if isinstance(ready.processor, TextProcessor):
        # The longest of the global batch, lest the processes come to different shapes.
        longest = max(len(item["input_ids"]) for item in items)
        length = min((bucket for bucket in buckets if bucket >= longest), default=ready.processor.tokens)
        items = items[mine]
        inputs = ready.processor.pad(items, length)
    else:
        items = items[mine]
        inputs = {"image": np.stack([item["image"] for item in items])}
    labels: np.ndarray = np.array([item["label"] for item in items], ready.examples.label_dtype)
    return {**inputs, "label": labels, "index": np.array([item["index"] for item in items], np.int32)}


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
HOST_KEYS = ("label", "index", "position", "weight")


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model reads of a batch."""
    return {name: array for name, array in batch.items() if name not in HOST_KEYS}
