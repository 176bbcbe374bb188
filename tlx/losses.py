"""Arrays in, a number an example out. Shapes: B batch, C classes, K outputs. All in float32."""

import jax
import jax.numpy as jnp

from tlx.types import Array


def cross_entropy(logits: Array, labels: Array, smoothing: float | Array = 0.0) -> Array:
    """-sum_c q_c log p_c with q = (1 - smoothing) one-hot + smoothing / C: [B, C], [B] -> [B].

    Label smoothing after Szegedy et al. (2016), the convention of torch.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
    picked = jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
    return -(1.0 - smoothing) * picked - smoothing * log_p.mean(-1)


def squared_error(predictions: Array, targets: Array) -> Array:
    """Mean over outputs of the squared difference: [B, K], [B] or [B, K] -> [B]."""
    difference = predictions.astype(jnp.float32) - targets.reshape(predictions.shape)
    return (difference * difference).mean(-1)


def weighted_mean(values: Array, weight: Array | None = None) -> Array:
    """Mean over the examples, by `weight` [B] where given; 0 where all weights are."""
    if weight is None:
        return values.mean()
    return (values * weight).sum() / jnp.maximum(weight.sum(), 1e-12)
