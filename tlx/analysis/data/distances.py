"""Measure the distance of a source from the target, with intervals.

Shapes: N rows of the source, M rows of the target, W width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from tlx.analysis.data.features import FeatureSource, vectors
from tlx.analysis.negative.domains import FEWEST, proxy_a_distance
from tlx.data.duplicates import sample
from tlx.functional import discrepancy
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data import Examples

# Examples of each side, rows of each in a kernel, and random divisions of the rows.
MOST, KERNEL, DIVISIONS = 2000, 300, 200


def distance(source_name: str, source: Examples, target: Examples, features: FeatureSource) -> Json:
    """Return the distance of a source from the target.

    Returns:
        `a`, the proxy A-distance (Ben-David et al., 2007), with the lowest and the highest of five divisions into
        training and test rows; `mmd`, the squared maximum mean discrepancy (Gretton et al., 2012), with `chance`, the
        value that 95 % of random divisions of all rows do not exceed, and the share of them `p` that reach it; the
        numbers of `examples`; and `by`, what was compared. Values are None where there are too few examples.
    """
    sides = [features.of(part.view(np.sort(sample(part, MOST)))) for part in (source, target)]
    sizes = [len(side) for side in sides]
    row: Json = {"source": source_name, "by": features.words, "examples": sizes}
    if min(sizes) < FEWEST:
        return row | dict.fromkeys(("a", "a_low", "a_high", "mmd", "chance", "p"))
    rows, others = vectors(sides, features.of_texts)
    values = proxy_a_distance(rows, others)
    count = min(*sizes, KERNEL)
    return (
        row
        | {"a": float(np.mean(values)), "a_low": min(values), "a_high": max(values)}
        | by_chance(rows[:count], others[:count])
    )


def by_chance(rows: np.ndarray, others: np.ndarray) -> Json:
    """Return `mmd` of equally many rows of two sides, its `chance` level and `p` (a permutation test)."""
    squares = discrepancy.among(jnp.asarray(rows), jnp.asarray(others))
    kernel = np.asarray(discrepancy.gaussians(squares, squares.mean(), discrepancy.SCALES), np.float64)
    count = len(rows)
    random = np.random.Generator(np.random.PCG64(0))
    value = unbiased(kernel, count)
    by_permutation = []
    for _ in range(DIVISIONS):
        order = np.argsort(random.random(len(kernel)), kind="stable")
        by_permutation.append(unbiased(kernel[np.ix_(order, order)], count))
    reached = 1 + sum(other >= value for other in by_permutation)
    return {"mmd": value, "chance": float(np.quantile(by_permutation, 0.95)), "p": reached / (DIVISIONS + 1)}


def unbiased(kernel: np.ndarray, count: int) -> float:
    """Return the unbiased squared discrepancy of a kernel, as `discrepancy.unbiased` computes it."""
    first, second = kernel[:count, :count], kernel[count:, count:]
    means = [(block.sum() - np.trace(block)) / (len(block) * (len(block) - 1)) for block in (first, second)]
    return float(sum(means) - 2 * kernel[:count, count:].mean())
