"""Compile the training step: model, task, terms, update and optimiser in one program, by `jit` on a mesh or by `pmap`.

Shapes: B batch, C outputs of the head, W width of the features, L trainable leaves.
"""

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tlx import optim as optimisers
from tlx import sharding
from tlx.models import features, forward
from tlx.objectives import passes, with_created
from tlx.optim import Layout
from tlx.optim.hyperparameters import with_hyperparameters
from tlx.tasks import parted, with_labels
from tlx.training import pmap
from tlx.training.gradients import Batch, slope_of
from tlx.training.placement import Placement
from tlx.training.state import Parts, TrainState, answering, initial_state, memories, next_state
from tlx.trees import Tree, flatten, nest
from tlx.types import Array, ArrayMap, Tick
from tlx.updates import Point

__all__ = [
    "Batch", "Compiled", "Parts", "TrainState", "answering", "compile_step", "eval_step", "initial_state", "memories",
    "next_state", "train_step",
]  # fmt: skip


# The salt of the key of `Task.transform`.
TRANSFORM = zlib.crc32(b"transform")


def train_step(parts: Parts, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, Tree]:
    """Take one step of the trainable leaves.

    Gradients are taken of the trainable sub-tree alone: frozen leaves have none.

    Args:
        parts: The static half of the step.
        state: The state before the step.
        batch: By stream the inputs, `label` [B] and `index` [B].
        axis: The mapped axis over devices, for `jax.pmap` alone.

    Returns:
        `(state, metrics)`. Metrics: `loss`, `rate` (of the schedule that all leaves share, else of the optimiser),
        `gradient_norm`, the metrics of the terms as `term/name`, and `leaf_norms` [L], the gradient norm of every
        trainable leaf in sorted order of paths.
    """
    numbers = state.numbers
    terms = [with_hyperparameters(term, numbers["terms"][str(n)]) for n, term in enumerate(parts.terms)]
    optim = with_hyperparameters(parts.optim, numbers["optim"])
    update = with_hyperparameters(parts.update, numbers["update"])
    tick = Tick(state.step.astype(jnp.float32) / numbers["steps"], jax.random.fold_in(state.key, state.step))

    task, streams = with_hyperparameters(parts.task, numbers["task"]), sorted(batch)
    batch = {
        name: task.transform(inputs, jax.random.fold_in(tick.key, TRANSFORM)) if with_labels(task, inputs) else inputs
        for name, inputs in batch.items()
    }
    batch = with_created(terms, batch, tick)

    clock = state.step.astype(jnp.float32) - numbers["clock"]["first"], numbers["clock"]["steps"]
    transform = optimisers.transform(optim, *clock, numbers["rates"], parts.layout)

    def descend(point: Point, gradients: Tree) -> Point:
        leaves = flatten(point.trainable)
        moving = nest({path: leaves[path] for path in flatten(gradients)})
        updates, after = transform.update(gradients, point.optimiser, moving)
        return Point(nest(leaves | flatten(optax.apply_updates(moving, updates))), point.optimiser | after)

    slope = slope_of(parts, state, terms, batch, passes(terms, streams, batch), tick, axis)
    start = Point(state.trainable, state.optimiser)
    (trainable, optimiser), gradients, (stats, metrics) = update.step(slope, descend, start, tick)
    squares = jnp.stack([jnp.vdot(leaf, leaf) for leaf in flatten(gradients).values()])
    metrics |= {
        "rate": optimisers.rate(optim, *clock, parts.layout.schedule(numbers["rates"])),
        "gradient_norm": jnp.sqrt(squares.sum()),
        "leaf_norms": jnp.sqrt(squares),
    }
    average = state.average
    if parts.ema is not None:
        average = moved_average(parts.layout, average, trainable, numbers["ema"])
    return state._replace(
        step=state.step + 1, trainable=trainable, stats=stats, optimiser=optimiser, average=average
    ), metrics


def moved_average(layout: Layout, average: Tree, trainable: Tree, keep: Array) -> Tree:
    """Return the exponential moving average of every wave, corrected for its start (Kingma and Ba, 2015, section 3).

    mean += (1 - keep) / weight (value - mean), with weight = 1 - keep ** steps: this updates the corrected mean
    directly and avoids a division by a number near zero.
    """
    moved = {}
    for name, values in optimisers.by_wave(trainable, layout).items():
        weight = keep * average[name]["weight"] + (1.0 - keep)
        share = (1.0 - keep) / weight
        mean = jax.tree.map(lambda old, new, share=share: old + share * (new - old), average[name]["mean"], values)
        moved[name] = {"weight": weight, "mean": mean}
    return moved


def eval_step(parts: Parts, state: TrainState, batch: ArrayMap) -> dict[str, Array]:
    """Return the scores of the task on a batch with label arrays, arrays [B, ...] by name.

    Nothing is random, and batch norm uses its running statistics. For a batch without label arrays return the `logits`
    [B, C] and, where `parts.features` is set, the `features` [B, W] that the head reads, in float32; criteria without
    target labels read these.
    """
    task = with_hyperparameters(parts.task, state.numbers["task"])
    inputs, labels = parted(task, batch)
    taps, _ = forward(
        parts.model,
        state.variables,
        inputs,
        start=parts.start,
        dtype=parts.dtype,
        gather=parts.gather,
        loop=parts.loop,
    )
    if with_labels(parts.task, labels):
        scores = task.score(taps, labels)
        return scores | ({FINITE: finite_rows(taps["logits"])} if "logits" in taps else {})
    logits = {"logits": taps["logits"]}
    return logits | {"features": features(taps).astype(jnp.float32)} if parts.features else logits


# Beside the scores: whether all logits of an example are finite numbers.
FINITE = "logits are finite"


def finite_rows(logits: Array) -> Array:
    """Whether all logits of each example are finite: [B, ...] -> booleans [B]."""
    return jnp.isfinite(logits).reshape(len(logits), -1).all(-1)


class Compiled(NamedTuple):
    """A compiled step on devices.

    `train(state, batch)` donates the buffers of `state`; `evaluate(state, batch)` returns the scores. Each compiles
    once for each shape of batch. `place(state, copy=True)` copies a fresh state to the devices (see `Placement.put`)
    and `fetch` returns it as one state; `put` places a batch. `answer(state)` is the state whose variables are
    evaluated, selected and saved: `state` itself where nothing is averaged.
    """

    train: Callable[[TrainState, ArrayMap], tuple[TrainState, ArrayMap]]
    evaluate: Callable[[TrainState, ArrayMap], ArrayMap]
    place: Callable[..., TrainState]
    fetch: Callable[[TrainState], TrainState]
    put: Callable[[ArrayMap], ArrayMap]
    answer: Callable[[TrainState], TrainState]


def compile_step(parts: Parts, mesh: Mesh, how: str = "jit") -> Compiled:
    """Compile the step of `parts` for every device of `mesh`: `how` is "jit" (sharded) or "pmap" (one program for each
    device)."""
    if how == "pmap":
        mapped = pmap.PmapCompiler(mesh)
        train = mapped.train(partial(train_step, parts, axis=pmap.AXIS))
        evaluate = mapped.evaluate(partial(eval_step, parts))
        return Compiled(train, evaluate, mapped.place, mapped.fetch, mapped.put, answerer(parts, mapped.compile))
    placement, rows = Placement(parts, mesh), sharding.by_example(mesh)
    parts = placement.parts
    step = placement.keeping(partial(train_step, parts))
    train = jax.jit(step, in_shardings=(None, rows), donate_argnums=0)
    evaluate = jax.jit(partial(eval_step, parts), in_shardings=(None, rows), out_shardings=placement.whole)
    return Compiled(
        train,
        evaluate,
        place=placement.put,
        fetch=lambda state: state,
        put=partial(sharding.place_batch, mesh),
        answer=answerer(parts, jax.jit),
    )


def answerer(parts: Parts, compiler: Callable[..., Any]) -> Callable[[TrainState], TrainState]:
    """Return `Compiled.answer` by `jit` or `pmap`: only the averaged leaves are computed, the rest of the state is
    shared."""
    if parts.ema is None and not parts.optim.averages:
        return lambda state: state
    average = compiler(partial(answering, parts))
    return lambda state: state._replace(trainable=average(state.trainable, state.optimiser, state.average))
