"""Model + task + terms + update + optimiser -> one compiled step, by `jit` on a mesh or by `pmap`.

Shapes: B batch, C outputs of the head, L trainable leaves, M micro-batches.
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
from tlx.config import with_numbers
from tlx.models import forward
from tlx.objectives import Pass, Term, loss_of, passes
from tlx.optim import Layout
from tlx.state import Parts, TrainState, answering, initial_state, memories, next_state
from tlx.trees import Tree, flatten, merge, nest
from tlx.types import Array, Tick, Variables, View
from tlx.updates import Slope

Batch = Mapping[str, Mapping[str, Any]]

__all__ = [
    "Batch", "Compiled", "Parts", "TrainState", "answering", "compile_step", "eval_step", "initial_state", "memories",
    "next_state", "train_step",
]  # fmt: skip


def term_names(terms: Sequence[Term]) -> list[str]:
    """Under what name each term logs: its class, with its number where a class comes twice."""
    names = [type(term).__name__.lower() for term in terms]
    return [name if names.count(name) == 1 else f"{name}.{n}" for n, name in enumerate(names)]


def train_step(parts: Parts, state: TrainState, batch: Batch, axis: str | None = None) -> tuple[TrainState, Tree]:
    """One update of the trainable leaves: `(state, metrics)`.

    `batch` is by stream: inputs, `label` [B], `index` [B]. Metrics: `loss`, `rate` (of the schedule that all leaves
    share, else of the optimiser's own), `gradient_norm`, what the terms log as `term/name`, and `leaf_norms` [L], the
    gradient norm of every trainable leaf in sorted order of paths.
    Gradients are taken of the trainable sub-tree alone: frozen leaves have none.
    """
    held = state.numbers
    terms = [with_numbers(term, held["terms"][str(n)]) for n, term in enumerate(parts.terms)]
    optim = with_numbers(parts.optim, held["optim"])
    update = with_numbers(parts.update, held["update"])
    tick = Tick(state.step.astype(jnp.float32) / held["steps"], jax.random.fold_in(state.key, state.step))

    given = sorted(batch)
    for term in terms:
        batch = term.streams(batch, tick)

    slope = slope_of(parts, state, terms, batch, passes(terms, given, batch), tick, axis)
    gradients, (stats, metrics) = update.gradient(slope, state.trainable, tick)
    if "mask" in held:
        # A leaf that another arm of a pack learns and this one does not (see `tlx.pack.joined`).
        gradients = nest({path: leaf * held["mask"][path] for path, leaf in flatten(gradients).items()})
    squares = jnp.stack([jnp.vdot(leaf, leaf) for leaf in flatten(gradients).values()])
    clock = state.step.astype(jnp.float32) - held["clock"]["first"], held["clock"]["steps"]
    transform = optimisers.transform(optim, *clock, held["rates"], parts.layout)
    updates, optimiser = transform.update(gradients, state.optimiser, state.trainable)
    metrics |= {
        "rate": optimisers.rate(optim, *clock, parts.layout.schedule(held["rates"])),
        "gradient_norm": jnp.sqrt(squares.sum()),
        "leaf_norms": jnp.sqrt(squares),
    }
    trainable = optax.apply_updates(state.trainable, updates)
    average = state.average
    if parts.ema is not None:
        average = moved_average(parts.layout, average, trainable, held["ema"])
    return state._replace(
        step=state.step + 1, trainable=trainable, stats=stats, optimiser=optimiser, average=average
    ), metrics


def moved_average(layout: Layout, average: Tree, trainable: Tree, keep: Array) -> Tree:
    """The exponential moving average of every wave, corrected for its start (Kingma and Ba, 2015, section 3).

    mean += (1 - keep) / weight (value - mean), with weight = 1 - keep ** steps: the corrected mean itself, which needs
    no division by what is nearly zero.
    """
    moved = {}
    for name, values in optimisers.by_wave(trainable, layout).items():
        weight = keep * average[name]["weight"] + (1.0 - keep)
        share = (1.0 - keep) / weight
        mean = jax.tree.map(lambda old, new, share=share: old + share * (new - old), average[name]["mean"], values)
        moved[name] = {"weight": weight, "mean": mean}
    return moved


def slope_of(
    parts: Parts,
    state: TrainState,
    terms: Sequence[Term],
    batch: Batch,
    reads: Sequence[Pass],
    tick: Tick,
    axis: str | None,
) -> Slope:
    """The losses of the terms on `batch`, whose streams get the passes `reads`, as an `Update` sees them (see
    `tlx.updates`)."""
    task = with_numbers(parts.task, state.numbers["task"])
    names = term_names(terms)
    stages = [stage.name for stage in parts.model.stages]
    still = partition.still(stages, parts.partition)
    remat = rematerialised(parts, stages, merge(state.trainable, state.frozen))
    first = partition.first_moving(stages, parts.partition)

    def objective(
        trainable: Tree, stats: Tree, batch: Batch, places: Mapping[str, Array | int], weights: Sequence[Any] | None
    ) -> tuple[Array, tuple[Tree, Tree]]:
        params = merge(trainable, state.frozen)
        taps = {}
        for stream, salt, moves in reads:
            inputs = batch[stream]
            taps[stream], moved = forward(
                parts.model,
                Variables(params, stats),
                inputs,
                key=jax.random.fold_in(tick.key, salt),
                train=True,
                start=parts.start,
                barrier=first,
                still=still,
                remat=remat,
                dtype=parts.dtype,
                offset=places[stream],
                axis=axis,
            )
            stats = moved if moves else stats
        total, asked = jnp.zeros(()), jnp.zeros(())
        told: dict[str, Array] = {}
        for number, (name, term) in enumerate(zip(names, terms, strict=True)):
            memory = state.memory[str(number)]
            view = View(parts.model, params, stats, memory, batch, taps, task, tick, parts.dtype, axis)
            value, metrics = loss_of(term, view)
            total += value
            asked += value if weights is None else weights[number] * value
            told |= {f"{name}/{measure}": metric for measure, metric in metrics.items()}
        return (total if weights is None else asked), (stats, told | {"loss": total})

    def begin(stream: str) -> Array | int:
        """The place of this device's first example of a stream in the global batch."""
        return 0 if axis is None else jax.lax.axis_index(axis) * rows_of(batch[stream])

    def at(trainable: Tree, weights: Sequence[Any] | None = None) -> tuple[Tree, tuple[Tree, Tree]]:
        slope = jax.grad(objective, has_aux=True)
        if parts.accumulate == 1:
            gradients, (stats, told) = slope(trainable, state.stats, batch, {s: begin(s) for s in batch}, weights)
        else:
            count = parts.accumulate
            pieces = {stream: cut(stream, inputs, count) for stream, inputs in batch.items()}

            def piece(carry: tuple[Tree, Tree], given: tuple[Array, Batch]) -> tuple[tuple[Tree, Tree], Tree]:
                total, stats = carry
                number, inputs = given
                # What `forward` adds to an offset is the row in the piece; row r of piece m is example r M + m.
                places = {
                    stream: begin(stream) + jnp.arange(rows_of(own)) * (count - 1) + number
                    for stream, own in inputs.items()
                }
                gradients, (stats, told) = slope(trainable, stats, inputs, places, weights)
                return (jax.tree.map(jnp.add, total, gradients), stats), told

            zeros = jax.tree.map(jnp.zeros_like, trainable)
            (total, stats), told = jax.lax.scan(piece, (zeros, state.stats), (jnp.arange(count), pieces))
            gradients = jax.tree.map(lambda leaf: leaf / count, total)
            told = jax.tree.map(lambda values: values.mean(0), told)
        if axis is not None:
            gradients, told = jax.lax.pmean((gradients, told), axis)
        return gradients, (stats, told)

    return Slope(tuple(names), at)


def rematerialised(parts: Parts, stages: Sequence[str], params: Tree) -> dict[str, str]:
    """What each stage computes again in the backward pass (see `recipe.Train`)."""
    if parts.remat == "auto":
        return dict.fromkeys(partition.mostly_frozen(stages, parts.partition, params), "dots")
    return {} if parts.remat == "none" else dict.fromkeys(stages, {"dots": "dots", "stages": "stage"}[parts.remat])


def rows_of(inputs: Mapping[str, Any]) -> int:
    return inputs["index"].shape[0]


def cut(stream: str, inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """[B, ...] -> [M, B / M, ...]. Piece m takes every M-th row, so that every device has rows of every piece.

    Raises ValueError where the stream does not divide.
    """
    if rows_of(inputs) % count:
        raise ValueError(f"stream {stream!r} has {rows_of(inputs)} rows on a device, which {count} pieces cannot share")
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf.reshape(-1, count, *leaf.shape[1:]), 0, 1), dict(inputs))


def eval_step(parts: Parts, state: TrainState, inputs: Mapping[str, Any]) -> Array:
    """Logits [B, C] of one stream's inputs, nothing random, running statistics."""
    return forward(parts.model, state.variables, inputs, start=parts.start, dtype=parts.dtype)[0]["logits"]


class Compiled(NamedTuple):
    """A step on devices. `place` puts a copy of a fresh state there and `fetch` gives the one state back; `put` places
    a batch.

    `train(state, batch)` gives the buffers of `state` away. Each compiles once a shape of batch. `answer(state)` is the
    state whose variables are to be evaluated, selected and saved: `state` itself where nothing is averaged.
    """

    train: Callable[[Any, Any], tuple[Any, Any]]
    evaluate: Callable[[Any, Any], Any]
    place: Callable[[TrainState], Any]
    fetch: Callable[[Any], TrainState]
    put: Callable[[Any], Any]
    answer: Callable[[Any], Any]


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
        place=lambda state: jax.device_put(jax.tree.map(partial(jnp.array, copy=True), state), whole),
        fetch=lambda state: state,
        put=partial(sharding.place_batch, mesh),
        answer=answerer(parts, partial(jax.jit, out_shardings=whole)),
    )


def answerer(parts: Parts, compiler: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`Compiled.answer` by `jit` or `pmap`: only what is averaged is computed, the rest of the state is shared."""
    if parts.ema is None and not parts.optim.averages:
        return lambda state: state
    found = compiler(partial(answering, parts))
    return lambda state: state._replace(trainable=found(state.trainable, state.optimiser, state.average))


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

    answer = answerer(parts, partial(jax.pmap, axis_name=sharding.DATA, devices=devices))
    return Compiled(stepped, joined, place, first, put, answer)
