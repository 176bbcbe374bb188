"""Layers: functions on sub-dicts of parameters, and the declarations of those sub-dicts.

Shapes: B batch, T tokens, W width, H heads, D head size, I height, J width of an image, C channels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tlx.trees import Tree
from tlx.types import Array, Carry, Context, Key, Param

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


def lecun(key: Key, shape: tuple[int, ...]) -> Array:
    return jax.nn.initializers.lecun_normal()(key, shape, jnp.float32)


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


def dense(params: Tree, x: Array) -> Array:
    """`x @ kernel + bias`: [..., inputs] -> [..., outputs], in the type of `x`."""
    y = x @ params["kernel"].astype(x.dtype)
    return y + params["bias"].astype(x.dtype) if "bias" in params else y


def conv(params: Tree, x: Array, *, stride: int = 1, padding: str = "SAME") -> Array:
    """[B, I, J, C] -> [B, I', J', C'] with a kernel [height, width, C, C']."""
    y = lax.conv_general_dilated(
        x, params["kernel"].astype(x.dtype), (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + params["bias"].astype(x.dtype) if "bias" in params else y


def layer_norm(params: Tree, x: Array, epsilon: float) -> Array:
    """Over the last axis, the moments in float32 (Ba et al., 2016)."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    centred = wide - mean
    variance = (centred * centred).mean(-1, keepdims=True)
    return (centred * (lax.rsqrt(variance + epsilon) * params["scale"]) + params["bias"]).astype(x.dtype)


def batch_norm(
    params: Tree, stats: Tree, x: Array, context: Context, *, epsilon: float = 1e-5, momentum: float = 0.9
) -> tuple[Array, Tree]:
    """Over all axes but the last (Ioffe and Szegedy, 2015): batch moments in training, running ones otherwise.

    The moments are those of the global batch, over every device; the running variance is the biased one.
    """
    wide = x.astype(jnp.float32)
    if context.train:
        axes = tuple(range(x.ndim - 1))
        mean, square = wide.mean(axes), (wide * wide).mean(axes)
        if context.axis is not None:
            mean, square = lax.pmean((mean, square), context.axis)
        variance = jnp.maximum(square - mean * mean, 0.0)
        moved = {"mean": mean, "variance": variance}
        stats = {name: momentum * stats[name] + (1 - momentum) * lax.stop_gradient(moved[name]) for name in stats}
    else:
        mean, variance = stats["mean"], stats["variance"]
    scale = lax.rsqrt(variance + epsilon) * params["scale"]
    return ((wide - mean) * scale + params["bias"]).astype(x.dtype), stats


def max_pool(x: Array, size: int = 2) -> Array:
    """Non-overlapping maximum over [B, I, J, C]."""
    window = (1, size, size, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


@jax.custom_jvp
def gelu_exact(x: Array) -> Array:
    """x Phi(x) with the error function (Hendrycks and Gimpel, 2016), not its tanh approximation."""
    return x * (0.5 * (1.0 + lax.erf(x * 0.7071067811865476)))


@gelu_exact.defjvp
def _gelu_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The slope Phi(x) + x phi(x) as one function of x: by itself autodiff keeps three arrays of x's size for it."""
    (x,), (tangent,) = primals, tangents
    density = 0.3989422804014327 * jnp.exp(-0.5 * x * x)
    return gelu_exact(x), tangent * (0.5 * (1.0 + lax.erf(x * 0.7071067811865476)) + x * density)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu_exact,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "linear": lambda x: x,
}


def example_keys(context: Context, batch: int, salt: int) -> Array:
    """One key an example, from its place in the global batch: noise does not depend on how devices share the batch."""
    if context.key is None:
        raise ValueError("noise needs a key: forward(..., key=jax.random.key(seed))")
    key = jax.random.fold_in(context.key, salt)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, context.offset + jnp.arange(batch))


def mix(x: Array) -> Array:
    """The 32-bit finaliser of MurmurHash3 (Appleby): a bijection in which each bit of `x` flips half of the bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def keep_mask(context: Context, shape: Sequence[int], rate: float, salt: int) -> Array:
    """Booleans of `shape` [B, ...], True with probability 1 - rate to within 2**-32.

    Each example's key comes from JAX's generator; within the example the bits are a hash of place and key. That is
    random enough for dropout, and pure arithmetic that fuses into the product it masks (docs/performance.md).
    """
    batch, *rest = shape
    words = jax.random.key_data(example_keys(context, batch, salt)).astype(jnp.uint32)
    first, second = (words[:, n].reshape(batch, *(1 for _ in rest)) for n in (0, -1))
    place = lax.iota(jnp.uint32, math.prod(rest)).reshape(1, *rest)
    return mix(mix(place * jnp.uint32(0x9E3779B9) + first) ^ second) >= jnp.uint32(round(rate * 2**32))


def dropout(x: Array, rate: float, context: Context, salt: int) -> Array:
    """Inverted dropout over [B, ...]; `salt` tells the dropouts of one stage apart. Off outside training."""
    if not context.train or rate == 0.0 or context.key is None:
        return x
    return jnp.where(keep_mask(context, x.shape, rate, salt), x / (1.0 - rate), 0).astype(x.dtype)


def stochastic_depth(x: Array, rate: float, context: Context, salt: int) -> Array:
    """Drops a whole residual branch of an example (Huang et al., 2016), scaling the ones that stay."""
    if not context.train or rate == 0.0 or context.key is None:
        return x
    keep = keep_mask(context, (x.shape[0],) + (1,) * (x.ndim - 1), rate, salt)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def declare_attention(width: int, heads: int, init: Init = normal(), bias: bool = True) -> Tree:
    into, out = ("width", "heads"), ("heads", "width")
    return {name: declare_dense(width, width, into, init, bias) for name in ("query", "key", "value")} | {
        "output": declare_dense(width, width, out, init)
    }


def attention(
    params: Tree,
    x: Array,
    mask: Array | None,
    *,
    heads: int,
    rate: float,
    context: Context,
    salt: int,
) -> Array:
    """Multi-head self-attention (Vaswani et al., 2017): [B, T, W] -> [B, T, W].

    `mask` [B, T] is 1 where a token may be attended to, None for all. Scores and softmax are float32.
    """
    batch, tokens, width = x.shape

    def split(y: Array) -> Array:
        return y.reshape(batch, tokens, heads, width // heads).transpose(0, 2, 1, 3)

    query, key, value = (split(dense(params[name], x)) for name in ("query", "key", "value"))
    # Scaling the query and adding the mask touch less than scaling and selecting scores, forward and backward.
    query = query * (width // heads) ** -0.5
    scores = jnp.einsum("BHTD,BHSD->BHTS", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = scores + jnp.where(mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min)
    probabilities = dropout(jax.nn.softmax(scores, -1), rate, context, salt).astype(x.dtype)
    mixed = jnp.einsum("BHTS,BHSD->BHTD", probabilities, value)
    return dense(params["output"], mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, width))


def embed(params: Tree, ids: Array) -> Array:
    """Rows of `params["embedding"]`: [B, T] integers -> [B, T, W]."""
    return params["embedding"][ids]


def declare_embedding(rows: int, width: int, axis: str | None = "vocabulary", init: Init = normal()) -> Tree:
    return {"embedding": Param((rows, width), (axis, "width"), init)}


def as_dtype(x: Any, context: Context) -> Array:
    """Activations in the dtype of the context."""
    return jnp.asarray(x, context.dtype)


def example(carry: Carry, name: str, shape: tuple[int, ...]) -> Array:
    """The input `name` [B, *shape]; ValueError where it is missing or of another shape."""
    if name not in carry:
        raise ValueError(f"the model reads {name!r}, the inputs hold {sorted(carry)}")
    array = jnp.asarray(carry[name])
    if array.shape[1:] != shape:
        raise ValueError(f"the model reads {name!r} of shape [batch, {', '.join(map(str, shape))}], not {array.shape}")
    return array
