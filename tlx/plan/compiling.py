"""Compile the real step of a recipe for devices that are not there, and read what the compiler says about it."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx import sharding
from tlx.data import Splits
from tlx.plan.collectives import collective_bytes
from tlx.plan.targets import silent
from tlx.sharding import Mesh
from tlx.training.active_run import setting
from tlx.training.placement import Placement
from tlx.training.prepare import Prepared, training_batches
from tlx.training.state import TrainState, initial_state, memories
from tlx.training.step import compile_step
from tlx.trees import flatten

# Batches of ragged examples that are looked at; the longest is compiled.
LOOKED_AT = 32


class Compilation(NamedTuple):
    """What the compiler says of one step on each device of a mesh.

    `memory` are bytes: `trainable`, `frozen`, `optimiser` (with averages and memories of terms), `batch`, `gradients`
    (by their shapes) and `activations` (the compiler's further temporaries); `needed` is their peak as the compiler
    counts it. `flops` and `moved` are operations and bytes read and written in one step, `sent` the bytes of the
    results of collectives by kind.
    """

    mesh: Mapping[str, int]
    rows: int
    length: int | None
    dtype: str
    memory: Mapping[str, int]
    needed: int
    flops: float
    moved: float
    sent: Mapping[str, int]
    seconds: float


def compile_for(ready: Prepared, splits: Splits, devices: Sequence[Any], mesh: Mesh, phase: int = 0) -> Compilation:
    """Compile the step of a phase of a prepared recipe for some devices.

    Raises:
        ValueError: The mesh does not fit the devices, the batch or the model.
    """
    placed = sharding.make_mesh(devices, mesh)
    recipe, parts = ready.recipe, ready.parts(phase)
    sharding.check_batch(recipe.train.batch, placed, "train.batch")
    begin = time.perf_counter()
    memory = memories(recipe.objective, setting(ready, splits))
    key = jax.random.key(0)
    form = jax.eval_shape(lambda variables: initial_state(parts, variables, 100, key, memory), ready.variables)
    placement = Placement(parts, placed)
    state = jax.tree.map(sharding.shapes, form, placement.of_state(form))
    batch = sharding.shapes(longest_batch(ready, splits), sharding.by_example(placed))
    with silent():
        compiled = compile_step(parts, placed).train.lower(state, batch).compile()  # type: ignore[attr-defined]
    seconds = time.perf_counter() - begin
    sizes = compiled.memory_analysis()
    cost = compiled.cost_analysis() or {}
    held = {name: bytes_on_device(getattr(state, name)) for name in TrainState._fields}
    temporary = int(sizes.temp_size_in_bytes)
    gradients = min(held["trainable"], temporary)
    return Compilation(
        dict(placed.shape),
        recipe.train.batch,
        ragged_length(batch),
        recipe.train.dtype,
        {
            "trainable": held["trainable"],
            "frozen": held["frozen"] + held["stats"],
            "optimiser": held["optimiser"] + held["average"] + held["memory"],
            "batch": bytes_on_device(batch),
            "gradients": gradients,
            "activations": temporary - gradients,
        },
        int(sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes) + temporary,
        float(cost.get("flops", 0.0)),
        float(cost.get("bytes accessed", 0.0)),
        collective_bytes(compiled.as_text()),
        seconds,
    )


def longest_batch(ready: Prepared, splits: Splits) -> Any:
    """Return the largest of the first batches of the recipe, by stream."""
    batches = itertools.islice(training_batches(ready, splits), LOOKED_AT if ready.processor.ragged else 1)
    return max(batches, key=lambda streams: sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(streams)))


def ragged_length(batch: Any) -> int | None:
    """Return the tokens of a text of the batch; None where it has none."""
    tokens = [leaf.shape[1] for path, leaf in flatten(batch).items() if path.endswith("/input_ids")]
    return max(tokens, default=None)


def bytes_on_device(tree: Any) -> int:
    """Return the bytes of arrays with shardings on one device."""

    def of(leaf: Any) -> int:
        shape = leaf.sharding.shard_shape(leaf.shape)
        return int(np.prod(shape)) * getattr(leaf.dtype, "itemsize", 8)

    return sum(map(of, jax.tree.leaves(tree)))
