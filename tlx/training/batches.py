"""What the loop gives to an engine: batch after batch from the host, or many steps at once over rows on the devices.

Shapes: A arms, O different batches of a step (see `batches_of`), B batch, K steps, N rows.
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


class Taken(NamedTuple):
    """Some steps that were dispatched: the state after them, how many, their metrics as the engine gives them, the
    examples of arm n in the k-th of them, and whether their program had run before."""

    state: Any
    steps: int
    metrics: Any
    examples: Callable[[int, int], np.ndarray]
    known: bool
    swept: bool
    arms: int

    def told(self) -> dict[str, np.ndarray]:
        """The metrics on the host, [K, A, ...]; waits for the device."""
        found = jax.device_get(self.metrics)
        given = {name: values[: self.steps] if self.swept else values[None] for name, values in found.items()}
        return given if self.arms > 1 else {name: values[:, None] for name, values in given.items()}


class Counted:
    """How many `steps` were taken with batches of each shape, and what such a batch is (shapes in the place of arrays);
    the shape is that of one arm's batch."""

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


class Stream(Counted):
    """Batches made on the host, a step at a time."""

    def __init__(self, engine: Engine, arms: Sequence[Any], readers: Sequence[Mapping[str, Any]], first: int):
        super().__init__()
        self.engine = engine
        kept, self.share = sharing(arms, readers)
        self.begin = lambda step: [training_batches(arm.ready, arm.splits, how, step) for arm, how in kept]
        self.batches = self.begin(first)

    def rewound(self, step: int) -> "Stream":
        """The same at the step `step`, whatever was taken."""
        self.batches, self.steps = self.begin(step), Counter()
        return self

    def bytes_needed(self, state: Any) -> int:
        """Arguments and temporaries of a compiled step; a batch is spent on it."""
        return needed(self.engine.train.lower(state, self.batch()[2]).compile())  # type: ignore[attr-defined]

    def shapes(self) -> tuple[Any, Any]:
        """The shapes of a batch of one arm, and of what a step of the engine takes; a batch is spent on it."""
        made, _, given = self.batch()
        return shaped(made[0]), shaped(given)

    def batch(self) -> tuple[list[Any], Any, Any]:
        """The next batch of each order, all of them together, and that on the devices."""
        made = [next(batches) for batches in self.batches]
        batch = made[0] if len(made) == 1 else together(made)
        return made, batch, self.engine.put(batch)

    def take(self, state: Any, step: int, end: int) -> Taken:
        made, batch, given = self.batch()
        state, metrics = self.engine.train(state, given)
        if jax.process_count() > 1:
            # Each process has made its part of the whole.
            batch = given
        elif len(made) > 1:
            batch = jax.tree.map(lambda leaf: leaf[0], batch)
        known = self.count(batch, 1)
        return Taken(
            state, 1, metrics, lambda n, k: first_of(made[n // self.share])["index"], known, False, self.engine.arms
        )


class Resident(Counted):
    """Rows of the one stream, which lie on the devices, up to `MOST` steps at a time in one program."""

    def __init__(self, engine: Engine, arms: Sequence[Any], readers: Sequence[Mapping[str, Any]], first: int):
        super().__init__()
        self.engine, self.known = engine, False
        kept, self.share = sharing(arms, readers)
        self.examples = [arm.splits.train for arm, _ in kept]
        (name,) = arms[0].splits.streams
        only = [(arm, how[name]) for arm, how in kept]
        # Arms of one seed and subset take the same examples, which are then looked up once.
        orders: dict[Any, Order] = {}
        self.orders = [orders.setdefault(order_key(arm), order_of(arm, how)) for arm, how in only]
        self.places, table = one_table(only)
        self.table = {name: jax.device_put(table)}
        self.program: Any = engine.sweep

    def rewound(self, step: int) -> "Resident":
        """The same at the step `step`, whatever was taken."""
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
        """The shapes of a batch of one arm, and of what a step of the engine takes."""
        rows = self.rows_shape()

        def of(shape: tuple[int, ...]) -> Any:
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*shape, *leaf.shape[1:]), leaf.dtype), self.table)

        return of(rows[-1:]), of(rows)

    def take(self, state: Any, step: int, end: int) -> Taken:
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
            own = n // self.share
            return self.examples[own].rows[positions[k, own]]

        return Taken(state, count, metrics, examples, known, True, self.engine.arms)


def shaped(batch: Any) -> Any:
    """The shapes and types of a batch."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), batch)


def needed(compiled: Any) -> int:
    """Bytes of the arguments and the temporaries of a program, as the compiler counts them."""
    told = compiled.memory_analysis()
    return int(told.argument_size_in_bytes + told.temp_size_in_bytes)


def order_key(arm: Any) -> Any:
    """What arms that share a program have in common where they take the same examples in the same order."""
    return arm.recipe.seed, *(examples.identity for examples in arm.splits.streams.values())


def order_of(arm: Any, how: Any) -> Order:
    """Which training examples each of the arm's steps takes."""
    recipe, (name,) = arm.recipe, arm.splits.streams
    seed = stream_seed(recipe, name)
    return Order(arm.splits.train, how, batch=recipe.train.batch, seed=seed, group=recipe.data.group)


def feed(engine: Engine, arms: Sequence[Any], readers: Sequence[Mapping[str, Any]], first: int) -> Stream | Resident:
    """What suits: rows on the devices where there is one stream, all of one shape and few enough, and nothing changes
    them; else batch after batch. `readers` are each arm's tables or processors, by stream."""
    if engine.sweep is None or jax.process_count() > 1 or len(arms[0].splits.streams) > 1:
        return Stream(engine, arms, readers, first)
    fits = small(arms[0], engine) and all(fixed(arm, first_of(how)) for arm, how in zip(arms, readers, strict=True))
    return (Resident if fits else Stream)(engine, arms, readers, first)


def small(arm: Any, engine: Engine) -> bool:
    """Whether the loop itself is what a step costs. On processors XLA runs a convolution inside of a loop several times
    slower than by itself, and a large product no quicker."""
    if jax.default_backend() != "cpu":
        return True
    names = [stage.name for stage in arm.ready.model.stages]
    above = tuple(f"{name}/" for name in names[names.index(engine.start) if engine.start else 0 :])
    leaves = [leaf for path, leaf in flatten(arm.ready.variables.params).items() if path.startswith(above)]
    return all(len(leaf.shape) < 3 for leaf in leaves) and sum(map(size, leaves)) <= SMALL


def fixed(arm: Any, how: Any) -> bool:
    """Whether the arm's training examples are rows of one shape that may lie on the devices."""
    examples: Examples = arm.splits.train
    if isinstance(how, Table):
        if how.ragged or how.views > 1:
            return False
        sizes = [array[0].nbytes for array in how.shards[0].arrays]
        return sum(sizes) * len(examples) <= RESIDENT
    if how.ragged or arm.recipe.data.augment:
        return False
    return int(how.row_bytes) * len(examples) <= RESIDENT


def first_of(streams: Mapping[str, Any]) -> Any:
    """What belongs to the first stream."""
    return next(iter(streams.values()))


def batches_of(arms: Sequence[Any], readers: Sequence[Mapping[str, Any]]) -> int:
    """How many different batches a step of these arms takes, O: one for all that stand side by side, take the same
    examples in the same order and read the same of them, where those are equally many each time; else one an arm."""
    keys = [
        (order_key(arm), arm.recipe.data, [id(own) for own in how.values() if isinstance(own, Table)])
        for arm, how in zip(arms, readers, strict=True)
    ]
    together = [len(list(own)) for _, own in itertools.groupby(keys)]
    return len(together) if len(set(together)) == 1 else len(arms)


def sharing(
    arms: Sequence[Any], readers: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Any, Mapping[str, Any]]], int]:
    """The first arm, and its readers, of each batch of a step, and how many arms share one."""
    share = len(arms) // batches_of(arms, readers)
    return list(zip(arms, readers, strict=True))[::share], share


def one_of(readers: Sequence[Any]) -> list[Any]:
    """The one reader that serves all arms, or all of them: prefixes of other numbers are other tables, and the
    processors of arms that share a program are alike."""
    tables = {id(reader) for reader in readers if isinstance(reader, Table)}
    return list(readers[:1]) if len(tables) <= 1 else list(readers)


def one_table(kept: Sequence[tuple[Any, Any]]) -> tuple[list[np.ndarray], Mapping[str, Any]]:
    """`(places, table)`: the rows of all arms' training examples once, and where each batch's positions lie in it."""
    pieces, places, begin = [], [], 0
    known: dict[Any, np.ndarray] = {}
    for arm, how in kept:
        count = len(arm.splits.train)
        key = (arm.splits.train.identity, id(how) if isinstance(how, Table) else None)
        if (mine := known.get(key)) is None:
            pieces.append(rows_of(arm, how))
            mine = known[key] = np.arange(begin, begin + count, dtype=np.int32)
            begin += count
        places.append(mine)
    return places, jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def rows_of(arm: Any, how: Any) -> dict[str, Any]:
    """All training examples as one batch, [N, ...]."""
    examples = arm.splits.train
    return reader(examples, how, arm.ready.targets).batch(
        np.arange(len(examples)), slice(None), arm.recipe.data.lengths
    )


def together(made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several batches as one, [O, B, ...], texts padded to the longest of their stream."""
    return jax.tree.map(lambda *leaves: stack(np, leaves), *made)
