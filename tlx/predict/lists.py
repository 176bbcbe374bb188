"""The rows of a list in memory: texts, pairs, lists of words, files, images, sounds, numbers or mappings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.sources.in_memory import columns_table
from tlx.data.sources.raw_table import RawTable
from tlx.predict.rows import InputRows, pair_rows, plain_rows, plain_table, table_rows
from tlx.processors.columns import HEAVY, read_cell
from tlx.processors.pictures import pixels, plain
from tlx.trees import Example

if TYPE_CHECKING:
    from tlx.predict.opening import ModelInputs, OpenedModel

# Kinds of inputs that are arrays in memory.
OF_ARRAYS = (*HEAVY, "numbers")


def in_memory_role(inputs: ModelInputs) -> str:
    """Return the input that an array in memory stands for."""
    return next((role for role, column in inputs.columns.items() if column.kind in OF_ARRAYS), "image")


def listed(values: Any, model: OpenedModel, stated: Mapping[str, tuple[str, ...]]) -> InputRows | None:
    """Return a list of texts, pairs, lists of words, files, images, sounds, numbers or mappings as inputs of a model;
    None for an empty list.

    Raises TypeError, with the first row of another kind, where the model does not read such a list.
    """
    if not hasattr(values, "__iter__") or isinstance(values, bytes):
        raise TypeError(
            f"rows is {type(values).__name__}; expected a list of texts, a data frame, arrays, a path or a source"
        )
    rows = [plain_value(row) for row in values]
    if not rows:
        return None
    inputs, columns = model.inputs, model.inputs.columns
    if all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = columns_table({name: [row.get(name) for row in rows] for name in names}, "rows")
        return table_rows(RawTable("rows", table, "", Path()), inputs, stated, getattr(model.processor, "rate", 0))
    if "words" in columns and all(is_text(row) or is_texts(row) for row in rows) and not all(map(is_text, rows)):
        words = [row.split() if is_text(row) else list(row) for row in rows]
        return table_rows(RawTable("rows", columns_table({"words": words}, "rows"), ""), inputs, {"words": ("words",)})
    if all(map(is_text, rows)):
        column = "file" if set(HEAVY) & columns.keys() else "text"
        return plain_rows(plain_table(rows, column, "rows"), inputs, model.processor)
    if all(is_texts(row) and len(row) == 2 for row in rows):
        return pair_rows([(row[0], row[1]) for row in rows], inputs)
    role = in_memory_role(inputs)
    if role in columns and all(is_array(row, columns[role].kind) for row in rows):
        return array_rows(rows, role, inputs)
    raise TypeError(f"{odd_row(rows, inputs)}; {model.source} reads {inputs.reads}: give a list of one kind")


def plain_value(value: Any) -> Any:
    """Return a value of a list as Python or NumPy has it: the name of a file, the pixels of an image."""
    if isinstance(value, Path | np.str_):
        return str(value)
    if hasattr(value, "as_py"):
        return value.as_py()
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype.kind in "OUS" else value
    if hasattr(value, "getbands"):
        # A picture of Pillow.
        return pixels(plain(value))
    return np.asarray(value) if hasattr(value, "__array__") and not np.isscalar(value) else value


def is_text(value: Any) -> bool:
    """Return whether a value is a text."""
    return isinstance(value, str)


def is_texts(value: Any) -> bool:
    """Return whether a value is a list of texts."""
    return isinstance(value, tuple | list) and all(map(is_text, value))


def is_array(value: Any, kind: str) -> bool:
    """Return whether a value is an array, the bytes of a file or, for an input of numbers, a list of numbers."""
    if isinstance(value, np.ndarray):
        return True
    if kind == "numbers":
        return isinstance(value, tuple | list) and all(isinstance(part, int | float | np.number) for part in value)
    return isinstance(value, bytes)


def array_rows(rows: list[Any], role: str, inputs: ModelInputs) -> InputRows:
    """Return arrays, or the bytes of files, as inputs of a model."""
    import pyarrow as pa

    def read(row: int) -> Example:
        return {role: read_cell(rows[row], inputs.columns[role], role, f"row {row}")}

    table = RawTable("rows", pa.table({"row": list(range(len(rows)))}), "")
    return InputRows(table, read, f"{len(rows):,} rows", {role: ("row",)}, lambda row: f"row {row}")


def odd_row(rows: list[Any], inputs: ModelInputs) -> str:
    """Return the first row that is no input of a model, in words."""
    pairs = inputs.stated and "text_pair" in inputs.columns

    role = in_memory_role(inputs)

    def fits(row: Any) -> bool:
        if pairs:
            return is_texts(row) and len(row) == 2
        if role in inputs.columns:
            return is_array(row, inputs.columns[role].kind)
        return is_text(row) or ("words" in inputs.columns and is_texts(row))

    place = next((n for n, row in enumerate(rows) if not fits(row)), 0)
    wanted = "a pair of texts, (text, text_pair)" if pairs else inputs.reads
    return f"row {place} is {rows[place]!r:.60} ({type(rows[place]).__name__}); expected {wanted}"
