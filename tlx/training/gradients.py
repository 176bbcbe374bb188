"""The losses of the terms on one batch, by their gradients: of the batch as a whole, or in pieces.

Shapes: B batch, M pieces (micro-batches).
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlx import partition
from tlx.config import with_numbers
from tlx.models import features, forward
from tlx.objectives import Pass, Term, loss_of
from tlx.training.state import Parts, TrainState, answering
from tlx.trees import Tree, flatten, merge, nest
from tlx.types import Array, Tick, Variables, View
from tlx.updates import Slope

Batch = Mapping[str, Mapping[str, Any]]
# What a term that couples examples reads of a stream: `pooled` [B, W] is what the head reads (see `models.features`).
Read = dict[str, dict[str, Array]]


def term_names(terms: Sequence[Term]) -> list[str]:
    """Under what name each term logs: its class, with its number where a class comes twice."""
    names = [type(term).__name__.lower() for term in terms]
    return [name if names.count(name) == 1 else f"{name}.{n}" for n, name in enumerate(names)]


def slope_of(
    parts: Parts,
    state: TrainState,
    terms: Sequence[Term],
    batch: Batch,
    reads: Sequence[Pass],
    tick: Tick,
    axis: str | None,
) -> Slope:
    """Return the losses of the terms on `batch`, whose streams get the passes `reads`, as an `Update` sees them (see
    `tlx.updates`).

    With `parts.accumulate` above 1 the gradient is that of the whole batch all the same, however a term is made. A term
    that is a mean over examples is summed up piece by piece. One that couples them (`Needs.features`) gets the features
    and logits of all pieces together, from a first pass without gradient, and the derivative by these enters the
    second pass of each piece (Gao et al., 2021, section 3.2). Only the moments of batch norm are those of the pieces.
    """
    task = with_numbers(parts.task, state.numbers["task"])
    names = term_names(terms)
    stages = [stage.name for stage in parts.model.stages]
    still = partition.still(stages, parts.partition)
    remat = rematerialised(parts, stages, merge(state.trainable, state.frozen))
    first = partition.first_moving(stages, parts.partition)
    average = None
    if parts.ema is not None:
        average = merge(answering(parts, state.trainable, state.optimiser, state.average), state.frozen)

    def run(params: Tree, stats: Tree, batch: Batch, places: Mapping[str, Any], now: Tick) -> tuple[Any, Tree]:
        """The taps of every stream that is read, and the running statistics after that."""
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
        return taps, stats

    def summed(
        chosen: Sequence[int], weights: Sequence[Any] | None, params: Tree, stats: Tree, batch: Batch, taps: Any,
        now: Tick, turn: int,
    ) -> tuple[Array, Tree]:  # fmt: skip
        """The weighted sum of the terms at the places `chosen`, and what they log, their plain sum as `loss`."""
        total, asked = jnp.zeros(()), jnp.zeros(())
        told: dict[str, Array] = {}
        for number in chosen:
            memory = state.memory[str(number)]
            view = View(
                parts.model, params, stats, memory, batch, taps, task, now, parts.dtype, axis, turn, average,
                parts.references,
            )  # fmt: skip
            value, metrics = loss_of(terms[number], view)
            total += value
            weight = 1.0 if weights is None else weights[number]
            # A plain 0 leaves the term out, and with it the passes that it alone reads.
            if isinstance(weight, Array) or weight:
                asked += weight * value
            told |= {f"{names[number]}/{measure}": metric for measure, metric in metrics.items()}
        return asked, told | {"loss": total}

    every = range(len(terms))
    coupled = [n for n in every if terms[n].needs(tuple(batch)).features] if parts.in_pieces else []
    apart = [n for n in every if n not in coupled]

    def begin(stream: str) -> Array | int:
        """The place of this device's first example of a stream in the global batch."""
        return 0 if axis is None else jax.lax.axis_index(axis) * rows_of(batch[stream])

    def at(
        trainable: Tree, weights: Sequence[Any] | None = None, turn: int = 0, held: Tree | None = None
    ) -> tuple[Tree, tuple[Tree, Tree]]:
        now, rest = tick_of(tick, turn), (held or {}, state.frozen)

        def objective(
            trainable: Tree, stats: Tree, batch: Batch, places: Mapping[str, Any], pull: Read
        ) -> tuple[Array, tuple[Tree, Tree]]:
            """The terms that are means over the rows of `batch`, and, of the others, the derivative `pull` by what they
            read times that."""
            params = merge(trainable, *rest)
            taps, stats = run(params, stats, batch, places, now)
            asked, told = summed(apart, weights, params, stats, batch, taps, now, turn)
            for stream, own in pull.items():
                found = read_of(taps[stream])
                asked += sum((jnp.sum(found[name] * value) for name, value in own.items()), jnp.zeros(()))
            return asked, (stats, told)

        slope = jax.grad(objective, has_aux=True)
        if not parts.in_pieces:
            gradients, (stats, told) = slope(trainable, state.stats, batch, {s: begin(s) for s in batch}, {})
        else:
            pieces = Pieces.of(batch, parts.accumulate, {stream: begin(stream) for stream in batch})
            direct, pull, more = Tree(), Read(), Tree()
            if coupled:
                params = merge(trainable, *rest)
                if parts.twice:
                    # Only counted and never run: of two passes that are the same the compiler would count one.
                    params = jax.tree.map(lambda leaf: leaf * (1.0 + now.progress).astype(leaf.dtype), params)

                def look(stats: Tree, given: Any) -> tuple[Tree, Read]:
                    number, inputs = given
                    taps, stats = run(params, stats, inputs, pieces.places(number, inputs), now)
                    return stats, {stream: read_of(own) for stream, own in taps.items()}

                stats, found = jax.lax.scan(look, state.stats, (pieces.numbers, pieces.streams))

                def together(trainable: Tree, taps: Read) -> tuple[Array, Tree]:
                    return summed(coupled, weights, merge(trainable, *rest), stats, batch, taps, now, turn)

                read = jax.tree.map(joined, found)
                (direct, pull), more = jax.grad(together, argnums=(0, 1), has_aux=True)(trainable, read)

            def piece(carry: tuple[Tree, Tree], given: Any) -> tuple[tuple[Tree, Tree], Tree]:
                total, stats = carry
                number, inputs, own = given
                gradients, (stats, told) = slope(trainable, stats, inputs, pieces.places(number, inputs), own)
                return (jax.tree.map(jnp.add, total, gradients), stats), told

            zeros, count = jax.tree.map(jnp.zeros_like, trainable), parts.accumulate
            # The gradients of the pieces are averaged, and what the coupled terms pull is a sum.
            own = jax.tree.map(lambda leaf: cut_rows(leaf * count, count), pull)
            given = (pieces.numbers, pieces.streams, own)
            (total, stats), told = jax.lax.scan(piece, (zeros, state.stats), given)
            gradients = jax.tree.map(lambda leaf: leaf / count, total)
            told = jax.tree.map(lambda values: values.mean(0), told)
            if coupled:
                gradients = jax.tree.map(jnp.add, gradients, direct)
                told |= more | {"loss": told["loss"] + more["loss"]}
        if axis is not None:
            gradients, told = jax.lax.pmean((gradients, told), axis)
        if "mask" in state.numbers:
            # A leaf that another arm of a pack learns and this one does not (see `tlx.training.vectorize.joined`).
            gradients = nest({path: leaf * state.numbers["mask"][path] for path, leaf in flatten(gradients).items()})
        return gradients, (stats, told)

    return Slope(tuple(names), at, tuple(term.turns(parts.model) for term in terms))


def read_of(taps: Mapping[str, Any]) -> dict[str, Array]:
    """What a term that couples examples may read of the taps of a stream, as taps again."""
    found = {"logits": taps["logits"]} if "logits" in taps else {}
    return found | ({"pooled": features(taps)} if "pooled" in taps or "hidden" in taps else {})


class Pieces(NamedTuple):
    """A batch in pieces: `streams` with arrays [M, B / M, ...], the `numbers` [M] of the pieces, and by stream the
    place in the global batch at which this device's rows `begin`. Piece m takes every M-th row, so that every device
    has rows of every piece."""

    streams: Batch
    numbers: Array
    begin: Mapping[str, Any]

    @classmethod
    def of(cls, batch: Batch, count: int, begin: Mapping[str, Any]) -> "Pieces":
        return cls({stream: cut(stream, inputs, count) for stream, inputs in batch.items()}, jnp.arange(count), begin)

    def places(self, number: Array, inputs: Batch) -> dict[str, Array]:
        """By stream the offsets (see `types.Context`) of the rows of one piece."""
        count = len(self.numbers)
        # What `forward` adds to an offset is the row in the piece; row r of piece m is example r M + m.
        return {
            stream: self.begin[stream] + jnp.arange(rows_of(own)) * (count - 1) + number
            for stream, own in inputs.items()
        }


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
    """[B, ...] -> [M, B / M, ...]; ValueError where the stream does not divide."""
    if rows_of(inputs) % count:
        raise ValueError(f"stream {stream!r} has {rows_of(inputs)} rows on a device, which {count} pieces cannot share")
    return jax.tree.map(lambda leaf: cut_rows(leaf, count), dict(inputs))


def cut_rows(leaf: Array, count: int) -> Array:
    """[B, ...] -> [M, B / M, ...]: piece m takes every M-th row."""
    return jnp.swapaxes(leaf.reshape(-1, count, *leaf.shape[1:]), 0, 1)


def joined(leaf: Array) -> Array:
    """[M, B / M, ...] -> [B, ...], as before `cut_rows`."""
    return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])
