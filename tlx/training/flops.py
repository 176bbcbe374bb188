"""Count the floating-point operations of a training run: the compiler's count of a step, times the steps."""

from collections import Counter
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from tlx import sharding
from tlx.data import Splits
from tlx.recipe import Recipe
from tlx.training.active_run import phase_spans, setting, total_steps
from tlx.training.prepare import Prepared, open_data, prepare, training_batches
from tlx.training.state import Parts, TrainState, initial_state, memories
from tlx.training.step import compile_step
from tlx.trees import Tree, flatten, nest
from tlx.types import ArrayMap

Shapes = tuple[tuple[str, tuple[int, ...], str], ...]


class Operations(NamedTuple):
    """The operations of a whole run: the FLOPs of all training steps in `total`, the number of `steps`, and `how` they
    were counted."""

    total: float
    steps: int
    how: str

    @property
    def a_step(self) -> float:
        """Return the FLOPs per step."""
        return self.total / self.steps


def operations(recipe: Recipe) -> Operations:
    """Count the FLOPs of a run's training steps: XLA's count of the compiled step of every phase and every shape of
    batch.

    Nothing is trained. Evaluation is not counted, and a frozen prefix counts in every step even where its features
    could be cached. The test split is not opened.
    """
    splits = open_data(recipe, test=False)
    ready = prepare(recipe, splits)
    steps = total_steps(recipe, len(splits.train), splits.first)
    memory = memories(recipe.objective, setting(ready, splits))
    total = 0.0
    for (phase, shapes), count in batches(ready, splits, steps).items():
        # The compiler would count only one round of a loop over pieces.
        parts = ready.parts(phase).uncut
        state = jax.eval_shape(partial(make_state, parts, ready, steps, memory))
        total += count * flops(parts, state, shapes)
    return Operations(total, steps, f"XLA's count of the compiled step x {steps} steps, without evaluation")


def make_state(parts: Parts, ready: Prepared, steps: int, memory: Tree) -> TrainState:
    """Return the initial state of a step."""
    return initial_state(parts, ready.variables, steps, jax.random.key(0), memory)


def batches(ready: Prepared, splits: Splits, steps: int) -> Counter[tuple[int, Shapes]]:
    """Return the number of steps of each phase with batches of each shape."""
    stream = training_batches(ready, splits)
    fixed_shapes = shapes_of(next(stream)) if not ready.processor.ragged else None
    if fixed_shapes is None:
        stream = training_batches(ready, splits)
    counts: Counter[tuple[int, Shapes]] = Counter()
    for phase, (first, last) in enumerate(phase_spans(ready, steps)):
        if fixed_shapes is not None:
            counts[phase, fixed_shapes] += last - first
            continue
        for _ in range(first, last):
            counts[phase, shapes_of(next(stream))] += 1
    return +counts


def shapes_of(batch: ArrayMap) -> Shapes:
    """Return the path, shape and type of every array of a batch."""
    return tuple((path, np.shape(array), str(array.dtype)) for path, array in flatten(batch).items())


def flops(parts: Parts, state: TrainState, shapes: Shapes) -> float:
    """Return the FLOPs of one compiled step, with the whole batch on one device."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    batch = nest({path: jax.ShapeDtypeStruct(shape, kind) for path, shape, kind in shapes})
    compiled = compile_step(parts, mesh).train.lower(state, batch).compile()  # type: ignore[attr-defined]
    return float(compiled.cost_analysis()["flops"])
