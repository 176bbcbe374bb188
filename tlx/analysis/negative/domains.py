"""How far the source is from the target before anything is trained, by what the head would read.

Shapes: N source rows, M target rows, W width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from tlx.analysis.benefit.arms import assigned
from tlx.analysis.negative.arms import perturbed
from tlx.data import Examples, load
from tlx.functional import discrepancy
from tlx.objectives import Supervised
from tlx.recipe import Recipe
from tlx.training.evaluate import feature_reader
from tlx.training.prepare import Prepared, prepare
from tlx.updates import Sum

# Examples of each domain that are looked at, and rows of each in a kernel.
MOST, KERNEL = 2000, 500
# Splits of the proxy, and the fewest rows of a domain that can be split.
SPLITS, FEWEST = 5, 5


def divergences(recipe: Recipe, sources: Sequence[str], eps: Sequence[float]) -> list[dict[str, Any]]:
    """A row a source and noise: the proxy A-distance `a` with the lowest and highest of its splits, and `mmd`; None
    where there are too few examples for it.

    Of at most `MOST` training examples a domain, drawn by a seed of their own, so that the rows are of one recipe.
    """
    rows = []
    read: Callable[[Examples], np.ndarray] | None = None
    for source in sources:
        for noise in eps:
            # Of the model alone, so whatever the algorithm reads.
            alone = {"objective": (Supervised(on="source"),), "data.labels": 0, "update": Sum()}
            asked = assigned(recipe, {"data.source": source, **alone, **perturbed(noise)})
            splits = load(asked.data, asked.seed, test=False)
            if read is None:
                # The target settles the model, its numbers and its processor: one for all sources.
                read = reader(prepare(asked, splits))
                target = read(some(splits.streams["unlabelled"]))
            own = read(some(splits.streams["source"]))
            a = proxy_a_distance(own, target) if min(len(own), len(target)) >= FEWEST else None
            count = min(len(own), len(target), KERNEL)
            mmd = float(discrepancy.mmd(jnp.asarray(own[:count]), jnp.asarray(target[:count]))) if count > 1 else None
            ends = (float(np.mean(a)), min(a), max(a)) if a else (None, None, None)
            found = {**dict(zip(("a", "a_low", "a_high"), ends, strict=True)), "mmd": mmd}
            rows.append({"source": source, "eps": noise, **found, "examples": [len(own), len(target)]})
    return rows


def some(examples: Examples, seed: int = 0) -> Examples:
    """At most `MOST` of them, the same ones every time."""
    order = np.random.default_rng(seed).permutation(len(examples))
    return examples.view(order[:MOST])


def reader(ready: Prepared) -> Callable[[Examples], np.ndarray]:
    """What the head reads of examples, [N, W], of the model as it is ready."""
    read = feature_reader(ready)
    return lambda examples: read(ready.variables, examples)["features"]


def proxy_a_distance(rows: np.ndarray, others: np.ndarray, splits: int = SPLITS) -> list[float]:
    """2 (1 - 2 error) of a linear classifier of the two domains, equally many rows of each, on a held-out fifth, for
    each of so many seeded splits (Ben-David et al., 2007): about 0 where it cannot tell them apart, 2 where it always
    can. Raises ValueError for fewer than five rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count = min(len(rows), len(others))
    if count < FEWEST:
        told = f"{count} rows of a domain are too few to tell domains apart by; the proxy needs {FEWEST} or more"
        raise ValueError(told)
    x = np.concatenate([rows[:count], others[:count]]).astype(np.float64)
    y = np.repeat([0, 1], count)
    found = []
    for seed in range(splits):
        x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=seed, stratify=y)
        # A stronger penalty than usual, for there may be more features than rows.
        told = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(x_train, y_train)
        found.append(2 * (1 - 2 * (1 - float(told.score(x_test, y_test)))))
    return found
