"""What a term of the objective is: pure hooks on a frozen dataclass, and what the terms share."""

import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax

from tlx.functional.losses import weighted_mean
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.tasks import Classification
from tlx.trees import Tree, flatten, nest, subtree
from tlx.types import Array, Key, Learn, Model, Rule, Setting, Stage, Tick, Turn, View

Streams = Mapping[str, Mapping[str, Array]]


class Term:
    """`check` refuses a model or a task that the term is not for (none by default), before anything is drawn or
    compiled; `notes` are sentences that the run's output and result must say of the term (none by default); `insert`
    adds leaves to the parameters (none by default), which learn whatever the tuning; `memory` is
    what the term carries (copies it owns); `streams` changes or adds streams before the one forward pass that each
    gets, inside the step; `loss` is a scalar with numbers to log.

    `reads` says which streams a term wants a pass of: the one it is `on` where it has such a field, else all; `source`
    stands for each of several sources (see `loss_of`). `wants` are those that must be there, which it may read without
    that pass. `looks` says which others of the data it looks at once, in its `memory`: no step gets a batch of them for
    that. `adds` are the streams that it makes; `labels` says whether it reads the labels of the stream that it is `on`,
    `averages` whether it reads the moving average of the parameters, and `holds` whether it asks that the head stays as
    it came.

    `couples` says that the loss is no mean over the examples of a batch: it compares them, or divides by what it finds
    over all of them. Where a batch is cut into pieces (`Train(accumulate=...)`), such a term sees the whole of it, with
    `logits` and `pooled`, what the head reads, as its only taps; every other term sees piece after piece, and the mean
    of its losses counts.

    `turns` are the moves of a term whose step is several (none by default): `loss` is then asked once in each, and
    `view.turn` says in which. An update that takes them is wanted (see `tlx.updates`), and what moves in none of them
    does not learn.
    """

    adds: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    holds: ClassVar[bool] = False
    couples: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_weight(self, "weight")

    def check(self, model: Model, task: Any) -> None:
        return None

    def notes(self, task: Any) -> Collection[str]:
        return ()

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        return params

    def memory(self, setting: Setting) -> Tree:
        return {}

    def reads(self, streams: Collection[str]) -> Collection[str]:
        return (self.on,) if hasattr(self, "on") else streams

    def wants(self, streams: Collection[str]) -> Collection[str]:
        # A term that makes a stream reads that, and makes it of the one it is `on`.
        return (*self.reads(streams), *([self.on] if hasattr(self, "on") else []))

    def looks(self) -> Collection[str]:
        return ()

    def streams(self, batch: Streams, tick: Tick) -> Streams:
        return batch

    def turns(self, model: Model) -> tuple[Turn, ...]:
        return ()

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        raise TypeError(f"{type(self).__name__} has no loss")


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
    """The streams that a name stands for: where there is none of the name, those below it (`source` for `source/0` and
    `source/1`), else itself."""
    below = [] if stream in have else [own for own in have if own.startswith(f"{stream}/")]
    return below or [stream]


def loss_of(term: Term, view: View) -> tuple[Array, dict[str, Array]]:
    """The loss of a term and what it logs; of one that reads `source` where there are several, the means of what it
    gives with each of them in that place."""
    sources = several("source", view.batch)
    if sources == ["source"] or "source" not in term.wants(view.batch):
        return term.loss(view)

    def seen(own: str) -> View:
        taps = {"source": view.taps[own]} if own in view.taps else {}
        return view._replace(batch={**view.batch, "source": view.batch[own]}, taps={**view.taps, **taps})

    found = [term.loss(seen(own)) for own in sources]
    return jax.tree.map(lambda *values: sum(values) / len(values), *found)


def asked(term: Term, given: Collection[str]) -> list[str]:
    """The streams that a term wants. One that makes another of a stream names that by itself."""
    made = (term.on,) if hasattr(term, "on") and term.adds else ()
    return [own for stream in term.wants(given) for own in ((stream,) if stream in made else several(stream, given))]


def passes(terms: Sequence[Term], given: Sequence[str], batch: Streams) -> list[Pass]:
    """The passes that the terms ask for over the streams of `batch`, of which the data gave `given`.

    The noise of a stream does not depend on the streams that terms add, and neither do the running statistics, but
    where no stream that was given is read at all: a term of weight 0 then equals leaving it out. Where the target is
    read, its streams alone move the running statistics: by those it is evaluated, and each stream trains by its own.
    """
    read = {own for term in terms for stream in term.reads(given) for own in several(stream, given)}
    moving = {stream for stream in OF_TARGET if stream in given and stream in read} or read
    found = [Pass(stream, number, stream in moving) for number, stream in enumerate(given) if stream in read]
    alone = not found
    added = [stream for stream in batch if stream not in given and stream in read]
    return found + [Pass(stream, zlib.crc32(stream.encode()), alone, True) for stream in added]


def wanted(terms: Sequence[Term], given: Sequence[str]) -> list[str]:
    """The streams of the data that the terms want; all where they want none."""
    found = {stream for term in terms for stream in asked(term, given)}
    return [stream for stream in given if stream in found] or list(given)


def looked_at(terms: Sequence[Term]) -> set[str]:
    """The streams of the data that some term looks at once."""
    return {stream for term in terms for stream in term.looks()}


def check_streams(terms: Sequence[Term], given: Sequence[str]) -> None:
    """ValueError for a term that reads a stream which neither the data nor a term gives, or its labels where it has
    none, or adds one that is there; and for a source that no term reads."""
    have = list(given)
    for term in terms:
        for stream in term.adds:
            check_new(stream, have, type(term).__name__)
            have.append(stream)
    for term in terms:
        reads = asked(term, given)
        missing = [stream for stream in reads if stream not in have]
        if missing := missing + [stream for stream in term.looks() if stream not in given]:
            raise ValueError(
                f"{type(term).__name__} reads the stream {missing[0]!r}, which is not there; there are: "
                f"{', '.join(have)}"
            )

        if term.labels and "unlabelled" in reads:
            raise ValueError(f"{type(term).__name__} reads labels, and the stream 'unlabelled' has none")
    sources = several("source", given)
    if unread := [own for own in sources if own in given and own not in wanted(terms, given)]:
        told = "the source" if sources == ["source"] else f"{unread[0]!r}"
        raise ValueError(
            f"no term reads {told}: give one that does, such as Supervised(on='source'), or leave data.source out"
        )


def check_head(terms: Sequence[Term], model: Model, moving: Collection[str]) -> None:
    """ValueError for a term that asks for a still head, where a tuning moves it."""
    head = model.stages[-1].name
    moved = sorted(path for path in moving if path.startswith(f"{head}/"))
    if moved and (asking := [type(term).__name__ for term in terms if term.holds]):
        raise ValueError(
            f"{asking[0]} asks that the head stays as it came, and the tuning moves {moved[0]!r}: take "
            f"Rules(({head + '/.*'!r}, None), ('.*', Learn()))"
        )


def check_new(stream: str, have: Collection[str], who: str) -> None:
    """ValueError for a stream that is among those which there are."""
    if stream in have:
        raise ValueError(f"{who} adds the stream {stream!r}, which is there already: an objective holds one {who}")


def with_stream(batch: Streams, name: str, stream: Mapping[str, Array], who: str) -> Streams:
    """`batch` with one more stream; ValueError where it is there already."""
    check_new(name, batch, who)
    return {**batch, name: stream}


def check_terms(terms: Sequence[Term], model: Model, task: Any) -> None:
    """Raises what `Term.check` of any of them raises."""
    for term in terms:
        term.check(model, task)


def inserted(terms: Sequence[Term], model: Model, params: Tree, key: Key) -> tuple[Tree, tuple[Rule, ...]]:
    """`params` with the leaves of every term, and the rules, to be put before those of the tuning, by which they
    learn: a tuning knows nothing of them."""
    before = flatten(params).keys()
    for number, term in enumerate(terms):
        params = term.insert(model, params, jax.random.fold_in(key, number))
    new = [path for path in flatten(params) if path not in before]
    return params, ((("|".join(map(re.escape, new)), Learn()),) if new else ())


def without_inserted(model: Model, params: Tree) -> Tree:
    """`params` without the leaves that terms added: those that lie below no stage of the model."""
    stages = below(stage_names(model))
    return nest({path: leaf for path, leaf in flatten(params).items() if path.startswith(stages)})


def check_weight(term: Any, *names: str) -> None:
    """ValueError where a weight, or an end of its ramp, is negative."""
    for name in names:
        weight = getattr(term, name, 0.0)
        ends = (weight.start, weight.end) if isinstance(weight, Ramp) else (weight,)
        if any(isinstance(end, int | float) and end < 0 for end in ends):
            raise ValueError(f"{type(term).__name__}: {name} is {weight}; a weight is 0 or more")


def weighed(weight: Weight, value: Array, view: View, **told: Array) -> tuple[Array, dict[str, Array]]:
    """`weight` at the view's tick times `value`, with what is logged: `told`, and the weight where it changes."""
    now = current(weight, view.tick)
    return now * value, told | ({"weight": now} if isinstance(weight, Ramp) else {})


def mean_over(view: View, stream: str, values: Array) -> Array:
    """The mean of `values` [B] over the examples of a stream."""
    return weighted_mean(values, view.batch[stream].get("weight"))


def check_classes(task: Any, who: str) -> None:
    """ValueError for a task that is no classification."""
    if not isinstance(task, Classification):
        raise ValueError(f"{who} is for tasks.Classification, not tasks.{type(task).__name__}")


def head_of(model: Model, who: str) -> Stage:
    """The last stage; ValueError where it is no head on stages below it."""
    if model.stages[-1].output != "logits" or len(model.stages) < 2:
        raise ValueError(f"{who} needs a head on a stage below it; this model has {stage_names(model)}")
    return model.stages[-1]


def drawn_head(setting: Setting) -> list[str]:
    """The parameters of the head, and of the pooler that it reads, that were drawn at random."""
    parts = below([stage.name for stage in setting.model.stages if stage.output in ("logits", "pooled")])
    return sorted(path for path in setting.fresh if path.startswith(parts))


def stage_names(model: Model) -> list[str]:
    return [stage.name for stage in model.stages]


def below(stages: Collection[str]) -> tuple[str, ...]:
    """What the paths of the parameters of these stages begin with."""
    return tuple(f"{stage}/" for stage in stages)


def hidden_stages(model: Model, who: str) -> list[str]:
    """The stages whose tap is a hidden state; ValueError where there is none."""
    found = [stage.name for stage in model.stages if stage.output == "hidden"]
    if not found:
        raise ValueError(f"{who} needs a stage with a hidden state; this model has {stage_names(model)}")
    return found


def declared(model: Model, params: Tree, stage: str) -> dict[str, Any]:
    """The leaves of one stage that the model itself declares, by their path within it."""
    own = flatten(subtree(params, stage))
    return {path: own[path] for path in flatten(subtree(model.params, stage))}
