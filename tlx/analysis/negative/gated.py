"""List the source examples that the gate rejected.

Shapes: N source examples.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tlx.analysis.negative.arms import ARM, EPS, LABELS, SOURCE, TRANSFER
from tlx.functional.reweight import effective
from tlx.objectives import Gate
from tlx.objectives.gate import log_odds
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.records.log import read_metrics
from tlx.records.studies import StudyRecords
from tlx.training.evaluate import describe_example, feature_reader
from tlx.training.reopen import learned
from tlx.trees import Json

WEIGHTS = "gate.npz"
SHOWN = 6


def gated(study: StudyRecords, base: Recipe) -> list[Json]:
    """Return a row per setting, if the algorithm has a `Gate`: the weights of every source example, and examples from
    both ends.

    The weights belong to the first finished seed, and are kept beside the run in `gate.npz`. A run that has not kept
    its trained parameters is left out. `base` is the study's base, for recipes that cannot be read from their file
    alone.
    """
    rows: list[Json] = []
    if not any(isinstance(term, Gate) for term in base.objective):
        return rows
    for arm in study.arms:
        if arm.names[ARM] != TRANSFER or not arm.done_cells:
            continue
        cell = arm.done_cells[0]
        if (weights := weights_of(cell.folder, base)) is None:
            continue
        names = {column: arm.names[column] for column in (SOURCE, LABELS, EPS)}
        rows.append({**names, "seed": cell.seed, "folder": f"{cell.folder.parent.name}/{cell.folder.name}", **weights})
    return rows


def weights_of(path: Path, base: Recipe) -> Json | None:
    """Return the gate's weights in the folder of a run that has one; None if the run has not kept its trained
    parameters."""
    if not (path / run_directory.LEARNED).is_file():
        return None
    ready, splits, variables = learned(path, base)
    gate = next(term for term in ready.recipe.objective if isinstance(term, Gate))
    source = splits.streams[gate.source]
    read = feature_reader(ready)(variables, source)
    label = jnp.asarray(read["label"]) if gate.knows(splits.streams) else None
    odds = log_odds(variables.params["gate"], jnp.asarray(read["features"]), label, ready.task.outputs or 0)
    weight = np.asarray(gate.weights(odds), np.float64)
    np.savez(path / WEIGHTS, index=read["index"], weight=weight, label=read["label"])
    order = np.argsort(weight, kind="stable")
    relative = weight / max(weight.mean(), 1e-300)
    return {
        "examples": len(weight),
        "effective": effective(weight),
        **in_training(path),
        "quantiles": [float(value) for value in np.quantile(relative, np.linspace(0, 1, 21))],
        "away": picked(source, ready.task, relative, order[:SHOWN]),
        "welcome": picked(source, ready.task, relative, order[::-1][:SHOWN]),
    }


def in_training(path: Path) -> dict[str, float]:
    """Return the extremes over the training batches, if the run logged them: the smallest effective share, and the
    largest mean weight.

    The weights at the end may be moderate where these were not.
    """
    logged: dict[str, list[float]] = {"effective": [], "weight_mean": []}
    for line in read_metrics(path):
        name = line["name"].rpartition("/")[2]
        if line["name"].startswith("train/gate") and name in logged:
            logged[name].append(line["value"])
    if not all(logged.values()):
        return {}
    return {"effective_least": min(logged["effective"]), "weight_mean_most": max(logged["weight_mean"])}


def picked(source: Any, task: Any, relative: np.ndarray, positions: Sequence[int] | np.ndarray) -> list[Json]:
    """Return examples as a page shows them, with their weight divided by the mean."""
    rows = []
    for n in positions:
        example = describe_example(source[int(n)], task, {}, 0.0)
        rows.append(
            {name: example[name] for name in example if name not in ("answer", "loss")} | {"weight": relative[n]}
        )
    return rows
