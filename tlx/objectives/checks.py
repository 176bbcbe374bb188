"""Reject an objective before anything is drawn or compiled: first by its recipe, then by its model."""

from collections.abc import Collection, Sequence
from typing import Any, get_args

from tlx.models import example_inputs, features, tap_shapes
from tlx.objectives.base import Needs, Preview, Tap, Term
from tlx.objectives.leaves import stage_names
from tlx.objectives.streams import SOURCE, batch_streams, check_new, in_batch, missing_stream, several
from tlx.tasks import Task
from tlx.trees import near_miss
from tlx.types import Model, Stage

UNLABELLED = "unlabelled"
NAMES = ("forward", "batch", "once", "labels", "creates", "taps", "inputs", "models")
TAPS = get_args(Tap)


def check_needs(terms: Sequence[Term], streams: Sequence[str], task: Any = None) -> None:
    """Check everything that the recipe alone determines, before data, weights or a model are opened.

    Args:
        terms: the objective.
        streams: the streams of the data.
        task: the task of the recipe; None skips the checks of the task.

    Raises:
        ValueError: a term reads a stream that neither the data nor a term provides, or labels of a stream without
            labels, or creates a stream that exists already; a term does not support the class of the task; or no term
            reads a source.
        TypeError: a term's `needs` returns a malformed value.
    """
    pairs = [(term, needs_of(term, streams)) for term in terms]
    available = list(streams)
    for term, needs in pairs:
        for stream in needs.creates:
            check_new(stream, available, term)
            available.append(stream)
    for term, needs in pairs:
        check_streams(term, needs, streams, available)
        if task is not None:
            check_task(term, needs, task)
    sources, read = several(SOURCE, streams), batch_streams(terms, streams)
    if unread := [source for source in sources if source in streams and source not in read]:
        which = "the source" if sources == [SOURCE] else repr(unread[0])
        raise ValueError(
            f"no term reads {which}: add a term that reads it, such as Supervised(on='source'), or leave "
            "data.source out"
        )


def needs_of(term: Term, streams: Collection[str]) -> Needs:
    """Return what a term needs; raise TypeError where its `needs` returns a malformed value."""
    name, needs = type(term).__name__, term.needs(streams)
    if not isinstance(needs, Needs):
        raise TypeError(f"{name}.needs returns {needs!r}; expected a tlx.terms.Needs")
    for field in NAMES:
        names = getattr(needs, field)
        if isinstance(names, str) or not all(isinstance(entry, str) for entry in names):
            example = f"({names!r},)" if isinstance(names, str) else "a tuple of names"
            raise TypeError(f"{name}.needs has {field}={names!r}; expected {example}")
    for tap in needs.taps:
        if tap not in TAPS:
            raise TypeError(
                f"{name}.needs has the tap {tap!r}{near_miss(tap, TAPS, listed=True)}; expected some of {TAPS}"
            )
    if needs.task is not None and not isinstance(needs.task, type):
        raise TypeError(f"{name}.needs has task={needs.task!r}; expected a class, such as tlx.tasks.Classification")
    return needs


def check_streams(term: Term, needs: Needs, streams: Sequence[str], have: Sequence[str]) -> None:
    """Raise ValueError for a stream that a term cannot read.

    Args:
        term: the term.
        needs: what the term needs.
        streams: the streams of the data.
        have: the streams of the data and those that terms create.

    Raises:
        ValueError: the term reads a stream that is not in `have`, or labels of a stream without labels.
    """
    missing = [stream for stream in in_batch(needs, streams) if stream not in have]
    if missing := missing + [stream for stream in needs.once if stream not in streams]:
        raise ValueError(missing_stream(term, missing[0], have))
    if UNLABELLED in needs.labels:
        raise ValueError(f"{type(term).__name__} reads labels, but the stream {UNLABELLED!r} has no labels")


def check_task(term: Term, needs: Needs, task: Task) -> None:
    """Raise ValueError for a task that a term does not support."""
    if needs.exclusive and not task.exclusive:
        raise ValueError(f"{type(term).__name__} needs the task tasks.Classification, not tasks.{type(task).__name__}")
    if needs.task is not None and not isinstance(task, needs.task):
        raise ValueError(
            f"{type(term).__name__} needs the task tasks.{needs.task.__name__}, not tasks.{type(task).__name__}"
        )  # fmt: skip


def check_terms(terms: Sequence[Term], preview: Preview) -> None:
    """Raise ValueError for a model, its tuning or a task that a term does not support."""
    for term in terms:
        needs = needs_of(term, preview.streams)
        check_task(term, needs, preview.task)
        check_model(term, needs, preview.model)
        term.check(preview)


def check_model(term: Term, needs: Needs, model: Model) -> None:
    """Raise ValueError for a model without an input or a tap that a term reads."""
    name, inputs = type(term).__name__, example_inputs(model.config) if needs.inputs else {}
    if needs.inputs and not inputs.keys() & set(needs.inputs):
        raise ValueError(
            f"{name} needs a model that reads {' or '.join(map(repr, needs.inputs))}; this model reads "
            f"{', '.join(map(repr, inputs))}"
        )
    for tap in needs.taps:
        if tap == "features":
            read_features(model, name)
        elif tap == "hidden":
            hidden_stages(model, name)
        else:
            head_of(model, name)


def check_frozen_head(
    terms: Sequence[Term], model: Model, trainable: Collection[str], streams: Collection[str] = ()
) -> None:
    """Raise ValueError for a term that needs a frozen head, where some path in `trainable` is in the head."""
    head = model.stages[-1].name
    trained = sorted(path for path in trainable if path.startswith(f"{head}/"))
    if trained and (names := [type(term).__name__ for term in terms if term.needs(streams).frozen_head]):
        raise ValueError(
            f"{names[0]} needs a frozen head, but the tuning trains {trained[0]!r}: use the tuning "
            f"Rules(({head + '/.*'!r}, None), ('.*', Learn()))"
        )


def read_features(model: Model, name: str) -> int:
    """Return the width of the input of the head.

    Raises:
        ValueError: the model has no such input; the message names the term `name`.
    """
    try:
        return features(tap_shapes(model)).shape[-1]
    except ValueError as error:
        raise ValueError(f"{name} reads the input of the head, but {error}") from None


def head_of(model: Model, name: str) -> Stage:
    """Return the last stage; raise ValueError, for the term `name`, where it is not a head with a stage below it."""
    if model.stages[-1].output != "logits" or len(model.stages) < 2:
        raise ValueError(f"{name} needs a head on a stage below it; this model has {stage_names(model)}")
    return model.stages[-1]


def hidden_stages(model: Model, name: str) -> list[str]:
    """Return the names of the stages with a hidden state; raise ValueError, for the term `name`, without any."""
    stages = [stage.name for stage in model.stages if stage.output == "hidden"]
    if not stages:
        raise ValueError(f"{name} needs a stage with a hidden state; this model has {stage_names(model)}")
    return stages
