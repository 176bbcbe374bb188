"""Where arrays live: a named mesh over all devices, and the shardings of states and batches on it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx.trees import Tree

DATA = "data"


def make_mesh(devices: Any = None) -> Mesh:
    """One axis, `data`, over `devices` (all of them by default)."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """Sharded over the first axis."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def place_batch(mesh: Mesh, batch: Tree) -> Tree:
    """Host arrays as one global batch, each process giving its own part."""
    return jax.make_array_from_process_local_data(by_example(mesh), batch)


def check_batch(batch: int, mesh: Mesh, name: str) -> None:
    """ValueError where a batch does not divide evenly over the devices."""
    count = mesh.devices.size
    if batch % count:
        below, above = batch // count * count, (batch // count + 1) * count
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"{name} is {batch}, which {count} devices cannot share evenly; take {near}")
