"""Model + task + terms + optimiser -> one compiled step, by `jit` on a mesh or by `pmap`.

Shapes: B batch, C outputs of the head, L trainable leaves.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tlx import optim as optimisers
from tlx import partition, sharding
from tlx.config import numbers, with_numbers
from tlx.models import forward
from tlx.objectives import Term, passes
from tlx.optim import Optim
from tlx.partition import Partition
from tlx.tasks import Task
from tlx.trees import Tree, flatten, merge
from tlx.types import Array, Key, Model, Setting, Tick, Variables, View

Batch = Mapping[str, Mapping[str, Any]]


class TrainState(NamedTuple):
    """The whole of a run, one pytree: what a checkpoint holds.

    `numbers` are the recipe's floats as arrays, so that none is a constant of the compiled program.
    """

    step: Array
    trainable: Tree
    frozen: Tree
    stats: Tree
    optimiser: Any
    memory: Tree
    numbers: Tree
    key: Key

    @property
    def variables(self) -> Variables:
        return Variables(merge(self.trainable, self.frozen), self.stats)


class Parts(NamedTuple):
    """The static half of a step: everything but numbers."""

    model: Model
    task: Task
    terms: tuple[Term, ...]
    optim: Optim
    partition: Partition
    dtype: str = "float32"


def memories(terms: Sequence[Term], setting: Setting) -> Tree:
    """What each term remembers of the weights that were brought, and of the data: the same in every phase."""
    return {str(n): term.memory(setting) for n, term in enumerate(terms)}


def initial_state(parts: Parts, variables: Variables, steps: int, key: Key, memory: Tree | None = None) -> TrainState:
    """The state before the first of `steps` steps. Every array is a copy: the step gives its buffers away.

    `memory` is what `memories` gave, by default what the terms remember of `variables` without any data.
    """
    trainable, frozen = partition.split(variables.params, parts.partition)
    held: Tree = {
        "steps": float(steps),
        "optim": numbers(parts.optim),
        "task": numbers(parts.task),
        "terms": {str(n): numbers(term) for n, term in enumerate(parts.terms)},
        "rates": optimisers.leaf_rates(parts.optim, variables.params, parts.partition),
    }
    if memory is None:
        memory = memories(parts.terms, Setting(parts.model, variables, parts.task, lambda: ()))
    zero = jnp.zeros((), jnp.int32)
    optimiser = optimisers.transform(parts.optim, zero, zero, held["rates"]).init(trainable)
    held = jax.tree.map(lambda number: jnp.asarray(number, jnp.float32), held)
    state = TrainState(zero, trainable, frozen, variables.stats, optimiser, memory, held, key)
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def term_names(terms: Sequence[Term]) -> list[str]:
    """Under what name each term logs: its class, with its number where a class comes twice."""
    names = [type(term).__name__.lower() for term in terms]
    return [name if names.count(name) == 1 else f"{name}.{n}" for n, name in enumerate(names)]


def train_step(parts: Parts, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, Tree]:
    """One update of the trainable leaves: `(state, metrics)`.

    `batch` is by stream: inputs, `label` [B], `index` [B]. Metrics: `loss`, `rate`, `gradient_norm`, what the terms
    log as `term/name`, and `leaf_norms` [L], the gradient norm of every trainable leaf in sorted order of paths.
    Gradients are taken of the trainable sub-tree alone: frozen leaves have none.
    """
    held = state.numbers
    task = with_numbers(parts.task, held["task"])
    terms = [with_numbers(term, held["terms"][str(n)]) for n, term in enumerate(parts.terms)]
    optim = with_numbers(parts.optim, held["optim"])
    tick = Tick(state.step.astype(jnp.float32) / held["steps"], jax.random.fold_in(state.key, state.step))
    still = partition.still([stage.name for stage in parts.model.stages], parts.partition)

    given = sorted(batch)
    for term in terms:
        batch = term.streams(batch, tick)
    asked = passes(terms, given, batch)

    def objective(trainable: Tree) -> tuple[Array, tuple[Tree, Tree]]:
        params, stats = merge(trainable, state.frozen), state.stats
        taps = {}
        for stream, salt, moves in asked:
            inputs = batch[stream]
            rows = inputs["index"].shape[0]
            taps[stream], moved = forward(
                parts.model,
                Variables(params, stats),
                inputs,
                key=jax.random.fold_in(tick.key, salt),
                train=True,
                still=still,
                dtype=parts.dtype,
                offset=0 if axis is None else jax.lax.axis_index(axis) * rows,
                axis=axis,
            )
            stats = moved if moves else stats
        total = jnp.zeros(())
        told: dict[str, Array] = {}
        for number, (name, term) in enumerate(zip(term_names(terms), terms, strict=True)):
            memory = state.memory[str(number)]
            view = View(parts.model, params, stats, memory, batch, taps, task, tick, parts.dtype, axis)
            value, metrics = term.loss(view)
            total += value
            told |= {f"{name}/{measure}": metric for measure, metric in metrics.items()}
        return total, (stats, told | {"loss": total})

    gradients, (stats, metrics) = jax.grad(objective, has_aux=True)(state.trainable)
    if axis is not None:
        gradients, metrics = jax.lax.pmean((gradients, metrics), axis)
    squares = jnp.stack([jnp.vdot(leaf, leaf) for leaf in flatten(gradients).values()])
    transform = optimisers.transform(optim, state.step, held["steps"], held["rates"])
    updates, optimiser = transform.update(gradients, state.optimiser, state.trainable)
    metrics |= {
        "rate": optimisers.rate(optim, state.step, held["steps"]),
        "gradient_norm": jnp.sqrt(squares.sum()),
        "leaf_norms": jnp.sqrt(squares),
    }
    trainable = optax.apply_updates(state.trainable, updates)
    return state._replace(step=state.step + 1, trainable=trainable, stats=stats, optimiser=optimiser), metrics


def eval_step(parts: Parts, state: TrainState, inputs: Mapping[str, Any]) -> Array:
    """Logits [B, C] of one stream's inputs, nothing random, running statistics."""
    return forward(parts.model, state.variables, inputs, dtype=parts.dtype)[0]["logits"]


class Compiled(NamedTuple):
    """A step on devices. `place` puts a fresh state there and `fetch` gives the one state back; `put` places a batch.

    `train(state, batch)` gives the buffers of `state` away. Each compiles once a shape of batch.
    """

    train: Callable[[Any, Any], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], Any]
    place: Callable[[TrainState], Any]
    fetch: Callable[[Any], TrainState]
    put: Callable[[Any], Any]


def compile_step(parts: Parts, mesh: Mesh, how: str = "jit") -> Compiled:
    """The step of `parts` on every device of `mesh`: `how` is "jit" (sharded) or "pmap" (one program a device)."""
    if how == "pmap":
        return mapped(parts, mesh)
    whole, rows = sharding.replicated(mesh), sharding.by_example(mesh)
    train = jax.jit(
        partial(train_step, parts), in_shardings=(whole, rows), out_shardings=(whole, whole), donate_argnums=0
    )
    evaluate = jax.jit(partial(eval_step, parts), in_shardings=(whole, rows), out_shardings=whole)
    return Compiled(
        train,
        evaluate,
        place=lambda state: jax.device_put(state, whole),
        fetch=lambda state: state,
        put=partial(sharding.place_batch, mesh),
    )


def mapped(parts: Parts, mesh: Mesh) -> Compiled:
    """The same step by `jax.pmap`: states carry a leading axis of devices, batches are split along their first."""
    devices = list(mesh.devices.flat)
    count = len(devices)
    train = jax.pmap(partial(train_step, parts, axis=sharding.DATA), sharding.DATA, devices=devices, donate_argnums=0)
    evaluate = jax.pmap(partial(eval_step, parts), sharding.DATA, devices=devices)

    # Compiled, for one program does what would else be an operation a leaf.
    @partial(jax.jit, out_shardings=sharding.by_example(mesh))
    def spread(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), tree)

    @jax.jit
    def first(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf[0], tree)

    def put(batch: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch)

    def joined(state: Any, batch: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), evaluate(state, batch))

    def stepped(state: Any, batch: Any) -> tuple[Any, Any]:
        state, metrics = train(state, batch)
        return state, first(metrics)

    def place(state: TrainState) -> Any:
        return spread(jax.device_put(state, sharding.replicated(mesh)))

    return Compiled(stepped, joined, place, first, put)
