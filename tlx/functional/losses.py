"""Losses: one number per example, or one number for a matrix or a tree. All in float32.

Shapes: B batch, C classes, K outputs, W width, T tokens, H heads.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from tlx.types import Array

# The label of a token that does not count.
IGNORED = -100


def cross_entropy(logits: Array, labels: Array, smoothing: float | Array = 0.0) -> Array:
    """Compute -sum_c q_c log p_c with q = (1 - smoothing) one-hot + smoothing / C: [B, C], [B] -> [B].

    Label smoothing follows Szegedy et al. (2016), with the convention of torch.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
    picked = jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]
    return -(1.0 - smoothing) * picked - smoothing * log_p.mean(-1)


def soft_cross_entropy(logits: Array, targets: Array) -> Array:
    """Compute -sum_c q_c log p_c with the probabilities q = `targets`: [B, C], [B, C] -> [B]."""
    return -(targets * jax.nn.log_softmax(logits.astype(jnp.float32), -1)).sum(-1)


def focal(logits: Array, labels: Array, exponent: float | Array) -> Array:
    """Compute -(1 - p_y)^exponent log p_y (focal loss; Lin et al., 2017, equation 4): [B, C], [B] -> [B].

    It is computed from the log-odds of the label, so its gradient is bounded where p_y rounds to 0 or 1.
    """
    odds = log_odds(logits, labels)
    return jnp.exp(-exponent * jax.nn.softplus(odds)) * jax.nn.softplus(-odds)


def brier(p: Array, labels: Array) -> Array:
    """Compute sum_c (p_c - y_c)^2 (Brier, 1950): [B, C], [B] -> [B]. For two classes it is halved, as in scikit-learn,
    so that it is the squared error of the probability of the second class."""
    distance = (jnp.square(p - jax.nn.one_hot(labels, p.shape[-1], dtype=p.dtype))).sum(-1)
    return distance / 2 if p.shape[-1] == 2 else distance


def among_top(logits: Array, labels: Array, count: int) -> Array:
    """Return whether the label is among the `count` largest logits, booleans: [B, C], [B] -> [B].

    Of equal logits the first class counts as larger, as in the prediction.
    """
    label_logits = jnp.take_along_axis(logits, labels[:, None], -1)
    before = (logits == label_logits) & (jnp.arange(logits.shape[-1]) < labels[:, None])
    return ((logits > label_logits) | before).sum(-1) < count


def log_odds(logits: Array, labels: Array) -> Array:
    """Compute log p_y / (1 - p_y) = z_y - log sum_{c != y} exp(z_c): [B, C], [B] -> [B].

    With these odds m, log p_y is -softplus(-m) and log(1 - p_y) is -softplus(m). Both are exact and have a bounded
    gradient where p_y rounds to 0 or 1.
    """
    z, labelled = logits.astype(jnp.float32), jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return jnp.where(labelled, z, 0.0).sum(-1) - jax.nn.logsumexp(jnp.where(labelled, -jnp.inf, z), -1)


def entropy(logits: Array) -> Array:
    """Compute -sum_c p_c log p_c: [..., C] -> [...]."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), -1)
    return -(jnp.exp(log_p) * log_p).sum(-1)


def divergence(logits: Array, other: Array) -> Array:
    """Compute KL(p || q) = sum_c p_c (log p_c - log q_c): [..., C], [..., C] -> [...].

    p is the softmax of `logits`, and q the softmax of `other`.
    """
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32), -1) for x in (logits, other))
    return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def disagreement(logits: Array, other: Array) -> Array:
    """Compute the mean over the classes of |p_c - q_c| (Saito et al., 2018): [..., C], [..., C] -> [...].

    p is the softmax of `logits`, and q the softmax of `other`.
    """
    p, q = (jax.nn.softmax(x.astype(jnp.float32), -1) for x in (logits, other))
    return jnp.abs(p - q).mean(-1)


def distillation(logits: Array, teacher: Array, temperature: float | Array) -> Array:
    """Compute T^2 KL(softmax(teacher / T) || softmax(logits / T)): [B, C], [B, C] -> [B] (Hinton et al., 2015).

    The factor T^2 keeps the size of the gradient as T grows (section 2 of the paper).
    """
    teacher, logits = (x.astype(jnp.float32) / temperature for x in (teacher, logits))
    return temperature**2 * divergence(teacher, logits)


def attention_divergence(scores: Array, teacher: Array, mask: Array | None = None) -> Array:
    """Compute KL(teacher's attention || student's attention) (MiniLM; Wang et al., 2020, equation 2).

    It is the mean over heads and over the tokens that count.

    Args:
        scores: the student's scores before the softmax, [B, H, T, T].
        teacher: the teacher's scores, [B, H, T, T].
        mask: the tokens that count have 1, [B, T]; None counts all.

    Returns:
        One number per example, [B].
    """
    return token_mean(divergence(teacher, scores).mean(1), mask)


def squared_error(predictions: Array, targets: Array) -> Array:
    """Compute the mean over the outputs of the squared difference: [B, K], [B] or [B, K] -> [B]."""
    difference = predictions.astype(jnp.float32) - targets.reshape(predictions.shape)
    return (difference * difference).mean(-1)


def feature_distance(tap: Array, other: Array, units: Array | None = None, mask: Array | None = None) -> Array:
    """Compute sum_c units_c mean over places of (tap - other)_c^2.

    Args:
        tap: the features, [B, ..., W].
        other: the features to compare with, [B, ..., W].
        units: the weight of each unit, [W]; None is 1 for each.
        mask: the tokens that count have 1, [B, T]; None, or a mask of another shape, counts all places.

    Returns:
        One number per example, [B].
    """
    difference = tap.astype(jnp.float32) - other.astype(jnp.float32)
    squares = difference * difference
    rows = (squares if units is None else squares * units).sum(-1)
    return token_mean(rows.reshape(len(rows), -1), mask)


def token_mean(values: Array, mask: Array | None = None) -> Array:
    """Compute the mean over tokens where `mask` [B, T] is 1 (over all where the shapes differ): [B, T] -> [B]."""
    if mask is None or mask.shape != values.shape:
        return values.mean(-1)
    weight = mask.astype(jnp.float32)
    return (values * weight).sum(-1) / jnp.maximum(weight.sum(-1), 1.0)


def squared_distance(leaves: Mapping[str, Array], anchors: Mapping[str, Array]) -> Array:
    """Compute the sum over the leaves of |leaf - anchor|^2, a scalar."""
    total = jnp.zeros(())
    for path, leaf in leaves.items():
        difference = leaf.astype(jnp.float32) - anchors[path]
        total += (difference * difference).sum()
    return total


def smallest_squares(matrix: Array, k: int) -> Array:
    """Compute the sum of the `k` smallest of the min(B, W) squared singular values of `matrix` [B, W].

    Raises:
        ValueError: the matrix has fewer than `k` singular values.
    """
    return singular_squares(matrix, k, slice(None, k))


def largest_squares(matrix: Array, k: int) -> Array:
    """Compute the sum of the `k` largest of the min(B, W) squared singular values of `matrix` [B, W].

    Raises:
        ValueError: the matrix has fewer than `k` singular values.
    """
    return singular_squares(matrix, k, slice(-k, None))


def singular_squares(matrix: Array, k: int, which: slice) -> Array:
    """Compute the sum of `k` squared singular values of `matrix` [B, W]: those at `which`, in ascending order.

    With constant singular vectors v_i, the sum of |matrix v_i|^2 has the same value and the same gradient, because a
    singular value is stationary in its vectors. This gradient is finite where singular values are equal or 0, unlike
    that of an SVD.

    Raises:
        ValueError: the matrix has fewer than `k` singular values.
    """
    wide = matrix.astype(jnp.float32)
    if k > min(wide.shape):
        raise ValueError(
            f"a matrix of {wide.shape[0]}x{wide.shape[1]} does not have {k} singular values; use a smaller k"
        )
    tall = wide if wide.shape[0] >= wide.shape[1] else wide.T
    _, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(tall.T @ tall))
    projected = tall @ jax.lax.stop_gradient(vectors[:, which])
    return (projected * projected).sum()


def weighted_mean(values: Array, weight: Array | None = None) -> Array:
    """Compute the mean over the examples, by `weight` [B] where present; 0 where all weights are 0."""
    if weight is None:
        return values.mean()
    total = weight.sum()
    return (values * weight).sum() / jnp.where(total > 0, total, 1.0)


def token_losses(logits: Array, label: Array) -> tuple[Array, Array]:
    """Return the cross-entropy of each token, 0 where it does not count, and whether it counts, both [B, T].

    Args:
        logits: [B, T, C] over the classes or the words of a vocabulary.
        label: The class of each token [B, T], `IGNORED` where it does not count.
    """
    counted = label != IGNORED
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, jnp.where(counted, label, 0)[..., None], -1)[..., 0]
    # Less memory than all logarithms of the probabilities [B, T, V].
    values = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.where(counted, values, 0.0), counted
