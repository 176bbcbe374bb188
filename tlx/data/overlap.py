"""Compare the rows of tables that examples come from, so that no source holds the rows that the target is measured on.

The settings of a source change its fingerprint, but not its rows: the same file with another share of test rows is
still the same file. Here a row is the digest of its table and its number in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tlx.functional.selection import SOURCE
from tlx.processors.base import format_source

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.settings import Data


class Origin(NamedTuple):
    """The examples that come from one table: their `positions` among the examples, and their `rows` in the table."""

    positions: np.ndarray
    rows: np.ndarray


def origins(examples: Examples) -> dict[str, Origin]:
    """Return the rows that examples come from, by the digest of the table, or by data set and split where there is no
    table."""
    read = getattr(examples.source, "origins", None)
    if read is not None:
        return dict(read(examples.rows))
    key = examples.key or examples.content
    return {f"{key} {examples.split}": Origin(np.arange(len(examples)), examples.rows)} if key else {}


def joined_origins(parts: Iterable[tuple[np.ndarray, Examples]]) -> dict[str, Origin]:
    """Return the rows that several examples come from. Each part has the position of each of its examples in the
    whole."""
    joined: dict[str, Origin] = {}
    for positions, examples in parts:
        for key, origin in origins(examples).items():
            before = joined.get(key, Origin(np.zeros(0, int), np.zeros(0, int)))
            joined[key] = Origin(
                np.concatenate([before.positions, positions[origin.positions]]),
                np.concatenate([before.rows, origin.rows]),
            )
    return joined


def check_apart(data: Data, examples: Mapping[str, Examples], held_out: Mapping[str, Examples]) -> None:
    """Raise ValueError where examples of a source are rows that the target is measured on.

    Args:
        data: The data of the recipe, which names the sources.
        examples: The examples that are trained on by stream, and by `SOURCE` the examples of the first source that
            criteria read.
        held_out: The validation and test examples of the target, by the name of the split.
    """
    measured = [(split, part, *item) for split, part in held_out.items() for item in origins(part).items()]
    streams = dict(data.sources)
    if SOURCE in examples:
        streams[SOURCE] = next(iter(data.sources.values()))
    for stream, source in streams.items():
        rows = origins(examples[stream])
        for split, part, key, origin in measured:
            common = np.isin(origin.rows, rows[key].rows) if key in rows else np.zeros(1, bool)
            if common.any():
                place = part.place(int(part.rows[origin.positions[int(common.argmax())]]))
                raise ValueError(
                    f"source {format_source(source)} and target {format_source(data.target)} read the same data: "
                    f"{int(common.sum()):,} of the {len(part):,} {split} examples of the target are in the source, "
                    f"such as {place}; remove the source, or choose other rows for it, such as Where(..., column=..., "
                    "without=(...))"
                )
