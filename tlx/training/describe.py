"""Describe the trainable parameters before training: path, shape, group, rate, decay, trainable; totals and bytes."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax.sharding import AbstractMesh

from tlx import optim as optimisers
from tlx import sharding
from tlx.training.prepare import Prepared
from tlx.trees import Json, flatten, nest, size


class Row(NamedTuple):
    """One parameter. `rate` is the peak rate of its schedule, 0 where it is frozen."""

    path: str
    shape: tuple[int, ...]
    group: str
    rate: float
    decay: float
    trainable: bool


def rows(prepared: Prepared, phase: int = 0) -> list[Row]:
    """Return a row for each parameter, in the order of the model's stages."""
    optim, partition = prepared.optim(phase), prepared.partitions[phase]
    params = flatten(prepared.variables.params)
    rates = optimisers.leaf_rates(optim, prepared.variables.params, partition)
    order = {stage.name: n for n, stage in enumerate(prepared.model.stages)}
    table = []
    for path, leaf in params.items():
        group = next((name for name in order if path.startswith(f"{name}/")), path.split("/")[0])
        factors = rates.get(path)
        rate, decay = (optim.lr * factors["lr"], factors["weight_decay"]) if factors else (0.0, 0.0)
        table.append(Row(path, tuple(leaf.shape), group, rate, decay, factors is not None))
    return sorted(table, key=lambda row: (order.get(row.group, len(order)), row.path))


class ShardedRow(NamedTuple):
    """How a mesh cuts one parameter: its logical `axes`, the axis of the mesh that cuts each dimension (`cuts`, None
    where it stays whole), and the bytes that each device holds."""

    path: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    cuts: tuple[str | None, ...]
    bytes: int


def sharded_rows(prepared: Prepared, sizes: Mapping[str, int]) -> list[ShardedRow]:
    """Return a row for each parameter, in the order of the model's stages, on a mesh of these `sizes`."""
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    declared, params = flatten(prepared.model.params), flatten(prepared.variables.params)
    specs = sharding.specs_of(mesh, prepared.model.params, prepared.variables.params)
    table, held = [], prepared.precision.held_bytes
    for row in rows(prepared):
        leaf, spec = params[row.path], specs[row.path]
        axes = declared[row.path].axes if row.path in declared else (None,) * len(row.shape)
        parts = math.prod(sizes[axis] for axis in spec if axis is not None)
        table.append(ShardedRow(row.path, row.shape, axes, tuple(spec), held(row.path, leaf) // parts))
    return table


def totals(prepared: Prepared, phase: int = 0) -> dict[str, int]:
    """Return the numbers of elements `total`, `trainable` and `statistics`, and `bytes`, `gradient_bytes`,
    `optimiser_bytes`, `average_bytes`."""
    params = flatten(prepared.variables.params)
    learning = {path: leaf for path, leaf in params.items() if prepared.partitions[phase][path] is not None}
    trainable = sum(map(size, learning.values()))
    shapes = nest({path: jax.ShapeDtypeStruct(leaf.shape, "float32") for path, leaf in learning.items()})
    return {
        "total": sum(map(size, params.values())),
        "trainable": trainable,
        "bytes": sum(prepared.precision.held_bytes(path, leaf) for path, leaf in params.items()),
        "gradient_bytes": 4 * trainable,
        "optimiser_bytes": optimisers.state_bytes(prepared.optim(phase), shapes, prepared.parts(phase).layout),
        "average_bytes": 4 * trainable if prepared.recipe.train.ema is not None else 0,
        "statistics": sum(map(size, flatten(prepared.variables.stats).values())),
    }


def document(prepared: Prepared) -> Json:
    """Return the table and totals of every phase, as JSON values."""
    return {
        "phases": [
            {"share": phase.share, "rows": [row._asdict() for row in rows(prepared, n)], "totals": totals(prepared, n)}
            for n, phase in enumerate(prepared.phases)
        ]
    }
