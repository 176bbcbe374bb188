"""Placement of arrays: a mesh of devices, and the shardings of parameters and batches on it.

A mesh has three axes. Devices along `data` and `fsdp` share a batch; along `fsdp` they also share the parameters, each
of which is gathered where it is used; along `tensor` they share the work on each example. `RULES` says which of these
axes cuts which logical axis of a parameter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from jax.sharding import Mesh as DeviceMesh

from tlx.trees import Tree, flatten

# A mesh of devices, or only its sizes.
AnyMesh = DeviceMesh | AbstractMesh
DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
# The axes over which a batch is cut, the outer one first. `fsdp`, which cuts parameters too, comes first: with `data`
# first, the partitioner of XLA computes wrong gradients (see docs/decisions/meshes.md).
ROWS = (FSDP, DATA)
ALL = -1
# The axis of the mesh that cuts each logical axis of a parameter (see `types.Param`).
RULES: Mapping[str, str] = MappingProxyType({"width": FSDP, "heads": TENSOR, "mlp": TENSOR, "vocabulary": TENSOR})
# A parameter of fewer numbers (a bias, an adapter) is not cut along `fsdp`: to gather it would cost more than to store
# it.
SMALLEST = 2**14


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """How many devices there are along each axis: `data` devices share a batch, `fsdp` devices share a batch and the
    parameters, `tensor` devices share the work on each example. One of them may be -1: all devices that remain."""

    data: int = ALL
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        for axis, count in self.sizes.items():
            if isinstance(count, bool) or not isinstance(count, int):
                raise TypeError(f"mesh {axis} is {count!r}; expected a whole number of devices, or -1 for all")
            if count != ALL and count < 1:
                raise ValueError(f"mesh {axis} is {count}; expected 1 or more devices, or -1 for all")
        if sum(count == ALL for count in self.sizes.values()) > 1:
            raise ValueError(f"mesh {self}: only one axis can be -1 (all devices that remain)")

    def __str__(self) -> str:
        """Return the form of the command line, such as `data=-1,fsdp=8`."""
        return ",".join(f"{axis}={count}" for axis, count in self.sizes.items() if axis == DATA or count != 1)

    @property
    def sizes(self) -> dict[str, int]:
        """Return the number of devices along each axis."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def fitted(self, devices: int) -> dict[str, int]:
        """Return the number of devices along each axis, of a number of `devices`.

        Raises:
            ValueError: There are fewer devices than the mesh names, or the remaining ones cannot be divided.
        """
        named = math.prod(count for count in self.sizes.values() if count != ALL)
        if named > devices:
            use = f"use data={devices} or fewer" if self.fsdp == self.tensor == 1 else "use smaller numbers"
            there = "is only 1 device" if devices == 1 else f"are only {devices} devices"
            raise ValueError(f"mesh {self}: there {there}; {use}, or data=-1 for all")
        if ALL in self.sizes.values() and devices % named:
            near = " or ".join(str(named_size) for named_size in neighbours(named, devices))
            raise ValueError(
                f"mesh {self}: {devices} devices cannot be divided into equal parts of {named}; the other axes can "
                f"have {near} devices in all"
            )
        return {axis: devices // named if count == ALL else count for axis, count in self.sizes.items()}


def neighbours(number: int, whole: int) -> list[int]:
    """Return the nearest divisors of `whole` below and above a number.

    >>> neighbours(3, 8), neighbours(5, 6), neighbours(9, 6)
    ([2, 4], [3, 6], [6])
    """
    divisors = [size for size in range(1, whole + 1) if whole % size == 0]
    return [*[size for size in divisors if size < number][-1:], *[size for size in divisors if size > number][:1]]


def make_mesh(devices: Any = None, mesh: Mesh = Mesh()) -> DeviceMesh:
    """Return JAX's mesh with the axes `data`, `fsdp` and `tensor` over the first devices of a list.

    Args:
        devices: The devices; None for all.
        mesh: How many of them along each axis.

    Raises:
        ValueError: There are fewer devices than the mesh names, or several processes, whose devices are all needed.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh.fitted(len(devices))
    count = math.prod(sizes.values())
    if count < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"mesh {mesh}: {jax.process_count()} processes have {len(devices)} devices, and each process must have a "
            f"part of every batch; use data={len(devices) // (count // sizes[DATA])}, or data=-1"
        )
    return DeviceMesh(np.asarray(devices[:count]).reshape(*sizes.values()), tuple(sizes))


def rows_of(mesh: AnyMesh) -> int:
    """Return the number of parts into which the mesh cuts a batch."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def is_plain(mesh: AnyMesh) -> bool:
    """Return whether every device has all parameters."""
    return mesh.size == mesh.shape[DATA]


def replicated(mesh: DeviceMesh) -> NamedSharding:
    """Return the sharding of an array that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: DeviceMesh, axis: int = 0) -> NamedSharding:
    """Return the sharding over the examples, which lie along an axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, ROWS))


def spec_of(mesh: AnyMesh, shape: Sequence[int], axes: Sequence[str | None] = ()) -> PartitionSpec:
    """Return how the mesh cuts a parameter.

    Each dimension is cut by the axis of the mesh that `RULES` names for its logical axis, if the dimension can be
    divided and the axis cuts no dimension before it. Where `fsdp` cuts none, it cuts the largest of the other
    dimensions that can be divided; it leaves parameters of fewer than `SMALLEST` numbers whole.

    Args:
        mesh: The mesh.
        shape: The shape of the parameter.
        axes: Its logical axes; empty for a parameter that declares none, which a tuning added or a bridged module has.
    """
    cut: list[str | None] = [None] * len(shape)
    small = math.prod(shape) < SMALLEST
    for place, name in enumerate(axes if len(axes) == len(shape) else ()):
        axis = RULES.get(name or "")
        if axis is not None and axis not in cut and divides(mesh, axis, shape[place]) and not (axis == FSDP and small):
            cut[place] = axis
    if FSDP not in cut and not small:
        free = [place for place, axis in enumerate(cut) if axis is None and divides(mesh, FSDP, shape[place])]
        if free:
            cut[max(free, key=lambda place: shape[place])] = FSDP
    return PartitionSpec(*cut)


def divides(mesh: AnyMesh, axis: str, length: int) -> bool:
    """Return whether an axis of several devices divides a dimension."""
    return mesh.shape[axis] > 1 and length % mesh.shape[axis] == 0


def specs_of(mesh: AnyMesh, declared: Tree, params: Tree) -> dict[str, PartitionSpec]:
    """Return how the mesh cuts each parameter, by its path.

    Args:
        mesh: The mesh.
        declared: The tree of `Param` of the model.
        params: The parameters, or their shapes, with those that tunings and terms added.

    Raises:
        ValueError: The axis `tensor` has several devices and cuts no parameter: they would compute the same.
    """
    axes = {path: param.axes for path, param in flatten(declared).items()}
    leaves = flatten(params)
    specs = {path: spec_of(mesh, np.shape(leaf), axes.get(path, ())) for path, leaf in leaves.items()}
    if mesh.shape[TENSOR] > 1 and not any(TENSOR in spec for spec in specs.values()):
        lengths = {
            length
            for path, leaf in leaves.items()
            for name, length in zip(axes.get(path, ()), np.shape(leaf), strict=False)
            if RULES.get(name or "") == TENSOR
        }
        what = f"the dimensions that it may cut have {', '.join(map(str, sorted(lengths)))} numbers"
        raise ValueError(
            f"mesh tensor={mesh.shape[TENSOR]} divides no parameter of this model; "
            f"{what if lengths else 'none has an axis that it may cut: use data or fsdp'}"
        )
    return specs


def place_parameter(mesh: DeviceMesh, leaf: Any, axes: Sequence[str | None] = ()) -> jax.Array:
    """Return a new copy of a parameter on the devices, cut as `spec_of` says; floats of 16 bits become float32.

    Of a NumPy array, which may lie in a file, each device reads only its part.

    Args:
        mesh: The mesh.
        leaf: The parameter.
        axes: Its logical axes.
    """
    return place_array(leaf, NamedSharding(mesh, spec_of(mesh, leaf.shape, axes)))


def place_array(leaf: Any, where: NamedSharding) -> jax.Array:
    """Return a new copy of an array in the places `where`; floats of 16 bits become float32."""
    half = leaf.dtype.itemsize == 2 and jnp.issubdtype(leaf.dtype, jnp.floating)
    dtype = np.dtype(np.float32) if half else leaf.dtype
    if isinstance(leaf, jax.Array):
        if leaf.sharding.device_set == where.device_set:
            return jax.jit(partial(jnp.array, dtype=dtype, copy=True), out_shardings=where)(leaf)
        leaf = np.asarray(leaf)

    def part(index: Any) -> np.ndarray:
        return np.array(leaf[index], dtype, order="C", copy=True)

    return jax.make_array_from_callback(leaf.shape, where, part)


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


def place_batch(mesh: DeviceMesh, batch: Tree, axis: int = 0) -> Tree:
    """Return host arrays as one global batch [B, ...] on the devices; each process passes the rows of its `share`.

    Args:
        mesh: The mesh.
        batch: The arrays; the rows lie along an axis.
        axis: This axis.
    """
    rows = by_example(mesh, axis)
    if jax.process_count() == 1:
        return jax.device_put(batch, rows)
    parts = len(share(mesh, rows_of(mesh)))

    def place(local: Any) -> jax.Array:
        local = np.asarray(local)
        count = local.shape[axis] * rows_of(mesh) // parts
        places = {int(row): place for place, row in enumerate(share(mesh, count))}

        def piece(index: Any) -> np.ndarray:
            begin, end, _ = index[axis].indices(count)
            return np.take(local, [places[row] for row in range(begin, end)], axis)

        return jax.make_array_from_callback((*local.shape[:axis], count, *local.shape[axis + 1 :]), rows, piece)

    return jax.tree.map(place, batch)


def gather_rows(mesh: DeviceMesh, rows: Tree) -> Tree:
    """Return in every process the arrays of a whole batch; each process passes the rows of its `share`."""
    if jax.process_count() == 1:
        return rows
    return jax.device_get(everywhere(mesh)(place_batch(mesh, rows)))


def beside(params: Tree, rows: Any) -> Any:
    """Return host arrays [B, ...], the same in every process, on the devices of some parameters: cut by rows where the
    devices can share B rows evenly, else whole. Beside parameters on one device the arrays are unchanged."""
    where = getattr(jax.tree.leaves(params)[0], "sharding", None)
    # A mesh of `pmap` has other axes.
    if not isinstance(where, NamedSharding) or where.mesh.size == 1 or not {*ROWS} <= {*where.mesh.axis_names}:
        return rows
    mesh: Any = where.mesh
    even = all(len(array) % rows_of(mesh) == 0 for array in jax.tree.leaves(rows))
    place = by_example(mesh) if even else replicated(mesh)
    return jax.tree.map(lambda array: jax.make_array_from_callback(array.shape, place, array.__getitem__), rows)


def on_host(arrays: Any) -> Any:
    """Return arrays on the host of every process, also those of which other processes hold a part."""
    return jax.tree.map(
        lambda array: np.asarray(everywhere(array.sharding.mesh)(array) if is_elsewhere(array) else array), arrays
    )


@cache
def everywhere(mesh: DeviceMesh) -> Any:
    """Return the program that copies the arrays of a batch to every device."""
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))


def is_elsewhere(leaf: Any) -> bool:
    """Return whether a part of an array lies on the devices of other processes alone."""
    return isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated)


def share(mesh: DeviceMesh, batch: int, devices: Sequence[Any] | None = None) -> np.ndarray:
    """Return the rows of a global batch that some devices read, by default those of this process, ascending, int64."""
    pieces = by_example(mesh).devices_indices_map((batch,))
    local = jax.local_devices() if devices is None else devices
    return np.unique(np.concatenate([np.arange(batch)[pieces[device]] for device in local if device in pieces]))


def check_batch(batch: int, mesh: AnyMesh, name: str) -> None:
    """Raise ValueError where a batch does not divide evenly over the devices, naming the nearest batches that do, and
    the largest smaller mesh."""
    count = rows_of(mesh)
    if batch % count:
        below, above = batch // count * count, (batch // count + 1) * count
        near = f"{below} or {above}" if below else f"{above}"
        fewer = next(size for size in range(count - 1, 0, -1) if batch % size == 0)
        other = f", or a mesh of data={fewer}" if is_plain(mesh) else ""
        raise ValueError(f"{name} is {batch}, which {count} devices cannot share evenly; use {near}{other}")
