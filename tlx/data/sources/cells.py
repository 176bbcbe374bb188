"""The cells of a label column, and how one value is read: as a number, or as the names of classes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tlx.data.sources.raw_table import CLASSES, RawTable

if TYPE_CHECKING:
    from tlx.data.sources.tabular import Tabular

Kind = Literal["class", "number", "classes", "numbers", "tags", "text", "answers"]


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
        if pa.types.is_struct(getattr(column.type, "value_type", column.type)):
            # Answers to questions; the texts are compared as those of a file of JSON.
            texts = [None if row is None else json.dumps(row) for row in column.to_pylist()]
            places = {text: number for number, text in enumerate(dict.fromkeys(texts))}
            return cls(table, name, list(places), np.array([places[text] for text in texts], np.int64), names)
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


def number_in(value: Any) -> float | None:
    """Return the number in a cell, which may be NaN or infinite; None where the cell is no number."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def is_finite(number: float | None) -> bool:
    """Return whether there is a number that float32 holds."""
    return number is not None and math.isfinite(number) and abs(number) <= float(np.finfo(np.float32).max)


def has_comma(value: str) -> bool:
    """Return whether a text is a number with a decimal comma."""
    return re.fullmatch(r"-?\d+,\d+", value.strip()) is not None


def no_number(cells: Cells, number: int, value: Any) -> str:
    """Return the message for a value that is no finite number."""
    text = value if isinstance(value, str) else str(value)
    comma = ", not a decimal comma" if has_comma(text) else ""
    return (
        f"{cells.first(number)}: {cells.name!r} is {text!r:.40}; expected a finite number of float32{comma}: "
        "correct it, or empty the cell and leave such rows out with missing='drop'"
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
