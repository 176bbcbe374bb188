"""How much each row of one set is to count so that the set looks like another. On the host, in float64.

Shapes: N rows of the source, M of the target, W width, K centres, R rank.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

# The most rows whose kernels are taken whole: what is solved takes time by the square of it.
LANDMARKS = 500
# How far from the best a solution may be: in squared discrepancy (kernels are 1 at most), in mean log-likelihood.
NEAR = 1e-8
# Widths about the mean squared distance, of which the likelihood of held-out rows chooses.
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
    """Kernel mean matching (Huang et al., 2007, equation 5): the weights w [N] of `source` [N, W] that bring its mean
    in the space of a Gaussian kernel nearest to that of `target` [M, W],

        min |sum_i w_i phi(x_i) / N - mean_j phi(y_j)|^2  with  0 <= w_i <= most,  |mean w - 1| <= slack.

    The squared width is `scale` times the mean squared distance among all rows; `slack` None is the paper's
    (sqrt(N) - 1) / sqrt(N). Of more rows than `landmarks`, of both sets together, phi is Nystroem's of so many of them,
    drawn once: no matrix of N x N is ever held. The programme is solved until its squared discrepancy is proved to lie
    within `near` of the least. Raises ValueError for bounds that leave no weights but 1.
    """
    x, y = checked(source, target)
    count = len(x)
    slack = 1 - count**-0.5 if slack is None and count > 1 else slack
    check_bounds(scale, most, slack, landmarks, "mean_matching")
    every, width = np.concatenate([x, y]), scale * mean_square(x, y)
    if len(every) > landmarks:
        every = every[np.sort(np.random.default_rng(0).choice(len(every), landmarks, replace=False))]
    factor = nystroem(x, every, width) / count
    return bounded(factor, factor @ nystroem(y, every, width).mean(0), most, 0.5 if slack is None else slack, near / 2)


def check_bounds(scale: float, most: float, slack: float | None, landmarks: int, who: str) -> None:
    """ValueError for settings of `mean_matching` that leave nothing to find."""
    for name, value, least in (("scale", scale, 0.0), ("most", most, 1.0), ("slack", slack, 0.0)):
        if value is not None and value <= least:
            raise ValueError(f"{who}: {name} is {value}; it is above {least:g}")
    if landmarks < 1:
        raise ValueError(f"{who}: landmarks is {landmarks}; it is 1 or more")


def bounded(factor: np.ndarray, linear: np.ndarray, most: float, slack: float, near: float, steps: int = 100) -> Any:
    """The least of |`factor`' w|^2 / 2 - `linear` @ w among all w [N] with 0 <= w_i <= `most` and |mean w - 1| <=
    `slack`, within `near`; `factor` is [N, R].

    A primal-dual interior point with Mehrotra's corrections (Nocedal and Wright, 2006, section 16.6), until what the
    linearised programme could still gain, which bounds what this one can (Jaggi, 2013), is no more than `near`. Says in
    the log where `steps` were not enough.
    """
    count = len(linear)
    w = np.ones(count)

    def room(w: np.ndarray) -> np.ndarray:
        """How far each bound is: 2 an entry, and the two of the sum."""
        return np.concatenate([w, most - w, [w.sum() - count * (1 - slack), count * (1 + slack) - w.sum()]])

    def pull(z: np.ndarray) -> np.ndarray:
        """The gradient by w of z @ room(w)."""
        return z[:count] - z[count:-2] + z[-2] - z[-1]

    def toward(change: np.ndarray) -> np.ndarray:
        """How `room` changes with w."""
        return np.concatenate([change, -change, [change.sum(), -change.sum()]])

    slope = factor @ (factor.T @ w) - linear
    z = np.full(2 * count + 2, max(np.abs(slope).mean(), 1e-12))
    best, least = w, np.inf
    for _ in range(steps):
        if (gap := float(slope @ (w - least_linear(slope, most, slack)))) < least:
            best, least = w, gap
        if least <= near:
            break
        left, rest = room(w), slope - pull(z)
        solve = solver(factor, z / left)

        def direction(
            aim: np.ndarray, z: np.ndarray = z, left: np.ndarray = left, rest: np.ndarray = rest, solve: Any = solve
        ) -> tuple[np.ndarray, np.ndarray]:
            """Where Newton's step leads from here, were z * room to become `aim`."""
            change = solve(pull((aim - z * left) / left) - rest)
            return change, (aim - z * left - z * toward(change)) / left

        mean = z @ left / len(z)
        change, force = direction(np.zeros(len(z)))
        share = reach(left, toward(change), z, force)
        after = (z + share * force) @ (left + share * toward(change)) / len(z)
        change, force = direction((after / mean) ** 3 * mean - toward(change) * force)
        share = 0.995 * reach(left, toward(change), z, force)
        w, z = w + share * change, z + share * force
        slope = factor @ (factor.T @ w) - linear
    else:
        log.warning("the weights are within %.1g of the best after %d steps, not within %.1g", least, steps, near)
    return best


def solver(factor: np.ndarray, stiff: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that solves for Newton's step, from the `factor` and how stiff each bound is (see `bounded`)."""
    count = (len(stiff) - 2) // 2
    own = stiff[:count] + stiff[count:-2]
    wide = np.concatenate([factor, np.full((count, 1), np.sqrt(stiff[-2] + stiff[-1]))], 1)
    if count <= wide.shape[1]:
        whole = np.diag(own) + wide @ wide.T
        return lambda right: np.linalg.solve(whole, right)
    # By the formula of Woodbury, which divides by how stiff the free entries are: a floor keeps what it subtracts apart
    # and bends the step by no more than rounding would.
    own = np.maximum(own, 1e-10 * (wide * wide).sum(1).mean())
    inner = np.linalg.inv(np.eye(wide.shape[1]) + wide.T @ (wide / own[:, None]))

    def solve(right: np.ndarray) -> np.ndarray:
        plain = right / own
        return plain - (wide @ (inner @ (wide.T @ plain))) / own

    return solve


def reach(left: np.ndarray, change: np.ndarray, z: np.ndarray, force: np.ndarray) -> float:
    """The largest share of a step, at most 1, that leaves no bound and turns no multiplier."""
    value, step = np.concatenate([left, z]), np.concatenate([change, force])
    down = step < 0
    return min(1.0, float((value[down] / -step[down]).min())) if down.any() else 1.0


def least_linear(slope: np.ndarray, most: float, slack: float) -> np.ndarray:
    """Among the points that keep the bounds the one with the least `slope` @ w: as much as may be where the slope is
    below 0, and where it is least until the mean is large enough."""
    order = np.argsort(slope, kind="stable")
    ranked, count = slope[order], len(slope)
    room = np.where(ranked < 0, count * (1 + slack), count * (1 - slack))
    found = np.empty(count)
    found[order] = np.clip(room - most * np.arange(count), 0, most)
    return found


def likelihood_ratio(
    source: np.ndarray,
    target: np.ndarray,
    *,
    scales: Sequence[float] = SCALES,
    centres: int = CENTRES,
    near: float = NEAR,
) -> np.ndarray:
    """KLIEP (Sugiyama et al., 2008): the weights w(x_i) [N] of `source` [N, W] with

        max mean_j log w(y_j)  with  w(x) = sum_k a_k exp(-|x - c_k|^2 / (2 width)),  a_k >= 0,  mean_i w(x_i) = 1

    over `target` [M, W]; the c_k are `centres` of its rows, drawn once. The width is one of `scales` times the mean
    squared distance among all rows: of several, the one of the greatest likelihood on fifths that were held out.
    That of the solution is proved to lie within `near` of the greatest.
    """
    x, y = checked(source, target)
    check_mixture(scales, centres, "likelihood_ratio")
    draw, mean = np.random.default_rng(0), mean_square(x, y)
    chosen = y[np.sort(draw.choice(len(y), min(centres, len(y)), replace=False))]
    fold = draw.permutation(len(y)) % min(FOLDS, len(y))

    def components(scale: float) -> tuple[np.ndarray, np.ndarray]:
        """The densities of the mixture over that of the source, at its own rows and at the target's."""
        own = gaussian(x, chosen, scale * mean)
        # A centre far from all of the source could count without bound.
        total = np.maximum(own.mean(0), 1e-12)
        return own / total, gaussian(y, chosen, scale * mean) / total

    def likelihood(scale: float) -> float:
        _, at = components(scale)
        held = [np.log(np.maximum(at[fold == k] @ proportions(at[fold != k], 1e-4), 1e-300)) for k in np.unique(fold)]
        return float(np.concatenate(held).mean())

    best = max(scales, key=likelihood) if len(scales) > 1 and len(y) > 1 else scales[0]
    own, at = components(best)
    found = own @ proportions(at, near)
    return found / max(found.mean(), 1e-300)


def check_mixture(scales: Sequence[float], centres: int, who: str) -> None:
    """ValueError for settings of `likelihood_ratio` that leave nothing to find."""
    if not scales or min(scales) <= 0:
        raise ValueError(f"{who}: scales are {tuple(scales)}; give one or more, each above 0")
    if centres < 1:
        raise ValueError(f"{who}: centres is {centres}; it is 1 or more")


def proportions(densities: np.ndarray, near: float = NEAR, steps: int = 100) -> np.ndarray:
    """The proportions q [K] of a mixture of greatest likelihood, mean_j log(densities_j @ q), of `densities` [M, K].

    KLIEP is this: with a_k times the source's mean of the k-th kernel for q_k, its constraint is that q sums to 1. That
    sum may as well be taken from the likelihood (where it is not 1 a multiple of q is better), which leaves q >= 0: a
    primal-dual interior point, until no likelihood lies more than `near` above (Lindsay, 1983). Says in the log where
    `steps` were not enough.
    """
    count = densities.shape[1]
    q, z = np.full(count, 1 / count), np.ones(count)
    best, least = q, np.inf
    for _ in range(steps):
        ratio = densities / np.maximum(densities @ q, 1e-300)[:, None]
        slope = 1 - ratio.mean(0)
        # Of q over its sum, which multiplies the ratios by it.
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
        log.warning("the likelihood is within %.1g of the best after %d steps, not within %.1g", least, steps, near)
    return best


def effective(weights: np.ndarray) -> float:
    """The effective share of the examples, (sum w)^2 / (N sum w^2), of weights [N] (Kish, 1965).

    >>> effective(np.array([1.0, 1.0, 0.0, 0.0]))
    0.5
    """
    return float(weights.sum() ** 2 / (len(weights) * max((weights**2).sum(), 1e-300)))


def checked(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets in float64; ValueError where they are not finite rows of one width."""
    x, y = (np.asarray(rows, np.float64) for rows in (source, target))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise ValueError(f"source and target are rows of one width, [N, W] and [M, W]; got {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("the features of source or target are not finite, so no distance is; look at the model")
    return x, y


def mean_square(x: np.ndarray, y: np.ndarray) -> float:
    """The mean squared distance among all rows of both, each with itself too."""
    every = np.concatenate([x, y])
    return max(2.0 * float(((every - every.mean(0)) ** 2).sum(1).mean()), 1e-300)


def gaussian(rows: np.ndarray, others: np.ndarray, width: float) -> np.ndarray:
    """exp(-|x_i - y_j|^2 / (2 width)): [N, W], [M, W] -> [N, M]."""
    # About one middle, lest the squares of far-off features swallow their distances.
    middle = others.mean(0)
    x, y = rows - middle, others - middle
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    return np.exp(np.maximum(squares, 0) / (-2 * width))


def nystroem(rows: np.ndarray, landmarks: np.ndarray, width: float) -> np.ndarray:
    """Features [N, R] whose products are nearly the kernel (Williams and Seeger, 2001), exactly so at `landmarks`."""
    values, vectors = np.linalg.eigh(gaussian(landmarks, landmarks, width))
    kept = values > 1e-10 * values[-1]
    return gaussian(rows, landmarks, width) @ (vectors[:, kept] / np.sqrt(values[kept]))
