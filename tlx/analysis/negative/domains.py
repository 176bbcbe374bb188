"""Measure the distance of the source from the target before training, on the inputs of the head.

Shapes: N source rows, M target rows, W width.
"""

from collections.abc import Callable, Sequence

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
from tlx.trees import Json
from tlx.updates import Sum

# Examples of each domain that are looked at, and rows of each in a kernel.
MOST, KERNEL = 2000, 500
# Splits of the proxy, and the fewest rows of a domain that can be split.
SPLITS, FEWEST = 5, 5


def divergences(recipe: Recipe, sources: Sequence[str], eps: Sequence[float]) -> list[Json]:
    """Return a row per source and noise: the proxy A-distance `a` with the lowest and highest of its splits, and `mmd`.

    A distance is None if there are too few examples. At most `MOST` training examples per domain are used, drawn with a
    fixed seed, so that all rows belong to one recipe.
    """
    rows = []
    read: Callable[[Examples], np.ndarray] | None = None
    for source in sources:
        for noise in eps:
            # The distance depends on the model alone, not on the algorithm.
            alone = {"objective": (Supervised(on="source"),), "data.labels": 0, "update": Sum()}
            changed = assigned(recipe, {"data.source": source, **alone, **perturbed(noise)})
            splits = load(changed.data, changed.seed, test=False)
            if read is None:
                # The target determines the model, its weights and its processor, so one reader serves all sources.
                read = reader(prepare(changed, splits))
                target = read(some(splits.streams["unlabelled"]))
            source_rows = read(some(splits.streams["source"]))
            a = proxy_a_distance(source_rows, target) if min(len(source_rows), len(target)) >= FEWEST else None
            count = min(len(source_rows), len(target), KERNEL)
            mmd = (
                float(discrepancy.mmd(jnp.asarray(source_rows[:count]), jnp.asarray(target[:count])))
                if count > 1
                else None
            )
            ends = (float(np.mean(a)), min(a), max(a)) if a else (None, None, None)
            distances = {**dict(zip(("a", "a_low", "a_high"), ends, strict=True)), "mmd": mmd}
            rows.append({"source": source, "eps": noise, **distances, "examples": [len(source_rows), len(target)]})
    return rows


def some(examples: Examples, seed: int = 0) -> Examples:
    """Return at most `MOST` of the examples; the draw is the same each time."""
    order = np.random.default_rng(seed).permutation(len(examples))
    return examples.view(order[:MOST])


def reader(ready: Prepared) -> Callable[[Examples], np.ndarray]:
    """Return a function that computes the inputs of the head, [N, W], with the weights of the prepared model."""
    read = feature_reader(ready)
    return lambda examples: read(ready.variables, examples)["features"]


def proxy_a_distance(rows: np.ndarray, others: np.ndarray, splits: int = SPLITS) -> list[float]:
    """Compute 2 (1 - 2 error) of a linear classifier of the two domains, for each of `splits` seeded splits (Ben-David
    et al., 2007).

    Both domains have equally many rows, and the error is measured on a held-out fifth. The value is about 0 if the
    classifier cannot distinguish the domains, and 2 if it always can.

    Raises:
        ValueError: A domain has fewer than five rows.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count = min(len(rows), len(others))
    if count < FEWEST:
        message = f"a domain has {count} rows, which are too few for the proxy A-distance; it needs {FEWEST} or more"
        raise ValueError(message)
    x = np.concatenate([rows[:count], others[:count]]).astype(np.float64)
    y = np.repeat([0, 1], count)
    distances = []
    for seed in range(splits):
        x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, random_state=seed, stratify=y)
        # The penalty is stronger than the default, because there may be more features than rows.
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)).fit(x_train, y_train)
        distances.append(2 * (1 - 2 * (1 - float(classifier.score(x_test, y_test)))))
    return distances
