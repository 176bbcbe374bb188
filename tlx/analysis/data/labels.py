"""Count labels by class and split, and describe labels that are numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tlx.data.duplicates import sample
from tlx.processors.columns import LABEL
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data import Examples

# Lists of labels of a split that are read.
READ = 20_000
BINS = 40


def counts(parts: Mapping[str, Examples]) -> Json:
    """Return the labels of each split that may be read.

    With classes: `classes`, and `rows` of counts by `split`. With numbers: `rows` of `quantiles` (0, 25, 50, 75, 100
    %), `mean`, `deviation`, and histograms of one width. A split of lists of labels may be `sampled`.
    """
    labelled = {name: examples for name, examples in parts.items() if examples.labelled}
    if not labelled:
        return {"kind": "nothing", "classes": [], "rows": []}
    first = next(iter(labelled.values()))
    if first.kind == "answers":
        return {"kind": first.kind, "classes": [], "rows": []}
    if first.kind in ("number", "numbers"):
        return {"kind": first.kind, "classes": [], "rows": of_numbers(labelled)}
    if first.kind == "text":
        return {"kind": "text", "classes": [], "rows": []}
    rows = []
    for name, examples in labelled.items():
        numbers, looked_at = class_numbers(examples)
        by_class = np.bincount(numbers, minlength=len(examples.classes)) if len(numbers) else np.zeros(0, int)
        rows.append({"split": name, "counts": by_class.tolist(), "examples": len(examples), "sampled": looked_at})
    return {"kind": first.kind, "classes": list(first.classes), "rows": rows}


def class_numbers(examples: Examples) -> tuple[np.ndarray, int]:
    """Return the numbers of all classes that examples have, and of how many examples these are."""
    if examples.scalar:
        return examples.labels(), len(examples)
    positions = sample(examples, READ)
    lists = [np.asarray(examples.light(int(position))[LABEL], int) for position in positions]
    return (np.concatenate(lists) if lists else np.zeros(0, int)), len(positions)


def of_numbers(parts: Mapping[str, Examples]) -> list[Json]:
    """Return the distribution of the numbers of each split; several outputs are one after the other."""
    values = {}
    for name, examples in parts.items():
        if examples.scalar:
            values[name] = examples.labels().astype(np.float64)
        else:
            rows = [examples.light(int(position))[LABEL] for position in sample(examples, READ)]
            values[name] = np.ravel(np.array(rows, np.float64))
    together = np.concatenate(list(values.values()))
    edges = np.linspace(together.min(), together.max() or 1.0, BINS + 1)
    if edges[0] == edges[-1]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, BINS + 1)
    return [
        {
            "split": name,
            "examples": len(parts[name]),
            "quantiles": np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1)).tolist(),
            "mean": float(numbers.mean()),
            "deviation": float(numbers.std()),
            "edges": edges.tolist(),
            "counts": np.histogram(numbers, edges)[0].tolist(),
        }
        for name, numbers in values.items()
    ]


def imbalance(counted: Json, split: str) -> Json | None:
    """Return how unequal the classes of a split are; None where it has no classes.

    `ratio` is the largest class divided by the smallest that has examples, `constant` the share of the largest, which
    is the accuracy of a model that always answers it, and `effective` the exponential of the entropy: the number of
    equal classes that are as uncertain.
    """
    row = next((row for row in counted["rows"] if row["split"] == split), None)
    if row is None or not counted["classes"] or not sum(row["counts"]):
        return None
    numbers = np.array(row["counts"])
    shares = numbers[numbers > 0] / numbers.sum()
    largest, smallest = int(numbers.argmax()), int(np.where(numbers > 0, numbers, math.inf).argmin())
    return {
        "largest": {"class": counted["classes"][largest], "examples": int(numbers[largest])},
        "smallest": {"class": counted["classes"][smallest], "examples": int(numbers[smallest])},
        "ratio": float(numbers[largest] / numbers[smallest]),
        "constant": float(numbers[largest] / row["sampled"]),
        "effective": float(np.exp(-(shares * np.log(shares)).sum())),
        "without": [counted["classes"][n] for n in np.flatnonzero(numbers == 0)],
    }
