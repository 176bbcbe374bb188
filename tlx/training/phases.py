"""How a phase of some arms begins: what its batches are read by, the states, and the program that they share."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx import sharding
from tlx.training import feature_cache, vectorize
from tlx.training.active_run import Arm
from tlx.training.batches import Resident, Stream, batches_of, feed, one_of
from tlx.training.step import Parts, TrainState, compile_step, initial_state, next_state
from tlx.training.vectorize import Engine

Before = tuple[list[Parts], list[TrainState]]


@dataclass
class Begun:
    """The `phase` about to take the step after `step`, its first or the one after a checkpoint. `parts`, `states` and
    the `readers` of each stream and split are by arm, and `forms`, the shapes of the states that they have alone;
    `learning` are the paths of all that learns in the engine; `feed` gives the batches, which the devices of
    `mesh` share."""

    phase: int
    parts: list[Parts]
    states: list[TrainState]
    forms: list[TrainState]
    readers: Mapping[str, list[Any]]
    engine: Engine
    learning: list[str]
    feed: Stream | Resident
    step: int
    mesh: Any
    known: dict[Any, float | None] = field(default_factory=dict)

    def placed(self) -> Any:
        """The states on the devices; they are not kept here too."""
        placed = self.engine.place(self.states)
        self.states = []
        return placed

    def flops(self) -> list[float] | None:
        """What the steps since the last call take in an arm alone, as XLA counts the operations of its program for each
        shape of batch; None where it does not say, as on some devices, or where processes share a batch by `pmap`."""
        if jax.process_count() > 1 and not hasattr(self.engine.train, "lower"):
            return None
        steps, self.feed.steps = self.feed.steps, Counter()
        found = []
        for n in range(len(self.parts)):
            counts = {shape: self.step_flops(n, self.feed.batch_of[shape]) for shape in steps}
            if any(count is None for count in counts.values()):
                return None
            found.append(sum(number * (counts[shape] or 0.0) for shape, number in steps.items()))
        return found

    def step_flops(self, n: int, batch: Any) -> float | None:
        """The operations of one step of arm n alone on a batch of these shapes; None where XLA does not count them."""
        parts, form = self.parts[n], self.forms[n]
        shapes = (*(leaf.shape for leaf in jax.tree.leaves(form)), *(np.shape(leaf) for leaf in jax.tree.leaves(batch)))
        like = (*parts.learning, *shapes)
        if like not in self.known:
            told = self.program(parts, form, batch).cost_analysis()
            self.known[like] = float(told["flops"]) if told and "flops" in told else None
        return self.known[like]

    def program(self, parts: Parts, form: TrainState, batch: Any) -> Any:
        """One arm's step on arrays of these shapes, before the compiler's own passes: where it is what runs, that,
        which was traced before. Of a loop over pieces of the batch XLA would count one round, so it is taken whole."""
        step: Any = self.engine.train
        if self.engine.arms > 1 or parts.accumulate > 1 or not hasattr(step, "lower"):
            step = compile_step(parts.uncut, self.mesh).train
        return step.lower(form, batch)


def begin_phase(
    arms: Sequence[Arm],
    phase: int,
    prefixes: bool,
    say: Callable[[str], None],
    before: Before | None = None,
    restore: Callable[[Sequence[TrainState]], list[TrainState]] | None = None,
    mesh: sharding.Mesh = sharding.Mesh(),
) -> Begun:
    """The start of a phase, from the states `before`, or from the step at which the arms stand, whose states `restore`
    returns; `prefixes` is whether a stored prefix may be read."""
    devices = sharding.make_mesh(mesh=mesh)
    first = arms[0]
    start, last = first.spans[phase]
    step = max(first.begin, start)
    found = read_by(arms, phase, (last - step) * first.recipe.train.batch, prefixes, say)
    readers = {name: [source.readers[name] for source in found] for name in found[0].readers}
    parts = [arm.ready.parts(phase)._replace(start=source.start) for arm, source in zip(arms, found, strict=True)]
    states = fresh_states(arms, parts, phase, before)
    if restore is not None and first.begin > start:
        states = restore(states)
    forms = [jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state) for state in states]
    streams = [{name: source.readers[name] for name in first.splits.streams} for source in found]
    engine, states, learning = engine_of(arms, parts, devices, states, streams, readers["validation"])
    batches = feed(engine, arms, streams, step)
    return Begun(phase, parts, states, forms, readers, engine, learning, batches, step, devices)


def read_by(
    arms: Sequence[Arm], phase: int, reads: int, prefixes: bool, say: Callable[[str], None]
) -> list[feature_cache.Sources]:
    """What the batches of a phase are read by, arm for arm; all begin at a stored prefix, or none does."""
    first = arms[0]
    if not prefixes or first.recipe.train.compile == "pmap":
        why = "pmap reads inputs" if prefixes else "it was not asked for"
        found = [feature_cache.nothing(arm.ready, why) for arm in arms]
    else:
        if phase not in first.cuts:
            first.cuts[phase] = feature_cache.find(first.ready, phase, first.inputs(), first.memory)
        cut = first.cuts[phase]
        found = feature_cache.sources([(arm.ready, arm.splits) for arm in arms], cut, reads, say)
        say(found[0].told)
    for arm, own in zip(arms, found, strict=True):
        arm.prefixes[phase] = {"phase": phase, "cut": own.start, "computed": own.computed, "told": own.told}
    return found


def engine_of(
    arms: Sequence[Arm],
    parts: Sequence[Parts],
    mesh: Any,
    states: list[TrainState],
    streams: Sequence[Mapping[str, Any]],
    validation: Sequence[Any],
) -> tuple[Engine, list[TrainState], list[str]]:
    """The engine of these arms, their fresh states as it wants them, and the paths of all that learns in it; `streams`
    are each arm's readers of those of training, `validation` of that split."""
    if len(arms) == 1:
        return vectorize.single(parts[0], mesh, arms[0].recipe.train.compile), states, parts[0].learning
    union, forms = parts[0], []
    if len({tuple(own.learning) for own in parts}) > 1:
        union, forms = vectorize.joined(parts), [jax.eval_shape(lambda own=state: own) for state in states]
        fresh = fresh_states(arms, [union] * len(arms), 0, None)
        masked = [vectorize.masked(state, own) for state, own in zip(fresh, parts, strict=True)]
        states = [vectorize.grafted(whole, own) for whole, own in zip(masked, states, strict=True)]
    engine = vectorize.packed(
        union,
        mesh,
        states,
        batches=batches_of(arms, streams),
        shared_inputs=len(one_of(validation)) == 1,
        forms=forms,
    )
    return engine, states, union.learning


def fresh_states(arms: Sequence[Arm], parts: Sequence[Parts], phase: int, before: Before | None) -> list[TrainState]:
    """The state of each arm at the start of a phase."""
    made = []
    for n, (arm, own) in enumerate(zip(arms, parts, strict=True)):
        stretch = arm.spans[phase] if arm.ready.phases[phase].restart else None
        if before is None:
            key = jax.random.fold_in(jax.random.key(arm.recipe.seed), 2)
            state = initial_state(own, arm.ready.variables, arm.steps, key, arm.memory, stretch)
            state = state._replace(step=jnp.int32(arm.spans[phase][0]))
        else:
            state = next_state(before[0][n], before[1][n], own, arm.steps, stretch)
        made.append(state)
    return made
