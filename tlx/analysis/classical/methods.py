"""Classical methods on features: from the granted data to the classes of the test examples.

Shapes: N rows of the source, M of the target, L of them with labels, T test rows, W width, D dimensions kept.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tlx.functional.reweight import effective, gaussian, likelihood_ratio, mean_matching, mean_square

# The dimensions of a subspace, and the most rows of each set whose kernels, or whose transport, are held whole.
DIMENSIONS, COMPONENT_ROWS, TRANSPORT_ROWS = 32, 1000, 2000
ROUNDS = 20
# Of an optimiser of logistic regression.
STEPS = 2000


class Inputs(NamedTuple):
    """Data that a method may read.

    `source` [N, W] and `labels` [N]; `target` [M, W]; `granted` [L, W] and `granted_labels` [L] of the target examples
    with granted labels (L may be 0); `test` [T, W].
    """

    source: np.ndarray
    labels: np.ndarray
    target: np.ndarray
    granted: np.ndarray
    granted_labels: np.ndarray
    test: np.ndarray


class Answer(NamedTuple):
    """The predicted `classes` [T] of a method, and numbers about its fit."""

    classes: np.ndarray
    details: dict[str, float]


class Method(NamedTuple):
    """A method. `needs` is what a setting must grant beyond the source and the target's features: "labels" or
    nothing."""

    answer: Callable[[Inputs], Answer]
    about: str
    needs: str = ""


def logistic(x: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Fit logistic regression, as every method here uses it (penalty: half the squared norm).

    Only the ratio of the weights to their mean matters.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        # `answer` reports convergence.
        warnings.simplefilter("ignore", ConvergenceWarning)
        shares = None if weights is None else weights / weights.mean()
        return LogisticRegression(max_iter=STEPS).fit(x, labels, shares)


def answer(fitted: Any, test: np.ndarray, **details: float) -> Answer:
    """Predict the classes of the test rows; `converged` is 0 if the fit ran out of steps."""
    return Answer(fitted.predict(test), {"converged": converged(fitted), **details})


def converged(fitted: Any) -> float:
    return float(fitted.n_iter_.max() < STEPS)


def standard(inputs: Inputs) -> Inputs:
    """Standardise the features by the mean and the standard deviation of source and target together, for every method.

    By the statistics of the source alone, a feature that hardly varies there would be huge in the target.
    """
    rows = np.concatenate([inputs.source, inputs.target])
    centre, spread = rows.mean(0), rows.std(0)
    spread = np.where(spread > 1e-12, spread, 1.0)
    return inputs._replace(**{
        name: (getattr(inputs, name) - centre) / spread for name in ("source", "target", "granted", "test")
    })  # fmt: skip


def source_only(inputs: Inputs) -> Answer:
    return answer(logistic(inputs.source, inputs.labels), inputs.test)


def target_only(inputs: Inputs) -> Answer:
    return answer(logistic(inputs.granted, inputs.granted_labels), inputs.test)


def coral(inputs: Inputs) -> Answer:
    """Predict by CORAL (Sun et al., 2016, algorithm 1).

    The source is whitened, and coloured like the target, by the covariances plus the identity. Its mean, which the
    paper subtracts beforehand, becomes the target's too.
    """
    whiten, colour = power(covariance(inputs.source), -0.5), power(covariance(inputs.target), 0.5)
    moved = (inputs.source - inputs.source.mean(0)) @ whiten @ colour + inputs.target.mean(0)
    return answer(logistic(moved, inputs.labels), inputs.test)


def covariance(rows: np.ndarray) -> np.ndarray:
    """Compute the covariance plus the identity, [N, W] -> [W, W]."""
    return np.cov(rows, rowvar=False).reshape(rows.shape[1], -1) + np.eye(rows.shape[1])


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Raise a symmetric positive matrix to a power."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T


def subspace(inputs: Inputs) -> Answer:
    """Predict by subspace alignment (Fernando et al., 2013).

    The first D principal directions of the source are rotated into those of the target; each set is centred on its own
    mean.
    """
    dimensions = min(DIMENSIONS, inputs.source.shape[1], len(inputs.source) - 1, len(inputs.target) - 1)
    bases = [principal(rows, dimensions) for rows in (inputs.source, inputs.target)]
    aligned = (inputs.source - inputs.source.mean(0)) @ bases[0] @ (bases[0].T @ bases[1])
    fitted = logistic(aligned, inputs.labels)
    return answer(fitted, (inputs.test - inputs.target.mean(0)) @ bases[1], dimensions=dimensions)


def principal(rows: np.ndarray, dimensions: int) -> np.ndarray:
    """Return the directions of the greatest variance, [W, D]."""
    return np.linalg.svd(rows - rows.mean(0), full_matrices=False)[2][:dimensions].T


def components(inputs: Inputs, mu: float = 1.0) -> Answer:
    """Predict by transfer component analysis (Pan et al., 2011, section III.B): the first D solutions W of

        max tr(W' K H K W)  with  W' (K L K + mu I) W = I

    K is a Gaussian kernel over both sets, whose squared width is the mean squared distance, H the centring matrix, and
    L such that tr(K L) is the squared distance of the sets' means. Components are scaled to a standard deviation of 1.
    The rows of the kernel are at most `COMPONENT_ROWS` of each set, drawn once; the classifier is fitted on those of
    the source.
    """
    source_rows, target_rows = some(len(inputs.source), COMPONENT_ROWS), some(len(inputs.target), COMPONENT_ROWS)
    rows = np.concatenate([inputs.source[source_rows], inputs.target[target_rows]])
    directions = transfer_directions(rows, len(source_rows), min(DIMENSIONS, len(rows) - 1), mu)
    width = mean_square(inputs.source[source_rows], inputs.target[target_rows])
    fitted = logistic(gaussian(inputs.source[source_rows], rows, width) @ directions, inputs.labels[source_rows])
    test = gaussian(inputs.test, rows, width) @ directions
    return answer(fitted, test, dimensions=directions.shape[1], source=len(source_rows), target=len(target_rows))


def transfer_directions(every: np.ndarray, first: int, dimensions: int, mu: float) -> np.ndarray:
    """Return the W [N + M, D] of `components`, for rows of which the first `first` belong to the source."""
    from scipy.linalg import eigh

    count = len(every)
    kernel = gaussian(every, every, mean_square(every[:first], every[first:]))
    toward = kernel @ np.where(np.arange(count) < first, 1 / first, -1 / (count - first))
    centred = kernel - kernel.mean(0)
    spread = centred.T @ centred
    constraint = np.outer(toward, toward) + mu * np.eye(count)
    values, vectors = eigh(spread, constraint, subset_by_index=[count - dimensions, count - 1])
    positive = values > 1e-10 * values[-1]
    return (vectors[:, positive] * np.sqrt(count / values[positive]))[:, ::-1]


def transport(inputs: Inputs) -> Answer:
    """Predict by optimal transport (Courty et al., 2017).

    Each source example moves to its mean position under the exact plan by squared distance. At most `TRANSPORT_ROWS` of
    each set, drawn once, are moved and used for the fit.

    Raises:
        ImportError: The extra `tlx[classical]` is missing.
    """
    source_rows, target_rows = some(len(inputs.source), TRANSPORT_ROWS), some(len(inputs.target), TRANSPORT_ROWS)
    moved, cost = transported(inputs.source[source_rows], inputs.target[target_rows])
    fitted = logistic(moved, inputs.labels[source_rows])
    return answer(fitted, inputs.test, cost=cost, source=len(source_rows), target=len(target_rows))


def transported(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the moved source [N, W], and the mean squared distance of the move."""
    ot = optimal_transport()
    squares = ot.dist(source, target)
    plan = ot.emd(np.full(len(source), 1 / len(source)), np.full(len(target), 1 / len(target)), squares, 1_000_000)
    return plan @ target * len(source), float((plan * squares).sum())


def optimal_transport() -> Any:
    """Return the library POT; raise ImportError, which names the extra, if it is missing."""
    # Otherwise POT would import every array library that is installed.
    for name in ("PYTORCH", "TENSORFLOW", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{name}", "1")
    try:
        import ot
    except ModuleNotFoundError:
        raise ImportError("the method 'ot' needs POT: pip install 'tlx[classical]'") from None
    return ot


def matched(inputs: Inputs) -> Answer:
    """Predict by logistic regression on the source, weighted by kernel mean matching (`tlx.functional.reweight`)."""
    return weighed(inputs, mean_matching(inputs.source, inputs.target))


def likely(inputs: Inputs) -> Answer:
    """Predict by logistic regression on the source, weighted by KLIEP (`tlx.functional.reweight`)."""
    return weighed(inputs, likelihood_ratio(inputs.source, inputs.target))


def weighed(inputs: Inputs, weights: np.ndarray) -> Answer:
    return answer(logistic(inputs.source, inputs.labels, weights), inputs.test, effective=effective(weights))


def boosted(inputs: Inputs, rounds: int = ROUNDS) -> Answer:
    """Predict by TrAdaBoost (Dai et al., 2007, algorithm 1) over logistic regressions.

    A round that misclassifies an example increases its weight if it belongs to the target, and decreases it if it
    belongs to the source. The later half of the rounds votes, with weight log(1 / beta). With more than two classes the
    class of most votes wins, which for two classes is the paper's rule. An error of 1/2 or more, which the paper
    forbids, is clipped just below.
    """
    count, settled = len(inputs.source), 1.0
    x, labels = np.concatenate([inputs.source, inputs.granted]), np.concatenate([inputs.labels, inputs.granted_labels])
    of_source = np.arange(len(x)) < count
    classes = np.unique(labels)
    votes, weights = np.zeros((len(inputs.test), len(classes))), np.ones(len(x))
    less = 1 / (1 + np.sqrt(2 * np.log(count) / rounds))
    for number in range(1, rounds + 1):
        fitted = logistic(x, labels, weights)
        settled = min(settled, converged(fitted))
        wrong = fitted.predict(x) != labels
        error = weights[~of_source & wrong].sum() / weights[~of_source].sum()
        beta = float(np.clip(error / (1 - min(error, 0.5)), 1e-6, 0.999))
        if number >= np.ceil(rounds / 2):
            votes += np.log(1 / beta) * (fitted.predict(inputs.test)[:, None] == classes)
        weights = weights * np.where(wrong, np.where(of_source, less, 1 / beta), 1.0)
        weights /= weights.sum()
    details = {"converged": settled, "source_share": float(weights[of_source].sum())}
    return Answer(classes[votes.argmax(1)], details)


def some(count: int, most: int) -> np.ndarray:
    """Return at most `most` of `count` positions, ascending; the draw is the same each time."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False))


BASE = "source"
METHODS: dict[str, Method] = {
    BASE: Method(source_only, "logistic regression on the source"),
    "target": Method(target_only, "logistic regression on the target's granted labels", "labels"),
    "coral": Method(coral, "the source with the target's covariance (Sun et al., 2016)"),
    "subspace": Method(subspace, "the source's principal directions aligned with the target's (Fernando et al., 2013)"),
    "tca": Method(components, "transfer components of a kernel (Pan et al., 2011)"),
    "ot": Method(transport, "the source mapped to the target by optimal transport (Courty et al., 2017)"),
    "kmm": Method(matched, "the source weighted by kernel mean matching (Huang et al., 2007)"),
    "kliep": Method(likely, "the source weighted by KLIEP (Sugiyama et al., 2008)"),
    "tradaboost": Method(boosted, "boosting on source and granted labels (Dai et al., 2007)", "labels"),
}
