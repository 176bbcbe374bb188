"""The losses of the terms on one batch, and their gradients: on the whole batch, or in pieces.

Shapes: B batch, M pieces (micro-batches), W width of the features.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlx import partition
from tlx.models import features, forward
from tlx.objectives import Pass, Term, loss_of
from tlx.optim.hyperparameters import with_hyperparameters
from tlx.training import pmap
from tlx.training.state import Parts, TrainState, answering
from tlx.trees import Tree, flatten, merge, nest
from tlx.types import Array, ArrayMap, Tick, Variables, View
from tlx.updates import Slope

Batch = Mapping[str, Mapping[str, Any]]
# The taps of a stream for a term that couples examples: `pooled` [B, W] is the input of the head (`models.features`).
Read = dict[str, dict[str, Array]]


def term_names(terms: Sequence[Term]) -> list[str]:
    """Return the name under which each term logs: its class, with its number where a class occurs twice."""
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
    """Return the losses of the terms on `batch`, whose streams get the passes `reads`, in the form that an `Update`
    takes (see `tlx.updates`).

    With `parts.accumulate` above 1 the result is still the gradient of the whole batch, for every kind of term. A term
    that is a mean over examples is summed up piece by piece. A term that couples them (`Needs.features`) gets the
    features and logits of all pieces together, from a first pass without gradient, and its derivative by these enters
    the second pass of each piece (Gao et al., 2021, section 3.2). Only batch norm uses the moments of the pieces.
    """
    stages = [stage.name for stage in parts.model.stages]
    average = None
    if parts.ema is not None:
        average = merge(answering(parts, state.trainable, state.optimiser, state.average), state.frozen)
        average = parts.precision.all_seen(average)
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
        evaluation=parts.evaluation_mode,
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

    `begin` is by stream the position of this device's first example in the global batch; `evaluation` are the parts
    that run as in evaluation, `first` is the first stage with trainable parameters, `remat` what each stage recomputes;
    `average` holds the averaged parameters, if an average is kept.
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
    evaluation: partition.EvaluationMode
    first: str | None
    remat: Mapping[str, str]
    average: Tree | None

    @property
    def coupled(self) -> list[int]:
        """Return the positions of the terms that need the whole batch where it is cut into pieces."""
        return (
            [n for n, term in enumerate(self.terms) if term.needs(tuple(self.batch)).features]
            if self.parts.in_pieces
            else []
        )

    def at(
        self, trainable: Tree, weights: Sequence[Any] | None = None, turn: int = 0, constants: Tree | None = None
    ) -> tuple[Tree, tuple[Tree, Tree]]:
        """Return the gradients, and the running statistics and metrics after the move (see `updates.Slope`)."""
        move = Move(weights, turn, (constants or {}, self.state.frozen), tick_of(self.tick, turn))
        if self.parts.in_pieces:
            gradients, stats, metrics = self.in_pieces(trainable, move)
        else:
            slope = jax.grad(partial(self.objective, move), has_aux=True)
            gradients, (stats, metrics) = slope(trainable, self.state.stats, self.batch, self.begin, {})
        gradients, metrics = pmap.mean((gradients, metrics), self.axis)
        if "mask" in self.state.numbers:
            # Another run of the group may train a leaf that this one does not (see `tlx.training.vectorize.joined`).
            mask = self.state.numbers["mask"]
            gradients = nest({path: leaf * mask[path] for path, leaf in flatten(gradients).items()})
        return gradients, (stats, metrics)

    def objective(
        self, move: Move, trainable: Tree, stats: Tree, batch: Batch, places: Mapping[str, Any], pull: Read
    ) -> tuple[Array, tuple[Tree, Tree]]:
        """Return the sum of the terms that are means over the rows of `batch`, plus the derivative `pull` of the
        coupled terms times the taps that they read."""
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
        """Return the taps of every stream that is read, and the running statistics after the passes."""
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
                **self.evaluation._asdict(),
                remat=self.remat,
                dtype=self.parts.dtype,
                offset=joint_places([(places[stream], rows_of(batch[stream])) for stream in streams]),
                axis=self.axis,
                gather=self.parts.gather,
                loop=self.parts.loop,
            )
            taps |= taken_apart(joint, {stream: rows_of(batch[stream]) for stream in streams})
            stats = moved if any(read.moves for read in group) else stats
        return taps, stats

    def weighted_sum(
        self, chosen: Sequence[int], move: Move, params: Tree, stats: Tree, batch: Batch, taps: Any
    ) -> tuple[Array, Tree]:
        """Return the weighted sum of the terms at the positions `chosen`, and their metrics with their plain sum as
        `loss`."""
        plain, weighted = jnp.zeros(()), jnp.zeros(())
        logged: dict[str, Array] = {}
        params = self.parts.precision.all_seen(params)
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
        """Return gradients, running statistics and metrics of the batch, computed piece by piece."""
        count = self.parts.accumulate
        pieces = Pieces.of(self.batch, count, self.begin)
        slope = jax.grad(partial(self.objective, move), has_aux=True)
        direct, pull, coupled_metrics = Tree(), Read(), Tree()
        if self.coupled:
            direct, pull, coupled_metrics = self.coupled_slope(trainable, pieces, move)

        def piece(carry: tuple[Tree, Tree], item: Any) -> tuple[tuple[Tree, Tree], Tree]:
            total, stats = carry
            number, inputs, derivative = item
            gradients, (stats, metrics) = slope(trainable, stats, inputs, pieces.places(number, inputs), derivative)
            return (jax.tree.map(jnp.add, total, gradients), stats), metrics

        zeros = jax.tree.map(jnp.zeros_like, trainable)
        # The gradients of the pieces are averaged, but the pull of the coupled terms is a sum.
        cut_pull = jax.tree.map(lambda leaf: cut_rows(leaf * count, count), pull)
        inputs_of_pieces = (pieces.numbers, pieces.streams, cut_pull)
        (total, stats), metrics = jax.lax.scan(piece, (zeros, self.state.stats), inputs_of_pieces)
        gradients = jax.tree.map(lambda leaf: leaf / count, total)
        metrics = jax.tree.map(lambda values: values.mean(0), metrics)
        if self.coupled:
            gradients = jax.tree.map(jnp.add, gradients, direct)
            metrics |= coupled_metrics | {"loss": metrics["loss"] + coupled_metrics["loss"]}
        return gradients, stats, metrics

    def coupled_slope(self, trainable: Tree, pieces: "Pieces", move: Move) -> tuple[Tree, Read, Tree]:
        """Return, for the terms that couple examples, the derivative by the trainable leaves and by the taps that they
        read of the whole batch, and their metrics. A first pass, piece by piece and without gradient, computes these
        taps."""
        params = merge(trainable, *move.rest)
        if self.parts.twice:
            # This program is only counted, never run: the compiler would count two equal passes as one.
            params = jax.tree.map(lambda leaf: leaf * (1.0 + move.tick.progress).astype(leaf.dtype), params)

        def read_piece(stats: Tree, item: Any) -> tuple[Tree, Read]:
            number, inputs = item
            taps, stats = self.taps(params, stats, inputs, pieces.places(number, inputs), move.tick)
            return stats, {stream: read_of(outputs) for stream, outputs in taps.items()}

        stats, by_piece = jax.lax.scan(read_piece, self.state.stats, (pieces.numbers, pieces.streams))

        def together(trainable: Tree, taps: Read) -> tuple[Array, Tree]:
            params = merge(trainable, *move.rest)
            return self.weighted_sum(self.coupled, move, params, stats, self.batch, taps)

        read = jax.tree.map(joined, by_piece)
        (direct, pull), metrics = jax.grad(together, argnums=(0, 1), has_aux=True)(trainable, read)
        return direct, pull, metrics


def read_of(taps: ArrayMap) -> dict[str, Array]:
    """Return the taps of a stream that a term that couples examples may read."""
    readable = {"logits": taps["logits"]} if "logits" in taps else {}
    return readable | ({"pooled": features(taps)} if "pooled" in taps or "hidden" in taps else {})


class Pieces(NamedTuple):
    """A batch in pieces.

    `streams` are arrays [M, B / M, ...], `numbers` [M] the numbers of the pieces, and `begin` by stream the position in
    the global batch of this device's first row. Piece m takes every M-th row, so that every device has rows of every
    piece.
    """

    streams: Batch
    numbers: Array
    begin: Mapping[str, Any]

    @classmethod
    def of(cls, batch: Batch, count: int, begin: Mapping[str, Any]) -> "Pieces":
        """Cut the streams of a batch into `count` pieces."""
        return cls({stream: cut(stream, inputs, count) for stream, inputs in batch.items()}, jnp.arange(count), begin)

    def places(self, number: Array, inputs: Batch) -> dict[str, Array]:
        """Return by stream the offsets (see `types.Context`) of the rows of one piece."""
        count = len(self.numbers)
        # `forward` adds the row in the piece to an offset; row r of piece m is example r M + m.
        return {
            stream: self.begin[stream] + jnp.arange(rows_of(arrays)) * (count - 1) + number
            for stream, arrays in inputs.items()
        }


def tick_of(tick: Tick, turn: int) -> Tick:
    """Return the tick of one move of a step, with different noise for each move; the first move uses the tick of the
    step."""
    if turn == 0:
        return tick
    return tick._replace(key=jax.random.fold_in(tick.key, zlib.crc32(f"turn {turn}".encode())))


def rematerialised(parts: Parts, stages: Sequence[str], params: Tree) -> dict[str, str]:
    """Return what each stage recomputes in the backward pass (see `recipe.Train`)."""
    if parts.remat == "auto":
        return dict.fromkeys(partition.mostly_frozen(stages, parts.partition, params), "dots")
    return {} if parts.remat == "none" else dict.fromkeys(stages, {"dots": "dots", "stages": "stage"}[parts.remat])


def grouped(reads: Sequence[Pass], joint: bool) -> list[list[Pass]]:
    """Return the passes that are made together: each separately, or, where `joint`, all streams of the data in one."""
    together = [read for read in reads if joint and not read.added]
    return ([together] if together else []) + [[read] for read in reads if read not in together]


def one_below_another(streams: Sequence[ArrayMap]) -> Mapping[str, Any]:
    """Return the entries that all these streams share, concatenated along the rows."""
    if len(streams) == 1:
        return streams[0]
    shared = [name for name in streams[0] if all(name in stream for stream in streams)]
    parts = [{name: stream[name] for name in shared} for stream in streams]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def taken_apart(taps: ArrayMap, rows: Mapping[str, int]) -> dict[str, Any]:
    """Split the taps of concatenated streams into the taps of each stream; `rows` is the number of rows of each."""
    if len(rows) == 1:
        return dict.fromkeys(rows, taps)
    by_stream, begin = {}, 0
    for name, count in rows.items():
        by_stream[name] = jax.tree.map(lambda leaf, a=begin, b=begin + count: leaf[a:b], taps)
        begin += count
    return by_stream


# More rows than any batch of a stream has: it separates the streams that share a pass, and so a key.
ROOM = 1 << 24


def joint_places(streams: Sequence[tuple[Array | int, int]]) -> Array | int:
    """Return the offset of a pass (see `types.Context`) over streams with `(places, rows)` each. The noise of a row
    depends on its place in its own stream, independent of how devices and pieces share the stream."""
    if len(streams) == 1:
        return streams[0][0]
    places_of_rows = [number * ROOM + place + jnp.arange(rows) for number, (place, rows) in enumerate(streams)]
    return jnp.concatenate(places_of_rows) - jnp.arange(sum(rows for _, rows in streams))


def rows_of(inputs: ArrayMap) -> int:
    """Return the number of rows of a stream."""
    return inputs["index"].shape[0]


def cut(stream: str, inputs: ArrayMap, count: int) -> dict[str, Any]:
    """Cut a stream [B, ...] -> [M, B / M, ...]; raise ValueError where it does not divide."""
    if rows_of(inputs) % count:
        raise ValueError(
            f"stream {stream!r} has {rows_of(inputs)} rows on each device, which cannot be divided into {count} equal "
            "pieces"
        )
    return jax.tree.map(lambda leaf: cut_rows(leaf, count), dict(inputs))


def cut_rows(leaf: Array, count: int) -> Array:
    """Cut an array [B, ...] -> [M, B / M, ...]: piece m takes every M-th row."""
    return jnp.swapaxes(leaf.reshape(-1, count, *leaf.shape[1:]), 0, 1)


def joined(leaf: Array) -> Array:
    """Join pieces [M, B / M, ...] -> [B, ...]; the inverse of `cut_rows`."""
    return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])
