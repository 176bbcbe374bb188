"""Read labels that are lists: an indicator for each class, several classes, or several numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tlx.data.sources.cells import Cells
    from tlx.data.sources.tabular import Tabular


def lists_of(part: Cells, rows: np.ndarray) -> list[tuple[int, Any]]:
    """Return the distinct values of these rows, each with its number in `part.values`."""
    return [(number, part.values[number]) for number in np.unique(part.codes[rows]).tolist()]


def is_numeric(value: Any) -> bool:
    """Return whether a value is a list of numbers or booleans."""
    return isinstance(value, tuple) and all(isinstance(item, bool | int | float) for item in value)


def single_labels(
    settings: Tabular, cells: Mapping[str, Cells], rows: Mapping[str, np.ndarray]
) -> tuple[Mapping[str, Cells], bool]:
    """Return the cells with the number in the place of each list, and whether that was done.

    It is done where every list has one number and no setting says that the labels are lists.
    """
    values = [value for split, split_rows in rows.items() for _, value in lists_of(cells[split], split_rows)]
    several = settings.label_kind not in (None, "class", "number") or settings.words is not None
    if several or cells["train"].declared or not all(is_numeric(value) and len(value) == 1 for value in values):
        return cells, False
    return {
        split: replace(part, values=[value if value is None else value[0] for value in part.values])
        for split, part in cells.items()
    }, True


def indicator_width(settings: Tabular, cells: Mapping[str, Cells], rows: Mapping[str, np.ndarray]) -> int:
    """Return the number of classes where each label has a 0 or a 1 for each class; 0 where the labels are no such rows.

    Such labels have one length above 1 and no other numbers than 0 and 1. Raises ValueError where `classes` has another
    number of names.
    """
    if settings.label_kind not in (None, "classes") or settings.words is not None or cells["train"].declared:
        return 0
    width = 0
    for split, split_rows in rows.items():
        shape = cells[split].table.shapes[cells[split].name]
        if shape is not None and len(shape["shape"]) != 1:
            return 0
        for _, value in lists_of(cells[split], split_rows):
            width = width or (len(value) if isinstance(value, tuple) else 0)
            if width < 2 or not is_numeric(value) or len(value) != width or not set(value) <= {0, 1}:
                return 0
    if settings.classes and len(settings.classes) != width:
        part = cells["train"]
        raise ValueError(
            f"{part.table.name}: each {part.name!r} has {width} numbers, all of them 0 or 1, but "
            f"classes={settings.classes!r} has {len(settings.classes)} names; expected one name for each number"
        )
    return width


def check_lists(kind: str, cells: Mapping[str, Cells], rows: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError for a list where one label is expected, and for lists of numbers with different lengths."""
    first: tuple[Cells, int, int] | None = None
    for split, split_rows in rows.items():
        part = cells[split]
        for number, value in lists_of(part, split_rows):
            if not isinstance(value, tuple):
                continue
            if kind in ("class", "number"):
                raise ValueError(
                    f"{part.first(number)}: {part.name!r} is a list of {len(value)} values, but label_kind={kind!r}; "
                    "expected one value: remove label_kind, or choose 'classes' or 'numbers'"
                )
            if kind == "numbers":
                first = first or (part, number, len(value))
                if len(value) != first[2] or not value:
                    raise ValueError(
                        f"{part.first(number)}: {part.name!r} has {len(value)} numbers, but "
                        f"{first[0].first(first[1])} has {first[2]}; expected the same number of numbers in each row, "
                        "at least one"
                    )


def check_once(part: Cells, number: int, names: list[str]) -> None:
    """Raise ValueError where the value of this number names one class twice."""
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"{part.first(number)}: {part.name!r} names the class {twice!r} twice ({', '.join(names)!s:.60}); "
            "expected each class at most once: a list has the names or the numbers of its classes, or, in all rows, a "
            "0 or 1 for each class"
        )
