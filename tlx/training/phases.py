"""Set up a phase of some runs: the readers of its batches, the states, and the program that they share."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tlx import sharding
from tlx.training import feature_cache, vectorize
from tlx.training.active_run import ActiveRun
from tlx.training.batches import DeviceBatches, HostBatches, batches_for, batches_of, one_of
from tlx.training.layers import choose_layers
from tlx.training.placement import Placement
from tlx.training.programs import Programs
from tlx.training.step import Parts, TrainState, compile_step, initial_state, next_state
from tlx.training.vectorize import Engine
from tlx.types import ArrayMap

Before = tuple[list[Parts], list[TrainState]]


@dataclass
class PhaseSetup:
    """A `phase` that is ready to take the step after `step`, its first step or the one after a checkpoint.

    By run: `parts`, `states`, `forms` (the shapes of the state that the run would have alone) and, for each stream and
    split, `readers`. `learning` are the paths of all trainable parameters of the engine; `programs` announces the
    compilations of its programs; `batches` makes the batches; `flops_by_shape` keeps counted operations by shape.
    `spread` says that the parameters of the states are new arrays on the devices.
    """

    phase: int
    parts: list[Parts]
    states: list[TrainState]
    forms: list[TrainState]
    readers: Mapping[str, list[Any]]
    engine: Engine
    learning: list[str]
    batches: HostBatches | DeviceBatches
    step: int
    mesh: Any
    programs: Programs
    flops_by_shape: dict[Any, float | None] = field(default_factory=dict)
    spread: bool = False

    def placed(self) -> Any:
        """Return the states on the devices; they are not kept here too."""
        placed = self.engine.place(self.states, not self.spread)
        self.states = []
        return placed

    def flops(self) -> list[float] | None:
        """Return the operations of the steps since the last call, for each run alone, as XLA counts its program for
        each shape of batch; None where XLA does not count them, as on some devices, or where processes share a batch by
        `pmap`."""
        if jax.process_count() > 1 and not hasattr(self.engine.train, "lower"):
            return None
        steps, self.batches.steps = self.batches.steps, Counter()
        flops = []
        for n in range(len(self.parts)):
            counts = {shape: self.step_flops(n, self.batches.batch_of[shape]) for shape in steps}
            if any(count is None for count in counts.values()):
                return None
            flops.append(sum(number * (counts[shape] or 0.0) for shape, number in steps.items()))
        return flops

    def step_flops(self, n: int, batch: ArrayMap) -> float | None:
        """Return the operations of one step of run n alone on a batch of these shapes; None where XLA does not count
        them."""
        parts, form = self.parts[n], self.forms[n]
        shapes = (*(leaf.shape for leaf in jax.tree.leaves(form)), *(np.shape(leaf) for leaf in jax.tree.leaves(batch)))
        key = (*parts.learning, *shapes)
        if key not in self.flops_by_shape:
            cost = self.program(parts, form, batch).cost_analysis()
            self.flops_by_shape[key] = float(cost["flops"]) if cost and "flops" in cost else None
        return self.flops_by_shape[key]

    def program(self, parts: Parts, form: TrainState, batch: ArrayMap) -> Any:
        """Return one run's step, lowered for arrays of these shapes. The engine's step is used, and not traced again,
        where it is the step of one run on a whole batch. XLA would count only one round of a loop over pieces of the
        batch or over stages, so such a step is lowered without loops."""
        step: Any = self.engine.train
        if self.engine.runs > 1 or parts.accumulate > 1 or parts.layers == "loop" or not hasattr(step, "lower"):
            step = compile_step(parts.uncut, self.mesh).train
        placed = jax.tree.map(sharding.shapes, form, Placement(parts, self.mesh).of_state(form))
        return step.lower(placed, sharding.shapes(batch, sharding.by_example(self.mesh)))


def set_up_phase(
    runs: Sequence[ActiveRun],
    phase: int,
    cache: bool,
    say: Callable[[str], None],
    before: Before | None = None,
    restore: Callable[[Sequence[TrainState]], list[TrainState]] | None = None,
    mesh: sharding.Mesh = sharding.Mesh(),
    layers: str = "auto",
) -> PhaseSetup:
    """Set up a phase.

    Args:
        runs: The runs that train together.
        phase: The number of the phase.
        cache: Whether cached features may be read.
        say: Prints a message.
        before: The parts and states at the end of the phase before; None to begin at the initial states.
        restore: Returns the states of a checkpoint in the structure of the initial states.
        mesh: The number of devices along each axis.
        layers: How repeated stages run (see `loop.How`).
    """
    first, devices = runs[0], sharding.make_mesh(mesh=mesh)
    start, last = first.spans[phase]
    step = max(first.begin, start)
    reads = (last - step) * sum(map(first.recipe.batch_of, first.splits.streams))
    sources = read_by(runs, phase, reads, cache, say)
    readers = {name: [source.readers[name] for source in sources] for name in sources[0].readers}
    parts = [run.ready.parts(phase)._replace(start=source.start) for run, source in zip(runs, sources, strict=True)]
    chosen, line = choose_layers(layers, parts[0], runs[0].ready.variables, devices.devices.flat[0].platform)
    if line:
        say(line)
    parts = [of_run._replace(layers=chosen) for of_run in parts]
    cut = len(runs) == 1 and before is None and not sharding.is_plain(devices)
    states = initial_states(runs, parts, phase, before, devices if cut else None)
    if restore is not None and first.begin > start:
        states = restore(states)
    forms = [sharding.shapes(state) for state in states]
    streams = [{name: source.readers[name] for name in first.splits.streams} for source in sources]
    engine, states, learning = engine_of(runs, parts, devices, states, streams, readers["validation"])
    programs = Programs()
    engine = programs.watched(engine)
    batches = batches_for(engine, runs, streams, step, last)
    return PhaseSetup(
        phase, parts, states, forms, readers, engine, learning, batches, step, devices, programs, spread=cut
    )


def read_by(
    runs: Sequence[ActiveRun], phase: int, reads: int, cache: bool, say: Callable[[str], None]
) -> list[feature_cache.Sources]:
    """Return the readers of the batches of a phase, for each run; all of them read cached features, or none does."""
    first = runs[0]
    train = first.recipe.train
    if not cache or train.compile == "pmap" or train.parameter_dtype != "float32":
        why = "pmap cannot read cached features" if cache else "the cache is turned off"
        if cache and train.compile != "pmap":
            why = f"train.parameter_dtype is {train.parameter_dtype!r}, and features are computed in float32"
        sources = [feature_cache.nothing(run.ready, why) for run in runs]
    else:
        if phase not in first.cuts:
            first.cuts[phase] = feature_cache.find(first.ready, phase, first.inputs(), first.memory)
        cut = first.cuts[phase]
        sources = feature_cache.sources([(run.ready, run.splits) for run in runs], cut, reads, say)
        say(sources[0].message)
    for run, source in zip(runs, sources, strict=True):
        run.prefixes[phase] = {"phase": phase, "cut": source.start, "computed": source.computed, "told": source.message}
    return sources


def engine_of(
    runs: Sequence[ActiveRun],
    parts: Sequence[Parts],
    mesh: Mesh,
    states: list[TrainState],
    streams: Sequence[ArrayMap],
    validation: Sequence[Any],
) -> tuple[Engine, list[TrainState], list[str]]:
    """Return the engine of these runs, their initial states as the engine takes them, and the paths of all its
    trainable parameters. For each run, `streams` are the readers of the training streams and `validation` the reader of
    that split."""
    if len(runs) == 1:
        return vectorize.single(parts[0], mesh, runs[0].recipe.train.compile), states, parts[0].learning
    union, forms = parts[0], []
    if len({tuple(of_run.learning) for of_run in parts}) > 1:
        union, forms = vectorize.joined(parts), [jax.eval_shape(lambda alone=state: alone) for state in states]
        initial = initial_states(runs, [union] * len(runs), 0, None)
        masked = [vectorize.masked(state, of_run) for state, of_run in zip(initial, parts, strict=True)]
        states = [vectorize.grafted(joined, state) for joined, state in zip(masked, states, strict=True)]
    engine = vectorize.vectorised(
        union,
        mesh,
        states,
        batches=batches_of(runs, streams),
        shared_inputs=len(one_of(validation)) == 1,
        forms=forms,
    )
    return engine, states, union.learning


def initial_states(
    runs: Sequence[ActiveRun], parts: Sequence[Parts], phase: int, before: Before | None, mesh: Mesh | None = None
) -> list[TrainState]:
    """Return the state of each run at the start of a phase, with new arrays on the devices of a `mesh` if it is
    given."""
    states = []
    for n, (run, of_run) in enumerate(zip(runs, parts, strict=True)):
        span = run.spans[phase] if run.ready.phases[phase].restart else None
        if before is None:
            key = jax.random.fold_in(jax.random.key(run.recipe.seed), 2)
            variables = run.ready.variables
            if mesh is not None:
                variables = Placement(of_run, mesh).spread(variables)
            state = initial_state(of_run, variables, run.steps, key, run.memory, span)
            state = state._replace(step=jnp.int32(run.spans[phase][0]))
        else:
            state = next_state(before[0][n], before[1][n], of_run, run.steps, span)
        states.append(state)
    return states
