"""Train many runs in one compiled program: their states are stacked, shared arrays are stored once, one `vmap`ped step.

Runs that differ only in numbers share a program; their moving arrays, their numbers and their keys get a leading axis,
and arrays that are the same in all (the frozen part) do not. Inserted leaves of unequal sizes are padded with zeros
where the tuning declares that these stay zeros (see `Tuning.padded`).

Shapes: A runs, O different batches of a step, B batch, C outputs of the head, K steps.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tlx import optim as optimisers
from tlx import partition, sharding
from tlx.partition import Partition
from tlx.training.placement import Placement
from tlx.training.state import Parts, TrainState
from tlx.training.step import answerer, compile_step, eval_step, train_step
from tlx.trees import flatten, size
from tlx.types import Array, ArrayMap

# The largest number of steps over a resident table in one call.
MOST = 256
# A leaf of at most this many numbers, over all runs, is stacked and unstacked on the host.
SMALL = 2**22


# A step of training: state, batch -> state, metrics.
Step = Callable[[TrainState, ArrayMap], tuple[TrainState, ArrayMap]]


class Engine(NamedTuple):
    """A step of one run or several on a `mesh`, whose passes begin at the stage `start` (None: the inputs).

    `place(states, copy=True)` puts fresh states on the devices (see `Placement.put`), `fetch(state, n)` returns the
    state of run n; `put` places a training batch, stacked [O, B, ...] where there are several, `put_whole` one for all
    runs, `put_rows` rows of a table.
    `train(state, batch)` takes a step and donates the buffers of `state`; its metrics have a leading axis of runs where
    there are several. `sweep(state, table, positions, count)` takes `count` steps over the rows `positions` [MOST, B]
    (or [MOST, O, B]) of a stream's table on the devices; metrics [MOST, ...]. `evaluate(state, inputs)` returns the
    outputs of `step.eval_step` by run: logits [A, B, C]. `answer` is as in `step.Compiled`.
    """

    runs: int
    mesh: Mesh
    start: str | None
    train: Callable[[TrainState, ArrayMap], tuple[TrainState, ArrayMap]]
    sweep: Callable[[TrainState, ArrayMap, Any, Any], tuple[TrainState, ArrayMap]] | None
    evaluate: Callable[[TrainState, ArrayMap], ArrayMap]
    place: Callable[..., TrainState]
    fetch: Callable[[TrainState, int], TrainState]
    put: Callable[[ArrayMap], ArrayMap]
    put_whole: Callable[[ArrayMap], ArrayMap]
    put_rows: Callable[[np.ndarray], Array]
    answer: Callable[[TrainState], TrainState]


def single(parts: Parts, mesh: Mesh, how: str = "jit") -> Engine:
    """Return the engine of one run."""
    compiled = compile_step(parts, mesh, how)
    whole, rows = sharding.replicated(mesh), sharding.by_example(mesh, 1)
    sweep = None
    if how == "jit":
        placement = Placement(parts, mesh)
        step = placement.keeping(partial(swept, partial(train_step, placement.parts)))
        sweep = jax.jit(step, in_shardings=(None, whole, rows, None), donate_argnums=0)
    return Engine(
        runs=1,
        mesh=mesh,
        start=parts.start,
        train=compiled.train,
        sweep=sweep,
        evaluate=lambda state, inputs: jax.tree.map(lambda leaf: leaf[None], compiled.evaluate(state, inputs)),
        place=lambda states, copy=True: compiled.place(states[0], copy),
        fetch=lambda state, n: compiled.fetch(state),
        put=compiled.put,
        put_whole=compiled.put,
        put_rows=partial(jax.device_put, device=rows),
        answer=compiled.answer,
    )


def vectorised(
    parts: Parts,
    mesh: Mesh,
    states: Sequence[TrainState],
    batches: int,
    shared_inputs: bool = True,
    forms: Sequence[Any] = (),
) -> Engine:
    """Return the engine of several runs.

    Each of the O batches of a step is for A / O adjacent runs: the frozen stages below the trainable ones are computed
    once for each batch.

    Args:
        parts: The static half of any of the runs; their numbers are in the states.
        mesh: The devices.
        states: The fresh state of each run, which shows what they share.
        batches: O, the number of different batches of a step.
        shared_inputs: Whether the runs are evaluated on the same inputs; else each on separate inputs, stacked.
        forms: The shapes of the state of each run alone, where the runs were `joined`.
    """
    count, leaf_axes = len(states), axes_of(states)
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(state)] for state in states]
    axes: TrainState = jax.tree.unflatten(jax.tree.structure(states[0]), leaf_axes)
    placement = Placement(parts, mesh, leaf_axes)
    parts = placement.parts
    # The axis along which the rows of a batch lie.
    inner, read_inner = int(batches > 1), int(not shared_inputs)
    rows, many = sharding.by_example(mesh, inner), sharding.by_example(mesh, inner + 1)
    inputs = sharding.by_example(mesh, read_inner)
    step = stepped(parts, axes, leaf_axes, batches, count // batches)
    evaluate = jax.vmap(partial(eval_step, parts), in_axes=(axes, None if shared_inputs else 0), axis_size=count)
    train = jax.jit(placement.keeping(step), in_shardings=(None, rows), donate_argnums=0)
    sweep = jax.jit(
        placement.keeping(partial(swept, step)), in_shardings=(None, placement.whole, many, None), donate_argnums=0
    )
    averaged = (axes.trainable, axes.optimiser, axes.average)
    answer = answerer(parts, lambda function: jax.jit(jax.vmap(function, in_axes=averaged)))
    return Engine(
        runs=count,
        mesh=mesh,
        start=parts.start,
        train=train,
        sweep=sweep,
        evaluate=jax.jit(evaluate, in_shardings=(None, inputs), out_shardings=placement.whole),
        place=lambda fresh, copy=True: placement.put(stacked(fresh, leaf_axes), copy=False),
        fetch=lambda state, n: parted(unstacked(state, leaf_axes, shapes[n], n), forms[n] if forms else None),
        put=partial(sharding.place_batch, mesh, axis=inner),
        put_whole=partial(sharding.place_batch, mesh, axis=read_inner),
        put_rows=partial(jax.device_put, device=many),
        answer=answer,
    )


def stepped(parts: Parts, axes: TrainState, leaf_axes: Sequence[int | None], batches: int, share: int) -> Step:
    """Return the step over `batches` batches, each shared by `share` runs: a `vmap` over the runs of a batch inside, so
    that a product with the same inputs is one of larger matrices, and one over the batches outside. Runs that share
    their batches have one seed, so they draw the same noise, once."""
    step: Step = partial(train_step, parts)
    if share == 1:
        return jax.vmap(step, in_axes=(axes, 0), out_axes=(axes, 0), axis_size=batches)
    inner = TrainState(**{**axes._asdict(), "key": None})
    step = jax.vmap(step, in_axes=(inner, None), out_axes=(inner, 0), axis_size=share)
    if batches > 1:
        step = jax.vmap(step, in_axes=(axes, 0), out_axes=(axes, 0), axis_size=batches)

    def shaped(state: TrainState, count: int, *sizes: int) -> TrainState:
        """Reshape the first `count` axes of the leaves that differ between runs to `sizes`."""
        leaves, tree = jax.tree.flatten(state)
        pairs = zip(leaf_axes, leaves, strict=True)
        return jax.tree.unflatten(
            tree, [leaf if axis is None else leaf.reshape(*sizes, *leaf.shape[count:]) for axis, leaf in pairs]
        )

    def both(state: TrainState, batch: ArrayMap) -> tuple[TrainState, ArrayMap]:
        if batches == 1:
            after, metrics = step(state._replace(key=state.key[0]), batch)
            return after._replace(key=state.key), metrics
        by_batch = shaped(state, 1, batches, share)
        after, metrics = step(by_batch._replace(key=by_batch.key[:, 0]), batch)
        metrics = jax.tree.map(lambda leaf: leaf.reshape(batches * share, *leaf.shape[2:]), metrics)
        return shaped(after._replace(key=by_batch.key), 2, batches * share), metrics

    return both


def swept(
    step: Step, state: TrainState, table: ArrayMap, positions: Array, count: Array
) -> tuple[TrainState, ArrayMap]:
    """Take `count` steps in one program: the batch of step k is the rows `positions[k]` of the table."""

    def batch(k: int | Array) -> ArrayMap:
        return jax.tree.map(lambda leaf: leaf[positions[k]], table)

    def body(k: Array, carry: tuple[TrainState, ArrayMap]) -> tuple[TrainState, ArrayMap]:
        state, history = carry
        state, metrics = step(state, batch(k))
        return state, jax.tree.map(lambda values, value: values.at[k].set(value), history, metrics)

    shapes = jax.eval_shape(lambda state: step(state, batch(0))[1], state)
    history = jax.tree.map(lambda leaf: jnp.zeros((len(positions), *leaf.shape), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, count, body, (state, history))


# The fields that are separate for every run, even where they are equal at first.
OWN = ("trainable", "stats", "optimiser", "average", "numbers", "key")


def axes_of(states: Sequence[TrainState]) -> list[int | None]:
    """Return for every leaf of a state 0 where each run has a separate array and None where they share it: the number
    of the step, and frozen leaves and memories that are one array in all runs."""
    axes: list[int | None] = []
    for name in TrainState._fields:
        columns = zip(*(jax.tree.leaves(getattr(state, name)) for state in states), strict=True)
        for leaves in columns:
            separate = name in OWN or (name != "step" and any(leaf is not leaves[0] for leaf in leaves))
            axes.append(0 if separate else None)
    return axes


def stacked(states: Sequence[TrainState], axes: Sequence[int | None]) -> TrainState:
    """Return the states as one; every array is a copy."""

    def join(axis: int | None, leaves: Sequence[Any]) -> Any:
        if axis is None:
            return jnp.array(leaves[0], copy=True)
        # On a device each array would need a separate operation.
        return stack(np if is_small(leaves) else jnp, leaves)

    columns = zip(*(jax.tree.leaves(state) for state in states), strict=True)
    joined = [join(axis, leaves) for axis, leaves in zip(axes, columns, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(states[0]), joined)


def stack(xp: Any, leaves: Sequence[Any]) -> Any:
    """Stack A arrays to [A, ...], smaller ones padded with zeros at the end; `xp` is numpy or jax.numpy."""
    largest = tuple(map(max, zip(*map(np.shape, leaves), strict=True)))
    return xp.stack(
        [
            leaf
            if np.shape(leaf) == largest
            else xp.pad(leaf, [(0, m - n) for m, n in zip(largest, np.shape(leaf), strict=True)])
            for leaf in leaves
        ]
    )


def on_host(state: TrainState) -> TrainState:
    """Return the state with its small leaves on the host, where `Engine.fetch` takes no time."""

    def fetched(leaf: Any) -> Any:
        return np.asarray(leaf) if is_small([leaf]) and not sharding.is_elsewhere(leaf) else leaf

    return jax.tree.map(fetched, state)


def is_small(leaves: Sequence[Any]) -> bool:
    """Return whether arrays of the runs hold few numbers in all; keys, which numpy does not know, are never small."""
    return not jnp.issubdtype(leaves[0].dtype, jax.dtypes.extended) and sum(map(size, leaves)) <= SMALL


def unstacked(state: TrainState, axes: Sequence[int | None], shapes: Sequence[tuple[int, ...]], n: int) -> TrainState:
    """Return run n's state, without its padding."""
    leaves, tree = jax.tree.flatten(state)
    of_run = [leaf if axis is None else leaf[n] for axis, leaf in zip(axes, leaves, strict=True)]
    cut = [leaf if leaf.shape == shape else leaf[tuple(map(slice, shape))]
           for leaf, shape in zip(of_run, shapes, strict=True)]  # fmt: skip
    return jax.tree.unflatten(tree, cut)


def joined(parts: Sequence[Parts]) -> Parts:
    """Return the static half of a step in which every leaf learns that learns in some run; `masked` masks in each run's
    state the leaves that it does not train. The optimiser treats every number separately, so a leaf with zero gradient,
    rate and decay does not change."""
    first = parts[0]
    union: Partition = {}
    for path in first.partition:
        claims = (of_run.partition[path] for of_run in parts)
        union[path] = next((learn for learn in claims if learn is not None), None)
    return first._replace(partition=union, layout=optimisers.layout(first.model, [union]))


def masked(state: TrainState, run_parts: Parts) -> TrainState:
    """Return the fresh state of a `joined` step for a run whose step is `run_parts`: a zero for the rate, the decay and
    the gradient of every leaf that it does not train."""
    zero, one = jnp.zeros(()), jnp.ones(())
    params = flatten(state.trainable)
    own_rates = optimisers.leaf_rates(run_parts.optim, state.variables.params, run_parts.partition)
    rates = jax.tree.map(jnp.float32, {path: own_rates.get(path, {"lr": 0.0, "weight_decay": 0.0}) for path in params})
    mask = {path: one if path in own_rates else zero for path in params}
    return state._replace(numbers=state.numbers | {"rates": rates, "mask": mask})


def parted(state: TrainState, form: TrainState | None) -> TrainState:
    """Return a joined state without the other runs' leaves, in the structure of `form`, matched by name; the state
    itself where `form` is None."""
    if form is None:
        return state
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}
    paths, tree = jax.tree_util.tree_flatten_with_path(form)
    names = [jax.tree_util.keystr(path) for path, _ in paths]
    learned = [name.replace(".frozen", ".trainable", 1) for name in names]
    return jax.tree.unflatten(
        tree, [leaves[a] if a in leaves else leaves[b] for a, b in zip(names, learned, strict=True)]
    )


def grafted(state: TrainState, run_state: TrainState) -> TrainState:
    """Return the `masked` state with every leaf of `run_state`: the inverse of `parted`. The numbers of the recipe
    (rates, masks) stay those of the masked state."""
    own_leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(run_state)[0]}
    paths, tree = jax.tree_util.tree_flatten_with_path(state)
    leaves = []
    for path, leaf in paths:
        name = jax.tree_util.keystr(path)
        leaves.append(own_leaves.get(name, own_leaves.get(name.replace(".trainable", ".frozen", 1), leaf)))
    return jax.tree.unflatten(tree, leaves)._replace(numbers=state.numbers)


def may_join(parts: Sequence[Parts], states: Sequence[TrainState]) -> bool:
    """Return whether runs that train different leaves may still share a program: the first trainable stage and the
    parts that run as in evaluation are the same, all parameters are float32, no term remembers anything, and the update
    and the optimiser treat every number separately."""
    stages = [stage.name for stage in parts[0].model.stages]
    modes = {of_run.evaluation_mode for of_run in parts}
    firsts = {partition.first_trainable(stages, of_run.partition) for of_run in parts}
    elementwise = all(
        of_run.update.elementwise and of_run.ema is None and of_run.optim.elementwise and not of_run.layout.schedules
        and of_run.precision.is_plain
        for of_run in parts
    )  # fmt: skip
    leaves = {jax.tree.structure((state.trainable, state.frozen)) for state in states}
    path_sets = {frozenset(of_run.partition) for of_run in parts}
    return (
        elementwise
        and len(leaves) > 1
        and len(firsts) == len(modes) == len(path_sets) == 1
        and not any(jax.tree.leaves(state.memory) for state in states)
    )


def same_program(parts: Sequence[Parts], states: Sequence[TrainState]) -> bool:
    """Return whether these runs' steps differ only in numbers: trees of the same structure, shapes and types, except
    for leaves that the tuning allows to be padded with zeros, where the optimiser treats every number separately."""
    first = parts[0]
    padded = tuple(f"/{end}" for end in first.padded) if first.optim.elementwise else ()

    def alike(path: Any, *leaves: Any) -> bool:
        shapes = {jnp.shape(leaf) for leaf in leaves}
        name = "/".join(str(getattr(entry, "key", getattr(entry, "name", entry))) for entry in path)
        return len({leaf.dtype for leaf in leaves}) == 1 and (len(shapes) == 1 or name.endswith(padded))

    kinds = {
        (
            of_run.dtype,
            of_run.accumulate,
            of_run.ema is None,
            of_run.remat,
            of_run.joint,
            of_run.fixed_statistics,
            of_run.start,
            of_run.precision,
            type(of_run.optim),
            of_run.optim.name,
        )
        for of_run in parts
    }
    layouts = all(of_run.layout == first.layout for of_run in parts)
    moving = {tuple(of_run.learning) for of_run in parts}
    trees = {jax.tree.structure(state) for state in states}
    if len(kinds) > 1 or len(moving) > 1 or len(trees) > 1 or not layouts:
        return False
    return all(jax.tree.leaves(jax.tree_util.tree_map_with_path(alike, *states)))
