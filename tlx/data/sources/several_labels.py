"""Read a label from several columns: real numbers, or classes that a row has or has not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tlx.data.sources.cells import Cells, is_finite, no_number, number_in
from tlx.data.sources.labels import LabelColumn, withheld_note
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.data.sources.tabular import Tabular


def several_labels(settings: Tabular, cells: Mapping[str, Mapping[str, Cells]]) -> LabelColumn:
    """Read the label of all splits from several columns.

    Columns of 0 and 1, or of true and false, are classes with the names of the columns; others are real numbers.
    A row without one of the labels has none. A validation or test split without any label is left out.

    Raises ValueError for a cell that is missing (unless `missing` is "drop") or no finite number.
    """
    names = tuple(cells)
    joined = ", ".join(map(repr, names))
    rows, withheld, dropped = {}, list[str](), 0
    for split, first in cells[names[0]].items():
        if split != "train" and all(cells[name][split].missing(blank=True).all() for name in names):
            withheld.append(withheld_note(settings, split, len(first.table), joined))
            continue
        empty = np.zeros(len(first.table), bool)
        for name in names:
            missing = cells[name][split].missing(blank=True)
            if missing.any() and settings.missing == "error":
                raise ValueError(
                    f"{first.table.place(int(missing.argmax()))}: {name!r} is empty, as in {int(missing.sum()):,} of "
                    f"{len(missing):,} rows; add the labels, or skip these rows with missing='drop'"
                )
            empty |= missing
        if empty.all():
            raise ValueError(f"{first.table.name}: no row has all of the labels {', '.join(map(repr, names))}")
        rows[split] = np.flatnonzero(~empty)
        dropped += int(empty.sum())
    distinct = set()
    for parts in cells.values():
        for split, part in ((split, parts[split]) for split in rows):
            for number in np.unique(part.codes[rows[split]]).tolist():
                value = part.values[number]
                real = float(value) if isinstance(value, bool) else number_in(value)
                if real is None or not is_finite(real):
                    raise ValueError(no_number(part, number, value))
                distinct.add(real)
    kind = settings.label_kind or ("classes" if distinct <= {0.0, 1.0} else "numbers")
    if kind not in ("classes", "numbers"):
        raise ValueError(
            f"label={names!r} are several columns, but label_kind={kind!r}; expected 'classes' or 'numbers'"
        )
    column = Column("classes", settings.classes or names) if kind == "classes" else Column("numbers")
    if kind == "classes" and len(column.classes) != len(names):
        raise ValueError(f"classes={settings.classes!r}, but label={names!r}; expected one name for each column")
    lacking = (f"{dropped:,} rows of {settings} lack one of the labels {joined} and are not used",) if dropped else ()
    return LabelColumn(column, rows, dict.fromkeys(rows), (*withheld, *lacking))
