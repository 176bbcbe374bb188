"""What training takes in floating-point operations: the compiler's own count of a step, times the steps."""

from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx import sharding
from tlx.data import Splits
from tlx.recipe import Recipe
from tlx.training.active_run import phase_spans, setting, total_steps
from tlx.training.prepare import Prepared, open_data, prepare, training_batches
from tlx.training.state import Parts, TrainState, initial_state, memories
from tlx.training.step import compile_step
from tlx.trees import flatten, nest

Shapes = tuple[tuple[str, tuple[int, ...], str], ...]


class Operations(NamedTuple):
    """Of a whole run: FLOPs of all training steps in `total`, how many `steps`, and `how` they were counted."""

    total: float
    steps: int
    how: str

    @property
    def a_step(self) -> float:
        return self.total / self.steps


def operations(recipe: Recipe) -> Operations:
    """The FLOPs of a run's training steps, as XLA counts those of the compiled step of every phase and every shape of
    batch; nothing is trained.

    Evaluation is not counted, and a frozen prefix as if it were computed in every step, which it need not be. The test
    split is not opened.
    """
    splits = open_data(recipe, test=False)
    ready = prepare(recipe, splits)
    steps = total_steps(recipe, len(splits.train))
    memory = memories(recipe.objective, setting(ready, splits))
    total = 0.0
    for (phase, shapes), count in batches(ready, splits, steps).items():
        # In pieces a loop does the work, of which the compiler would count one round.
        parts = ready.parts(phase).uncut
        state = jax.eval_shape(partial(begun, parts, ready, steps, memory))
        total += count * flops(parts, state, shapes)
    return Operations(total, steps, f"XLA's count of the compiled step x {steps} steps, without evaluation")


def begun(parts: Parts, ready: Prepared, steps: int, memory: Any) -> TrainState:
    return initial_state(parts, ready.variables, steps, jax.random.key(0), memory)


def batches(ready: Prepared, splits: Splits, steps: int) -> Counter[tuple[int, Shapes]]:
    """How many steps of each phase have batches of each shape."""
    given = training_batches(ready, splits)
    known = shapes_of(next(given)) if not ready.processor.ragged else None
    if known is None:
        given = training_batches(ready, splits)
    found: Counter[tuple[int, Shapes]] = Counter()
    for phase, (first, last) in enumerate(phase_spans(ready, steps)):
        if known is not None:
            found[phase, known] += last - first
            continue
        for _ in range(first, last):
            found[phase, shapes_of(next(given))] += 1
    return +found


def shapes_of(batch: Any) -> Shapes:
    return tuple((path, np.shape(array), str(array.dtype)) for path, array in flatten(batch).items())


def flops(parts: Parts, state: TrainState, shapes: Shapes) -> float:
    """The FLOPs of one compiled step, all of whose batch is on one device."""
    mesh = sharding.make_mesh(jax.devices()[:1])
    batch = nest({path: jax.ShapeDtypeStruct(shape, kind) for path, shape, kind in shapes})
    compiled = compile_step(parts, mesh).train.lower(state, batch).compile()  # type: ignore[attr-defined]
    return float(compiled.cost_analysis()["flops"])
