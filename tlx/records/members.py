"""The scores of the members of a mixture: which examples are of which member, and the metrics of each member.

A metric of a member has its name between those of the split and of the metric: "test/movies/exact_match". In the place
of a member, "average" is the unweighted average over the members that the split has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlx.functional.mixtures import AVERAGE
from tlx.records.run_directory import Predictions, read_predictions
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data.members import Members
    from tlx.tasks import Task

# The scores [N] that name the member of each example, and its place in the split of this member.
MEMBER, ROW = "member", "member_row"


def member_of(metric: str) -> str:
    """Return the member in the name of a metric, "average" for all; "" for a metric of all examples.

    >>> member_of("test/movies/exact_match"), member_of("test/exact_match")
    ('movies', '')
    """
    return metric.partition("/")[2].rpartition("/")[0]


def with_members(scores: Mapping[str, np.ndarray], members: Members | None) -> dict[str, np.ndarray]:
    """Return the scores [N, ...] of some examples with the member of each of them, if they are those of a mixture."""
    return {**scores} if members is None else {**scores, MEMBER: members.numbers, ROW: members.rows}


def by_member(predictions: Predictions, names: Sequence[str]) -> dict[str, Predictions]:
    """Return the predictions of each member that has examples, by name.

    Their indices are places in the split of the member, which are the same in every mixture.
    """
    if MEMBER not in predictions.scores:
        return {}
    parts = {}
    for number, name in enumerate(names):
        places = np.flatnonzero(predictions.scores[MEMBER] == number)
        if len(places):
            part = predictions.rows(places)
            parts[name] = Predictions(part.scores, part.scores[ROW], part.finite)
    return parts


def member_metrics(
    predictions: Predictions, task: Task, members: Members | None, only: Collection[str] | None = None
) -> dict[str, float]:
    """Return the metrics of each member, and their averages, by names such as "movies/exact_match".

    Args:
        predictions: The scores of all examples of a split.
        task: The task.
        members: The members of the mixture; None for other data.
        only: The metrics; None for all.
    """
    names = () if members is None else members.names
    measured = {name: part.metrics(task, only) for name, part in by_member(predictions, names).items()}
    if not measured:
        return {}
    metrics = {f"{name}/{metric}": value for name, values in measured.items() for metric, value in values.items()}
    for metric in next(iter(measured.values())):
        metrics[f"{AVERAGE}/{metric}"] = float(np.mean([values[metric] for values in measured.values()]))
    return metrics


def primary_by_member(
    metrics: Mapping[str, float], predictions: Predictions, task: Task, members: Members | None
) -> dict[str, float]:
    """Return the primary metric of each member and its average, if it is among the `metrics` of all examples."""
    return member_metrics(predictions, task, members, metrics.keys() & {task.primary})


def measured_on(predictions: Predictions, metric: str, result: Json | None) -> list[Predictions]:
    """Return the predictions that a metric is computed from: those of its member, those of each member for an average,
    else all of the split. `result` is the content of the run's `result.json`."""
    name = member_of(metric)
    if not name:
        return [predictions]
    members: Mapping[str, object] = (result or {}).get("members") or {}
    parts = by_member(predictions, list(members))
    return list(parts.values()) if name == AVERAGE else [part for key, part in parts.items() if key == name]


def read_measured(folder: Path, metric: str, result: Json) -> Predictions | None:
    """Return the predictions in the folder of a run that one of its metrics is computed from; None if it kept none, or
    if the metric is an average over several members."""
    predictions = read_predictions(folder, metric.partition("/")[0])
    parts = [] if predictions is None else measured_on(predictions, metric, result)
    return parts[0] if len(parts) == 1 else None


def member_lines(result: Json, split: str, primary: str) -> list[str]:
    """Return a line with the primary metric of each member of a mixture and their average; none for other data."""
    metrics = result["metrics"]
    names = [name for name in (*result.get("members", ()), AVERAGE) if f"{split}/{name}/{primary}" in metrics]
    values = ", ".join(f"{name} {metrics[f'{split}/{name}/{primary}']:.4f}" for name in names)
    return [f"{split}/{primary} of the members: {values}"] if values else []
