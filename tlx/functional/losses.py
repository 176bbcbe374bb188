"""Arrays in, a number an example out (a number for a matrix or a tree). All in float32.

Shapes: B batch, C classes, K outputs, W width, T tokens, H heads.
"""

from collections.abc import Mapping

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


def soft_cross_entropy(logits: Array, targets: Array) -> Array:
    """-sum_c q_c log p_c with the probabilities q = `targets`: [B, C], [B, C] -> [B]."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32), -1)).sum(-1)


def log_odds(logits: Array, labels: Array) -> Array:
    """log p_y / (1 - p_y) = z_y - log sum_{c != y} exp(z_c): [B, C], [B] -> [B].

    Of these odds m, log p_y is -softplus(-m) and log(1 - p_y) is -softplus(m), exact and of bounded gradient where p_y
    rounds to 0 or 1.
    """
    z, own = logits.astype(jnp.float32), jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.where(own, z, 0.0).sum(-1) - jax.nn.logsumexp(jnp.where(own, -jnp.inf, z), -1)


def entropy(logits: Array) -> Array:
    """-sum_c p_c log p_c: [..., C] -> [...]."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def divergence(logits: Array, other: Array) -> Array:
    """KL(p || q) = sum_c p_c (log p_c - log q_c), p from `logits` and q from `other`: [..., C], [..., C] -> [...]."""
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32), -1) for x in (logits, other))
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def disagreement(logits: Array, other: Array) -> Array:
    """Mean over the classes of |p_c - q_c|, p from `logits` and q from `other`: [..., C], [..., C] -> [...] (the
    discrepancy of Saito et al., 2018)."""
    p, q = (jax.nn.softmax(x.astype(jnp.float32), -1) for x in (logits, other))
    return jnp.abs(p - q).mean(-1)


def distillation(logits: Array, teacher: Array, temperature: float | Array) -> Array:
    """T^2 KL(softmax(teacher / T) || softmax(logits / T)): [B, C], [B, C] -> [B] (Hinton et al., 2015).

    The factor T^2 keeps the gradient's size as T grows (section 2 there).
    """
    teacher, logits = (x.astype(jnp.float32) / temperature for x in (teacher, logits))
    return temperature**2 * divergence(teacher, logits)


def attention_divergence(scores: Array, teacher: Array, mask: Array | None = None) -> Array:
    """KL(teacher's attention || ours), the mean over heads and tokens where `mask` [B, T] is 1: [B, H, T, T] twice,
    scores before the softmax -> [B] (Wang et al., 2020: MiniLM, equation 2)."""
    return token_mean(divergence(teacher, scores).mean(1), mask)


def squared_error(predictions: Array, targets: Array) -> Array:
    """Mean over outputs of the squared difference: [B, K], [B] or [B, K] -> [B]."""
    difference = predictions.astype(jnp.float32) - targets.reshape(predictions.shape)
    return (difference * difference).mean(-1)


def feature_distance(tap: Array, other: Array, units: Array | None = None, mask: Array | None = None) -> Array:
    """sum_c units_c mean over places of (tap - other)_c^2: [B, ..., W] twice, [W] -> [B].

    Places are tokens (those where `mask` [B, T] is 1) or pixels; without `units` each counts 1.
    """
    difference = tap.astype(jnp.float32) - other.astype(jnp.float32)
    squares = difference * difference
    rows = (squares if units is None else squares * units).sum(-1)
    return token_mean(rows.reshape(len(rows), -1), mask)


def token_mean(values: Array, mask: Array | None = None) -> Array:
    """The mean over tokens where `mask` [B, T] is 1 (over all where the shapes differ): [B, T] -> [B]."""
    if mask is None or mask.shape != values.shape:
        return values.mean(-1)
    weight = mask.astype(jnp.float32)
    return (values * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1.0)


def squared_distance(leaves: Mapping[str, Array], anchors: Mapping[str, Array]) -> Array:
    """sum over the leaves of |leaf - anchor|^2: a scalar."""
    total = jnp.zeros(())
    for path, leaf in leaves.items():
        difference = leaf.astype(jnp.float32) - anchors[path]
        total += (difference * difference).sum()
    return total


def smallest_squares(matrix: Array, k: int) -> Array:
    """The sum of the `k` smallest squared singular values of `matrix` [B, W], of which there are min(B, W). Raises
    ValueError where there are fewer than `k`."""
    return singular_squares(matrix, k, slice(None, k))


def largest_squares(matrix: Array, k: int) -> Array:
    """The sum of the `k` largest squared singular values of `matrix` [B, W], of which there are min(B, W). Raises
    ValueError where there are fewer than `k`."""
    return singular_squares(matrix, k, slice(-k, None))


def singular_squares(matrix: Array, k: int, which: slice) -> Array:
    """The sum of `k` squared singular values of `matrix` [B, W]: those at `which`, in rising order.

    With the singular vectors v_i held fixed, the sum of |matrix v_i|^2 has this value and this gradient (a singular
    value is stationary in its vectors): finite where singular values are equal or 0, as that of an SVD is not. Raises
    ValueError where there are fewer than `k`.
    """
    wide = matrix.astype(jnp.float32)
    if k > min(wide.shape):
        raise ValueError(f"a matrix of {wide.shape[0]}x{wide.shape[1]} has no {k} singular values; lower k")
    tall = wide if wide.shape[0] >= wide.shape[1] else wide.T
    _, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(tall.T @ tall))
    kept = tall @ jax.lax.stop_gradient(vectors[:, which])
    return (kept * kept).sum()


def weighted_mean(values: Array, weight: Array | None = None) -> Array:
    """Mean over the examples, by `weight` [B] where given; 0 where all weights are."""
    if weight is None:
        return values.mean()
    total = weight.sum()
    return (values * weight).sum() / jnp.where(total > 0, total, 1.0)
