"""Dropout and stochastic depth. Each example has its own noise key. Shapes: B batch."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from tlx.types import Array, Context


def example_keys(context: Context, batch: int, salt: int) -> Array:
    """Return one key per example, from its place in the global batch, independent of how devices share the batch."""
    if context.key is None:
        raise ValueError("random noise (such as dropout) requires a key: forward(..., key=jax.random.key(seed))")
    key = jax.random.fold_in(context.key, salt)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, context.offset + jnp.arange(batch))


def mix(x: Array) -> Array:
    """Apply the 32-bit finaliser of MurmurHash3 (Appleby): a bijection; each bit of `x` flips half of the bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def keep_mask(context: Context, shape: Sequence[int], rate: float | Array, salt: int) -> Array:
    """Return booleans of `shape` [B, ...], True with probability 1 - rate.

    The probability is exact to within 2**-32 (2**-24 for a traced rate). The key of each example comes from JAX's
    generator; within the example the bits are a hash of place and key. That is random enough for dropout, and it is
    pure arithmetic that fuses into the product it masks (docs/results/performance.md).
    """
    batch, *inner_shape = shape
    words = jax.random.key_data(example_keys(context, batch, salt)).astype(jnp.uint32)
    first, second = (words[:, n].reshape(batch, *(1 for _ in inner_shape)) for n in (0, -1))
    place = lax.iota(jnp.uint32, math.prod(inner_shape)).reshape(1, *inner_shape)
    bound = (rate * 2.0**32).astype(jnp.uint32) if isinstance(rate, jax.Array) else jnp.uint32(round(rate * 2**32))
    return mix(mix(place * jnp.uint32(0x9E3779B9) + first) ^ second) >= bound


def dropout(x: Array, rate: float | Array, context: Context, salt: int) -> Array:
    """Apply inverted dropout over [B, ...] in training; each dropout of a stage has its own `salt`."""
    if not context.train or context.key is None or (not isinstance(rate, jax.Array) and rate == 0.0):
        return x
    return jnp.where(keep_mask(context, x.shape, rate, salt), x / (1.0 - rate), 0).astype(x.dtype)


def stochastic_depth(x: Array, rate: float, context: Context, salt: int) -> Array:
    """Drop the whole residual branch of an example (Huang et al., 2016), and scale the branches that stay."""
    if not context.train or rate == 0.0 or context.key is None:
        return x
    keep = keep_mask(context, (x.shape[0],) + (1,) * (x.ndim - 1), rate, salt)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)
