"""Read the label of a table: the rows that have one, its kind, its classes and its numbers.

All functions look at the different values of a column and not at its rows, so a million rows cost little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tlx.data.sources.raw_table import CLASSES, RawTable
from tlx.trees import near_miss
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.data.sources.tabular import Tabular

Kind = Literal["class", "number", "classes", "numbers", "tags"]

# Labels with more distinct values than this, most of them with one example, are no classes.
MANY_CLASSES = 100
# Numbers with at most this many distinct values, each in ten rows or more, may be meant as classes.
FEW_NUMBERS = 3


@dataclass(frozen=True)
class Cells:
    """The cells of a label column in one split: the distinct `values`, and for each row the number of its value.

    A missing cell is None. Lists are tuples. `declared` are the names of the classes where the format states them.
    """

    table: RawTable
    name: str
    values: Sequence[Any]
    codes: np.ndarray
    declared: tuple[str, ...] = ()

    @classmethod
    def of(cls, table: RawTable, name: str) -> Cells:
        """Read a column. Raises ValueError where its values have different types."""
        import pyarrow as pa

        table.check_types(name)
        column = table.column(name).combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        names = tuple(table.metadata(name, CLASSES) or ())
        if pa.types.is_nested(column.type) or table.shapes[name] is not None:
            rows = [table.cell(name, row) for row in range(len(table))]
            cells = [None if row is None else tuple(np.ravel(row).tolist()) for row in rows]
            numbers: dict[Any, int] = {}
            codes = np.array([numbers.setdefault(cell, len(numbers)) for cell in cells], np.int64)
            values: list[Any] = list(numbers)
            if names:
                values = [None if cell is None else tuple(names[n] for n in cell) for cell in values]
            return cls(table, name, values, codes, names)
        encoded = column.dictionary_encode(null_encoding="encode")
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        values = encoded.dictionary.to_pylist()
        if names:
            values = [None if value is None or value < 0 else names[value] for value in values]
        return cls(table, name, values, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), names)

    def first(self, number: int) -> str:
        """Return the place of the first row with the value of this number."""
        return self.table.place(int((self.codes == number).argmax()))

    def missing(self, blank: bool) -> np.ndarray:
        """Return bool[N], the rows without a label. With `blank` an empty text is one too."""
        empty = [
            value is None or (blank and isinstance(value, str) and not value.strip()) for value in self.values
        ] or [True]
        return np.array(empty, bool)[self.codes]


@dataclass(frozen=True)
class LabelColumn:
    """The label of a table: its description, and by split the rows that have one and their numbers.

    `labels` of a split are int32[N] classes or float32[N] numbers; None where each label is a list.
    """

    column: Column
    rows: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray | None]
    notes: tuple[str, ...] = ()


def label_column(settings: Tabular, cells: Mapping[str, Cells]) -> LabelColumn:
    """Read the label of all splits from one column. Raises ValueError as the functions below do."""
    rows, notes = labelled_rows(settings, cells)
    kind = settings.label_kind or kind_of(settings, cells, rows)
    column = column_of(settings, kind, cells, rows)
    labels = {split: encoded(column, part, rows[split]) for split, part in cells.items()}
    return LabelColumn(column, rows, labels, notes)


def labelled_rows(settings: Tabular, cells: Mapping[str, Cells]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the rows that have a label, by split, and a note where some are left out.

    With a separator an empty cell is a row without classes.
    """
    blank = not (settings.separator and settings.label_kind in (None, "classes"))
    rows, dropped, name = {}, 0, ""
    for split, part in cells.items():
        empty, name = part.missing(blank), part.name
        if empty.any() and settings.missing == "error":
            raise ValueError(
                f"{part.table.place(int(empty.argmax()))}: {name!r} is empty, as in {int(empty.sum()):,} of "
                f"{len(empty):,} rows; add the labels, or skip these rows with missing='drop'"
            )
        if empty.all():
            raise ValueError(
                f"{part.table.name}: {name!r} is empty in all {len(empty):,} rows, so missing='drop' leaves none; name "
                f"the column of the labels, label='...', which is one of {', '.join(part.table.names)}"
            )
        rows[split] = np.flatnonzero(~empty)
        dropped += int(empty.sum())
    if not dropped:
        return rows, ()
    return rows, (f"{dropped:,} rows of {settings} have no label in {name!r} and are not used",)


def kind_of(settings: Tabular, cells: Mapping[str, Cells], rows: Mapping[str, np.ndarray]) -> Kind:
    """Return the kind of the labels where the source does not state it.

    Raises ValueError for "nan" or "inf" in a column of numbers, and where numbers may be meant as classes.
    """
    if settings.words is not None:
        return "tags"
    if settings.separator:
        return "classes"
    values = [
        (part, number, part.values[number]) for split, part in cells.items()
        for number in np.unique(part.codes[rows[split]]).tolist()
    ]  # fmt: skip
    if any(isinstance(value, tuple) for _, _, value in values):
        flat = [item for _, _, value in values for item in value]
        return "numbers" if flat and all(isinstance(item, float) for item in flat) else "classes"
    if settings.classes or cells["train"].declared or any(isinstance(value, bool) for _, _, value in values):
        return "class"
    numbers = [number_in(value) for _, _, value in values]
    if not values or None in numbers:
        return "class"
    for (part, place, value), number in zip(values, numbers, strict=True):
        if not is_finite(number):
            raise ValueError(
                f"{no_number(part, place, value)}, or state label_kind='class' where it is the name of a class"
            )
    finite = {number for number in numbers if number is not None}
    if all(number.is_integer() for number in finite):
        return "class"
    count = sum(map(len, rows.values()))
    if len(finite) <= FEW_NUMBERS and count >= 10 * len(finite):
        part, place, _ = values[0]
        raise ValueError(
            f"{part.first(place)}: {part.name!r} has only the numbers {', '.join(f'{n:g}' for n in sorted(finite))} in "
            f"{count:,} rows; are these classes? Set label_kind='class' if they are, else label_kind='number'"
        )
    return "number"


def number_in(value: Any) -> float | None:
    """Return the number in a cell, which may be NaN or infinite; None where the cell is no number."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def is_finite(number: float | None) -> bool:
    """Return whether there is a number that float32 holds."""
    return number is not None and math.isfinite(number) and abs(number) <= float(np.finfo(np.float32).max)


def no_number(cells: Cells, number: int, value: Any) -> str:
    """Return the message for a value that is no finite number."""
    text = value if isinstance(value, str) else str(value)
    return (
        f"{cells.first(number)}: {cells.name!r} is {text!r:.40}; expected a finite number of float32: correct it, or "
        "empty the cell and leave such rows out with missing='drop'"
    )


def class_names(value: Any, settings: Tabular, kind: str) -> list[str]:
    """Return the classes that one value of a column of this kind names."""
    if isinstance(value, tuple | list | np.ndarray):
        return [spelled(item) for item in value]
    text = spelled(value)
    if kind == "tags":
        return text.split()
    if kind != "classes" or settings.separator is None:
        return [text.strip()]
    return [name for part in text.split(settings.separator) if (name := part.strip())]


def spelled(value: Any) -> str:
    """Return the name of a class from its value: whole numbers without a point, booleans in lower case."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def column_of(settings: Tabular, kind: Kind, cells: Mapping[str, Cells], rows: Mapping[str, np.ndarray]) -> Column:
    """Return the column of the label, with its classes.

    Raises ValueError for labels that look like names, for one class, for a class that no training row has, and for a
    class that is none of the given classes.
    """
    if kind in ("number", "numbers"):
        return Column(kind)
    counts: dict[str, dict[str, int]] = {}
    for split, part in cells.items():
        counts[split] = {}
        for number, count in enumerate(np.bincount(part.codes[rows[split]], minlength=len(part.values)).tolist()):
            for name in class_names(part.values[number], settings, kind) if count else ():
                if settings.classes and name not in settings.classes:
                    raise ValueError(
                        f"{part.first(number)}: {part.name!r} is {name!r}; expected one of the classes in "
                        f"classes=...{near_miss(name, settings.classes)}"
                    )
                counts[split][name] = counts[split].get(name, 0) + count
    if classes := settings.classes or cells["train"].declared:
        return Column(kind, classes)
    _check_classes(kind, cells, counts, sum(map(len, rows.values())))
    names = {name for count in counts.values() for name in count}
    if all(is_finite(number_in(name)) for name in names):
        return Column(kind, tuple(sorted(names, key=lambda name: (float(name), name))))
    return Column(kind, tuple(sorted(names)))


def _check_classes(kind: Kind, cells: Mapping[str, Cells], counts: Mapping[str, Mapping[str, int]], total: int) -> None:
    """Raise ValueError for classes that cannot be meant or cannot be learned."""
    part = cells["train"]
    names = {name for count in counts.values() for name in count}
    where = f"{part.table.name}: {part.name!r}"
    if len(names) > MANY_CLASSES and len(names) > total / 2:
        raise ValueError(
            f"{where} has {len(names):,} different labels in {total:,} rows, which is too many for classes; name "
            "another column, or set label_kind='number'"
        )
    if not names:
        raise ValueError(
            f"{part.table.name}: no cell of {part.name!r} names a class, in {total:,} rows; name the column of the "
            "labels, label='...', or the classes, classes=(...)"
        )
    if len(names) == 1 and kind == "class":
        raise ValueError(
            f"{where} is {names.pop()!r} in all {total:,} rows; expected two classes or more: name another column, or "
            "state all classes with classes=(...)"
        )
    for split, count in counts.items():
        if kind == "class" and (unseen := sorted(count.keys() - counts["train"].keys())):
            name = unseen[0]
            number = next(n for n, value in enumerate(cells[split].values) if spelled(value).strip() == name)
            raise ValueError(
                f"{cells[split].first(number)}: the class {name!r} of {cells[split].name!r} is in "
                f"{counted(count[name])} of the {split} split and in no training row"
                f"{near_miss(name, counts['train'])}; correct it, or accept it with classes=(...), which lists all "
                "classes"
            )


def counted(rows: int) -> str:
    """Return a number of rows in words."""
    return "1 row" if rows == 1 else f"{rows:,} rows"


def encoded(column: Column, cells: Cells, rows: np.ndarray) -> np.ndarray | None:
    """Return int32[N] classes or float32[N] numbers of these rows; None where each label is a list.

    Raises ValueError for a cell that is no number.
    """
    codes = cells.codes[rows]
    if column.kind == "class":
        numbers = {name: number for number, name in enumerate(column.classes)}
        # A value of no row among `rows` has no class.
        return np.array([numbers.get(spelled(value).strip(), -1) for value in cells.values], np.int32)[codes]
    if column.kind != "number":
        return None
    values = np.zeros(len(cells.values), np.float32)
    for place in np.unique(codes).tolist():
        number = number_in(cells.values[place])
        if number is None or not is_finite(number):
            raise ValueError(no_number(cells, place, cells.values[place]))
        values[place] = number
    return values[codes]
