"""Which streams an objective reads, and by which forward passes; one term and several sources."""

import zlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import jax

from tlx.objectives.base import Needs, Streams, Term
from tlx.tasks import with_labels
from tlx.types import Array, Tick, View

SOURCE = "source"
# The streams of the data that hold examples of the target.
OF_TARGET = ("labelled", "unlabelled")


class Pass(NamedTuple):
    """A forward pass of one `stream`: the `salt` of its noise, whether it `moves` the running statistics, and whether a
    term has `added` the stream to those of the data."""

    stream: str
    salt: int
    moves: bool
    added: bool = False


def several(stream: str, have: Collection[str]) -> list[str]:
    """Return the streams that a name stands for: where none of `have` has the name, those below it (`source` for
    `source/0` and `source/1`), else the stream of that name."""
    below = [] if stream in have else [name for name in have if name.startswith(f"{stream}/")]
    return below or [stream]


def in_batch(needs: Needs, streams: Collection[str]) -> list[str]:
    """Return the streams, each by its own name, of which a term needs a batch in every step."""
    exact = needs.batch if needs.creates else ()
    return [
        name
        for stream in needs.streams
        for name in ((stream,) if stream in exact else several(stream, streams))
    ]  # fmt: skip


def batch_streams(terms: Sequence[Term], streams: Sequence[str]) -> list[str]:
    """Return those `streams` of the data of which a step needs a batch; all of them where no term needs any."""
    needed = {name for term in terms for name in in_batch(term.needs(streams), streams)}
    return [stream for stream in streams if stream in needed] or list(streams)


def read_once(terms: Sequence[Term], streams: Sequence[str]) -> set[str]:
    """Return the streams of the data that a term reads before the first step."""
    return {stream for term in terms for stream in term.needs(streams).once}


def passes(terms: Sequence[Term], streams: Sequence[str], batch: Streams) -> list[Pass]:
    """Return the forward passes that the terms need over the streams of `batch`, of which the data gave `streams`.

    The noise of a stream does not depend on the streams that terms add, and neither do the running statistics, unless
    no stream of the data gets a pass: a term of weight 0 then equals leaving it out. Where the target gets a pass, its
    streams alone move the running statistics: by those it is evaluated, and each stream trains by its own.
    """
    read = {name for term in terms for stream in term.needs(streams).forward for name in several(stream, streams)}
    moving = {stream for stream in OF_TARGET if stream in streams and stream in read} or read
    of_data = [Pass(stream, number, stream in moving) for number, stream in enumerate(streams) if stream in read]
    added = [stream for stream in batch if stream not in streams and stream in read]
    return of_data + [Pass(stream, zlib.crc32(stream.encode()), not of_data, True) for stream in added]


def with_created(terms: Sequence[Term], batch: Streams, tick: Tick) -> Streams:
    """Return `batch` with the streams that the terms create.

    Raises:
        ValueError: a term creates a stream that is there already, or that its `needs` do not declare; or it does not
            create one that they declare.
    """
    for term in terms:
        creates, before = term.needs(batch).creates, batch
        for stream in creates:
            check_new(stream, before, term)
        batch = term.streams(before, tick)
        for stream in creates:
            if stream not in batch:
                raise ValueError(f"{type(term).__name__}.streams does not create {stream!r}, which its needs declare")
        for stream in batch:
            if stream not in before and stream not in creates:
                raise ValueError(
                    f"{type(term).__name__}.streams creates {stream!r}, which its needs do not declare: add "
                    f"creates=({stream!r},)"
                )
    return batch


def check_new(stream: str, have: Collection[str], term: Term) -> None:
    """Raise ValueError where a stream that `term` creates is there already."""
    if stream in have:
        name = type(term).__name__
        raise ValueError(f"{name} adds the stream {stream!r}, which is there already: an objective holds one {name}")


def loss_of(term: Term, view: View) -> tuple[Array, dict[str, Array]]:
    """Return the loss of a term and what it logs; of one that reads `source` where there are several, the means over
    the sources, each in that place.

    Raises:
        ValueError: the term reads a stream that is not there, labels of a stream without labels, or a moving average
            that nobody keeps.
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
    """Return the loss of a term; ValueError for a stream that is not there, or that has no labels that it reads."""
    if missing := [stream for stream in needs.streams if stream not in view.batch]:
        raise ValueError(missing_stream(term, missing[0], view.batch))
    for stream in needs.labels:
        if not with_labels(view.task, view.batch[stream]):
            known = ", ".join(name for name, arrays in view.batch.items() if with_labels(view.task, arrays))
            raise ValueError(
                f"{type(term).__name__} reads labels, and the stream {stream!r} has none; those with labels: {known}"
            )
    return term.loss(view)


def missing_stream(term: Term, stream: str, have: Collection[str]) -> str:
    """Return the reason why a term cannot read a stream that is not among those that there are."""
    return f"{type(term).__name__} reads the stream {stream!r}, which is not there; there are: {', '.join(have)}"


def missing_average(term: Term) -> str:
    """Return the reason why a term that reads the moving average cannot train without one."""
    return f"{type(term).__name__} reads the moving average of the parameters; keep one: train.ema=0.99"
