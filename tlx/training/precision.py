"""The types in which a step holds its parameters: bfloat16 beside float32 masters, and a frozen base in int8.

Only matrices, convolutions and embeddings (two dimensions or more) are held in fewer bits; norms and biases stay
float32. The layers see float32 numbers with the values of the smaller type: each stage converts its parameters where it
uses them, and the backward pass converts them again instead of keeping them.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.files.class_names import is_own
from tlx.layers import Quantised, dequantised
from tlx.sharding import is_elsewhere
from tlx.trees import Tree, flatten, map_named
from tlx.tuning import Tuning
from tlx.types import Array, Model

LARGEST = 127
# The bits of a float32 that a scale lacks: 127 times a scale, and with it every product, is exact.
DROPPED = 7


class Precision(NamedTuple):
    """The types of the parameters of a step: `parameters` and `frozen` are the settings of `recipe.Train`, and `fixed`
    are the paths of the model's parameters that no phase trains. Of the embeddings `looked_up` only rows are converted,
    those that `layers.embed` reads."""

    parameters: str = "float32"
    frozen: str | None = None
    fixed: frozenset[str] = frozenset()
    looked_up: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Return whether all parameters are float32."""
        return self.parameters == "float32" and self.frozen is None

    def stored(self, frozen: Tree) -> Tree:
        """Return the frozen parameters of a phase as a state holds them.

        A parameter that another phase trains stays float32.
        """
        if self.is_plain:
            return frozen

        def store(path: str, leaf: Any) -> Any:
            if path not in self.fixed or isinstance(leaf, Quantised) or not is_large(leaf):
                return leaf
            if self.frozen is not None:
                return quantised(path, leaf)
            return leaf.astype(jnp.bfloat16)

        return map_named(store, frozen)

    def held_bytes(self, path: str, leaf: Any) -> int:
        """Return the bytes of a parameter in a state, without the scales of its channels."""
        if path in self.fixed and is_large(leaf):
            width = 1 if self.frozen is not None else 2 if self.parameters == "bfloat16" else 4
            return width * math.prod(leaf.shape)
        return leaf.dtype.itemsize * math.prod(leaf.shape)

    def seen(self, leaf: Any, whole: Callable[[Any], Any] = lambda array: array) -> Any:
        """Return a parameter as the layers see it, in float32.

        Args:
            leaf: The parameter as the state holds it.
            whole: Gathers an array that a mesh has cut.
        """
        if isinstance(leaf, Quantised):
            return dequantised(Quantised(whole(leaf.values), whole(leaf.scale)))
        if leaf.dtype == jnp.bfloat16:
            return whole(leaf).astype(jnp.float32)
        if self.parameters == "bfloat16" and is_large(leaf):
            return rounded(leaf, whole)
        return whole(leaf)

    def all_seen(self, params: Tree) -> Tree:
        """Return a tree of parameters as the layers see them."""
        return params if self.is_plain else map_named(lambda _, leaf: self.seen(leaf), params)

    def gather(self, stage: str, params: Tree) -> Tree:
        """Return the parameters of a stage as its layers see them (see `models.forward`)."""
        return self.gathered(stage, params, lambda path, leaf: leaf)

    def gathered(self, stage: str, params: Tree, whole: Callable[[str, Any], Any]) -> Tree:
        """Return the parameters of a stage as its layers see them; `whole(path, leaf)` gathers a leaf that a mesh has
        cut."""

        def seen(path: str, leaf: Any) -> Any:
            if f"{stage}/{path}" in self.looked_up & self.fixed:
                return jax.tree.map(lambda array: whole(path, array), leaf)
            return self.seen(leaf, lambda array: whole(path, array))

        return map_named(seen, params)


def is_large(leaf: Any) -> bool:
    """Return whether a parameter is held in fewer bits: a float32 array of two dimensions or more."""
    return len(leaf.shape) > 1 and leaf.dtype == jnp.float32


def quantised(path: str, leaf: Any) -> Quantised:
    """Return a parameter as whole numbers of 8 bits, symmetric, with a scale for each channel.

    A channel is an output (the last axis), and a row of an embedding. scale = max |w| / 127, rounded to 17 bits, so
    that scale x 127 is exact and the parameter that these numbers mean is quantised to the same numbers again.

    >>> numbers = quantised("kernel", np.float32([[1.0, -3.0], [0.5, 2.0]]))
    >>> numbers.values.tolist()
    [[127, -127], [64, 85]]
    """
    xp: Any = jnp if isinstance(leaf, jax.Array) else np
    channel = 0 if path.endswith("embedding") else leaf.ndim - 1
    others = tuple(axis for axis in range(leaf.ndim) if axis != channel)
    scale = xp.abs(leaf).max(others, keepdims=True) / np.float32(LARGEST)
    bits = (jax.lax.bitcast_convert_type(scale, jnp.int32) if xp is jnp else scale.view(np.int32)) + np.int32(
        1 << DROPPED - 1
    )
    bits &= np.int32(-1 << DROPPED)
    scale = jax.lax.bitcast_convert_type(bits, jnp.float32) if xp is jnp else bits.view(np.float32)
    # A channel of zeros.
    scale = xp.where(scale == 0, np.float32(1), scale)
    return Quantised(xp.clip(xp.round(leaf / scale), -LARGEST, LARGEST).astype(np.int8), scale)


def rounded(leaf: Array, whole: Callable[[Any], Any] = lambda array: array) -> Array:
    """Return a float32 array with its numbers rounded to bfloat16; the gradient passes unchanged to the float32
    numbers. `whole` gathers it in bfloat16."""

    @jax.custom_vjp
    def convert(leaf: Array) -> Array:
        # A compiler may leave out a conversion to fewer bits and back; this one it keeps.
        half = jax.lax.reduce_precision(leaf, 8, 7).astype(jnp.bfloat16)
        return whole(half).astype(jnp.float32)

    # On a mesh the gradient is cut again, as that of `whole` is.
    convert.defvjp(lambda leaf: (convert(leaf), None), lambda _, slope: jax.vjp(whole, slope)[1](slope))
    return convert(leaf)


def looked_up(model: Model) -> frozenset[str]:
    """Return the paths of the large embeddings that the layers of tlx read row by row."""
    paths = flatten(model.params) if is_own(type(model.config)) else ()
    return frozenset(path for path in paths if path.endswith("/words/embedding"))


def fixed_kernels(model: Model, trainable: Any) -> frozenset[str]:
    """Return the paths of the model's large parameters that no phase trains."""
    return frozenset(
        path for path, param in flatten(model.params).items() if path not in trainable and len(param.shape) > 1
    )


def check(frozen: str | None, tuning: Tuning, model: Model, trainable: Any) -> None:
    """Raise ValueError where a frozen base in int8 is asked for and the tuning freezes none."""
    if frozen is not None and not fixed_kernels(model, trainable):
        raise ValueError(
            f"train.frozen_dtype is {frozen!r}, but {type(tuning).__name__} trains every matrix of the model in some "
            "phase; choose a tuning that keeps the base frozen, such as Lora(), or remove train.frozen_dtype"
        )


def on_grid(params: Tree, paths: frozenset[str]) -> Tree:
    """Return the parameters with those at the `paths` rounded to what their numbers of 8 bits mean, in float32."""
    return map_named(lambda path, leaf: dequantised(quantised(path, leaf)) if path in paths else leaf, params)


def with_base(frozen: Tree, params: Mapping[str, Any]) -> Tree:
    """Return the frozen parameters of a state in float32: those in fewer bits are replaced by the initial `params`."""
    leaves = flatten(params)
    return map_named(
        lambda path, leaf: leaves[path] if isinstance(leaf, Quantised) or leaf.dtype == jnp.bfloat16 else leaf, frozen
    )


def unrounded(params: Tree, initial: Tree, precision: Precision) -> Tree:
    """Return the parameters with the `initial` values of those that were held in 8 bits, where this process has
    them."""
    if precision.frozen is None:
        return params
    leaves = flatten(initial)
    return map_named(
        lambda path, leaf: leaves[path] if path in precision.fixed and not is_elsewhere(leaves[path]) else leaf, params
    )


def in_fewer_bits(precision: Precision) -> list[str]:
    """Return the notes of a run on parameters that are not held in float32."""
    notes = []
    if precision.parameters != "float32":
        notes.append(
            f"matrices and embeddings were rounded to {precision.parameters} in every forward pass "
            "(train.parameter_dtype); the saved model has the float32 numbers"
        )
    if precision.frozen is not None:
        notes.append(
            f"{len(precision.fixed)} frozen matrices and embeddings were held in {precision.frozen} "
            "(train.frozen_dtype); the saved model has their rounded values in float32"
        )
    return notes
