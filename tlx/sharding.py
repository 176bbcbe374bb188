"""Placement of arrays: a mesh of devices, and the shardings of states and batches on it."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh as DeviceMesh
from jax.sharding import NamedSharding, PartitionSpec

from tlx.trees import Tree

DATA = "data"
ALL = -1


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """How many devices share a batch: `data` of them; -1 means all devices."""

    data: int = ALL

    def __post_init__(self) -> None:
        if isinstance(self.data, bool) or not isinstance(self.data, int):
            raise TypeError(f"mesh data is {self.data!r}; expected a whole number of devices, or -1 for all")
        if self.data != ALL and self.data < 1:
            raise ValueError(f"mesh data is {self.data}; expected 1 or more devices, or -1 for all")


def make_mesh(devices: Any = None, mesh: Mesh = Mesh()) -> DeviceMesh:
    """Return JAX's mesh with one axis, `data`, over the first devices of a list.

    Args:
        devices: The devices; None for all.
        mesh: How many of them.

    Raises:
        ValueError: There are fewer devices than the mesh names, or several processes, whose devices are all needed.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices) if mesh.data == ALL else mesh.data
    if count > len(devices):
        raise ValueError(
            f"mesh data={count}: there are only {len(devices)} devices; use data={len(devices)} or fewer, or data=-1 "
            "for all"
        )
    if count < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"mesh data={count}: {jax.process_count()} processes have {len(devices)} devices, and each process must "
            f"have a part of every batch; use data={len(devices)}, or data=-1"
        )
    return DeviceMesh(np.asarray(devices[:count]), (DATA,))


def replicated(mesh: DeviceMesh) -> NamedSharding:
    """Return the sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: DeviceMesh) -> NamedSharding:
    """Return the sharding over the first axis (examples)."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def shapes(tree: Any, placement: NamedSharding | None = None) -> Any:
    """Return the shapes and types of arrays, with their sharding where they lie on devices.

    JAX traces and lowers a program again for arrays of another sharding, so only these shapes find a program that runs.

    Args:
        tree: Arrays, or shapes.
        placement: The sharding to declare in the place of the arrays' own.
    """
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            np.shape(leaf), leaf.dtype, sharding=placement or getattr(leaf, "sharding", None)
        ),
        tree,
    )


def place_batch(mesh: DeviceMesh, batch: Tree) -> Tree:
    """Return host arrays as one global batch [B, ...]; each process passes its own part."""
    return jax.make_array_from_process_local_data(by_example(mesh), batch)


def check_batch(batch: int, mesh: DeviceMesh, name: str) -> None:
    """Raise ValueError where a batch does not divide evenly over the devices, naming the nearest batches that do, and
    the largest smaller mesh."""
    count = mesh.devices.size
    if batch % count:
        below, above = batch // count * count, (batch // count + 1) * count
        near = f"{below} or {above}" if below else f"{above}"
        fewer = next(size for size in range(count - 1, 0, -1) if batch % size == 0)
        raise ValueError(
            f"{name} is {batch}, which {count} devices cannot share evenly; use {near}, or a mesh of data={fewer}"
        )
