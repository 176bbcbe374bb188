"""Define a term of the objective: what it needs, the hooks it may override, and how its loss is weighted."""

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
    """Everything that a step, a recipe and the data must know about a term, in one place.

    A field that names streams is a tuple of names. Where there are several sources, the name `source` stands for each
    of them in turn, and the loss is the mean (see `tlx.objectives.loss_of`).

    Attributes:
        forward: streams that need a forward pass in every step; the loss reads the results in `view.taps`.
        batch: further streams that need a batch in every step. A term that creates streams makes them from these
            batches, and each of these names is one stream, never several sources.
        once: streams of the data that `memory` reads once, before the first step. They add no batch to a step.
        labels: streams whose labels the term reads. A stream without labels is rejected.
        creates: streams that the hook `streams` adds to the batch.
        average: the term reads the moving average of the parameters, `view.average`; `train.ema` must be set.
        frozen_head: the head must not be trained; a tuning that trains it is rejected.
        task: the class of tasks that the term supports; None supports every task.
        exclusive: the task must give every example exactly one class (`Task.exclusive`).
        features: whether the loss compares the examples of a batch, or divides by a sum over them, so that it is not a
            mean over examples. Where a batch is split (`train.accumulate`), such a term receives the whole batch, and
            its only taps are `logits` and `pooled`, the input of the head. False declares that the loss is a mean over
            examples. None declares nothing: it counts as False, and a run that splits batches adds a note.
        taps: what the loss reads from the model: "features" (the input of the head, see `tlx.models.features`),
            "hidden" (the hidden state of some stage), "head" (a head on a stage below it). A model without it is
            rejected.
        inputs: the inputs that the term can work on, such as "image". A model that reads none of them is rejected.
        pretrained: the term keeps the run near its pretrained weights, so a run from scratch omits it.
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
        """Return the streams that need a batch in every step."""
        labels = (stream for stream in self.labels if stream not in self.once)
        return tuple(dict.fromkeys((*self.forward, *self.batch, *labels)))


class Preview(NamedTuple):
    """All facts about a run before anything is drawn or compiled; `Term.check` may reject the run because of them.

    Attributes:
        model: the model that trains.
        params: the shapes of its parameters, including those that the tuning adds.
        task: the task, with its classes.
        streams: the streams of the data.
        new: the paths of the model's parameters that are in no checkpoint and are drawn at random.
        references: the models that the term loads (`Needs.models`), by the names under which it loads them.
    """

    model: Model
    params: Tree
    task: Any
    streams: tuple[str, ...] = ()
    new: frozenset[str] = frozenset()
    references: Mapping[str, Pretrained] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Term:
    """A term of the objective: a frozen dataclass that overrides `loss`, and any other hook that it needs.

    `needs` declares what the term reads; tlx rejects a run that does not meet these declarations. By default a term
    reads the stream of its field `on` where it has one, else all streams.
    """

    def __post_init__(self) -> None:
        check_weight(self, "weight")

    def needs(self, streams: Collection[str]) -> Needs:
        """Return what the term needs where the data have these `streams`.

        The result must not depend on fields that are floats, because they are arrays inside a step.
        """
        return Needs(forward=(self.on,) if hasattr(self, "on") else tuple(streams))

    def check(self, preview: Preview) -> None:
        """Raise ValueError for a run that the term does not support, where `needs` cannot describe the reason."""
        return

    def notes(self, preview: Preview) -> Collection[str]:
        """Return sentences about the term that the run must print and store with its result."""
        return ()

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the leaves that the term adds. These leaves learn under every tuning."""
        return params

    def memory(self, setting: Setting) -> Tree:
        """Return the arrays that the term keeps for the whole run. They must be copies; a step never changes them."""
        return {}

    def streams(self, batch: Streams, tick: Tick) -> Streams:
        """Return the batch of one step with the streams that the term creates, before any forward pass."""
        return batch

    def turns(self, model: Model) -> tuple[Turn, ...]:
        """Return the turns (moves) of one step; an empty tuple where a step is a single move.

        The loss is computed once in each turn, with `view.turn` as its number. A leaf that moves in no turn does not
        learn. The recipe's update must take turns (see `tlx.updates`).
        """
        return ()

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Return the loss, a scalar, and the numbers to log, by name."""
        raise TypeError(f"{type(self).__name__} does not define loss; give the class a method loss(view)")


def check_weight(term: Any, *names: str) -> None:
    """Raise ValueError where a weight, or one end of its ramp, is negative."""
    for name in names:
        weight = getattr(term, name, 0.0)
        ends = (weight.start, weight.end) if isinstance(weight, Ramp) else (weight,)
        if any(isinstance(end, int | float) and end < 0 for end in ends):
            raise ValueError(f"{type(term).__name__}: {name} is {weight}; expected a weight of 0 or more")


def weighed(weight: Weight, value: Array, view: View, **metrics: Array) -> tuple[Array, dict[str, Array]]:
    """Multiply a loss by its weight at this moment of the run.

    Args:
        weight: a number or a ramp.
        value: the loss, a scalar.
        view: the view of the current step.
        metrics: numbers to log, by name.

    Returns:
        The weighted loss, and the numbers to log: the `metrics`, and the weight where it is a ramp.
    """
    factor = current(weight, view.tick)
    return factor * value, metrics | ({"weight": factor} if isinstance(weight, Ramp) else {})


def mean_over(view: View, stream: str, values: Array) -> Array:
    """Return the weighted mean of `values` [B] over the examples of a stream, a scalar."""
    return weighted_mean(values, view.batch[stream].get("weight"))


def task_losses(
    view: View,
    stream: str,
    outputs: Any = None,
    relabel: Callable[[Mapping[str, Array]], Mapping[str, Array]] = lambda batch: batch,
) -> Array:
    """Return the task's loss for each example of a stream, scaled for a mean over the batch.

    The scale makes the mean over the examples equal to the sum of losses over the sum of weights of the whole global
    batch (see `tasks.Task.loss`). The weights are those of the whole batch, also where the batch is split into pieces
    or over devices: dividing each piece by its own weights would change the loss.

    Args:
        view: the view of the current step.
        stream: the name of the stream.
        outputs: the taps that the task reads; None takes those of the stream.
        relabel: a function that replaces the labels of a batch.

    Returns:
        One loss per example, [B].
    """
    outputs = view.taps[stream] if outputs is None else outputs
    batch = relabel(view.batch[stream])
    sums, weights = view.task.loss(outputs, batch)
    if view.whole is not None and stream in view.whole:
        whole_batch = relabel(view.whole[stream])
        examples = len(whole_batch["index"])
        blank = jax.tree.map(lambda leaf: jnp.zeros((examples, *leaf.shape[1:]), leaf.dtype), dict(outputs))
        weights = view.task.loss(blank, whole_batch)[1]
        return sums / mean_weight(view, weights, whole_batch)
    return sums / mean_weight(view, weights, batch)


def mean_weight(view: View, weights: Array, batch: Mapping[str, Array]) -> Array:
    """Return the mean weight of an example over all devices, a scalar; 1 where no example counts."""
    counts = batch["weight"] if "weight" in batch else jnp.ones_like(weights)
    total, count = (weights * counts).sum(), counts.sum()
    if view.axis is not None:
        total, count = jax.lax.psum((total, count), view.axis)
    return jnp.where(total > 0, total / jnp.where(count > 0, count, 1.0), 1.0)
