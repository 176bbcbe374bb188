"""Layers without adapters: norms, activations, embeddings.

Shapes: B batch, T tokens, W width, C channels, G groups of channels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from tlx.layers.quantised import Quantised, dequantised
from tlx.trees import Tree
from tlx.types import Array, Carry, Context

# The name that marks the statistics of a batch norm that computes as in evaluation; its value is None.
FIXED = "fixed"


def as_wide(x: Array) -> Array:
    """Return activations in float32, in which moments are computed; float64 stays, for comparisons."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def layer_norm(params: Tree, x: Array, epsilon: float) -> Array:
    """Normalise over the last axis, with the moments in float32 (Ba et al., 2016): [..., W] -> [..., W]. The bias is
    optional."""
    wide = as_wide(x)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    variance = (centred * centred).mean(-1, keepdims=True)
    scaled = centred * (lax.rsqrt(variance + epsilon) * params["scale"])
    return (scaled + params["bias"] if "bias" in params else scaled).astype(x.dtype)


def rms_norm(params: Tree, x: Array, epsilon: float) -> Array:
    """Compute x / rms(x) * scale over the last axis, with the moment in float32 (Zhang and Sennrich, 2019)."""
    wide = as_wide(x)
    moment = (wide * wide).mean(-1, keepdims=True)
    return (wide * (lax.rsqrt(moment + epsilon) * params["scale"])).astype(x.dtype)


def group_norm(params: Tree, x: Array, groups: int, epsilon: float = 1e-5) -> Array:
    """Normalise [B, ..., C] over its inner axes and the channels of each group, in float32 (Wu and He, 2018)."""
    wide = as_wide(x).reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    axes = (*range(1, x.ndim - 1), x.ndim)
    centred = wide - wide.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    normed = (centred * lax.rsqrt(variance + epsilon)).reshape(x.shape)
    return (normed * params["scale"] + params["bias"]).astype(x.dtype)


def batch_norm(
    params: Tree,
    stats: Tree,
    x: Array,
    context: Context,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    unbiased: bool = False,
) -> tuple[Array, Tree]:
    """Normalise [B, ..., C] over all axes except the last (Ioffe and Szegedy, 2015).

    Training uses the moments of the global batch, over every device. Evaluation uses the running moments, and so does a
    norm with the mark `FIXED` among its statistics.

    Args:
        params: `scale` and `bias` [C].
        stats: The running `mean` and `variance` [C].
        x: The input.
        context: Whether this is training, and the device axis.
        epsilon: The number added to the variance.
        momentum: The share of the old statistics in the new ones.
        unbiased: Whether the running variance is that of a sample, with n - 1 of n numbers, as in torch; otherwise it
            is the biased one, as in flax.

    Returns:
        The normalised input, and the statistics after this batch.
    """
    wide = as_wide(x)
    is_fixed = FIXED in stats
    stats = {name: leaf for name, leaf in stats.items() if name != FIXED}
    if context.train and not is_fixed:
        axes = tuple(range(x.ndim - 1))
        mean, square = wide.mean(axes), (wide * wide).mean(axes)
        if context.axis is not None:
            mean, square = lax.pmean((mean, square), context.axis)
        variance = jnp.maximum(square - mean * mean, 0.0)
        count = wide[..., 0].size * (1 if context.axis is None else lax.psum(1, context.axis))
        kept = variance * (count / (count - 1)) if unbiased and count > 1 else variance
        moments = {"mean": mean, "variance": kept}
        stats = {name: momentum * stats[name] + (1 - momentum) * lax.stop_gradient(moments[name]) for name in stats}
    else:
        mean, variance = stats["mean"], stats["variance"]
    scale = lax.rsqrt(variance + epsilon) * params["scale"]
    return ((wide - mean) * scale + params["bias"]).astype(x.dtype), stats


@jax.custom_jvp
def gelu_exact(x: Array) -> Array:
    """Compute x Phi(x) with the error function (Hendrycks and Gimpel, 2016), not its tanh approximation."""
    return x * (0.5 * (1.0 + lax.erf(x * 0.7071067811865476)))


@gelu_exact.defjvp
def _gelu_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Compute the slope Phi(x) + x phi(x) as one function of x: plain autodiff keeps three arrays of x's size."""
    (x,), (tangent,) = primals, tangents
    density = 0.3989422804014327 * jnp.exp(-0.5 * x * x)
    return gelu_exact(x), tangent * (0.5 * (1.0 + lax.erf(x * 0.7071067811865476)) + x * density)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu_exact,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "hardswish": jax.nn.hard_silu,
    "sigmoid": jax.nn.sigmoid,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "tanh": jnp.tanh,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "linear": lambda x: x,
}


def embed(params: Tree, ids: Array) -> Array:
    """Look up rows of `params["embedding"]`: [B, T] integers -> [B, T, W]; NaN for an index without a row. Rows of
    fewer bits are converted to float32."""
    table = params["embedding"]
    if isinstance(table, Quantised):
        # The scales alone have the NaN: a whole number cannot be one.
        return dequantised(Quantised(rows_of(table.values, ids, 0), rows_of(table.scale, ids, jnp.nan)))
    rows = rows_of(table, ids, jnp.nan)
    return rows.astype(jnp.float32) if rows.dtype == jnp.bfloat16 else rows


def unembed(params: Tree, x: Array) -> Array:
    """Return the product of every vector with every row of `params["embedding"]` [V, W]: [..., W] -> [..., V].

    It is the last layer of a language model whose output words share their embeddings with the input words (Press and
    Wolf, 2017).
    """
    table = params["embedding"]
    table = dequantised(table) if isinstance(table, Quantised) else jnp.asarray(table)
    return x @ table.astype(x.dtype).T


def rows_of(table: Array, ids: Array, missing: float) -> Array:
    """Return the rows of a table, with the number `missing` for an index without a row."""
    return jnp.asarray(table).at[ids].get(mode="fill", fill_value=missing, wrap_negative_indices=False)


def as_dtype(x: Array, context: Context) -> Array:
    """Return activations in the dtype of the context."""
    return jnp.asarray(x, context.dtype)


def example(carry: Carry, name: str, shape: tuple[int, ...]) -> Array:
    """Return the input `name` [B, *shape]. Raises ValueError if it is missing or has another shape."""
    if name not in carry:
        raise ValueError(f"the model reads {name!r}, but the inputs have {sorted(carry)}")
    array = jnp.asarray(carry[name])
    if array.shape[1:] != shape:
        raise ValueError(f"{name!r} has the shape {array.shape}; expected [batch, {', '.join(map(str, shape))}]")
    return array
