"""Measure how far the features moved, stage by stage: their similarity, and linear probes on them.

Shapes: N examples, W width of a stage's summary.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tlx import models
from tlx.functional.scores import scores_of
from tlx.functional.similarity import linear_cka, merge, sum_similarity, summarise_similarity
from tlx.records.run_directory import Predictions
from tlx.report.intervals import measure, wilson
from tlx.tasks import Regression
from tlx.training.evaluate import passes
from tlx.training.reopen import Batches, Reopened
from tlx.types import ArrayMap, Variables

BATCH = 64
Features = dict[str, np.ndarray]


def reader(opened: Reopened) -> Callable[[Variables, Batches], Features]:
    """Return a function that computes the features of each stage, one row per example, with `label` and `logits`.

    It is compiled once per batch shape.
    """
    model, dtype = opened.ready.model, opened.ready.recipe.train.dtype
    names = [stage.name for stage in model.stages]

    @jax.jit
    def read(variables: Variables, inputs: ArrayMap) -> dict[str, Any]:
        taps, _ = models.forward(model, variables, inputs, dtype=dtype)
        mask = taps["carry"].get("mask")
        return {name: models.summary(taps[name], mask) for name in names}

    def rows(variables: Variables, batches: Batches) -> Features:
        placed = jax.device_put(variables)
        return passes(batches, lambda inputs: read(placed, inputs))

    return rows


def similarity(x: np.ndarray, y: np.ndarray, size: int = BATCH) -> dict[str, Any]:
    """Compute linear CKA of features [N, W] before and after.

    Batches are drawn at random with a fixed seed, because in the order of the data a batch may contain a single class,
    or a single length of text.

    Returns:
        `cka` by batches of about `size` with the unbiased HSIC, and `plain` over all examples at once; None if
        undefined.
    """
    order = np.random.default_rng(0).permutation(len(x))
    plain = linear_cka(x, y)
    if len(x) < 4:
        return {"cka": None, "plain": finite(plain), "batches": 0}
    parts = np.array_split(order, max(1, len(x) // size))
    sums = sum_similarity(x[parts[0]], y[parts[0]])
    for part in parts[1:]:
        sums = merge(sums, sum_similarity(x[part], y[part]))
    return {"cka": finite(summarise_similarity(sums)["cka"]), "plain": finite(plain), "batches": len(parts)}


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def probe(
    train: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray], classes: bool
) -> dict[str, Any]:
    """Fit a linear probe on features [N, W] and labels of `train`, and evaluate it on `validation` with a 95 %
    interval.

    If the labels are `classes`, the probe is logistic regression, measured by accuracy; else ridge regression, measured
    by R2. Features are standardised by the training examples (Alain and Bengio, 2017, put such probes on every layer).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, labels), (validation_x, validation_labels) = train, validation
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000) if classes else Ridge())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(x.astype(np.float64), labels)
    settled = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    predicted = model.predict(validation_x.astype(np.float64))
    if not classes:
        outcome, task = Predictions(scores_of(predicted, validation_labels), np.arange(len(predicted))), Regression()
        interval = measure("r2", outcome, task)
        bounds = interval._asdict() if interval else {}
        return {"measure": "r2", "value": outcome.metrics(task, ["r2"])["r2"], **bounds, "converged": settled}
    right = int((predicted == validation_labels).sum())
    scores = {"measure": "accuracy", "value": right / len(predicted), **wilson(right, len(predicted))._asdict()}
    return scores | {"right": right, "examples": len(predicted), "converged": settled}
