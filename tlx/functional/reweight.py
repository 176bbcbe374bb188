"""Weights for the rows of one set that make it resemble another set. On the host, in float64.

Shapes: N rows of the source, M of the target, W width, K centres, R rank.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

# The largest number of rows with an exact kernel: the time to solve grows as its square.
LANDMARKS = 500
# The largest distance from the optimum: in squared discrepancy (kernels are at most 1), or in mean log-likelihood.
NEAR = 1e-8
# Widths about the mean squared distance; the likelihood of held-out rows selects one.
SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)
CENTRES, FOLDS = 100, 5


def mean_matching(
    source: np.ndarray,
    target: np.ndarray,
    *,
    scale: float = 1.0,
    most: float = 10.0,
    slack: float | None = None,
    landmarks: int = LANDMARKS,
    near: float = NEAR,
) -> np.ndarray:
    """Compute weights by kernel mean matching (Huang et al., 2007, equation 5).

    The weights bring the mean of the source in the space of a Gaussian kernel nearest to that of the target:

        min |sum_i w_i phi(x_i) / N - mean_j phi(y_j)|^2  with  0 <= w_i <= most,  |mean w - 1| <= slack.

    Where both sets together have more rows than `landmarks`, phi is Nystroem's approximation from `landmarks` rows,
    drawn once, and no N x N matrix is stored.

    Args:
        source: the rows to weight, [N, W].
        target: the rows to match, [M, W].
        scale: the squared width, as a multiple of the mean squared distance among all rows.
        most: the largest weight.
        slack: the largest deviation of the mean weight from 1; None is the paper's (sqrt(N) - 1) / sqrt(N).
        landmarks: the largest number of rows with an exact kernel.
        near: the solver stops when the squared discrepancy is proved to lie within this distance of the minimum.

    Returns:
        The weights w, [N].

    Raises:
        ValueError: the bounds allow no weights but 1.
    """
    x, y = checked(source, target)
    count = len(x)
    slack = 1 - count**-0.5 if slack is None and count > 1 else slack
    check_bounds(scale, most, slack, landmarks, "mean_matching")
    points, width = np.concatenate([x, y]), scale * mean_square(x, y)
    if len(points) > landmarks:
        points = points[np.sort(np.random.default_rng(0).choice(len(points), landmarks, replace=False))]
    factor = nystroem(x, points, width) / count
    return bounded(
        factor,
        factor @ nystroem(y, points, width).mean(0),
        most,
        0.5 if slack is None else slack,
        near / 2,
    )


def check_bounds(scale: float, most: float, slack: float | None, landmarks: int, who: str) -> None:
    """Raise ValueError for settings of `mean_matching` that allow no weights but 1."""
    for name, value, least in (("scale", scale, 0.0), ("most", most, 1.0), ("slack", slack, 0.0)):
        if value is not None and value <= least:
            raise ValueError(f"{who}: {name} is {value}; expected a number above {least:g}")
    if landmarks < 1:
        raise ValueError(f"{who}: landmarks is {landmarks}; expected 1 or more")


def bounded(factor: np.ndarray, linear: np.ndarray, most: float, slack: float, near: float, steps: int = 100) -> Any:
    """Minimise |`factor`' w|^2 / 2 - `linear` @ w with 0 <= w_i <= `most` and |mean w - 1| <= `slack`, within `near`.

    The method is a primal-dual interior point with Mehrotra's corrections (Nocedal and Wright, 2006, section 16.6). It
    stops when the possible gain of the linearised programme, which bounds the gain of this programme (Jaggi, 2013), is
    at most `near`. It logs a warning where `steps` were not enough.

    Args:
        factor: [N, R].
        linear: [N].
        most: the largest weight.
        slack: the largest deviation of the mean weight from 1.
        near: the largest distance from the minimum.
        steps: the largest number of steps.

    Returns:
        The weights w, [N].
    """
    count = len(linear)
    w = np.ones(count)
    slope = factor @ (factor.T @ w) - linear
    z = np.full(2 * count + 2, max(np.abs(slope).mean(), 1e-12))
    best, least = w, np.inf
    for _ in range(steps):
        if (gap := float(slope @ (w - least_linear(slope, most, slack)))) < least:
            best, least = w, gap
        if least <= near:
            break
        margins, rest = room(w, most, slack), slope - pull(z)
        solve = solver(factor, z / margins)

        def direction(
            aim: np.ndarray,
            z: np.ndarray = z,
            margins: np.ndarray = margins,
            rest: np.ndarray = rest,
            solve: Any = solve,
        ) -> tuple[np.ndarray, np.ndarray]:
            """Return Newton's step in w and in z that brings z * room to `aim`."""
            change = solve(pull((aim - z * margins) / margins) - rest)
            return change, (aim - z * margins - z * toward(change)) / margins

        mean = z @ margins / len(z)
        change, force = direction(np.zeros(len(z)))
        share = reach(margins, toward(change), z, force)
        predicted_gap = (z + share * force) @ (margins + share * toward(change)) / len(z)
        change, force = direction((predicted_gap / mean) ** 3 * mean - toward(change) * force)
        share = 0.995 * reach(margins, toward(change), z, force)
        w, z = w + share * change, z + share * force
        slope = factor @ (factor.T @ w) - linear
    else:
        log.warning(
            "importance weights: the objective is within %.1g of the optimum after %d steps; expected within %.1g",
            least,
            steps,
            near,
        )
    return best


def room(w: np.ndarray, most: float, slack: float) -> np.ndarray:
    """Return the distance of the weights [N] to each bound of `bounded`, [2 N + 2]: two per entry, two of the sum."""
    count = len(w)
    return np.concatenate([w, most - w, [w.sum() - count * (1 - slack), count * (1 + slack) - w.sum()]])


def pull(z: np.ndarray) -> np.ndarray:
    """Return the gradient by the weights, [N], of z @ room(weights)."""
    count = (len(z) - 2) // 2
    return z[:count] - z[count:-2] + z[-2] - z[-1]


def toward(change: np.ndarray) -> np.ndarray:
    """Return the change of `room` for a change of the weights."""
    return np.concatenate([change, -change, [change.sum(), -change.sum()]])


def solver(factor: np.ndarray, stiff: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that solves for Newton's step, from `factor` and the stiffness of each bound."""
    count = (len(stiff) - 2) // 2
    diagonal = stiff[:count] + stiff[count:-2]
    wide = np.concatenate([factor, np.full((count, 1), np.sqrt(stiff[-2] + stiff[-1]))], 1)
    if count <= wide.shape[1]:
        matrix = np.diag(diagonal) + wide @ wide.T
        return lambda right: np.linalg.solve(matrix, right)
    # Woodbury's formula divides by the stiffness of the free entries. The floor keeps its two terms distinguishable and
    # changes the step by no more than rounding does.
    diagonal = np.maximum(diagonal, 1e-10 * (wide * wide).sum(1).mean())
    inner = np.linalg.inv(np.eye(wide.shape[1]) + wide.T @ (wide / diagonal[:, None]))

    def solve(right: np.ndarray) -> np.ndarray:
        plain = right / diagonal
        return plain - (wide @ (inner @ (wide.T @ plain))) / diagonal

    return solve


def reach(margins: np.ndarray, change: np.ndarray, z: np.ndarray, force: np.ndarray) -> float:
    """Return the largest share of a step, at most 1, that violates no bound and changes the sign of no multiplier."""
    value, step = np.concatenate([margins, z]), np.concatenate([change, force])
    down = step < 0
    return min(1.0, float((value[down] / -step[down]).min())) if down.any() else 1.0


def least_linear(slope: np.ndarray, most: float, slack: float) -> np.ndarray:
    """Return the point within the bounds with the least `slope` @ w.

    Its entries are as large as possible where the slope is below 0; then those with the least slope grow until the mean
    is large enough.
    """
    order = np.argsort(slope, kind="stable")
    ranked, count = slope[order], len(slope)
    room = np.where(ranked < 0, count * (1 + slack), count * (1 - slack))
    point = np.empty(count)
    point[order] = np.clip(room - most * np.arange(count), 0, most)
    return point


def likelihood_ratio(
    source: np.ndarray,
    target: np.ndarray,
    *,
    scales: Sequence[float] = SCALES,
    centres: int = CENTRES,
    near: float = NEAR,
) -> np.ndarray:
    """Compute weights by KLIEP (Sugiyama et al., 2008):

        max mean_j log w(y_j)  with  w(x) = sum_k a_k exp(-|x - c_k|^2 / (2 width)),  a_k >= 0,  mean_i w(x_i) = 1.

    The c_k are rows of the target, drawn once. Among several `scales`, the one with the greatest likelihood on held-out
    fifths of the target is used.

    Args:
        source: the rows x_i to weight, [N, W].
        target: the rows y_j, [M, W].
        scales: candidates for the squared width, as multiples of the mean squared distance among all rows.
        centres: the number of centres c_k.
        near: the likelihood of the solution is proved to lie within this distance of the greatest.

    Returns:
        The weights w(x_i), [N].
    """
    x, y = checked(source, target)
    check_mixture(scales, centres, "likelihood_ratio")
    draw, mean = np.random.default_rng(0), mean_square(x, y)
    chosen = y[np.sort(draw.choice(len(y), min(centres, len(y)), replace=False))]
    fold = draw.permutation(len(y)) % min(FOLDS, len(y))

    def components(scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the densities of the mixture relative to the source's, at the source's and the target's rows."""
        source_parts = gaussian(x, chosen, scale * mean)
        # The weight of a centre far from all source rows would have no bound.
        total = np.maximum(source_parts.mean(0), 1e-12)
        return source_parts / total, gaussian(y, chosen, scale * mean) / total

    def likelihood(scale: float) -> float:
        _, target_parts = components(scale)
        fold_likelihoods = [
            np.log(np.maximum(target_parts[fold == k] @ proportions(target_parts[fold != k], 1e-4), 1e-300))
            for k in np.unique(fold)
        ]
        return float(np.concatenate(fold_likelihoods).mean())

    best = max(scales, key=likelihood) if len(scales) > 1 and len(y) > 1 else scales[0]
    source_parts, target_parts = components(best)
    weights = source_parts @ proportions(target_parts, near)
    return weights / max(weights.mean(), 1e-300)


def check_mixture(scales: Sequence[float], centres: int, who: str) -> None:
    """Raise ValueError for settings of `likelihood_ratio` without a scale or a centre."""
    if not scales or min(scales) <= 0:
        raise ValueError(f"{who}: scales are {tuple(scales)}; expected at least one number, all above 0")
    if centres < 1:
        raise ValueError(f"{who}: centres is {centres}; expected 1 or more")


def proportions(densities: np.ndarray, near: float = NEAR, steps: int = 100) -> np.ndarray:
    """Compute the proportions q of a mixture with the greatest likelihood, mean_j log(densities_j @ q).

    KLIEP is this problem: with q_k = a_k times the source's mean of the k-th kernel, its constraint is that q sums to
    1. The sum can be subtracted from the likelihood instead (where it is not 1, a multiple of q is better), and the
    constraint q >= 0 remains. The method is a primal-dual interior point, which stops when no likelihood is more than
    `near` higher (Lindsay, 1983). It logs a warning where `steps` were not enough.

    Args:
        densities: the density of each component at each row, [M, K].
        near: the largest distance from the greatest mean log-likelihood.
        steps: the largest number of steps.

    Returns:
        q, [K].
    """
    count = densities.shape[1]
    q, z = np.full(count, 1 / count), np.ones(count)
    best, least = q, np.inf
    for _ in range(steps):
        ratio = densities / np.maximum(densities @ q, 1e-300)[:, None]
        slope = 1 - ratio.mean(0)
        # The gap of q over its sum; this division multiplies the ratios by the sum.
        if (gap := float(q.sum() * (1 - slope.min()) - 1)) < least:
            best, least = q / q.sum(), gap
        if least <= near:
            break
        aim = 0.1 * float(z @ q) / count
        curve = ratio.T @ ratio / len(ratio) + np.diag(z / q)
        change = np.linalg.solve(curve, aim / q - slope)
        force = (aim - z * q - z * change) / q
        share = 0.995 * reach(q, change, z, force)
        q, z = q + share * change, z + share * force
    else:
        log.warning(
            "density ratio: the log-likelihood is within %.1g of the optimum after %d steps; expected within %.1g",
            least,
            steps,
            near,
        )
    return best


def effective(weights: np.ndarray) -> float:
    """Compute the effective share of the examples, (sum w)^2 / (N sum w^2), of weights [N] (Kish, 1965).

    >>> effective(np.array([1.0, 1.0, 0.0, 0.0]))
    0.5
    """
    return float(weights.sum() ** 2 / (len(weights) * max((weights**2).sum(), 1e-300)))


def checked(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets in float64; raise ValueError where they are not finite rows of one width."""
    x, y = (np.asarray(rows, np.float64) for rows in (source, target))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(
            f"source and target have the shapes {x.shape} and {y.shape}; expected rows of one width, [N, W] and [M, W]"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(
            "some features of the source or the target are not finite, so distances cannot be computed; check the model"
        )
    return x, y


def mean_square(x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean squared distance among all rows of both sets, including each row with itself."""
    union = np.concatenate([x, y])
    return max(2.0 * float(((union - union.mean(0)) ** 2).sum(1).mean()), 1e-300)


def gaussian(rows: np.ndarray, others: np.ndarray, width: float) -> np.ndarray:
    """Compute exp(-|x_i - y_j|^2 / (2 width)): [N, W], [M, W] -> [N, M]."""
    # Centred, because the squares of large features would cancel the digits of their distances.
    centre = others.mean(0)
    x, y = rows - centre, others - centre
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    return np.exp(np.maximum(squares, 0) / (-2 * width))


def nystroem(rows: np.ndarray, landmarks: np.ndarray, width: float) -> np.ndarray:
    """Return features [N, R] whose products approximate the kernel (Williams and Seeger, 2001).

    The approximation is exact at `landmarks`.
    """
    values, vectors = np.linalg.eigh(gaussian(landmarks, landmarks, width))
    positive = values > 1e-10 * values[-1]
    return gaussian(rows, landmarks, width) @ (vectors[:, positive] / np.sqrt(values[positive]))
