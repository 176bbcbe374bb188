"""Which source examples the gate turned away.

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
from tlx.training.evaluate import feature_reader, shown
from tlx.training.reopen import learned

WEIGHTS = "gate.npz"
SHOWN = 6


def gated(study: StudyRecords, given: Recipe) -> list[dict[str, Any]]:
    """A row a setting, where the algorithm has a `Gate`: the weights of every source example under its first finished
    seed, which are kept beside the run in `gate.npz`, and examples from both ends.

    `given` is the study's base, for recipes that cannot be read back by themselves. A run that has not kept what it
    learned is left out.
    """
    rows: list[dict[str, Any]] = []
    if not any(isinstance(term, Gate) for term in given.objective):
        return rows
    for arm in study.arms:
        if arm.names[ARM] != TRANSFER or not arm.done:
            continue
        cell = arm.done[0]
        if (found := weights_of(cell.folder, given)) is None:
            continue
        names = {column: arm.names[column] for column in (SOURCE, LABELS, EPS)}
        rows.append({**names, "seed": cell.seed, "folder": f"{cell.folder.parent.name}/{cell.folder.name}", **found})
    return rows


def weights_of(path: Path, given: Recipe) -> dict[str, Any] | None:
    """The gate's weights in the folder of a run that has one, None where it has not kept what it learned."""
    if not (path / run_directory.LEARNED).is_file():
        return None
    ready, splits, variables = learned(path, given)
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
    """What the batches met on the way, where the run tells: the smallest effective share, and the largest mean weight.
    The weights at the end may be tame where these were not."""
    told: dict[str, list[float]] = {"effective": [], "weight_mean": []}
    for line in read_metrics(path):
        name = line["name"].rpartition("/")[2]
        if line["name"].startswith("train/gate") and name in told:
            told[name].append(line["value"])
    if not all(told.values()):
        return {}
    return {"effective_least": min(told["effective"]), "weight_mean_most": max(told["weight_mean"])}


def picked(source: Any, task: Any, relative: np.ndarray, positions: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """Examples as a page shows them, with their weight over the mean."""
    found = []
    for n in positions:
        told = shown(source[int(n)], task, {}, 0.0)
        found.append({name: told[name] for name in told if name not in ("answer", "loss")} | {"weight": relative[n]})
    return found
