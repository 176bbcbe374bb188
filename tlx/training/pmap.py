"""Plain data parallelism by `jax.pmap`: one program a device, each with its own share of the batch.

The only file that knows of `pmap`. `jit` on a mesh sees one global batch: there the axis is None, the first row of a
batch has place 0, and a mean over the batch is a mean over all devices. Under `pmap` a program sees the rows of its
device alone, so three things depend on the mapped axis: the place of its first row in the global batch, the mean of
gradients and metrics over the devices, and everything that compares examples across devices. Layers and terms read the
axis (`Context.axis`, `View.axis`) for the last: batch statistics, and terms that gather the rows of all devices.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tlx import sharding
from tlx.training.state import TrainState
from tlx.types import Array, ArrayMap

AXIS = sharding.DATA


def rows_before(rows: int, axis: str | None) -> Array | int:
    """Return the position in the global batch of the first of this program's `rows`."""
    return 0 if axis is None else jax.lax.axis_index(axis) * rows


def mean(tree: Any, axis: str | None) -> Any:
    """Return the mean over the devices of values of their shares of the batch."""
    return tree if axis is None else jax.lax.pmean(tree, axis)


class PmapCompiler:
    """Map functions over the devices of a mesh by `pmap`: states have a leading axis of devices, batches are cut along
    their first axis."""

    def __init__(self, mesh: Mesh):
        self.mesh, self.devices = mesh, list(mesh.devices.flat)
        # Compiled, because one program replaces an operation for each leaf.
        self.spread = jax.jit(self._spread, out_shardings=sharding.by_example(mesh))
        self.first = jax.jit(partial(jax.tree.map, lambda leaf: leaf[0]))

    def _spread(self, tree: Any) -> Any:
        count = len(self.devices)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), tree)

    def compile(self, function: Callable[..., Any], **options: Any) -> Any:
        """Compile the function for every device."""
        return jax.pmap(function, AXIS, devices=self.devices, **options)

    def train(self, step: Callable[..., Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Compile a training step; its metrics are equal on all devices."""
        mapped = self.compile(step, donate_argnums=0)

        def train(state: TrainState, batch: ArrayMap) -> tuple[Any, Any]:
            state, metrics = mapped(state, batch)
            return state, self.first(metrics)

        return train

    def evaluate(self, step: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        """Compile an evaluation step; its outputs are joined again."""
        mapped = self.compile(step)
        return lambda state, batch: jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), mapped(state, batch))

    def place(self, state: TrainState, copy: bool = True) -> Any:
        """Return a copy of a state on every device, in every case."""
        return self.spread(jax.device_put(state, sharding.replicated(self.mesh)))

    def fetch(self, state: TrainState) -> Any:
        """Return the one state of all devices."""
        return self.first(state)

    def put(self, batch: ArrayMap) -> Any:
        """Cut a batch [B, ...] for the devices."""
        count = len(self.devices)
        return jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), batch)
