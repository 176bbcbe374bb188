"""Distances between two sets of rows, and operations that reduce them. All in float32.

Shapes: N rows of the first set, M of the second, W width, C classes, P pairs.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import jax
import jax.numpy as jnp

from tlx.functional.losses import entropy
from tlx.types import Array

# Five widths about the mean squared distance, as in the usual code of DAN (Long et al., 2015, use more widths and learn
# their weights).
SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)
# The smallest mean squared distance that a width divides by. Only identical rows lie nearer to one another, so measures
# with widths from the data do not depend on the scale of the features.
LEAST = 1e-30


def squared_distances(rows: Array, others: Array) -> Array:
    """Compute |x_i - y_j|^2: [N, W], [M, W] -> [N, M]."""
    difference = rows[:, None].astype(jnp.float32) - others[None].astype(jnp.float32)
    return (difference * difference).sum(-1)


def gaussians(squares: Array, mean: Array | float, scales: Sequence[float]) -> Array:
    """Compute sum_a exp(-d / (2 a mean)) of squared distances d, element by element; `mean` has no gradient."""
    width = 2.0 * jnp.maximum(jax.lax.stop_gradient(mean), LEAST)
    return sum((jnp.exp(-squares / (scale * width)) for scale in scales), jnp.zeros(()))


def mmd(rows: Array, others: Array, scales: Sequence[float] = SCALES) -> Array:
    """Compute the unbiased squared maximum mean discrepancy (Gretton et al., 2012, equation 3).

    Args:
        rows: the first set, [N, W].
        others: the second set, [M, W].
        scales: the squared widths of the Gaussian kernels, whose sum is the kernel, as multiples of the mean squared
            distance among all rows.

    Returns:
        A scalar; it is below 0 where the sets are nearer than two draws from one distribution tend to be.

    Raises:
        ValueError: a set has one row.
    """
    squares = among(rows, others)
    return unbiased(gaussians(squares, squares.mean(), scales), len(rows))


def linear_mmd(rows: Array, others: Array, scales: Sequence[float] = SCALES) -> Array:
    """Compute the squared maximum mean discrepancy in linear time (Gretton et al., 2012, section 6).

    It is the mean over P = min(N, M) // 2 disjoint pairs of rows; the kernel widths use the distances of these pairs.

    Args:
        rows: the first set, [N, W].
        others: the second set, [M, W].
        scales: as for `mmd`.

    Raises:
        ValueError: a set has one row.
    """
    squares = in_pairs(rows, others)
    return of_pairs(gaussians(squares, squares.mean(), scales))


def joint_mmd(
    rows: tuple[Array, Array],
    others: tuple[Array, Array],
    scales: Sequence[float] = SCALES,
    sigma: float | Array = 0.92,
) -> Array:
    """Compute the joint maximum mean discrepancy (Long et al., 2017, section 4) by the unbiased estimate of `mmd`.

    The kernel is the product of the kernel of `mmd` on the features and of exp(-d / (2 sigma^2)) on the predictions.

    Args:
        rows: the features [N, W] and predictions [N, C] of the first set.
        others: the features [M, W] and predictions [M, C] of the second set.
        scales: as for `mmd`.
        sigma: the width of the kernel on the predictions.

    Raises:
        ValueError: a set has one row.
    """
    return unbiased(joint([among(*layer) for layer in zip(rows, others, strict=True)], scales, sigma), len(rows[0]))


def linear_joint_mmd(
    rows: tuple[Array, Array],
    others: tuple[Array, Array],
    scales: Sequence[float] = SCALES,
    sigma: float | Array = 0.92,
) -> Array:
    """Compute the joint discrepancy in linear time, as `linear_mmd` does; raise ValueError for one row."""
    return of_pairs(joint([in_pairs(*layer) for layer in zip(rows, others, strict=True)], scales, sigma))


def joint(squares: Sequence[Array], scales: Sequence[float], sigma: float | Array) -> Array:
    """Return the kernel of `joint_mmd` from the squared distances of features and of predictions."""
    features, predictions = squares
    return gaussians(features, features.mean(), scales) * gaussians(predictions, sigma**2, (1.0,))


def among(rows: Array, others: Array) -> Array:
    """Return the squared distances among all rows, [N + M, N + M]; raise ValueError for one row."""
    check_rows(rows, others)
    union = jnp.concatenate([rows, others])
    return squared_distances(union, union)


def unbiased(kernel: Array, count: int) -> Array:
    """Return the mean discrepancy of a kernel [N + M, N + M] whose first `count` rows belong to the first set."""
    first, second = kernel[:count, :count], kernel[count:, count:]

    def apart(block: Array) -> Array:
        size = len(block)
        return (block.sum() - jnp.trace(block)) / (size * (size - 1))

    return apart(first) + apart(second) - 2.0 * kernel[:count, count:].mean()


def in_pairs(rows: Array, others: Array) -> Array:
    """Return the squared distances within the pairs of the first set, of the second set, and across both ways: [4, P].

    Raises:
        ValueError: a set has one row.
    """
    pairs = min(check_rows(rows, others)) // 2
    x, y = (side[: 2 * pairs].astype(jnp.float32).reshape(pairs, 2, -1) for side in (rows, others))
    ends = ((x[:, 0], x[:, 1]), (y[:, 0], y[:, 1]), (x[:, 0], y[:, 1]), (x[:, 1], y[:, 0]))
    return jnp.stack([((left - right) ** 2).sum(-1) for left, right in ends])


def of_pairs(kernel: Array) -> Array:
    """Return the mean discrepancy of a kernel [4, P], a scalar."""
    return (kernel[0] + kernel[1] - kernel[2] - kernel[3]).mean()


def covariance(rows: Array) -> Array:
    """Return the covariance with the divisor N - 1: [N, W] -> [W, W]."""
    centred = rows.astype(jnp.float32) - rows.astype(jnp.float32).mean(0)
    return centred.T @ centred / (len(rows) - 1)


def coral(rows: Array, others: Array) -> Array:
    """Compute |C - C'|_F^2 / (4 W^2) of the two covariances (Sun and Saenko, 2016, equation 1).

    Args:
        rows: the first set, [N, W].
        others: the second set, [M, W].

    Raises:
        ValueError: a set has one row.
    """
    check_rows(rows, others)
    difference = covariance(rows) - covariance(others)
    return (difference * difference).sum() / (4.0 * rows.shape[-1] ** 2)


def mean_coral(rows: Array, others: Array) -> Array:
    """Compute the mean squared difference of the entries of the covariances, plus that of the means.

    Several libraries call this CORAL (it is 4 times the paper's value, plus the part of the means).

    Args:
        rows: the first set, [N, W].
        others: the second set, [M, W].

    Raises:
        ValueError: a set has one row.
    """
    check_rows(rows, others)
    means = rows.astype(jnp.float32).mean(0) - others.astype(jnp.float32).mean(0)
    difference = covariance(rows) - covariance(others)
    return (difference * difference).mean() + (means * means).mean()


def central_moments(rows: Array, others: Array, moments: int = 5, span: float = 2.0) -> Array:
    """Compute the central moment discrepancy (Zellinger et al., 2017, equation 6).

        |m - m'| / span + sum_{k=2}^K |c_k - c_k'| / span^k

    m are the means, and c_k the central moments of order k, entry by entry.

    Args:
        rows: the first set, [N, W], with entries in an interval of length `span`.
        others: the second set, [M, W].
        moments: the highest order K.
        span: the length of the interval.

    Raises:
        ValueError: a set has one row.
    """
    check_rows(rows, others)
    x, y = rows.astype(jnp.float32), others.astype(jnp.float32)
    total, p, q = norm(x.mean(0) - y.mean(0)) / span, x - x.mean(0), y - y.mean(0)
    for order in range(2, moments + 1):
        total += norm((p**order).mean(0) - (q**order).mean(0)) / span**order
    return total


def moment_distance(sources: Sequence[Array], target: Array, moments: int = 2) -> Array:
    """Compute the moment distance of several sources and a target (Peng et al., 2019, equation 2).

    It is the sum over the orders k of two means: of |E[x_i^k] - E[x_T^k]| over the sources i, and of |E[x_i^k] -
    E[x_j^k]| over the pairs of sources, where there are any. As in the paper, the powers are taken entry by entry and
    about zero (much code takes them about the mean).

    Args:
        sources: the rows of each source, [N, W].
        target: the rows of the target, [M, W].
        moments: the highest order.
    """
    total = jnp.zeros(())
    for order in range(1, moments + 1):
        *means, target_mean = ((rows.astype(jnp.float32) ** order).mean(0) for rows in (*sources, target))
        pairs = list(combinations(means, 2))
        total += sum((norm(mean - target_mean) for mean in means), jnp.zeros(())) / len(means)
        total += sum((norm(left - right) for left, right in pairs), jnp.zeros(())) / max(1, len(pairs))
    return total


def norm(x: Array, axis: int = -1) -> Array:
    """Compute the Euclidean norm, with the gradient 0 at 0."""
    squares = (x.astype(jnp.float32) ** 2).sum(axis)
    safe = jnp.where(squares > 0, squares, 1.0)
    return jnp.where(squares > 0, jnp.sqrt(safe), 0.0)


def confusion(logits: Array, temperature: float | Array = 2.5) -> Array:
    """Compute the minimum class confusion of Jin et al. (2020) from the logits [N, C] alone.

    With P = softmax(logits / temperature), weights w = N (1 + exp(-H)) / sum (1 + exp(-H)) of the rows' entropies H,
    which have no gradient, and K = P^T diag(w) P with every row divided by its sum, the result is sum over c != c' of
    K_cc' / C, a scalar.
    """
    scaled = logits.astype(jnp.float32) / temperature
    p, certainty = jax.nn.softmax(scaled, -1), 1.0 + jnp.exp(-entropy(scaled))
    weight = jax.lax.stop_gradient(len(p) * certainty / certainty.sum())
    correlation = (p * weight[:, None]).T @ p
    # A class without rows has a sum of 0 and adds no confusion.
    shares = correlation / jnp.maximum(correlation.sum(1, keepdims=True), 1e-12)
    return (shares.sum() - jnp.trace(shares)) / p.shape[-1]


def transport(cost: Array, epsilon: float | Array = 0.05, iterations: int = 100) -> Array:
    """Compute the plan of entropic optimal transport between N and M rows of equal mass (Cuturi, 2013).

    The plan P minimises sum(P cost) - e entropy(P), with e = `epsilon` times the mean cost. It has no gradient.

    The method is Sinkhorn's iteration on logarithms. During the first half of the iterations e falls from the mean cost
    to its final value, because few iterations suffice for a large e (as in Schmitzer, 2019).

    Args:
        cost: the cost of each pair, [N, M].
        epsilon: the strength of the entropy, as a share of the mean cost.
        iterations: the number of iterations.

    Returns:
        P [N, M]. Rows sum to 1 / N; columns sum to 1 / M up to the error after the last iteration.
    """
    cost = jax.lax.stop_gradient(cost.astype(jnp.float32))
    gain = -cost / jnp.maximum(cost.mean(), LEAST)
    count, targets = cost.shape

    def rows(columns: Array, e: Array) -> Array:
        return -e * (jax.nn.logsumexp((gain + columns) / e, 1) + math.log(count))

    def turn(columns: Array, e: Array) -> tuple[Array, None]:
        scaled = (gain + rows(columns, e)[:, None]) / e
        return -e * (jax.nn.logsumexp(scaled, 0) + math.log(targets)), None

    epsilon = jnp.asarray(jax.lax.stop_gradient(epsilon), jnp.float32)
    share = jnp.minimum(2.0 * jnp.arange(1, iterations + 1, dtype=jnp.float32) / iterations, 1.0)
    columns, _ = jax.lax.scan(turn, jnp.zeros(targets), epsilon**share)
    return jnp.exp((gain + rows(columns, epsilon)[:, None] + columns) / epsilon)


@jax.custom_vjp
def reversed_gradient(x: Array, scale: Array) -> Array:
    """Return `x`; its gradient is multiplied by -`scale` in the backward pass (Ganin et al., 2016, section 4)."""
    return x


def _forth(x: Array, scale: Array) -> tuple[Array, Array]:
    return x, scale


def _back(scale: Array, gradient: Array) -> tuple[Array, Array]:
    return (-scale * gradient).astype(gradient.dtype), jnp.zeros_like(scale)


reversed_gradient.defvjp(_forth, _back)


def check_rows(rows: Array, others: Array) -> tuple[int, int]:
    """Return the sizes of both sets; raise ValueError for a set of one row, which has no spread."""
    sizes = len(rows), len(others)
    if min(sizes) < 2:
        raise ValueError(
            f"received {sizes[0]} and {sizes[1]} rows; a discrepancy requires at least two rows on each side"
        )
    return sizes
