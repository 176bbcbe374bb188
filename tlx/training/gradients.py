"""The losses of the terms on one batch, by their gradients: of the batch as a whole, or in pieces.

Shapes: B batch, M pieces (micro-batches).
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlx import partition
from tlx.config import with_hyperparameters
from tlx.models import features, forward
from tlx.objectives import Pass, Term, loss_of
from tlx.training import pmap
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
    stages = [stage.name for stage in parts.model.stages]
    average = None
    if parts.ema is not None:
        average = merge(answering(parts, state.trainable, state.optimiser, state.average), state.frozen)
    losses = Losses(
        parts,
        state,
        terms=tuple(terms),
        names=tuple(term_names(terms)),
        task=with_hyperparameters(parts.task, state.numbers["task"]),
        batch=batch,
        reads=reads,
        begin={stream: pmap.rows_before(rows_of(inputs), axis) for stream, inputs in batch.items()},
        tick=tick,
        axis=axis,
        frozen=partition.frozen_stages(stages, parts.partition),
        first=partition.first_trainable(stages, parts.partition),
        remat=rematerialised(parts, stages, merge(state.trainable, state.frozen)),
        average=average,
    )
    return Slope(losses.names, losses.at, tuple(term.turns(parts.model) for term in terms))


class Move(NamedTuple):
    """One move of a step: the `weights` of the terms, the `turn`, the parameters that are not differentiated (`rest`),
    and its tick."""

    weights: Sequence[Any] | None
    turn: int
    rest: tuple[Tree, Tree]
    tick: Tick


@dataclass(frozen=True, kw_only=True, eq=False)
class Losses:
    """The losses of the `terms` on one batch from one state.

    `begin` is by stream the place of this device's first example in the global batch; `frozen` are the stages without
    trainable parameters, `first` the first stage with some, `remat` what each stage computes again; `average` holds the
    averaged parameters, if an average is kept.
    """

    parts: Parts = field(kw_only=False)
    state: TrainState = field(kw_only=False)
    terms: tuple[Term, ...]
    names: tuple[str, ...]
    task: Any
    batch: Batch
    reads: Sequence[Pass]
    begin: Mapping[str, Array | int]
    tick: Tick
    axis: str | None
    frozen: frozenset[str]
    first: str | None
    remat: Mapping[str, str]
    average: Tree | None

    @property
    def coupled(self) -> list[int]:
        """The terms that need the whole batch where it is taken in pieces."""
        return (
            [n for n, term in enumerate(self.terms) if term.needs(tuple(self.batch)).features]
            if self.parts.in_pieces
            else []
        )

    def at(
        self, trainable: Tree, weights: Sequence[Any] | None = None, turn: int = 0, held: Tree | None = None
    ) -> tuple[Tree, tuple[Tree, Tree]]:
        """The gradients, and the running statistics and metrics after the move (see `updates.Slope`)."""
        move = Move(weights, turn, (held or {}, self.state.frozen), tick_of(self.tick, turn))
        if self.parts.in_pieces:
            gradients, stats, metrics = self.in_pieces(trainable, move)
        else:
            slope = jax.grad(partial(self.objective, move), has_aux=True)
            gradients, (stats, metrics) = slope(trainable, self.state.stats, self.batch, self.begin, {})
        gradients, metrics = pmap.mean((gradients, metrics), self.axis)
        if "mask" in self.state.numbers:
            # A leaf that another run of a group trains and this one does not (see `tlx.training.vectorize.joined`).
            mask = self.state.numbers["mask"]
            gradients = nest({path: leaf * mask[path] for path, leaf in flatten(gradients).items()})
        return gradients, (stats, metrics)

    def objective(
        self, move: Move, trainable: Tree, stats: Tree, batch: Batch, places: Mapping[str, Any], pull: Read
    ) -> tuple[Array, tuple[Tree, Tree]]:
        """The terms that are means over the rows of `batch`, and, of the others, the derivative `pull` by what they
        read times that."""
        coupled = self.coupled
        separate = [n for n in range(len(self.terms)) if n not in coupled]
        params = merge(trainable, *move.rest)
        taps, stats = self.taps(params, stats, batch, places, move.tick)
        total, metrics = self.weighted_sum(separate, move, params, stats, batch, taps)
        for stream, derivative in pull.items():
            values = read_of(taps[stream])
            total += sum((jnp.sum(values[name] * value) for name, value in derivative.items()), jnp.zeros(()))
        return total, (stats, metrics)

    def taps(self, params: Tree, stats: Tree, batch: Batch, places: Mapping[str, Any], tick: Tick) -> tuple[Any, Tree]:
        """The taps of every stream that is read, and the running statistics after that."""
        taps: dict[str, Any] = {}
        for group in grouped(self.reads, self.parts.joint):
            streams = [read.stream for read in group]
            joint, moved = forward(
                self.parts.model,
                Variables(params, stats),
                one_below_another([batch[stream] for stream in streams]),
                key=jax.random.fold_in(tick.key, group[0].salt),
                train=True,
                start=self.parts.start,
                barrier=self.first,
                still=self.frozen,
                remat=self.remat,
                dtype=self.parts.dtype,
                offset=joint_places([(places[stream], rows_of(batch[stream])) for stream in streams]),
                axis=self.axis,
            )
            taps |= taken_apart(joint, {stream: rows_of(batch[stream]) for stream in streams})
            stats = moved if any(read.moves for read in group) else stats
        return taps, stats

    def weighted_sum(
        self, chosen: Sequence[int], move: Move, params: Tree, stats: Tree, batch: Batch, taps: Any
    ) -> tuple[Array, Tree]:
        """The weighted sum of the terms at the places `chosen`, and what they log, their plain sum as `loss`."""
        plain, weighted = jnp.zeros(()), jnp.zeros(())
        logged: dict[str, Array] = {}
        for n in chosen:
            view = View(
                self.parts.model, params, stats, self.state.memory[str(n)], batch, taps, self.task, move.tick,
                self.parts.dtype, self.axis, move.turn, self.average, self.parts.references,
                whole=self.batch if self.parts.in_pieces and batch is not self.batch else None,
            )  # fmt: skip
            value, metrics = loss_of(self.terms[n], view)
            plain += value
            weight = 1.0 if move.weights is None else move.weights[n]
            # A plain 0 leaves the term out, and with it the passes that it alone reads.
            if isinstance(weight, Array) or weight:
                weighted += weight * value
            logged |= {f"{self.names[n]}/{measure}": metric for measure, metric in metrics.items()}
        return weighted, logged | {"loss": plain}

    def in_pieces(self, trainable: Tree, move: Move) -> tuple[Tree, Tree, Tree]:
        """Gradients, running statistics and metrics of the batch, piece by piece."""
        count = self.parts.accumulate
        pieces = Pieces.of(self.batch, count, self.begin)
        slope = jax.grad(partial(self.objective, move), has_aux=True)
        direct, pull, coupled_metrics = Tree(), Read(), Tree()
        if self.coupled:
            direct, pull, coupled_metrics = self.coupled_slope(trainable, pieces, move)

        def piece(carry: tuple[Tree, Tree], given: Any) -> tuple[tuple[Tree, Tree], Tree]:
            total, stats = carry
            number, inputs, derivative = given
            gradients, (stats, metrics) = slope(trainable, stats, inputs, pieces.places(number, inputs), derivative)
            return (jax.tree.map(jnp.add, total, gradients), stats), metrics

        zeros = jax.tree.map(jnp.zeros_like, trainable)
        # The gradients of the pieces are averaged, and what the coupled terms pull is a sum.
        cut_pull = jax.tree.map(lambda leaf: cut_rows(leaf * count, count), pull)
        given = (pieces.numbers, pieces.streams, cut_pull)
        (total, stats), metrics = jax.lax.scan(piece, (zeros, self.state.stats), given)
        gradients = jax.tree.map(lambda leaf: leaf / count, total)
        metrics = jax.tree.map(lambda values: values.mean(0), metrics)
        if self.coupled:
            gradients = jax.tree.map(jnp.add, gradients, direct)
            metrics |= coupled_metrics | {"loss": metrics["loss"] + coupled_metrics["loss"]}
        return gradients, stats, metrics

    def coupled_slope(self, trainable: Tree, pieces: "Pieces", move: Move) -> tuple[Tree, Read, Tree]:
        """Of the terms that couple examples, the derivative by the trainable leaves and by what they read of the whole
        batch, and what they log. A first pass, piece by piece and without gradient, computes what they read."""
        params = merge(trainable, *move.rest)
        if self.parts.twice:
            # Only counted and never run: of two passes that are the same the compiler would count one.
            params = jax.tree.map(lambda leaf: leaf * (1.0 + move.tick.progress).astype(leaf.dtype), params)

        def read_piece(stats: Tree, given: Any) -> tuple[Tree, Read]:
            number, inputs = given
            taps, stats = self.taps(params, stats, inputs, pieces.places(number, inputs), move.tick)
            return stats, {stream: read_of(of_stream) for stream, of_stream in taps.items()}

        stats, by_piece = jax.lax.scan(read_piece, self.state.stats, (pieces.numbers, pieces.streams))

        def together(trainable: Tree, taps: Read) -> tuple[Array, Tree]:
            params = merge(trainable, *move.rest)
            return self.weighted_sum(self.coupled, move, params, stats, self.batch, taps)

        read = jax.tree.map(joined, by_piece)
        (direct, pull), metrics = jax.grad(together, argnums=(0, 1), has_aux=True)(trainable, read)
        return direct, pull, metrics


def read_of(taps: Mapping[str, Any]) -> dict[str, Array]:
    """What a term that couples examples may read of the taps of a stream, as taps again."""
    readable = {"logits": taps["logits"]} if "logits" in taps else {}
    return readable | ({"pooled": features(taps)} if "pooled" in taps or "hidden" in taps else {})


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
    together = [read for read in reads if joint and not read.added]
    return ([together] if together else []) + [[read] for read in reads if read not in together]


def one_below_another(streams: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What all these streams hold, row below row."""
    if len(streams) == 1:
        return streams[0]
    shared = [name for name in streams[0] if all(name in stream for stream in streams)]
    parts = [{name: stream[name] for name in shared} for stream in streams]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def taken_apart(taps: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Any]:
    """The taps of each stream, where those of all lie one below another, so many `rows` of each."""
    if len(rows) == 1:
        return dict.fromkeys(rows, taps)
    by_stream, begin = {}, 0
    for name, count in rows.items():
        by_stream[name] = jax.tree.map(lambda leaf, a=begin, b=begin + count: leaf[a:b], taps)
        begin += count
    return by_stream


# No batch of a stream has as many rows: what tells streams apart where they share a pass, and with it a key.
ROOM = 1 << 24


def joint_places(streams: Sequence[tuple[Array | int, int]]) -> Array | int:
    """The offset of a pass (see `types.Context`) over streams with `(places, rows)` each: a row's noise depends on its
    place in its own stream, however devices and pieces share that."""
    if len(streams) == 1:
        return streams[0][0]
    places_of_rows = [number * ROOM + place + jnp.arange(rows) for number, (place, rows) in enumerate(streams)]
    return jnp.concatenate(places_of_rows) - jnp.arange(sum(rows for _, rows in streams))


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
