"""Similarities of two sets of features of the same examples, and the effective rank. NumPy, in float64.

Shapes: B examples, V and W widths of features.
"""

from typing import NamedTuple

import numpy as np


class SimilaritySums(NamedTuple):
    """Sums over batches of HSIC_1, for linear CKA.

    Attributes:
        cross: the left features with the right features.
        left: the left features with themselves.
        right: the right features with themselves.
        batches: the number of batches.
    """

    cross: float
    left: float
    right: float
    batches: int


def merge(a: SimilaritySums, b: SimilaritySums) -> SimilaritySums:
    """Return the sums over the union of two disjoint sets of batches."""
    return SimilaritySums(a.cross + b.cross, a.left + b.left, a.right + b.right, a.batches + b.batches)


def hsic(left: np.ndarray, right: np.ndarray) -> float:
    """Compute HSIC_1, the unbiased Hilbert-Schmidt independence criterion (Song et al., 2012, equation 5).

    Args:
        left: a kernel matrix, [B, B].
        right: the other kernel matrix, [B, B].

    Raises:
        ValueError: there are fewer than four examples; the estimate is not defined for them.
    """
    n = len(left)
    if n < 4:
        raise ValueError(f"received {n} examples; the unbiased HSIC requires at least 4")
    k, m = (np.where(np.eye(n, dtype=bool), 0.0, matrix) for matrix in (left, right))
    total = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
    return float(total / (n * (n - 3)))


def centred(x: np.ndarray) -> np.ndarray:
    """Return `x` [B, W] in float64 with columns of mean zero."""
    values = x.astype(np.float64)
    return values - values.mean(0)


def sum_similarity(x: np.ndarray, y: np.ndarray) -> SimilaritySums:
    """Compute the sums for one batch of features of the same examples, with linear kernels.

    The features are centred, which changes only the rounding.

    Args:
        x: the left features, [B, V].
        y: the right features, [B, W].

    Raises:
        ValueError: the two differ in length, or have fewer than four examples.
    """
    if len(x) != len(y):
        raise ValueError(
            f"received features of {len(x)} and of {len(y)} examples; expected features of the same examples"
        )
    x, y = centred(x), centred(y)
    left, right = x @ x.T, y @ y.T
    return SimilaritySums(hsic(left, right), hsic(left, left), hsic(right, right), 1)


def summarise_similarity(sums: SimilaritySums) -> dict[str, float]:
    """Return `cka`: linear CKA by batches (Nguyen et al., 2021, equation 3), the ratio of the summed HSIC_1.

    It may leave [0, 1] slightly, because the estimates are unbiased. It is NaN where one side does not vary.
    """
    product = sums.left * sums.right
    return {"cka": float(sums.cross / product**0.5) if sums.left > 0 and sums.right > 0 else float("nan")}


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Compute |Y^T X|^2 / (|X^T X| |Y^T Y|) (Kornblith et al., 2019, section 3): [B, V], [B, W] -> [0, 1].

    The norms are Frobenius norms of centred columns. The result is biased upwards where the widths are not small
    compared with B, and NaN where one side does not vary.
    """
    x, y = centred(x), centred(y)
    if not x.any() or not y.any():
        return float("nan")
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)


def effective_rank(singular_values: np.ndarray) -> float:
    """Compute exp of the entropy of the singular values as shares of their sum (Roy and Vetterli, 2007).

    The result lies between 1 and the rank; it is 0 for a matrix of zeros, which has rank 0.
    """
    values = singular_values[singular_values > 0].astype(np.float64)
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
