"""Raw tables: all columns of a file or frame as Arrow arrays, before any column has a role.

A file is converted once per content into an Arrow file in the cache, which is then mapped into memory: the second start
reads no row, any row is read at random, and a table may be larger than memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.assets import cache_dir
from tlx.data.waiting import Waiting
from tlx.trees import near_miss

if TYPE_CHECKING:
    import pyarrow as pa

# The version of the converted files: a change of their layout needs a new number.
LAYOUT = 1
# Rows that are converted together.
CHUNK = 65536
# The column that holds the line of each row in its file. No column of a user can have this name.
LINE = "\0line"
# The entry of a column's metadata that says how its bytes are to be read, and where types are mixed.
SHAPE, MIXED, CLASSES = b"tlx.shape", b"tlx.mixed", b"tlx.classes"


@dataclass(frozen=True)
class RawTable:
    """The columns of one file, folder or frame.

    Args:
        name: The name in messages, such as the path of the file.
        arrow: The columns. A column `LINE` holds the line of each row, where rows have lines.
        digest: A hash of the content.
        folder: The folder that file names in cells are relative to.
        kinds: The columns that the format declares to hold images ("image") or sounds ("audio").
    """

    name: str
    arrow: pa.Table
    digest: str
    folder: Path | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns in their order."""
        return tuple(name for name in self.arrow.column_names if name != LINE)

    def place(self, row: int) -> str:
        """Return the name of a row for a message: its file and its line, or its number from 0."""
        if LINE in self.arrow.column_names:
            return f"{self.name} line {self.arrow[LINE][int(row)].as_py()}"
        return f"{self.name} row {row}"

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column. Raises ValueError with the nearest name where there is none."""
        if name not in self.names:
            head = f"{self.name} line 1" if LINE in self.arrow.column_names else self.name
            raise ValueError(
                f"{head} has no column {name!r}{near_miss(name, self.names, listed=True)}; it has "
                f"{', '.join(map(repr, self.names))}"
            )
        return self.arrow[name]

    def metadata(self, name: str, entry: bytes) -> Any:
        """Return what a column's metadata say under `entry`, None where they say nothing."""
        metadata = self.arrow.schema.field(name).metadata or {}
        return json.loads(metadata[entry]) if entry in metadata else None

    def missing(self, name: str) -> int:
        """Return the number of cells of a column that are empty, also those of white space."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())
        if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            return int(column.null_count)
        blank = pc.sum(pc.equal(pc.utf8_trim_whitespace(column), "")).as_py()
        return int(column.null_count) + int(blank or 0)

    def check_types(self, name: str) -> None:
        """Raise ValueError where a column has values of different types."""
        if mixed := self.metadata(name, MIXED):
            raise ValueError(f"{self.name}: the values of {name!r} have different types: {mixed}; use one type")

    def cell(self, name: str, row: int) -> Any:
        """Return one cell as a Python value, or as an array where the column holds arrays."""
        value = self.arrow[name][int(row)].as_py()
        shape = self.shapes[name]
        if shape is None or value is None:
            return value
        return np.frombuffer(value, shape["dtype"]).reshape(shape["shape"])

    @cached_property
    def shapes(self) -> dict[str, dict[str, Any] | None]:
        """Return for each column `{"dtype", "shape"}` where its cells are the bytes of arrays, else None."""
        return {name: self.metadata(name, SHAPE) for name in self.names}


def key_of(*parts: Any) -> str:
    """Return the key under which a converted file is stored, from plain values."""
    return hashlib.sha256(json.dumps([LAYOUT, *parts], sort_keys=True).encode()).hexdigest()[:32]


def stored(key: str, convert: Callable[[], Iterable[pa.RecordBatch]], name: str = "") -> pa.Table:
    """Return the table that is stored under a key; convert it first where it is not in the cache.

    `name` is the name of the file, for the log.

    A full or read-only disk must not stop a run: the table is then kept in memory.
    """
    import pyarrow as pa

    file = cache_dir() / "tables" / f"{key}.arrow"
    if not file.is_file():
        try:
            write(file, convert(), name)
        except OSError:
            return pa.Table.from_batches(convert())
    return mapped(file)


def mapped(file: Path) -> pa.Table:
    """Return the table of an Arrow file, mapped into memory."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def write(file: Path, batches: Iterable[pa.RecordBatch], name: str = "") -> None:
    """Write an Arrow file at once: it is complete, or it does not exist."""
    import pyarrow as pa

    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    say, rows = Waiting(f"reading {name or file.name} once", "rows"), 0
    try:
        writer = None
        for batch in batches:
            writer = writer or pa.ipc.new_file(part, batch.schema)
            writer.write_batch(batch)
            rows += batch.num_rows
            say(rows)
        if writer is None:
            raise ValueError(f"{file.name}: nothing to write; expected at least one batch of rows")
        writer.close()
        os.replace(part, file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield lists of at most `CHUNK` rows."""
    part: list[Any] = []
    for row in rows:
        part.append(row)
        if len(part) == CHUNK:
            yield part
            part = []
    if part:
        yield part


def arrow_type(value: Any) -> str:
    """Return the name of the type of a JSON value, as `unified` understands it."""
    if isinstance(value, list | tuple):
        return f"list of {unified({arrow_type(item) for item in value})}"
    if isinstance(value, bool | np.bool_):
        return "boolean"
    names = {type(None): "nothing", str: "text", int: "integer", float: "number", bytes: "bytes", dict: "object"}
    return names.get(type(value), "object")


def unified(names: set[str]) -> str:
    """Return the type that holds values of all these types; "mixed" where there is none."""
    names = names - {"nothing"}
    lists = {name.removeprefix("list of ") for name in names if name.startswith("list of ")}
    if lists and len(lists) == len(names):
        inner = unified(lists)
        return "mixed" if inner == "mixed" else f"list of {inner}"
    if names <= {"integer", "number"} and names:
        return "number" if "number" in names else "integer"
    return names.pop() if len(names) == 1 else ("mixed" if names else "nothing")


def as_arrow(name: str) -> pa.DataType:
    """Return the Arrow type of a name that `unified` returns; objects and mixed values are kept as JSON texts."""
    import pyarrow as pa

    if name.startswith("list of "):
        return pa.list_(as_arrow(name.removeprefix("list of ")))
    plain = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "bytes": pa.binary()}
    return plain.get(name, pa.string())
