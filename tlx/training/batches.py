"""Batches for the engine: one after the other from the host, or many steps at once over rows on the devices.

Shapes: A runs, O different batches of a step (see `batches_of`), B batch, K steps, N rows.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.data import Examples, Order, Table
from tlx.data.pipeline import reader
from tlx.training.prepare import stream_seed, training_batches
from tlx.training.vectorize import MOST, Engine, stack
from tlx.trees import flatten, size

# So many bytes of training examples may lie on a device beside the step.
RESIDENT = 256 * 2**20
# So many parameters make a step that takes less time than its dispatch.
SMALL = 2**19


class DispatchedSteps(NamedTuple):
    """Some steps that were dispatched: the state after them, how many, their metrics as the engine gives them, the
    examples of run n in the k-th of them, and whether their program had run before."""

    state: Any
    steps: int
    metrics: Any
    examples: Callable[[int, int], np.ndarray]
    known: bool
    swept: bool
    runs: int

    def metrics_on_host(self) -> dict[str, np.ndarray]:
        """The metrics on the host, [K, A, ...]; waits for the device."""
        metrics = jax.device_get(self.metrics)
        by_step = {name: values[: self.steps] if self.swept else values[None] for name, values in metrics.items()}
        return by_step if self.runs > 1 else {name: values[:, None] for name, values in by_step.items()}


class ShapeCounter:
    """How many `steps` were dispatched with batches of each shape, and what such a batch is (shapes in the place of
    arrays); the shape is that of one run's batch."""

    def __init__(self) -> None:
        self.steps, self.batch_of = Counter[Any](), dict[Any, Any]()

    def count(self, batch: Any, steps: int) -> bool:
        """Whether there had been any of this shape."""
        shape = tuple(np.shape(leaf) for leaf in jax.tree.leaves(batch))
        self.steps[shape] += steps
        if shape in self.batch_of:
            return True
        self.batch_of[shape] = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
        return False


class HostBatches(ShapeCounter):
    """Batches made on the host, a step at a time."""

    def __init__(self, engine: Engine, runs: Sequence[Any], readers: Sequence[Mapping[str, Any]], first: int):
        super().__init__()
        self.engine = engine
        kept, self.share = sharing(runs, readers)
        self.begin = lambda step: [training_batches(run.ready, run.splits, how, step) for run, how in kept]
        self.batches = self.begin(first)

    def rewound(self, step: int) -> "HostBatches":
        """The same at the step `step`, whatever was dispatched."""
        self.batches, self.steps = self.begin(step), Counter()
        return self

    def bytes_needed(self, state: Any) -> int:
        """Arguments and temporaries of a compiled step; a batch is spent on it."""
        return needed(self.engine.train.lower(state, self.batch()[2]).compile())  # type: ignore[attr-defined]

    def shapes(self) -> tuple[Any, Any]:
        """The shapes of a batch of one run, and of what a step of the engine takes; a batch is spent on it."""
        batches, _, placed = self.batch()
        return shaped(batches[0]), shaped(placed)

    def batch(self) -> tuple[list[Any], Any, Any]:
        """The next batch of each order, all of them together, and that on the devices."""
        batches = [next(batches) for batches in self.batches]
        batch = batches[0] if len(batches) == 1 else together(batches)
        return batches, batch, self.engine.put(batch)

    def take(self, state: Any, step: int, end: int) -> DispatchedSteps:
        batches, batch, placed = self.batch()
        state, metrics = self.engine.train(state, placed)
        if jax.process_count() > 1:
            # Each process has made its part of the whole.
            batch = placed
        elif len(batches) > 1:
            batch = jax.tree.map(lambda leaf: leaf[0], batch)
        known = self.count(batch, 1)
        return DispatchedSteps(
            state, 1, metrics, lambda n, k: first_of(batches[n // self.share])["index"], known, False, self.engine.runs
        )


class DeviceBatches(ShapeCounter):
    """Rows of the one stream, which lie on the devices, up to `MOST` steps at a time in one program."""

    def __init__(self, engine: Engine, runs: Sequence[Any], readers: Sequence[Mapping[str, Any]], first: int):
        super().__init__()
        self.engine, self.known = engine, False
        kept, self.share = sharing(runs, readers)
        self.examples = [run.splits.train for run, _ in kept]
        (name,) = runs[0].splits.streams
        only = [(run, how[name]) for run, how in kept]
        # Runs of one seed and subset take the same examples, which are then looked up once.
        orders: dict[Any, Order] = {}
        self.orders = [orders.setdefault(order_key(run), order_of(run, how)) for run, how in only]
        self.places, table = one_table(only)
        self.table = {name: jax.device_put(table)}
        self.program: Any = engine.sweep

    def rewound(self, step: int) -> "DeviceBatches":
        """The same at the step `step`, whatever was dispatched."""
        self.steps = Counter()
        return self

    def bytes_needed(self, state: Any) -> int:
        """Arguments and temporaries of the compiled steps, which are compiled here once for all."""
        rows = self.engine.put_rows(np.zeros((MOST, *self.rows_shape()), np.int32))
        self.program = self.program.lower(state, self.table, rows, np.int32(1)).compile()
        return needed(self.program)

    def rows_shape(self) -> tuple[int, ...]:
        """Of the rows of one step: [B], or [O, B]."""
        batch = self.orders[0].batch
        return (batch,) if len(self.orders) == 1 else (len(self.orders), batch)

    def shapes(self) -> tuple[Any, Any]:
        """The shapes of a batch of one run, and of what a step of the engine takes."""
        rows = self.rows_shape()

        def of(shape: tuple[int, ...]) -> Any:
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*shape, *leaf.shape[1:]), leaf.dtype), self.table)

        return of(rows[-1:]), of(rows)

    def take(self, state: Any, step: int, end: int) -> DispatchedSteps:
        count = min(MOST, end - step)
        drawn = {id(order): [order(step + k)[0] for k in range(count)] for order in self.orders}
        positions = np.stack([drawn[id(order)] for order in self.orders], 1)
        rows = np.stack([places[positions[:, n]] for n, places in enumerate(self.places)], 1)
        rows = rows[:, 0] if len(self.orders) == 1 else rows
        full = np.zeros((MOST, *rows.shape[1:]), np.int32)
        full[:count] = rows
        state, metrics = self.program(state, self.table, self.engine.put_rows(full), np.int32(count))
        known, self.known = self.known, True
        size = self.orders[0].batch
        batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype), self.table)
        self.count(batch, count)

        def examples(n: int, k: int) -> np.ndarray:
            order = n // self.share
            return self.examples[order].rows[positions[k, order]]

        return DispatchedSteps(state, count, metrics, examples, known, True, self.engine.runs)


def shaped(batch: Any) -> Any:
    """The shapes and types of a batch."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), batch)


def needed(compiled: Any) -> int:
    """Bytes of the arguments and the temporaries of a program, as the compiler counts them."""
    memory = compiled.memory_analysis()
    return int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def order_key(run: Any) -> Any:
    """What runs that share a program have in common where they take the same examples in the same order."""
    return run.recipe.seed, *(examples.identity for examples in run.splits.streams.values())


def order_of(run: Any, how: Any) -> Order:
    """Which training examples each of the run's steps takes."""
    recipe, (name,) = run.recipe, run.splits.streams
    seed = stream_seed(recipe, name)
    batch = recipe.data.batches.get(name) or recipe.train.batch
    return Order(run.splits.train, how, batch=batch, seed=seed, group=recipe.data.group, targets=run.ready.targets)


def batches_for(
    engine: Engine, runs: Sequence[Any], readers: Sequence[Mapping[str, Any]], first: int
) -> HostBatches | DeviceBatches:
    """What suits: rows on the devices where there is one stream, all of one shape and few enough, and nothing changes
    them; else batch after batch. `readers` are each run's tables or processors, by stream."""
    if engine.sweep is None or jax.process_count() > 1 or len(runs[0].splits.streams) > 1:
        return HostBatches(engine, runs, readers, first)
    fits = small(runs[0], engine) and all(fixed(run, first_of(how)) for run, how in zip(runs, readers, strict=True))
    return (DeviceBatches if fits else HostBatches)(engine, runs, readers, first)


def small(run: Any, engine: Engine) -> bool:
    """Whether the loop itself is what a step costs. On processors XLA runs a convolution inside of a loop several times
    slower than by itself, and a large product no quicker."""
    if jax.default_backend() != "cpu":
        return True
    names = [stage.name for stage in run.ready.model.stages]
    above = tuple(f"{name}/" for name in names[names.index(engine.start) if engine.start else 0 :])
    leaves = [leaf for path, leaf in flatten(run.ready.variables.params).items() if path.startswith(above)]
    return all(len(leaf.shape) < 3 for leaf in leaves) and sum(map(size, leaves)) <= SMALL


def fixed(run: Any, how: Any) -> bool:
    """Whether the run's training examples are rows of one shape that may lie on the devices."""
    examples: Examples = run.splits.train
    if isinstance(how, Table):
        if how.ragged or how.views > 1:
            return False
        sizes = [array[0].nbytes for array in how.shards[0].arrays]
        return sum(sizes) * len(examples) <= RESIDENT
    if how.ragged or run.recipe.data.augment:
        return False
    return int(how.row_bytes) * len(examples) <= RESIDENT


def first_of(streams: Mapping[str, Any]) -> Any:
    """What belongs to the first stream."""
    return next(iter(streams.values()))


def batches_of(runs: Sequence[Any], readers: Sequence[Mapping[str, Any]]) -> int:
    """How many different batches a step of these runs takes, O: one for all that stand side by side, take the same
    examples in the same order and read the same of them, where those are equally many each time; else one a run."""
    keys = [
        (order_key(run), run.recipe.data, [id(own) for own in how.values() if isinstance(own, Table)])
        for run, how in zip(runs, readers, strict=True)
    ]
    together = [len(list(own)) for _, own in itertools.groupby(keys)]
    return len(together) if len(set(together)) == 1 else len(runs)


def sharing(
    runs: Sequence[Any], readers: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Any, Mapping[str, Any]]], int]:
    """The first run, and its readers, of each batch of a step, and how many runs share one."""
    share = len(runs) // batches_of(runs, readers)
    return list(zip(runs, readers, strict=True))[::share], share


def one_of(readers: Sequence[Any]) -> list[Any]:
    """The one reader that serves all runs, or all of them: prefixes of other numbers are other tables, and the
    processors of runs that share a program are alike."""
    tables = {id(reader) for reader in readers if isinstance(reader, Table)}
    return list(readers[:1]) if len(tables) <= 1 else list(readers)


def one_table(kept: Sequence[tuple[Any, Any]]) -> tuple[list[np.ndarray], Mapping[str, Any]]:
    """`(places, table)`: the rows of all runs' training examples once, and where each batch's positions lie in it."""
    pieces, places, begin = [], [], 0
    known: dict[Any, np.ndarray] = {}
    for run, how in kept:
        count = len(run.splits.train)
        key = (run.splits.train.identity, id(how) if isinstance(how, Table) else None)
        if (mine := known.get(key)) is None:
            pieces.append(rows_of(run, how))
            mine = known[key] = np.arange(begin, begin + count, dtype=np.int32)
            begin += count
        places.append(mine)
    return places, jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def rows_of(run: Any, how: Any) -> dict[str, Any]:
    """All training examples as one batch, [N, ...]."""
    examples = run.splits.train
    return reader(examples, how, run.ready.targets).batch(
        np.arange(len(examples)), slice(None), run.recipe.data.lengths
    )


def together(made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several batches as one, [O, B, ...], texts padded to the longest of their stream."""
    return jax.tree.map(lambda *leaves: stack(np, leaves), *made)
