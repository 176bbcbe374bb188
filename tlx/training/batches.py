"""Batches for the engine: one after the other from the host, or many steps at once over rows on the devices.

Shapes: A runs, O different batches of a step (see `batches_of`), B batch, K steps, N rows.
"""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from tlx import sharding
from tlx.data import Examples, Order, Table
from tlx.data.readers import reader
from tlx.processors.base import Processor
from tlx.training.active_run import ActiveRun
from tlx.training.prepare import stream_seed, training_batches
from tlx.training.reading_together import ReadAhead
from tlx.training.state import TrainState
from tlx.training.vectorize import MOST, Engine, stack
from tlx.trees import Tree, flatten, size
from tlx.types import ArrayMap

# The largest number of bytes of training examples that may lie on a device beside the step.
RESIDENT = 256 * 2**20
# The batches that are placed on the devices before their step.
AHEAD = 2
# A step with at most this many parameters takes less time than its dispatch.
SMALL = 2**19


T = TypeVar("T")
Reader = Processor | Table
Readers = Mapping[str, Reader]


class DispatchedSteps(NamedTuple):
    """Some dispatched steps: the state after them, their number, their metrics as the engine returns them, `examples(n,
    k)` of run n in the k-th step, and whether their program had run before."""

    state: TrainState
    steps: int
    metrics: ArrayMap
    examples: Callable[[int, int], np.ndarray]
    compiled: bool
    swept: bool
    runs: int

    def metrics_on_host(self) -> dict[str, np.ndarray]:
        """Return the metrics on the host, [K, A, ...]; waits for the device."""
        metrics = jax.device_get(self.metrics)
        by_step = {name: values[: self.steps] if self.swept else values[None] for name, values in metrics.items()}
        return by_step if self.runs > 1 else {name: values[:, None] for name, values in by_step.items()}


class ShapeCounter:
    """Count the `steps` that were dispatched with batches of each shape, and keep the shapes of such a batch; the shape
    is that of one run's batch."""

    def __init__(self) -> None:
        self.steps, self.batch_of = Counter[Any](), dict[Any, Any]()

    @property
    def failure(self) -> Exception | None:
        """Return the error by which this process could not read a batch that another process also waits for."""
        return None

    def count(self, batch: ArrayMap, steps: int) -> bool:
        """Count steps of this batch's shape; return whether the shape occurred before."""
        shape = tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch))
        self.steps[shape] += steps
        if shape in self.batch_of:
            return True
        self.batch_of[shape] = sharding.shapes(batch)
        return False


class HostBatches(ShapeCounter):
    """Batches made on the host, a step at a time, up to the step `last`. While the devices take a step, the batches of
    the next `AHEAD` steps are placed there."""

    def __init__(self, engine: Engine, runs: Sequence[ActiveRun], readers: Sequence[Readers], first: int, last: int):
        super().__init__()
        self.engine, self.last = engine, last
        sharers, self.share = sharing(runs, readers)
        self.begin = lambda step: [
            training_batches(run.ready, run.splits, how, step, engine.mesh) for run, how in sharers
        ]
        self.batches, self.read = self.opened(first)
        self.ahead: deque[tuple[Sequence[ArrayMap], ArrayMap, ArrayMap]] = deque()

    def opened(self, step: int) -> tuple[list[Any], ReadAhead | None]:
        """Return the batches from a step on, and, for several processes, the same read ahead."""
        batches = self.begin(step)
        return batches, ReadAhead(batches, self.last - step) if jax.process_count() > 1 else None

    @property
    def failure(self) -> Exception | None:
        return None if self.read is None else self.read.failure

    def rewound(self, step: int) -> "HostBatches":
        """Return the same batches at the step `step`, whatever was dispatched."""
        (self.batches, self.read), self.steps = self.opened(step), Counter()
        self.ahead.clear()
        return self

    def bytes_needed(self, state: TrainState) -> int:
        """Return the bytes of arguments and temporaries of a compiled step; this uses up a batch."""
        return needed(self.engine.train.lower(state, self.batch()[2]).compile())  # type: ignore[attr-defined]

    def shapes(self) -> tuple[Tree, Tree]:
        """Return the shapes of a batch of one run, and of the batch of an engine's step; this uses up a batch."""
        batches, _, placed = self.batch()
        return sharding.shapes(of_one_run(batches, batches[0], placed)), sharding.shapes(placed)

    def batch(self) -> tuple[Sequence[ArrayMap], ArrayMap, ArrayMap]:
        """Return the next batch of each order, all of them stacked, and the stacked batch on the devices."""
        batches = [next(batches) for batches in self.batches] if self.read is None else next(self.read)
        batch = batches[0] if len(batches) == 1 else together(batches)
        return batches, batch, self.engine.put(batch)

    def take(self, state: TrainState, step: int, end: int) -> DispatchedSteps:
        """Dispatch one step from `state`."""
        batches, batch, placed = self.ahead.popleft() if self.ahead else self.batch()
        state, metrics = self.engine.train(state, placed)
        # After the dispatch, so that the devices do not wait. The data need not go beyond the last step, and what was
        # read before a failure lasts until all processes know of it.
        while self.failure is None and len(self.ahead) < min(AHEAD, self.last - step - 1):
            self.ahead.append(self.batch())
        first = batch if len(batches) == 1 else jax.tree.map(lambda leaf: leaf[0], batch)
        compiled = self.count(of_one_run(batches, first, placed), 1)
        return DispatchedSteps(
            state,
            1,
            metrics,
            lambda n, k: first_of(batches[n // self.share])["index"],
            compiled,
            False,
            self.engine.runs,
        )


def of_one_run(batches: Sequence[ArrayMap], first: ArrayMap, placed: ArrayMap) -> ArrayMap:
    """Return the batch of one run, or its shapes: `first`, or, where each process has a part of it, those of the placed
    batch, in which the orders of the examples lie along the first axis if there are several."""
    if jax.process_count() == 1:
        return first
    shapes = sharding.shapes(placed)
    if len(batches) == 1:
        return shapes
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shapes)


class DeviceBatches(ShapeCounter):
    """Rows of a single stream, stored on the devices, up to `MOST` steps at a time in one program."""

    def __init__(self, engine: Engine, runs: Sequence[ActiveRun], readers: Sequence[Readers], first: int):
        super().__init__()
        self.engine, self.compiled = engine, False
        sharers, self.share = sharing(runs, readers)
        self.examples = [run.splits.train for run, _ in sharers]
        (name,) = runs[0].splits.streams
        single = [(run, how[name]) for run, how in sharers]
        # Runs of one seed and subset take the same examples, which are then looked up once.
        orders: dict[Any, Order] = {}
        self.orders = [orders.setdefault(order_key(run), order_of(run, how)) for run, how in single]
        self.places, table = one_table(single)
        self.table = {name: jax.device_put(table)}
        self.program: Any = engine.sweep

    def rewound(self, step: int) -> "DeviceBatches":
        """Return the same batches at the step `step`, whatever was dispatched."""
        self.steps = Counter()
        return self

    def bytes_needed(self, state: TrainState) -> int:
        """Return the bytes of arguments and temporaries of the compiled steps, which are compiled here, once."""
        rows = self.engine.put_rows(np.zeros((MOST, *self.rows_shape()), np.int32))
        self.program, self.compiled = self.program.lower(state, self.table, rows, np.int32(1)).compile(), True
        return needed(self.program)

    def rows_shape(self) -> tuple[int, ...]:
        """Return the shape of the rows of one step: [B], or [O, B]."""
        batch = self.orders[0].batch
        return (batch,) if len(self.orders) == 1 else (len(self.orders), batch)

    def shapes(self) -> tuple[Tree, Tree]:
        """Return the shapes of a batch of one run, and of the batch of an engine's step."""
        rows = self.rows_shape()

        def of(shape: tuple[int, ...]) -> Tree:
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*shape, *leaf.shape[1:]), leaf.dtype), self.table)

        return of(rows[-1:]), of(rows)

    def take(self, state: TrainState, step: int, end: int) -> DispatchedSteps:
        """Dispatch the steps from `step` up to `end`, at most `MOST`."""
        count = min(MOST, end - step)
        positions_by_order = {id(order): [order(step + k)[0] for k in range(count)] for order in self.orders}
        positions = np.stack([positions_by_order[id(order)] for order in self.orders], 1)
        rows = np.stack([places[positions[:, n]] for n, places in enumerate(self.places)], 1)
        rows = rows[:, 0] if len(self.orders) == 1 else rows
        full = np.zeros((MOST, *rows.shape[1:]), np.int32)
        full[:count] = rows
        state, metrics = self.program(state, self.table, self.engine.put_rows(full), np.int32(count))
        compiled, self.compiled = self.compiled, True
        size = self.orders[0].batch
        batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), self.table)
        self.count(batch, count)

        def examples(n: int, k: int) -> np.ndarray:
            order = n // self.share
            return self.examples[order].rows[positions[k, order]]

        return DispatchedSteps(state, count, metrics, examples, compiled, True, self.engine.runs)


def needed(compiled: Any) -> int:
    """Return the bytes of the arguments and the temporaries of a program, as the compiler counts them."""
    memory = compiled.memory_analysis()
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def order_key(run: ActiveRun) -> Any:
    """Return a key that is equal for runs that take the same examples in the same order."""
    return run.recipe.seed, *(examples.identity for examples in run.splits.streams.values())


def order_of(run: ActiveRun, how: Reader) -> Order:
    """Return the order in which the run's steps take the training examples."""
    recipe, (name,) = run.recipe, run.splits.streams
    seed = stream_seed(recipe, name)
    batch = recipe.batch_of(name)
    data = recipe.data
    return Order(
        run.splits.train, how, batch=batch, seed=seed, group=data.group, targets=run.ready.targets,
        sampling=data.sampling,
    )  # fmt: skip


def batches_for(
    engine: Engine, runs: Sequence[ActiveRun], readers: Sequence[Readers], first: int, last: int
) -> HostBatches | DeviceBatches:
    """Return rows on the devices where there is one stream of few, unchanging rows of one shape; else batches from the
    host. `readers` are each run's tables or processors, by stream; the steps are those after `first` up to `last`."""
    one_stream = engine.sweep is not None and jax.process_count() == 1 and len(runs[0].splits.streams) == 1
    if not (one_stream and small(runs[0], engine)):
        return HostBatches(engine, runs, readers, first, last)
    if not all(fixed(run, first_of(how)) for run, how in zip(runs, readers, strict=True)):
        return HostBatches(engine, runs, readers, first, last)
    return DeviceBatches(engine, runs, readers, first)


def small(run: ActiveRun, engine: Engine) -> bool:
    """Return whether the cost of a step is mainly its dispatch. On CPUs XLA runs a convolution inside of a loop several
    times slower than outside, and a large product no faster."""
    if jax.default_backend() != "cpu":
        return True
    names = [stage.name for stage in run.ready.model.stages]
    above = tuple(f"{name}/" for name in names[names.index(engine.start) if engine.start else 0 :])
    leaves = [leaf for path, leaf in flatten(run.ready.variables.params).items() if path.startswith(above)]
    return all(len(leaf.shape) < 3 for leaf in leaves) and sum(map(size, leaves)) <= SMALL


def fixed(run: ActiveRun, how: Reader) -> bool:
    """Return whether the run's training examples are rows of one shape that fit on the devices."""
    examples: Examples = run.splits.train
    if isinstance(how, Table):
        if how.ragged or how.views > 1:
            return False
        sizes = [array[0].nbytes for array in how.shards[0].arrays]
        return sum(sizes) * len(examples) <= RESIDENT
    if how.ragged or run.recipe.data.augment:
        return False
    return int(how.row_bytes) * len(examples) <= RESIDENT


def first_of(streams: Mapping[str, T]) -> T:
    """Return the value of the first stream."""
    return next(iter(streams.values()))


def batches_of(runs: Sequence[ActiveRun], readers: Sequence[Readers]) -> int:
    """Return O, the number of different batches in a step of these runs: one for each set of adjacent runs that take
    the same examples in the same order and read the same tables, where these sets have equal sizes; else one for each
    run."""
    keys = [
        (order_key(run), run.recipe.data, [id(table) for table in how.values() if isinstance(table, Table)])
        for run, how in zip(runs, readers, strict=True)
    ]
    sizes = [len(list(equal)) for _, equal in itertools.groupby(keys)]
    return len(sizes) if len(set(sizes)) == 1 else len(runs)


def sharing(runs: Sequence[ActiveRun], readers: Sequence[Readers]) -> tuple[list[tuple[ActiveRun, Readers]], int]:
    """Return the first run, and its readers, of each batch of a step, and the number of runs that share a batch."""
    share = len(runs) // batches_of(runs, readers)
    return list(zip(runs, readers, strict=True))[::share], share


def one_of(readers: Sequence[Reader]) -> list[Reader]:
    """Return the one reader that serves all runs, or all readers. Cached features of different weights are different
    tables; the processors of runs that share a program are equal."""
    tables = {id(reader) for reader in readers if isinstance(reader, Table)}
    return list(readers[:1]) if len(tables) <= 1 else list(readers)


def one_table(pairs: Sequence[tuple[ActiveRun, Reader]]) -> tuple[list[np.ndarray], Readers]:
    """Return `(places, table)`: the rows of all runs' training examples, each once, and for each batch the places of
    its examples in the table."""
    pieces, places, begin = [], [], 0
    places_by_key: dict[Any, np.ndarray] = {}
    for run, how in pairs:
        count = len(run.splits.train)
        key = (run.splits.train.identity, id(how) if isinstance(how, Table) else None)
        if (positions := places_by_key.get(key)) is None:
            pieces.append(rows_of(run, how))
            positions = places_by_key[key] = np.arange(begin, begin + count, dtype=np.int32)
            begin += count
        places.append(positions)
    missing = table_rows(begin) - begin

    def join(*leaves: np.ndarray) -> np.ndarray:
        return np.concatenate([*leaves, np.zeros((missing, *leaves[0].shape[1:]), leaves[0].dtype)])

    return places, jax.tree.map(join, *pieces)


def table_rows(count: int) -> int:
    """Return the rows of a table of `count` examples: tables of similar sizes have one shape, and one program, such as
    those of the folds of a cross-validation. No step reads the further rows.

    >>> [table_rows(count) for count in (7, 119, 120, 121, 1000)]
    [7, 120, 120, 128, 1024]
    """
    unit = max(1, 2 ** (count.bit_length() - 4))
    return -(-count // unit) * unit


def rows_of(run: ActiveRun, how: Reader) -> dict[str, Any]:
    """Return all training examples as one batch, [N, ...]."""
    examples = run.splits.train
    return reader(examples, how, run.ready.targets).batch(
        np.arange(len(examples)), slice(None), run.recipe.data.lengths
    )


def together(batches: Sequence[ArrayMap]) -> dict[str, Any]:
    """Return several batches as one, [O, B, ...], texts padded to the longest of their stream."""
    return jax.tree.map(lambda *leaves: stack(np, leaves), *batches)
