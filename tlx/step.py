"""Model + task + terms + update + optimiser -> one compiled step, by `jit` on a mesh or by `pmap`.

Shapes: B batch, C outputs of the head, L trainable leaves, M micro-batches.
"""

import zlib
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
from tlx.models import features, forward
from tlx.objectives import Pass, Term, loss_of, passes
from tlx.optim import Layout
from tlx.state import Parts, TrainState, answering, initial_state, memories, next_state
from tlx.trees import Tree, flatten, merge, nest
from tlx.types import Array, Tick, Variables, View
from tlx.updates import Point, Slope

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
    """One step of the trainable leaves: `(state, metrics)`.

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

    clock = state.step.astype(jnp.float32) - held["clock"]["first"], held["clock"]["steps"]
    transform = optimisers.transform(optim, *clock, held["rates"], parts.layout)

    def descend(point: Point, gradients: Tree) -> Point:
        leaves = flatten(point.trainable)
        own = nest({path: leaves[path] for path in flatten(gradients)})
        updates, after = transform.update(gradients, point.optimiser, own)
        return Point(nest(leaves | flatten(optax.apply_updates(own, updates))), point.optimiser | after)

    slope = slope_of(parts, state, terms, batch, passes(terms, given, batch), tick, axis)
    start = Point(state.trainable, state.optimiser)
    (trainable, optimiser), gradients, (stats, metrics) = update.step(slope, descend, start, tick)
    squares = jnp.stack([jnp.vdot(leaf, leaf) for leaf in flatten(gradients).values()])
    metrics |= {
        "rate": optimisers.rate(optim, *clock, parts.layout.schedule(held["rates"])),
        "gradient_norm": jnp.sqrt(squares.sum()),
        "leaf_norms": jnp.sqrt(squares),
    }
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
    average = None
    if parts.ema is not None:
        average = merge(answering(parts, state.trainable, state.optimiser, state.average), state.frozen)

    def objective(
        trainable: Tree, stats: Tree, batch: Batch, places: Mapping[str, Array | int], weights: Sequence[Any] | None,
        turn: int, held: Tree,
    ) -> tuple[Array, tuple[Tree, Tree]]:  # fmt: skip
        now = tick_of(tick, turn)
        params = merge(trainable, held, state.frozen)
        taps: dict[str, Any] = {}
        for group in grouped(reads, parts.joint):
            streams = [own.stream for own in group]
            found, moved = forward(
                parts.model,
                Variables(params, stats),
                one_below_another([batch[own] for own in streams]),
                key=jax.random.fold_in(now.key, group[0].salt),
                train=True,
                start=parts.start,
                barrier=first,
                still=still,
                remat=remat,
                dtype=parts.dtype,
                offset=joint_places([(places[own], rows_of(batch[own])) for own in streams]),
                axis=axis,
            )
            taps |= taken_apart(found, {own: rows_of(batch[own]) for own in streams})
            stats = moved if any(own.moves for own in group) else stats
        total, asked = jnp.zeros(()), jnp.zeros(())
        told: dict[str, Array] = {}
        for number, (name, term) in enumerate(zip(names, terms, strict=True)):
            memory = state.memory[str(number)]
            view = View(parts.model, params, stats, memory, batch, taps, task, now, parts.dtype, axis, turn, average)
            value, metrics = loss_of(term, view)
            total += value
            weight = 1.0 if weights is None else weights[number]
            # A plain 0 leaves the term out, and with it the passes that it alone reads.
            if isinstance(weight, Array) or weight:
                asked += weight * value
            told |= {f"{name}/{measure}": metric for measure, metric in metrics.items()}
        return asked, (stats, told | {"loss": total})

    def begin(stream: str) -> Array | int:
        """The place of this device's first example of a stream in the global batch."""
        return 0 if axis is None else jax.lax.axis_index(axis) * rows_of(batch[stream])

    def at(
        trainable: Tree, weights: Sequence[Any] | None = None, turn: int = 0, held: Tree | None = None
    ) -> tuple[Tree, tuple[Tree, Tree]]:
        slope = jax.grad(partial(objective, weights=weights, turn=turn, held=held or {}), has_aux=True)
        if parts.accumulate == 1:
            gradients, (stats, told) = slope(trainable, state.stats, batch, {s: begin(s) for s in batch})
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
                gradients, (stats, told) = slope(trainable, stats, inputs, places)
                return (jax.tree.map(jnp.add, total, gradients), stats), told

            zeros = jax.tree.map(jnp.zeros_like, trainable)
            (total, stats), told = jax.lax.scan(piece, (zeros, state.stats), (jnp.arange(count), pieces))
            gradients = jax.tree.map(lambda leaf: leaf / count, total)
            told = jax.tree.map(lambda values: values.mean(0), told)
        if axis is not None:
            gradients, told = jax.lax.pmean((gradients, told), axis)
        if "mask" in state.numbers:
            # A leaf that another arm of a pack learns and this one does not (see `tlx.pack.joined`).
            gradients = nest({path: leaf * state.numbers["mask"][path] for path, leaf in flatten(gradients).items()})
        return gradients, (stats, told)

    return Slope(tuple(names), at, tuple(term.turns(parts.model) for term in terms))


def tick_of(tick: Tick, turn: int) -> Tick:
    """The tick of one move of a step, which has noise of its own; that of the first is the step's."""
    if turn == 0:
        return tick
    return tick._replace(key=jax.random.fold_in(tick.key, zlib.crc32(f"turn {turn}".encode())))


def rematerialised(parts: Parts, stages: Sequence[str], params: Tree) -> dict[str, str]:
    """What each stage computes again in the backward pass (see `recipe.Train`)."""
    if parts.remat == "auto":
        return dict.fromkeys(partition.mostly_frozen(stages, parts.partition, params), "dots")
    return {} if parts.remat == "none" else dict.fromkeys(stages, {"dots": "dots", "stages": "stage"}[parts.remat])


def grouped(reads: Sequence[Pass], joint: bool) -> list[list[Pass]]:
    """The passes that are made at once: each by itself, or, where `joint`, as one all of the data's own streams."""
    together = [own for own in reads if joint and not own.added]
    return ([together] if together else []) + [[own] for own in reads if own not in together]


def one_below_another(streams: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What all these streams hold, row below row."""
    if len(streams) == 1:
        return streams[0]
    shared = [name for name in streams[0] if all(name in stream for stream in streams)]
    held = [{name: stream[name] for name in shared} for stream in streams]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *held)


def taken_apart(taps: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Any]:
    """The taps of each stream, where those of all lie one below another, so many `rows` of each."""
    if len(rows) == 1:
        return dict.fromkeys(rows, taps)
    found, begin = {}, 0
    for name, count in rows.items():
        found[name] = jax.tree.map(lambda leaf, a=begin, b=begin + count: leaf[a:b], taps)
        begin += count
    return found


# No batch of a stream has as many rows: what tells streams apart where they share a pass, and with it a key.
ROOM = 1 << 24


def joint_places(streams: Sequence[tuple[Array | int, int]]) -> Array | int:
    """The offset of a pass (see `types.Context`) over streams with `(places, rows)` each: a row's noise depends on its
    place in its own stream, however devices and pieces share that."""
    if len(streams) == 1:
        return streams[0][0]
    own = [number * ROOM + place + jnp.arange(rows) for number, (place, rows) in enumerate(streams)]
    return jnp.concatenate(own) - jnp.arange(sum(rows for _, rows in streams))


def rows_of(inputs: Mapping[str, Any]) -> int:
    return inputs["index"].shape[0]


def cut(stream: str, inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """[B, ...] -> [M, B / M, ...]. Piece m takes every M-th row, so that every device has rows of every piece.

    Raises ValueError where the stream does not divide.
    """
    if rows_of(inputs) % count:
        raise ValueError(f"stream {stream!r} has {rows_of(inputs)} rows on a device, which {count} pieces cannot share")
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf.reshape(-1, count, *leaf.shape[1:]), 0, 1), dict(inputs))


def eval_step(parts: Parts, state: TrainState, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """`logits` [B, C] of one stream's inputs, nothing random, running statistics; and, where `parts` ask for them, the
    `features` [B, W] that the head reads, in float32."""
    taps, _ = forward(parts.model, state.variables, inputs, start=parts.start, dtype=parts.dtype)
    found = {"logits": taps["logits"]}
    return found | {"features": features(taps).astype(jnp.float32)} if parts.features else found


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
