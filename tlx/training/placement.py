"""The places of a state's arrays on a mesh: which of them are cut, along which dimension, and how they get there."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tlx import sharding
from tlx.training.state import Parts, TrainState
from tlx.trees import Tree, flatten, map_named
from tlx.types import Variables
from tlx.weights.mapped import release

T = TypeVar("T")
# The fields of a state in which an array with the path of a parameter lies where that parameter lies: its moments, its
# averages, and the copies that terms keep of it.
LIKE_PARAMETERS = ("trainable", "frozen", "optimiser", "average", "memory")


# The fields of a state that `spread` variables make up; the others may be arrays of the run.
SPREAD = ("trainable", "frozen", "optimiser", "average")


class Placement:
    """The shardings of the arrays of one step's states on a mesh.

    `parts` is the static half of the step on this mesh. `leaf_axes` are, for the stacked states of several runs, 0 for
    each leaf that has a leading axis of runs and None for each that they share (see `vectorize.axes_of`).
    """

    def __init__(self, parts: Parts, mesh: Mesh, leaf_axes: Sequence[int | None] | None = None):
        self.mesh, self.declared, self.leaf_axes = mesh, parts.model.params, leaf_axes
        self.axes = {path: param.axes for path, param in flatten(parts.model.params).items()}
        self.whole, self.precision = sharding.replicated(mesh), parts.precision
        self.parts = parts._replace(gather=self.gather) if mesh.shape[sharding.FSDP] > 1 else parts

    def of_state(self, state: TrainState) -> Any:
        """Return the sharding of each array of a state, or of its shapes: a state of `NamedSharding`."""
        if sharding.is_plain(self.mesh):
            return jax.tree.map(lambda _: self.whole, state)
        leaves, tree = jax.tree_util.tree_flatten_with_path(state)
        leaf_axes = self.leaf_axes or [None] * len(leaves)
        shapes = [np.shape(leaf)[1 if axis == 0 else 0 :] for (_, leaf), axis in zip(leaves, leaf_axes, strict=True)]
        names = [name_of(path) for path, _ in leaves]
        params = {
            path: jax.ShapeDtypeStruct(shape, np.float32)
            for (field, path), shape in zip(names, shapes, strict=True)
            if field in ("trainable", "frozen")
        }
        specs = sharding.specs_of(self.mesh, self.declared, params)
        placed = []
        for (field, path), shape, axis in zip(names, shapes, leaf_axes, strict=True):
            spec = PartitionSpec()
            if field in LIKE_PARAMETERS and (parameter := ending(path, specs)) and params[parameter].shape == shape:
                spec = specs[parameter]
            # Runs that are trained together lie on all devices.
            placed.append(NamedSharding(self.mesh, PartitionSpec(None, *spec) if axis == 0 else spec))
        return jax.tree.unflatten(tree, placed)

    def keeping(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return a training step whose program leaves every array of the state where it belongs, and its metrics
        whole."""

        def kept(state: TrainState, *inputs: Any) -> Any:
            after, metrics = step(state, *inputs)
            return jax.lax.with_sharding_constraint((after, metrics), (self.of_state(after), self.whole))

        return kept

    def gather(self, stage: str, params: Tree) -> Tree:
        """Within a program: return the parameters of a stage, those that `fsdp` cuts whole. Their gradients are cut
        again.

        XLA would gather them, too, but where a parameter is small beside the activations it may send these instead.
        """

        def whole(path: str, leaf: Any) -> Any:
            declared = self.axes.get(f"{stage}/{path}", ())
            spec = sharding.spec_of(self.mesh, leaf.shape, declared)
            if sharding.FSDP not in spec:
                return leaf
            kept = PartitionSpec(*(None if axis == sharding.FSDP else axis for axis in spec))
            return gathered(NamedSharding(self.mesh, kept), NamedSharding(self.mesh, spec), leaf)

        return self.precision.gathered(stage, params, whole)

    def put(self, state: TrainState, copy: bool = True) -> TrainState:
        """Return a state on the devices: a copy, which a step can donate. Without `copy` the state itself is used up.

        Each process copies only what its devices hold.
        """
        if jax.process_count() == 1 and sharding.is_plain(self.mesh):
            whole = jax.tree.map(partial(jnp.array, copy=True), state) if copy else state
            return jax.device_put(whole, self.whole)
        used: set[int] = set()

        def place(path: Any, leaf: Any, where: NamedSharding) -> jax.Array:
            spread = not copy and path[0].name in SPREAD and isinstance(leaf, jax.Array) and leaf.sharding == where
            # An average starts as the same arrays as its parameters.
            if not spread or id(leaf) in used:
                return placed(leaf, where)
            used.add(id(leaf))
            return leaf

        return jax.tree_util.tree_map_with_path(place, state, self.of_state(state))

    def spread(self, variables: Variables) -> Variables:
        """Return a copy of the variables on the devices, made leaf by leaf: a host has one of them whole at a time, and
        none that lies in a file."""

        def place(path: str, leaf: Any) -> jax.Array:
            copy = sharding.place_parameter(self.mesh, leaf, self.axes.get(path, ()))
            release(leaf)
            return copy

        return Variables(
            map_named(place, variables.params), jax.tree.map(partial(placed, where=self.whole), variables.stats)
        )


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def gathered(whole: NamedSharding, cut: NamedSharding, leaf: Any) -> Any:
    """Return a parameter with the sharding `whole`; its gradient has the sharding `cut`."""
    return jax.lax.with_sharding_constraint(leaf, whole)


gathered.defvjp(
    lambda whole, cut, leaf: (jax.lax.with_sharding_constraint(leaf, whole), None),
    lambda whole, cut, _, slope: (jax.lax.with_sharding_constraint(slope, cut),),
)


def gathered_state(state: T) -> T:
    """Return a state, or another tree, with arrays that lie on several processes as NumPy arrays, in each of these."""

    def whole(leaf: Any) -> Any:
        if not sharding.is_elsewhere(leaf):
            return leaf
        from jax.experimental.multihost_utils import process_allgather

        return process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, state)


def name_of(path: Sequence[Any]) -> tuple[str, str]:
    """Return the field of a state in which a leaf lies, and the keys below it, joined with `/`. The numbers of a
    quantised parameter have its path."""
    field, *keys = path
    if field.name == "frozen" and keys and getattr(keys[-1], "name", "") == "values":
        del keys[-1]
    return field.name, "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in keys)


def ending(path: str, parameters: Collection[str]) -> str | None:
    """Return the longest ending of a path that is the path of a parameter.

    >>> ending("main/0/mu/head/kernel", {"head/kernel", "kernel"})
    'head/kernel'
    """
    keys = path.split("/")
    endings = ("/".join(keys[n:]) for n in range(len(keys)))
    return next((ending for ending in endings if ending in parameters), None)


def placed(leaf: Any, where: NamedSharding) -> jax.Array:
    """Return a copy of an array on the devices of a mesh."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        # Only the numbers of a key can be sent to the devices of other processes.
        data = placed(jax.random.key_data(leaf), where)
        return jax.jit(jax.random.wrap_key_data, out_shardings=where)(data)
    return sharding.place_array(leaf, where)
