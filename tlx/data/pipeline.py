"""From examples to batches, by grain: seeded, checkpointable, sharded by process.

Every process walks the same order of global batches and processes its slice of each, so what a global batch holds, its
order and its padded length do not depend on how many processes there are. The length follows from a table of lengths,
which is cheap to measure.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.augment import Augment, augmented_example, augmented_images, begins_with_pictures
from tlx.data.examples import Examples
from tlx.data.members import MixedOrder
from tlx.data.readers import Batch, Gather, Share, Targets, reader
from tlx.data.table import Table
from tlx.processors.base import Processor
from tlx.processors.columns import LABEL, spelled
from tlx.types import ArrayMap

if TYPE_CHECKING:
    import grain

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
    augment: Augment = (),
    views: int | None = None,
    first: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    rows: np.ndarray | None = None,
    targets: Targets | None = None,
    gather: Gather | None = None,
    draws: int = 0,
    sampling: str = "shuffled",
) -> grain.DatasetIterator[Batch]:
    """Return an endless iterator of batches. Every epoch has a new order drawn from `seed`, and may end inside a batch.
    The examples of a mixture are drawn at the rates of its members (see `tlx.data.members`).

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
        rows: The rows of each batch that this process reads; by default one of as many adjacent parts as there are
            processes.
        targets: Makes the label arrays.
        gather: Exchanges lengths between several processes.
        draws: How many examples will be drawn, as far as that is known: where most are needed, all are prepared at
            once.
        sampling: "balanced" draws every class equally often, if the examples have labels.

    Raises:
        ValueError: There are no examples, they have no classes to balance, or the processes cannot share the batch
            equally.
    """
    import grain

    _check_trainable(examples, processor, augment)
    mine = _share(batch, process_index, process_count) if rows is None else rows
    ready = reader(examples, processor, targets)
    if process_count > 1:
        ready.measure(gather, process_index, process_count)
    elif 2 * draws >= len(examples):
        ready.prepare()
    of_pictures = begins_with_pictures(augment) and not isinstance(processor, Table)
    order = Order(examples, processor, batch=batch, seed=seed, group=group, targets=targets, sampling=sampling)

    def assemble(step: int) -> Batch:
        positions, epochs = order(step)
        viewed = epochs % views if views else np.zeros_like(epochs)
        if of_pictures:
            return changed_batch(ready, positions[mine], augment, (seed, step), viewed[mine] if views else None)
        arrays = ready.batch(positions, mine, buckets, viewed)
        if augment and not isinstance(processor, Table):
            arrays["image"] = augmented_images(arrays, augment, (seed, step), viewed[mine] if views else None)
        return arrays

    return iter(grain.MapDataset.range(first, _ENDLESS).map(assemble).to_iter_dataset(_reading()))


def changed_batch(
    ready: Any,
    positions: np.ndarray,
    augment: Augment,
    draw: tuple[int, int],
    views: np.ndarray | None,
) -> Batch:
    """Return the batch of these positions with changed pictures, by the (seed, step) of `draw` or in fixed `views`."""
    draws = [draw] * len(positions) if views is None else [(0, int(view)) for view in views]

    def image(example: Any, n: int) -> np.ndarray:
        seed, step = draws[n]
        return augmented_example(example, ready.processor, augment, seed=seed, step=step, index=int(example["index"]))

    return ready.with_images(positions, image)


def _check_trainable(examples: Examples, processor: Processor | Table, augment: Augment) -> None:
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
        sampling: str = "shuffled",
    ):
        self.ready, self.count = reader(examples, processor, targets), len(examples)
        self.batch, self.seed = batch, seed
        self.members = _members(examples) if sampling == "balanced" and examples.labelled else None
        self.mixed = None if examples.members is None else MixedOrder(examples.members, seed)
        self.group = group if self.ready.ragged else 1
        # Cached, because each batch of a group needs the whole group.
        self.grouped = functools.lru_cache(maxsize=4)(self._grouped)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        if self.group == 1:
            return self._drawn(self.batch, step)
        positions, epochs = self.grouped(step // self.group)
        return positions[step % self.group], epochs[step % self.group]

    def _drawn(self, batch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions and epochs of draw `step` of `batch` examples."""
        if self.mixed is not None:
            return self.mixed(batch, step)
        if self.members is None:
            return _positions(self.count, batch, self.seed, step)
        return _balanced(self.members, batch, self.seed, step)

    def _grouped(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the positions and epochs of `group` batches, [group, B] each, cut from the draw by length, in a random
        order."""
        positions, epochs = self._drawn(self.batch * self.group, number)
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
    rows: np.ndarray | None = None,
    targets: Targets | None = None,
    gather: Gather | None = None,
    whole_batches: bool = False,
) -> Iterator[Batch]:
    """Return an iterator over batches that hold every example once.

    Images keep their order. Texts are sorted from short to long, so that little of a batch is padding. A batch also has
    `position` int32[B], the place in `examples`, and `weight` float32[B]: 1, and 0 for copies that fill the last batch.
    With `whole_batches` the processes share the batches, and not the rows of each: process p of P reads the batches p,
    p + P, and so on.
    """
    import grain

    mine: Share = slice(None)
    if not whole_batches:
        mine = _share(batch, process_index, process_count) if rows is None else rows
    ready = reader(examples, processor, targets)
    if process_count > 1:
        ready.measure(gather, process_index, process_count)

    order = np.arange(len(examples), dtype=np.int32)
    if ready.ragged:
        if process_count == 1:
            ready.prepare()
        order = order[np.argsort(ready.lengths(order), kind="stable")]

    def assemble(number: int) -> Batch:
        places = np.arange(number * batch, (number + 1) * batch)
        positions = order[np.minimum(places, len(examples) - 1)]
        weight = (places[mine] < len(examples)).astype(np.float32)
        return {**ready.batch(positions, mine, buckets), "position": positions[mine], "weight": weight}

    count = -(-len(examples) // batch)
    numbers = (process_index, count, process_count) if whole_batches else (0, count, 1)
    if not range(*numbers):
        return iter(())
    return iter(grain.MapDataset.range(*numbers).map(assemble).to_iter_dataset(_reading()))


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


def _members(examples: Examples) -> tuple[np.ndarray, ...]:
    """Return the positions of the examples of each class that occurs. Raises ValueError for other labels."""
    if examples.kind != "class":
        raise ValueError(
            f"sampling='balanced' draws every class equally often, but the label of {examples.name!r} {examples.split} "
            f"is a {examples.kind}; expected one class for each example"
        )
    labels = examples.labels()
    return tuple(np.flatnonzero(labels == label) for label in np.unique(labels))


def _balanced(members: Sequence[np.ndarray], batch: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of global batch `step`, and the epoch of each within its class.

    The draws are cut into rounds. A round has every class once, in a random order; round r takes example r of the class
    in the orders of its epochs end to end. It depends on its arguments alone, as `_positions`.
    """
    classes = len(members)
    rounds, places = np.divmod(np.arange(step * batch, (step + 1) * batch), classes)
    drawn, positions, epochs = (np.empty(batch, np.int64) for _ in range(3))
    for piece in np.unique(rounds // _ROUNDS).tolist():
        inside = rounds // _ROUNDS == piece
        drawn[inside] = _class_orders(classes, seed, piece)[rounds[inside] % _ROUNDS, places[inside]]
    for number in np.unique(drawn).tolist():
        of_class = np.flatnonzero(drawn == number)
        count = len(members[number])
        epochs[of_class], steps = np.divmod(rounds[of_class], count)
        orders = {epoch: _class_order(count, seed, number, epoch) for epoch in np.unique(epochs[of_class]).tolist()}
        chosen = [orders[epoch][n] for epoch, n in zip(epochs[of_class].tolist(), steps.tolist(), strict=True)]
        positions[of_class] = members[number][chosen]
    return positions, epochs


# Rounds in which the orders of the classes are drawn together.
_ROUNDS = 256


@functools.lru_cache(maxsize=64)
def _class_orders(classes: int, seed: int, piece: int) -> np.ndarray:
    """Return the orders of the classes in `_ROUNDS` rounds, [_ROUNDS, C]."""
    random = np.random.Generator(np.random.PCG64([seed, piece, classes]))
    return np.argsort(random.random((_ROUNDS, classes)), axis=1, kind="stable")


@functools.lru_cache(maxsize=4096)
def _class_order(count: int, seed: int, number: int, epoch: int) -> np.ndarray:
    """Return the order of the examples of one class in one of its epochs."""
    return np.argsort(np.random.Generator(np.random.PCG64([seed, epoch, number, count])).random(count), kind="stable")


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


def inputs_of(batch: ArrayMap, targets: Targets | None = None) -> dict[str, Any]:
    """Return the inputs of a model in a batch: all arrays but the label arrays and those that only the host reads."""
    labels = () if targets is None else targets.fields()
    return {name: array for name, array in batch.items() if name not in HOST_KEYS and name not in labels}
