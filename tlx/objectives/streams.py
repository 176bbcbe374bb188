"""Find the streams and the forward passes that an objective needs; compute a term's loss over several sources."""

import zlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax

from tlx.objectives.base import Needs, Streams, Term
from tlx.tasks import with_labels
from tlx.types import Array, Tick, View

SOURCE = "source"
# The streams of the data with examples of the target.
OF_TARGET = ("labelled", "unlabelled")


class Pass(NamedTuple):
    """A forward pass of one stream.

    Attributes:
        stream: the name of the stream.
        salt: the number that separates its noise from that of other streams.
        moves: whether it updates the running statistics.
        added: whether a term created the stream, so that it is not in the data.
    """

    stream: str
    salt: int
    moves: bool
    added: bool = False


def several(stream: str, have: Collection[str]) -> list[str]:
    """Return the streams that a name refers to.

    Where `have` lacks the name, these are the streams below it (`source` for `source/0` and `source/1`), else the
    stream of that name.
    """
    below = [] if stream in have else [name for name in have if name.startswith(f"{stream}/")]
    return below or [stream]


def in_batch(needs: Needs, streams: Collection[str]) -> list[str]:
    """Return the streams, each by its own name, that a term needs a batch of in every step."""
    exact = needs.batch if needs.creates else ()
    return [
        name
        for stream in needs.streams
        for name in ((stream,) if stream in exact else several(stream, streams))
    ]  # fmt: skip


def batch_streams(terms: Sequence[Term], streams: Sequence[str]) -> list[str]:
    """Return those `streams` of the data that a step needs a batch of; all of them where no term needs any."""
    needed = {name for term in terms for name in in_batch(term.needs(streams), streams)}
    return [stream for stream in streams if stream in needed] or list(streams)


def read_once(terms: Sequence[Term], streams: Sequence[str]) -> set[str]:
    """Return the streams of the data that some term reads before the first step."""
    return {stream for term in terms for stream in term.needs(streams).once}


def passes(terms: Sequence[Term], streams: Sequence[str], batch: Streams) -> list[Pass]:
    """Return the forward passes that the terms need.

    The noise of a data stream does not depend on the streams that terms add, and neither do the running statistics,
    unless no data stream has a pass. A term of weight 0 therefore equals leaving it out. Where a target stream has a
    pass, only the target streams update the running statistics, because the model is evaluated on the target; each
    stream trains with the statistics of its batch.

    Args:
        terms: the objective.
        streams: the streams of the data.
        batch: the batch of a step, with the streams that terms add.
    """
    read = {name for term in terms for stream in term.needs(streams).forward for name in several(stream, streams)}
    moving = {stream for stream in OF_TARGET if stream in streams and stream in read} or read
    data_passes = [Pass(stream, number, stream in moving) for number, stream in enumerate(streams) if stream in read]
    added = [stream for stream in batch if stream not in streams and stream in read]
    return data_passes + [Pass(stream, zlib.crc32(stream.encode()), not data_passes, True) for stream in added]


def with_created(terms: Sequence[Term], batch: Streams, tick: Tick) -> Streams:
    """Return `batch` with the streams that the terms create.

    Raises:
        ValueError: a term creates a stream that exists already or that its `needs` do not declare, or does not create
            one that its `needs` declare.
    """
    for term in terms:
        creates, previous = term.needs(batch).creates, batch
        for stream in creates:
            check_new(stream, previous, term)
        batch = term.streams(previous, tick)
        for stream in creates:
            if stream not in batch:
                raise ValueError(
                    f"{type(term).__name__}.streams does not create {stream!r}, although {type(term).__name__}.needs "
                    "declares it in creates"
                )
        for stream in batch:
            if stream not in previous and stream not in creates:
                raise ValueError(
                    f"{type(term).__name__}.streams creates {stream!r}, but its needs do not declare it: add "
                    f"creates=({stream!r},)"
                )
    return batch


def check_new(stream: str, have: Collection[str], term: Term) -> None:
    """Raise ValueError where a stream that `term` creates exists already."""
    if stream in have:
        name = type(term).__name__
        raise ValueError(
            f"{name} adds the stream {stream!r}, which already exists: an objective contains at most one {name}"
        )


def loss_of(term: Term, view: View) -> tuple[Array, dict[str, Array]]:
    """Compute the loss of a term and the numbers that it logs.

    A term that reads `source` where there are several sources is computed once for each of them, and the results are
    averaged.

    Args:
        term: the term.
        view: the view of the current step.

    Returns:
        The loss, a scalar, and the metrics by name.

    Raises:
        ValueError: the term reads a stream that does not exist, labels of a stream without labels, or a moving average
            where the run keeps none.
    """
    needs, sources = term.needs(view.batch), several(SOURCE, view.batch)
    if needs.average and view.average is None:
        raise ValueError(missing_average(term))
    if sources == [SOURCE] or SOURCE not in needs.streams:
        return checked_loss(term, needs, view)

    def placed(source: str) -> View:
        taps = {SOURCE: view.taps[source]} if source in view.taps else {}
        whole = view.whole
        if whole is not None and source in whole:
            whole = {**whole, SOURCE: whole[source]}
        batch = {**view.batch, SOURCE: view.batch[source]}
        return view._replace(batch=batch, taps={**view.taps, **taps}, whole=whole)

    losses = [checked_loss(term, needs, placed(source)) for source in sources]
    return jax.tree.map(lambda *values: sum(values) / len(values), *losses)


def checked_loss(term: Term, needs: Needs, view: View) -> tuple[Array, dict[str, Array]]:
    """Return the loss of a term; raise ValueError for a missing stream, or for a stream without the labels it reads."""
    if missing := [stream for stream in needs.streams if stream not in view.batch]:
        raise ValueError(missing_stream(term, missing[0], view.batch))
    for stream in needs.labels:
        if not with_labels(view.task, view.batch[stream]):
            names = ", ".join(name for name, arrays in view.batch.items() if with_labels(view.task, arrays))
            raise ValueError(
                f"{type(term).__name__} reads labels, but the stream {stream!r} has no labels; these streams have "
                f"labels: {names}"
            )
    return term.loss(view)


def missing_stream(term: Term, stream: str, have: Collection[str]) -> str:
    """Return the message that a term reads a stream that does not exist."""
    return (
        f"{type(term).__name__} reads the stream {stream!r}, which does not exist; the streams are: {', '.join(have)}"
    )


def missing_average(term: Term) -> str:
    """Return the message that a term reads the moving average and the run keeps none."""
    return (
        f"{type(term).__name__} reads the moving average of the parameters, but the run keeps none: set train.ema=0.99"
    )
