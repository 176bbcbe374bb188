"""How far two sets of rows are from each other, and what makes them hard to tell apart. All in float32.

Shapes: N rows of the first set, M of the second, W width, C classes, P pairs.
"""

import math
from collections.abc import Sequence
from itertools import combinations

import jax
import jax.numpy as jnp

from tlx.functional.losses import entropy
from tlx.types import Array

# Five widths about the mean squared distance, as the usual code of DAN has them (Long et al., 2015, take more, and
# learn how much each counts).
SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)
# Only rows that are all the same lie nearer to one another than this: measures that take widths from the data do not
# depend on the scale of the features.
LEAST = 1e-30


def squared_distances(rows: Array, others: Array) -> Array:
    """|x_i - y_j|^2: [N, W], [M, W] -> [N, M]."""
    difference = rows[:, None].astype(jnp.float32) - others[None].astype(jnp.float32)
    return (difference * difference).sum(-1)


def gaussians(squares: Array, mean: Array | float, scales: Sequence[float]) -> Array:
    """sum_a exp(-d / (2 a mean)) of squared distances d, element by element; `mean` has no gradient."""
    width = 2.0 * jnp.maximum(jax.lax.stop_gradient(mean), LEAST)
    return sum((jnp.exp(-squares / (scale * width)) for scale in scales), jnp.zeros(()))


def mmd(rows: Array, others: Array, scales: Sequence[float] = SCALES) -> Array:
    """The unbiased squared maximum mean discrepancy (Gretton et al., 2012, equation 3) under a sum of Gaussian kernels
    whose squared widths are `scales` times the mean squared distance among all rows: a scalar,
    below 0 where the sets are nearer than two draws of one distribution tend to be. Raises ValueError for one row.
    """
    squares = among(rows, others)
    return unbiased(gaussians(squares, squares.mean(), scales), len(rows))


def linear_mmd(rows: Array, others: Array, scales: Sequence[float] = SCALES) -> Array:
    """The same in linear time: the mean over disjoint pairs of rows (Gretton et al., 2012, section 6), of which there
    are P = min(N, M) // 2; the widths are of the distances that occur. Raises ValueError for one row."""
    squares = in_pairs(rows, others)
    return of_pairs(gaussians(squares, squares.mean(), scales))


def joint_mmd(
    rows: tuple[Array, Array],
    others: tuple[Array, Array],
    scales: Sequence[float] = SCALES,
    sigma: float | Array = 0.92,
) -> Array:
    """The joint maximum mean discrepancy (Long et al., 2017, section 4) of two sets of (features, predictions), by the
    unbiased estimate of `mmd`: the kernel is the product of that of `mmd` on the features and of exp(-d / (2 sigma^2))
    on the predictions. Raises ValueError for one row."""
    return unbiased(joint([among(*layer) for layer in zip(rows, others, strict=True)], scales, sigma), len(rows[0]))


def linear_joint_mmd(
    rows: tuple[Array, Array],
    others: tuple[Array, Array],
    scales: Sequence[float] = SCALES,
    sigma: float | Array = 0.92,
) -> Array:
    """The same in linear time, as `linear_mmd` is. Raises ValueError for one row."""
    return of_pairs(joint([in_pairs(*layer) for layer in zip(rows, others, strict=True)], scales, sigma))


def joint(squares: Sequence[Array], scales: Sequence[float], sigma: float | Array) -> Array:
    """The kernel of `joint_mmd`, of the squared distances of features and of predictions."""
    features, predictions = squares
    return gaussians(features, features.mean(), scales) * gaussians(predictions, sigma**2, (1.0,))


def among(rows: Array, others: Array) -> Array:
    """The squared distances among all rows: [N + M, N + M]. Raises ValueError for one row."""
    check_rows(rows, others)
    every = jnp.concatenate([rows, others])
    return squared_distances(every, every)


def unbiased(kernel: Array, count: int) -> Array:
    """The mean discrepancy of a kernel [N + M, N + M] whose first `count` rows are of the first set."""
    within, beyond = kernel[:count, :count], kernel[count:, count:]

    def apart(block: Array) -> Array:
        size = len(block)
        return (block.sum() - jnp.trace(block)) / (size * (size - 1))

    return apart(within) + apart(beyond) - 2.0 * kernel[:count, count:].mean()


def in_pairs(rows: Array, others: Array) -> Array:
    """The squared distances within the pairs of the first set, of the second, and across both ways: [4, P]. Raises
    ValueError for one row."""
    pairs = min(check_rows(rows, others)) // 2
    x, y = (given[: 2 * pairs].astype(jnp.float32).reshape(pairs, 2, -1) for given in (rows, others))
    ends = ((x[:, 0], x[:, 1]), (y[:, 0], y[:, 1]), (x[:, 0], y[:, 1]), (x[:, 1], y[:, 0]))
    return jnp.stack([((one - two) ** 2).sum(-1) for one, two in ends])


def of_pairs(kernel: Array) -> Array:
    """The mean discrepancy of a kernel [4, P]."""
    return (kernel[0] + kernel[1] - kernel[2] - kernel[3]).mean()


def covariance(rows: Array) -> Array:
    """[N, W] -> [W, W], over N - 1."""
    centred = rows.astype(jnp.float32) - rows.astype(jnp.float32).mean(0)
    return centred.T @ centred / (len(rows) - 1)


def coral(rows: Array, others: Array) -> Array:
    """|C - C'|_F^2 / (4 W^2) of the two covariances (Sun and Saenko, 2016, equation 1): a scalar. Raises ValueError for
    one row."""
    check_rows(rows, others)
    difference = covariance(rows) - covariance(others)
    return (difference * difference).sum() / (4.0 * rows.shape[-1] ** 2)


def mean_coral(rows: Array, others: Array) -> Array:
    """The mean squared difference of the covariances' entries and that of the means': what several libraries call
    CORAL (4 times the paper's, and the means). Raises ValueError for one row."""
    check_rows(rows, others)
    means = rows.astype(jnp.float32).mean(0) - others.astype(jnp.float32).mean(0)
    difference = covariance(rows) - covariance(others)
    return (difference * difference).mean() + (means * means).mean()


def central_moments(rows: Array, others: Array, moments: int = 5, span: float = 2.0) -> Array:
    """Central moment discrepancy (Zellinger et al., 2017, equation 6) of features in an interval of length `span`:
    |m - m'| / span + sum_{k=2}^K |c_k - c_k'| / span^k with the means m and, entry by entry, the central moments c_k of
    order k: a scalar. Raises ValueError for one row."""
    check_rows(rows, others)
    x, y = rows.astype(jnp.float32), others.astype(jnp.float32)
    total, p, q = norm(x.mean(0) - y.mean(0)) / span, x - x.mean(0), y - y.mean(0)
    for order in range(2, moments + 1):
        total += norm((p**order).mean(0) - (q**order).mean(0)) / span**order
    return total


def moment_distance(sources: Sequence[Array], target: Array, moments: int = 2) -> Array:
    """The moment distance of several sources and a target (Peng et al., 2019, equation 2): over the orders k, the mean
    of |E[x_i^k] - E[x_T^k]| over the sources i, and that of |E[x_i^k] - E[x_j^k]| over their pairs, where there are
    any; the powers, as in the paper, entry by entry and about zero (much code takes them about the mean)."""
    total = jnp.zeros(())
    for order in range(1, moments + 1):
        *means, aim = ((rows.astype(jnp.float32) ** order).mean(0) for rows in (*sources, target))
        pairs = list(combinations(means, 2))
        total += sum((norm(mean - aim) for mean in means), jnp.zeros(())) / len(means)
        total += sum((norm(one - other) for one, other in pairs), jnp.zeros(())) / max(1, len(pairs))
    return total


def norm(x: Array, axis: int = -1) -> Array:
    """The Euclidean norm, whose gradient at 0 is 0."""
    squares = (x.astype(jnp.float32) ** 2).sum(axis)
    safe = jnp.where(squares > 0, squares, 1.0)
    return jnp.where(squares > 0, jnp.sqrt(safe), 0.0)


def confusion(logits: Array, temperature: float | Array = 2.5) -> Array:
    """How much the classes are confused, by the logits [N, C] alone (minimum class confusion; Jin et al., 2020).

    With P = softmax(logits / temperature), weights w = N (1 + exp(-H)) / sum (1 + exp(-H)) of the rows' entropies H,
    which have no gradient, and K = P^T diag(w) P with every row divided by its sum: sum over c != c' of K_cc' / C.
    """
    cooled = logits.astype(jnp.float32) / temperature
    p, sure = jax.nn.softmax(cooled, -1), 1.0 + jnp.exp(-entropy(cooled))
    weight = jax.lax.stop_gradient(len(p) * sure / sure.sum())
    correlation = (p * weight[:, None]).T @ p
    # A class that no row is of confuses nothing.
    shares = correlation / jnp.maximum(correlation.sum(1, keepdims=True), 1e-12)
    return (shares.sum() - jnp.trace(shares)) / p.shape[-1]


def transport(cost: Array, epsilon: float | Array = 0.05, iterations: int = 100) -> Array:
    """The plan P [N, M], without gradient, that takes N rows of equal mass to M at the least
    sum(P cost) - e entropy(P), e being `epsilon` times the mean of the cost [N, M] (Cuturi, 2013).

    Sinkhorn's iterations, on logarithms. Over the first half of them e falls from the mean cost to its own, for few
    suffice where it is large (as in Schmitzer, 2019). Rows sum to 1 / N; columns to 1 / M as far as the
    iterations suffice.
    """
    cost = jax.lax.stop_gradient(cost.astype(jnp.float32))
    worth = -cost / jnp.maximum(cost.mean(), LEAST)
    count, other = cost.shape

    def rows(columns: Array, e: Array) -> Array:
        return -e * (jax.nn.logsumexp((worth + columns) / e, 1) + math.log(count))

    def turn(columns: Array, e: Array) -> tuple[Array, None]:
        scaled = (worth + rows(columns, e)[:, None]) / e
        return -e * (jax.nn.logsumexp(scaled, 0) + math.log(other)), None

    epsilon = jnp.asarray(jax.lax.stop_gradient(epsilon), jnp.float32)
    gone = jnp.minimum(2.0 * jnp.arange(1, iterations + 1, dtype=jnp.float32) / iterations, 1.0)
    columns, _ = jax.lax.scan(turn, jnp.zeros(other), epsilon**gone)
    return jnp.exp((worth + rows(columns, epsilon)[:, None] + columns) / epsilon)


@jax.custom_vjp
def reversed_gradient(x: Array, scale: Array) -> Array:
    """`x`, whose gradient is multiplied by -`scale` on its way back (Ganin et al., 2016, section 4)."""
    return x


def _forth(x: Array, scale: Array) -> tuple[Array, Array]:
    return x, scale


def _back(scale: Array, gradient: Array) -> tuple[Array, Array]:
    return (-scale * gradient).astype(gradient.dtype), jnp.zeros_like(scale)


reversed_gradient.defvjp(_forth, _back)


def check_rows(rows: Array, others: Array) -> tuple[int, int]:
    """How many rows there are of each; ValueError where there is one, which has no spread."""
    sizes = len(rows), len(others)
    if min(sizes) < 2:
        raise ValueError(f"there are {sizes[0]} and {sizes[1]} rows; a discrepancy needs two or more of each")
    return sizes
