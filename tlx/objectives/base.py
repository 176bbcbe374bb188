"""A term of the objective: what it needs, the hooks that it may override, and how it weighs its loss."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from tlx.functional.losses import weighted_mean
from tlx.objectives.ramp import Ramp, Weight, current
from tlx.trees import Tree
from tlx.types import Array, Key, Model, Setting, Tick, Turn, View
from tlx.weights import Pretrained

Streams = Mapping[str, Mapping[str, Array]]
Tap = Literal["features", "hidden", "head"]


class Needs(NamedTuple):
    """Everything that a step, a recipe and the data must know of a term, in one place.

    A field that names streams is a tuple of names. Where there are several sources, the name `source` stands for each
    of them in turn, and the loss is the mean (see `tlx.objectives.loss_of`).

    Attributes:
        forward: streams that get a forward pass in every step; the loss finds them in `view.taps`.
        batch: further streams of which every step needs a batch. A term that creates streams makes them of these, and
            each of these names is one stream, never several sources.
        once: streams of the data that `memory` reads once, before the first step. No step gets a batch of them for it.
        labels: streams whose labels the term reads. A stream without labels is rejected.
        creates: streams that the hook `streams` adds to the batch.
        average: the term reads the moving average of the parameters, `view.average`; `train.ema` must keep one.
        frozen_head: the head must stay as it came; a tuning that trains it is rejected.
        task: the class of tasks that the term is for; None is every task.
        exclusive: the task must give every example exactly one class (`Task.exclusive`).
        features: whether the loss compares the examples of a batch, or divides by a sum over them, so that it is no
            mean over examples. Where a batch is split (`train.accumulate`), such a term gets the whole of it: `logits`
            and `pooled`, the input of the head, are then its only taps. False says that the loss is a mean over
            examples. None says nothing: it counts as False, and a run that splits batches says so in a note.
        taps: what the loss reads of the model: "features" (the input of the head, see `tlx.models.features`),
            "hidden" (the hidden state of some stage), "head" (a head on a stage below it). A model without is rejected.
        inputs: the inputs that the term can work on, such as "image". A model that reads none of them is rejected.
        pretrained: the term holds the run to its pretrained weights, so a run from scratch goes without it.
        models: other models that the term loads, by directory, run, asset or hub id. `check` finds them in
            `preview.references`, and the loss finds their structure in `view.references`.
    """

    forward: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    creates: tuple[str, ...] = ()
    average: bool = False
    frozen_head: bool = False
    task: type | None = None
    exclusive: bool = False
    features: bool | None = None
    taps: tuple[Tap, ...] = ()
    inputs: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    pretrained: bool = False

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of which every step needs a batch."""
        labels = (stream for stream in self.labels if stream not in self.once)
        return tuple(dict.fromkeys((*self.forward, *self.batch, *labels)))


class Preview(NamedTuple):
    """What is known of a run before anything is drawn or compiled: all that a term may reject.

    Attributes:
        model: the model that trains.
        params: the shapes of its parameters, with those that the tuning adds.
        task: the task, with its classes.
        streams: the streams of the data.
        fresh: the paths of the model's parameters that no checkpoint holds, and that are drawn at random.
        references: the models that the term loads (`Needs.models`), by the names under which it loads them.
    """

    model: Model
    params: Tree
    task: Any
    streams: tuple[str, ...] = ()
    fresh: frozenset[str] = frozenset()
    references: Mapping[str, Pretrained] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of the objective: a frozen dataclass that overrides `loss`, and any other hook that it has use for.

    `needs` declares what the term reads, and everything that can be rejected by such a declaration is. By default a
    term reads the stream of its field `on` where it has one, else all streams.
    """

    def __post_init__(self) -> None:
        check_weight(self, "weight")

    def needs(self, streams: Collection[str]) -> Needs:
        """Return what the term needs where the data have these `streams`. It must not depend on floats, which are
        arrays inside a step."""
        return Needs(forward=(self.on,) if hasattr(self, "on") else tuple(streams))

    def check(self, preview: Preview) -> None:
        """Raise ValueError for a run that the term is not for and that `needs` cannot describe."""
        return

    def notes(self, preview: Preview) -> Collection[str]:
        """Return sentences that the run must say of the term in its output and its result."""
        return ()

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the leaves that the term adds. They learn whatever the tuning."""
        return params

    def memory(self, setting: Setting) -> Tree:
        """Return the arrays that the term keeps for the whole run, copies that it owns; a step never changes them."""
        return {}

    def streams(self, batch: Streams, tick: Tick) -> Streams:
        """Return the batch of one step with the streams that the term creates, before any forward pass."""
        return batch

    def turns(self, model: Model) -> tuple[Turn, ...]:
        """Return the moves of which a step consists; none where it is a single one. The loss is computed once in each,
        `view.turn` is its number, and what moves in none of them does not learn. The recipe's update must take turns
        (see `tlx.updates`)."""
        return ()

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Return the loss, a scalar, and numbers to log by name."""
        raise TypeError(f"{type(self).__name__} has no loss")


def check_weight(term: Any, *names: str) -> None:
    """Raise ValueError where a weight, or an end of its ramp, is negative."""
    for name in names:
        weight = getattr(term, name, 0.0)
        ends = (weight.start, weight.end) if isinstance(weight, Ramp) else (weight,)
        if any(isinstance(end, int | float) and end < 0 for end in ends):
            raise ValueError(f"{type(term).__name__}: {name} is {weight}; a weight is 0 or more")


def weighed(weight: Weight, value: Array, view: View, **metrics: Array) -> tuple[Array, dict[str, Array]]:
    """Return `value` times `weight` at this moment of the run, and what is logged: the `metrics`, and the weight where
    it changes."""
    now = current(weight, view.tick)
    return now * value, metrics | ({"weight": now} if isinstance(weight, Ramp) else {})


def mean_over(view: View, stream: str, values: Array) -> Array:
    """The mean of `values` [B] over the examples of a stream."""
    return weighted_mean(values, view.batch[stream].get("weight"))


def task_losses(
    view: View,
    stream: str,
    outputs: Any = None,
    relabel: Callable[[Mapping[str, Array]], Mapping[str, Array]] = lambda batch: batch,
) -> Array:
    """Return the task's loss of each example of a stream [B], scaled so that its mean over the examples is the sum of
    losses over the sum of weights of the whole global batch (see `tasks.Task.loss`).

    `outputs` are the taps of the stream, unless others are given; `relabel` puts other labels into a batch. The weights
    are those of the whole batch also where it is cut into pieces or shared by devices: dividing each piece by its own
    weights would give other numbers.
    """
    outputs = view.taps[stream] if outputs is None else outputs
    batch = relabel(view.batch[stream])
    sums, weights = view.task.loss(outputs, batch)
    if view.whole is not None and stream in view.whole:
        whole = relabel(view.whole[stream])
        rows = len(whole["index"])
        blank = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), dict(outputs))
        weights = view.task.loss(blank, whole)[1]
        return sums / mean_weight(view, weights, whole)
    return sums / mean_weight(view, weights, batch)


def mean_weight(view: View, weights: Array, batch: Mapping[str, Array]) -> Array:
    """Return the mean weight of an example over all devices; 1 where no example counts."""
    counts = batch["weight"] if "weight" in batch else jnp.ones_like(weights)
    total, count = (weights * counts).sum(), counts.sum()
    if view.axis is not None:
        total, count = jax.lax.psum((total, count), view.axis)
    return jnp.where(total > 0, total / jnp.where(count > 0, count, 1.0), 1.0)
