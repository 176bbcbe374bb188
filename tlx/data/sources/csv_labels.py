"""Read the labels of CSV files: the rows that have one, their kind, their classes and their numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from tlx.data.sources.csv_file import CsvFile
from tlx.trees import near_miss
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.data.sources.csv import Csv

Kind = Literal["class", "number", "classes", "tags"]

# Labels with more distinct values than this, most of them with one example, are no classes.
MANY_CLASSES = 100


def with_labels(
    settings: Csv, files: Mapping[str, CsvFile], cells: Mapping[str, np.ndarray], label: str
) -> tuple[dict[str, np.ndarray], int]:
    """Return the positions of the rows that have a label, by split, and the number of rows without one.

    With a separator an empty cell is a row without classes.
    """
    labelled_rows, dropped = {}, 0
    for split, column in cells.items():
        empty = np.array([not cell.strip() for cell in column], bool)
        if settings.separator and settings.label_kind in (None, "classes"):
            empty[:] = False
        if empty.any() and settings.missing == "error":
            line = files[split].line(int(empty.argmax()))
            raise ValueError(
                f"{files[split].path} line {line}: {label!r} is empty, as in {int(empty.sum()):,} of {len(column):,} "
                "rows; add the labels, or skip these rows with missing='drop'"
            )
        if empty.all():
            raise ValueError(
                f"{files[split].path}: {label!r} is empty in all {len(column):,} rows, so missing='drop' leaves none; "
                f"name the column of the labels, label='...', which is one of {', '.join(files[split].header)}"
            )
        labelled_rows[split] = np.flatnonzero(~empty)
        dropped += int(empty.sum())
    return labelled_rows, dropped


def kind_of(
    settings: Csv,
    files: Mapping[str, CsvFile],
    cells: Mapping[str, np.ndarray],
    rows_by_split: Mapping[str, np.ndarray],
    label: str,
) -> Kind:
    """Return the kind of the labels where the source does not state it. Raises ValueError for "nan" or "inf" in a
    column of numbers."""
    if settings.words is not None:
        return "tags"
    if settings.separator:
        return "classes"
    if settings.classes:
        return "class"
    rows = [(split, row) for split in cells for row in rows_by_split[split].tolist()]
    numbers = [number_in(cells[split][row]) for split, row in rows]
    if not rows or None in numbers:
        return "class"
    for (split, row), number in zip(rows, numbers, strict=True):
        if not is_finite(number):
            raise ValueError(
                f"{no_number(files[split], row, label, cells[split][row])}, or state label_kind='class' where it is "
                "the name of a class"
            )
    return "class" if all(float(number).is_integer() for number in numbers if number is not None) else "number"


def number_in(cell: str) -> float | None:
    """Return the number in a cell, which may be NaN or infinite; None where the cell is no number."""
    try:
        return float(cell)
    except ValueError:
        return None


def is_finite(number: float | None) -> bool:
    """Return whether there is a number that float32 holds."""
    return number is not None and math.isfinite(number) and abs(number) <= float(np.finfo(np.float32).max)


def no_number(file: CsvFile, row: int, label: str, cell: str) -> str:
    """Return the message for a cell that is no finite number."""
    return (
        f"{file.path} line {file.line(row)}: {label!r} is {cell!r:.40}; expected a finite number of float32: correct "
        "it, or empty the cell and leave such rows out with missing='drop'"
    )


def names_in(cell: str, settings: Csv, kind: str) -> list[str]:
    """Return the classes that one cell of a column of this kind names."""
    if kind == "tags":
        return cell.split()
    if kind != "classes" or settings.separator is None:
        return [cell.strip()]
    return [name for part in cell.split(settings.separator) if (name := part.strip())]


def column_of(
    settings: Csv,
    kind: Kind,
    files: Mapping[str, CsvFile],
    cells: Mapping[str, np.ndarray],
    rows_by_split: Mapping[str, np.ndarray],
    label: str,
) -> Column:
    """Return the column of the label, with its classes. Raises ValueError for labels that look like names, or that are
    none of the given classes."""
    if kind == "number":
        return Column("number")
    counts: dict[str, int] = {}
    for split, column in cells.items():
        for row in rows_by_split[split].tolist():
            for name in names_in(column[row], settings, kind):
                if settings.classes and name not in settings.classes:
                    raise ValueError(
                        f"{files[split].path} line {files[split].line(row)}: {label!r} is {name!r}; expected one of "
                        f"the classes in classes=...{near_miss(name, settings.classes)}"
                    )
                counts[name] = counts.get(name, 0) + 1
    total = sum(map(len, rows_by_split.values()))
    if len(counts) > MANY_CLASSES and len(counts) > total / 2 and not settings.classes:
        raise ValueError(
            f"{files['train'].path}: {label!r} has {len(counts):,} different labels in {total:,} rows, which is too "
            "many for classes; name another column, or set label_kind='number'"
        )
    if settings.classes:
        return Column(kind, settings.classes)
    if not counts:
        raise ValueError(
            f"{files['train'].path}: no cell of {label!r} names a class, in {total:,} rows; name the column of the "
            "labels, label='...', or the classes, classes=(...)"
        )
    numeric = all(is_finite(number_in(name)) for name in counts)
    names = sorted(counts, key=lambda name: (float(name), name)) if numeric else sorted(counts)
    return Column(kind, tuple(names))


def encoded(column: Column, file: CsvFile, cells: np.ndarray, rows: np.ndarray, label: str) -> np.ndarray | None:
    """Return int32[N] classes or float32[N] numbers; None where each label is a list. Raises ValueError for a cell that
    is no number."""
    if column.kind == "class":
        numbers = {name: number for number, name in enumerate(column.classes)}
        return np.array([numbers[cells[row].strip()] for row in rows.tolist()], np.int32)
    if column.kind != "number":
        return None
    values = np.zeros(len(rows), np.float32)
    for n, row in enumerate(rows.tolist()):
        number = number_in(cells[row])
        if number is None or not is_finite(number):
            raise ValueError(no_number(file, row, label, cells[row]))
        values[n] = number
    return values
