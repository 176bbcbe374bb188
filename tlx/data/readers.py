"""The readers of examples: they make the arrays of a batch from the positions of its examples, and know the lengths.

A reader processes raw examples and caches them, or gathers rows of a table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from tlx.assets import cache_dir
from tlx.data.collate import collate, padded
from tlx.data.examples import Examples, save_whole
from tlx.data.table import Table
from tlx.data.token_store import TokenStore, can_store, opened_store
from tlx.processors import windows
from tlx.processors.base import Processor, length_of
from tlx.processors.columns import HEAVY, LABEL
from tlx.types import Field

if TYPE_CHECKING:
    from tlx.trees import Example

Batch = dict[str, np.ndarray]
Result = TypeVar("Result")
# Returns the arrays of all processes, [P, ...], on each process.
Gather = Callable[[np.ndarray], Any]
# The rows of a batch that a process reads.
Share = slice | np.ndarray

CACHE_BYTES = 256 * 2**20


class Targets(Protocol):
    """Makes the label arrays of an example; a task does so. `fields` declares their shapes, types and padding;
    `self_supervised` says whether it reads no label, `written` whether a label is a text of any length."""

    self_supervised: ClassVar[bool] = False
    written: ClassVar[bool] = False

    def fields(self) -> Mapping[str, Field]: ...

    def targets(self, example: Example, processor: Processor) -> dict[str, np.ndarray]: ...


class Labels:
    """The label arrays of examples: those of `targets`, else the label of each example as it is.

    There are none where the labels may not be read and `targets` reads them. Lists of labels need `targets`.
    """

    def __init__(self, examples: Examples, targets: Targets | None):
        self.examples, self.targets, self.fields = examples, targets, dict[str, Field]()
        # The label arrays that were made for a table, by position.
        self.cache: dict[int, dict[str, Any]] = {}
        # The lengths of labels that are texts, -1 where one is not known; None for labels of other kinds.
        self.sizes: np.ndarray | None = None
        if targets is not None and (examples.labelled or targets.self_supervised):
            self.fields = dict(targets.fields())
            self.sizes = np.full(len(examples), -1, np.int32) if targets.written else None
        elif examples.labelled and examples.scalar:
            self.fields = {LABEL: Field((), np.dtype(examples.label_dtype).name)}

    def of(self, example: Example, processor: Processor) -> dict[str, Any]:
        """Return the label arrays of a raw example."""
        if self.targets is not None and self.fields:
            return self.targets.targets(example, processor)
        return {name: example[name] for name in self.fields}

    def lengths(self, positions: np.ndarray, processor: Processor) -> np.ndarray | int:
        """Return the lengths of these labels, int32, if they are texts; 0 for labels of other kinds."""
        if self.sizes is None:
            return 0
        for position in positions[self.sizes[positions] < 0].tolist():
            self.sizes[position] = length_of(self.of(self.examples.light(position), processor), self.fields)
        return self.sizes[positions]

    def at(self, positions: np.ndarray, processor: Processor, length: int) -> dict[str, np.ndarray]:
        """Return the label arrays of a batch, without reading an image or a sound."""
        if self.targets is None:
            return {name: self.examples.labels()[positions] for name in self.fields}
        if not self.fields:
            return {}
        for position in positions.tolist():
            if position not in self.cache:
                self.cache[position] = self.of(self.examples.light(position), processor)
        rows = [self.cache[position] for position in positions.tolist()]
        return collate(rows, self.fields, (length,) if length else ())


class Processed:
    """The processed examples, cached up to `CACHE_BYTES`.

    The first examples stay in the cache. An epoch meets every example once, so a cache that removes the oldest entry
    would remove each example just before it is needed again.
    """

    def __init__(self, examples: Examples, processor: Processor, targets: Targets | None):
        self.examples, self.processor, self.cache = examples, processor, dict[int, dict[str, Any]]()
        self.labels = Labels(examples, targets)
        self.fields = {**processor.fields, **self.labels.fields, "index": Field((), "int32")}
        self.bytes, self.ragged = 0, processor.ragged
        self.store: TokenStore | None = None
        # The lengths that are known; -1 where one is not.
        self.sizes = np.full(len(examples) if self.ragged else 0, -1, np.int32)

    def __getitem__(self, position: int) -> dict[str, Any]:
        if (cached := self.cache.get(position)) is not None:
            return cached
        example = self.examples[position] if self.store is None else self.examples.light(position)
        inputs = self.named(lambda: self.processor(example), example) if self.store is None else self.store[position]
        labels = self.named(lambda: self.labels.of(example, self.processor), example)
        arrays = {**inputs, **labels, "index": example["index"]}
        if self.ragged:
            self.sizes[position] = length_of(arrays, self.processor.fields)
        if self.bytes < CACHE_BYTES:
            self.bytes += 1024 + sum(array.nbytes for array in arrays.values() if isinstance(array, np.ndarray))
            self.cache[position] = arrays
        return arrays

    def named(self, make: Callable[[], Result], example: dict[str, Any]) -> Result:
        """Return what `make` returns. A ValueError of it names the example."""
        try:
            return make()
        except ValueError as error:
            place = self.examples.place(example["index"])
            raise error if place in str(error) else ValueError(f"{place}: {error}") from None

    def prepare(self) -> None:
        """Make the inputs of all examples, or open those of an earlier run, where they can be kept on disk."""
        folder = self.file("tokens")
        if self.store is None and folder is not None and can_store(self.examples, self.processor):
            self.store = opened_store(self.examples, self.processor, folder)
            if self.store is not None:
                self.sizes[:] = self.store.lengths

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        """Return the length of each of these examples along the ragged axes of its inputs and labels, int32."""
        for position in positions[self.sizes[positions] < 0].tolist():
            # Reading an example stores its length, and caches its arrays for later batches.
            _ = self[position]
        return np.maximum(self.sizes[positions], self.labels.lengths(positions, self.processor))

    def measure(self, gather: Gather | None = None, process_index: int = 0, process_count: int = 1) -> None:
        """Measure the lengths of all examples without processing them.

        The lengths are stored on disk under the content of the data. Without a stored file each process measures its
        share and `gather` exchanges the shares; without `gather` each process measures all.
        """
        if not self.ragged or (self.sizes >= 0).all():
            return
        from tlx import processes

        file = self.file("lengths")
        is_cached = file is not None and file.is_file()
        if gather is not None:
            # All processes read the file or none does, because a process that measures waits for the others.
            is_cached = bool(np.asarray(gather(np.array([is_cached], np.int32))).all())
        if file is not None and is_cached:
            lengths = np.load(file, allow_pickle=False)
        else:
            share = slice(process_index, None, process_count) if gather is not None else slice(None)
            lengths = np.zeros(len(self.examples), np.int32)
            positions = np.arange(len(self.examples))[share]
            lengths[share] = processes.together(lambda: measured(self.examples, self.processor, positions))
            if gather is not None:
                # Each length is in the table of one process and 0 in those of the others.
                lengths = np.asarray(gather(lengths)).reshape(process_count, -1).sum(0).astype(np.int32)
            if file is not None:
                save_whole(file, lengths)
        self.sizes[:] = lengths

    def file(self, kind: str) -> Path | None:
        """Return the place of the lengths or the tokens of these examples; None where no key identifies them."""
        if not self.examples.key:
            return None
        text = json.dumps([self.examples.key, self.examples.split, self.processor.identity], sort_keys=True)
        name = hashlib.sha256(text.encode() + self.examples.identity).hexdigest()[:24]
        return cache_dir() / kind / (f"{name}.npy" if kind == "lengths" else name)

    def batch(
        self, positions: np.ndarray, mine: Share, buckets: Sequence[int], views: np.ndarray | None = None
    ) -> Batch:
        """Return this process's slice of the batch of these positions, with label and index. `views` is not used here;
        `train_batches` augments."""
        # The longest of the global batch, because the processes must come to the same shapes.
        longest = int(self.lengths(positions).max()) if self.ragged else None
        rows = [self[position] for position in positions[mine].tolist()]
        return collate(rows, self.fields, limits(buckets, self.processor), longest)

    def with_images(self, positions: np.ndarray, image: Callable[[Example, int], np.ndarray]) -> Batch:
        """Return the batch of these positions with the images that `image(example, row)` makes of raw examples."""
        rows = []
        for n, position in enumerate(positions.tolist()):
            example = self.examples[position]
            labels = self.labels.of(example, self.processor)
            changed = self.named(lambda example=example, n=n: image(example, n), example)  # type: ignore[misc]
            rows.append({"image": changed, **labels, "index": example["index"]})
        return collate(rows, self.fields)


class Tabled:
    """The batches of examples whose rows lie in a table. It has the methods of `Processed`."""

    def __init__(self, examples: Examples, table: Table, targets: Targets | None):
        self.examples, self.table, self.ragged = examples, table, table.texts
        self.labels = Labels(examples, targets)

    def lengths(self, positions: np.ndarray) -> np.ndarray:
        return self.table.lengths(self.examples.rows[positions] * self.table.views)

    def prepare(self) -> None:
        """Do nothing: the table holds all inputs."""

    def measure(self, gather: Gather | None = None, process_index: int = 0, process_count: int = 1) -> None:
        """Do nothing: the table knows all lengths."""

    def batch(
        self, positions: np.ndarray, mine: Share, buckets: Sequence[int], views: np.ndarray | None = None
    ) -> Batch:
        length = 0
        if self.table.ragged:
            length = padded(int(self.lengths(positions).max()), limits(buckets, self.table.processor))
        share = positions[mine]
        indices = self.examples.rows[share]
        rows = indices * self.table.views + (0 if views is None else views[mine])
        labels = self.labels.at(share, self.table.processor, length)
        return {**self.table.gather(rows, length), **labels, "index": indices.astype(np.int32)}


def limits(buckets: Sequence[int], processor: Processor) -> tuple[int, ...]:
    """Return the lengths that a batch may have: the buckets, and the largest length that the processor makes."""
    if processor.window:
        return windows.lengths(buckets, processor.window)
    most = processor.longest
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
