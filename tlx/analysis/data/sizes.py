"""Measure lengths of texts, sizes of images and durations of sounds, and what a processor cuts off.

Shapes: N examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.duplicates import sample
from tlx.processors.columns import inputs, kind_of
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data import Data, Examples
    from tlx.processors import Processor

# Texts, or images and sounds, of a split that are measured.
TEXTS, FILES = 5000, 500
ENDS = (0.0, 0.25, 0.5, 0.75, 0.95, 1.0)
# Bins of a histogram, at least and at most; about the root of the number of examples of the smallest split.
BINS = (12, 40)


def sizes(parts: Mapping[str, Examples], data: Data, processor: Processor | None) -> list[Json]:
    """Return a row per measure and split: the `measure`, the `split`, the number of `examples` measured `of` all, the
    quantiles `at` 0, 25, 50, 75, 95 and 100 %, a histogram (`edges`, `counts`), and, where something is cut, the
    `limit`, the share that is `cut` and the share of the content that is `lost`."""
    rows = []
    for split, examples in parts.items():
        kind = kind_of(examples.columns)
        positions = np.sort(sample(examples, TEXTS if kind in ("text", "words") else FILES))
        for measure, values, limit in measured(examples, positions, kind, data, processor):
            rows.append(row(measure, split, values, len(examples), limit))
    histograms(rows)
    return rows


def measured(
    examples: Examples, positions: np.ndarray, kind: str, data: Data, processor: Processor | None
) -> list[tuple[str, np.ndarray, float | None]]:
    """Return each measure of some examples: its name, its values [N], and where they are cut."""
    if kind in ("text", "words"):
        rows = [examples.light(int(position)) for position in positions]
        texts = [" ".join(text_of(row, examples)) for row in rows]
        measures: list[tuple[str, np.ndarray, float | None]] = [
            ("words", np.array([len(text.split()) for text in texts], float), None)
        ]
        if kind == "text":
            measures.insert(0, ("characters", np.array([len(text) for text in texts], float), None))
        if processor is not None and processor.longest:
            lengths = np.array(processor.uncut(rows), float)
            measures.append(("tokens", lengths, float(processor.longest)))
        return measures
    rows = [examples[int(position)] for position in positions]
    if kind == "audio":
        rate = inputs(examples.columns)["audio"].rate or 1
        limit = data.seconds if processor is not None else None
        return [("seconds", np.array([len(row["audio"]) / rate for row in rows]), limit)]
    if kind == "image":
        shapes = np.array([row["image"].shape[:2] for row in rows], float)
        return [("height in pixels", shapes[:, 0], None), ("width in pixels", shapes[:, 1], None)]
    return []


def text_of(row: Mapping[str, Any], examples: Examples) -> list[str]:
    """Return the texts and words of an example."""
    parts: list[str] = []
    for name in inputs(examples.columns):
        value = row.get(name)
        parts += [value] if isinstance(value, str) else list(value) if isinstance(value, list) else []
    return parts


def row(measure: str, split: str, values: np.ndarray, count: int, limit: float | None) -> Json:
    """Return the row of a measure of a split."""
    described: Json = {
        "measure": measure, "split": split, "examples": len(values), "of": count,
        "at": [float(value) for value in np.quantile(values, ENDS)] if len(values) else [],
        "values": values,
    }  # fmt: skip
    if limit is not None and len(values):
        cut = values > limit
        lost = np.maximum(values - limit, 0).sum() / max(values.sum(), 1e-9)
        described |= {"limit": limit, "cut": float(cut.mean()), "lost": float(lost)}
    return described


def histograms(rows: list[Json]) -> None:
    """Put the histogram of each row in the place of its values; the rows of one measure have the same bins."""
    for measure in dict.fromkeys(row["measure"] for row in rows):
        of_measure = [row for row in rows if row["measure"] == measure]
        values = np.concatenate([row["values"] for row in of_measure])
        # A few very long texts would leave one bin for all others.
        high = max(float(np.quantile(values, 0.99)), 1e-9) if len(values) else 1.0
        low = float(values.min()) if len(values) else 0.0
        bins = int(np.clip(min(np.sqrt(len(row["values"])) for row in of_measure), *BINS))
        edges = np.linspace(min(low, high), high * (1 + 1e-9) if high > low else low + 1, bins + 1)
        for row in of_measure:
            counts = np.histogram(np.minimum(row.pop("values"), high), edges)[0]
            row |= {"edges": edges.tolist(), "counts": counts.tolist()}


def image_sizes(parts: Mapping[str, Examples]) -> list[Json]:
    """Return the most frequent sizes of images with their numbers, over a sample of each split."""
    counts: Counter[str] = Counter()
    for examples in parts.values():
        if kind_of(examples.columns) == "image":
            for position in sample(examples, FILES).tolist():
                counts[" × ".join(map(str, examples[position]["image"].shape))] += 1
    return [{"size": size, "images": count} for size, count in counts.most_common(8)]
