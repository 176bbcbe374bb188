"""Declarations of the layers' sub-dicts of parameters, and how each begins."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tlx.trees import Tree
from tlx.types import Array, Key, Param

Init = Callable[[Key, tuple[int, ...]], Array]


def zeros(key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.zeros(shape, jnp.float32)


def ones(key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.ones(shape, jnp.float32)


def constant(value: float) -> Init:
    return lambda key, shape: jnp.full(shape, value, jnp.float32)


def normal(deviation: float = 0.02) -> Init:
    """Truncated at two deviations, as BERT and ViT initialise."""
    return lambda key, shape: deviation * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


def he(key: Key, shape: tuple[int, ...]) -> Array:
    """He et al. (2015), fan in: every axis but the last."""
    return jax.nn.initializers.he_normal()(key, shape, jnp.float32)


def declare_dense(
    inputs: int, outputs: int, axes: tuple[str | None, str | None], init: Init = normal(), bias: bool = True
) -> Tree:
    params: Tree = {"kernel": Param((inputs, outputs), axes, init)}
    if bias:
        params["bias"] = Param((outputs,), (axes[1],), zeros)
    return params


def declare_norm(width: int) -> Tree:
    return {"scale": Param((width,), ("width",), ones), "bias": Param((width,), ("width",), zeros)}


def declare_conv(size: int, inputs: int, outputs: int, init: Init = he, bias: bool = True) -> Tree:
    params: Tree = {"kernel": Param((size, size, inputs, outputs), (None, None, "width", "mlp"), init)}
    if bias:
        params["bias"] = Param((outputs,), ("mlp",), zeros)
    return params


def declare_statistics(width: int) -> Tree:
    return {"mean": Param((width,), ("width",), zeros), "variance": Param((width,), ("width",), ones)}


def declare_attention(width: int, heads: int, init: Init = normal(), bias: bool = True) -> Tree:
    into, out = ("width", "heads"), ("heads", "width")
    return {name: declare_dense(width, width, into, init, bias) for name in ("query", "key", "value")} | {
        "output": declare_dense(width, width, out, init)
    }


def declare_embedding(rows: int, width: int, axis: str | None = "vocabulary", init: Init = normal()) -> Tree:
    return {"embedding": Param((rows, width), (axis, "width"), init)}
