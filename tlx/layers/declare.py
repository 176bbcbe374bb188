"""Declarations of the layers' sub-dicts of parameters, with their initialisers."""

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp

from tlx.trees import Tree
from tlx.types import Array, Key, Param

Init = Callable[[Key, tuple[int, ...]], Array]


def zeros(key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.zeros(shape, jnp.float32)


def ones(key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.ones(shape, jnp.float32)


# One function for each number, so that equal declarations are equal and one program draws them.
@cache
def constant(value: float) -> Init:
    return lambda key, shape: jnp.full(shape, value, jnp.float32)


@cache
def normal(deviation: float = 0.02) -> Init:
    """Return a normal initialiser truncated at two deviations, as BERT and ViT use."""
    return lambda key, shape: deviation * jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)


@cache
def uniform(bound: float) -> Init:
    """Return a uniform initialiser from -bound to bound."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def he(key: Key, shape: tuple[int, ...]) -> Array:
    """Initialise as He et al. (2015), with all axes except the last as fan in."""
    return jax.nn.initializers.he_normal()(key, shape, jnp.float32)


def he_out(key: Key, shape: tuple[int, ...]) -> Array:
    """Initialise a convolution as He et al. (2015), normal, with its outputs at all places as fan out."""
    return jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")(key, shape, jnp.float32)


def declare_dense(
    inputs: int, outputs: int, axes: tuple[str | None, str | None], init: Init = normal(), bias: bool = True
) -> Tree:
    params: Tree = {"kernel": Param((inputs, outputs), axes, init)}
    if bias:
        params["bias"] = Param((outputs,), (axes[1],), zeros)
    return params


def declare_norm(width: int, bias: bool = True) -> Tree:
    """Declare the parameters of layer, batch and group norm; without a `bias`, those of RMS norm and of ModernBERT."""
    params: Tree = {"scale": Param((width,), ("width",), ones)}
    return params | ({"bias": Param((width,), ("width",), zeros)} if bias else {})


def declare_conv(
    size: int | tuple[int, ...], inputs: int, outputs: int, init: Init = he, bias: bool = True, groups: int = 1
) -> Tree:
    """Declare the parameters of a convolution; `size` is the side of a square kernel, or the size along each axis.

    The inputs of a kernel with groups have no axis name: they are those of one group.
    """
    sizes = (size, size) if isinstance(size, int) else size
    axes = (*[None] * len(sizes), "width" if groups == 1 else None, "mlp")
    params: Tree = {"kernel": Param((*sizes, inputs // groups, outputs), axes, init)}
    if bias:
        params["bias"] = Param((outputs,), ("mlp",), zeros)
    return params


def declare_statistics(width: int) -> Tree:
    return {"mean": Param((width,), ("width",), zeros), "variance": Param((width,), ("width",), ones)}


def declare_attention(
    width: int,
    heads: int,
    init: Init = normal(),
    bias: bool = True,
    *,
    key_heads: int | None = None,
    size: int | None = None,
    output_bias: bool = True,
    memory: int | None = None,
) -> Tree:
    """Declare the parameters of `attention`.

    Args:
        width: The width of the hidden states.
        heads: The number of heads.
        init: The initialiser of the kernels.
        bias: Whether the query, key and value layers have a bias.
        key_heads: The number of heads of the keys and values; None for `heads`.
        size: The size of a head; None for width / heads.
        output_bias: Whether the output layer has a bias.
        memory: The width of the memory that is attended to; None for `width`.
    """
    size = width // heads if size is None else size
    inner, keys, source = heads * size, (key_heads or heads) * size, memory or width
    into, out = ("width", "heads"), ("heads", "width")
    return {
        "query": declare_dense(width, inner, into, init, bias),
        "key": declare_dense(source, keys, into, init, bias),
        "value": declare_dense(source, keys, into, init, bias),
        "output": declare_dense(inner, width, out, init, output_bias),
    }


def declare_embedding(rows: int, width: int, axis: str | None = "vocabulary", init: Init = normal()) -> Tree:
    return {"embedding": Param((rows, width), (axis, "width"), init)}
