"""Read tables in JSON Lines files: one object on each line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tlx.data.sources.files import FileTable
from tlx.data.sources.raw_table import (
    LINE,
    MIXED,
    RawTable,
    arrow_type,
    as_arrow,
    chunks,
    key_of,
    stored,
    unified,
)
from tlx.files.durable import sha256_once

if TYPE_CHECKING:
    import pyarrow as pa


# An integer that no column of numbers can hold. Such cells are kept as their JSON texts, as objects are.
LARGE = "integer of more than 64 bits"
AS_JSON = ("mixed", "object", LARGE)


@dataclass(frozen=True, kw_only=True)
class Jsonl(FileTable):
    """A table in a JSON Lines file: an object on each line, whose names are the columns.

    The fields are those of every table (see `tlx.data.sources.tabular.Tabular`), and `path`, `validation` and `test`
    for the file of each split. The files are UTF-8.
    """

    NOUN: ClassVar[str] = "a JSON Lines file, an object on each line"

    def table(self, path: str) -> RawTable:
        """Return all columns of one file."""
        digest = sha256_once(Path(path))
        arrow = stored(key_of("jsonl", digest), lambda: batches(path), path)
        return RawTable(path, arrow, digest, Path(path).parent)


def objects(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each object with its line. Raises ValueError for a line that is no object; empty lines are left out."""
    with Path(path).open("rb") as stream:
        for line, content in enumerate(stream, 1):
            if not content.strip():
                continue
            try:
                value = json.loads(content.removeprefix(b"\xef\xbb\xbf") if line == 1 else content)
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} line {line} is not valid UTF-8 ({error.reason}); convert the file") from None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path} line {line} is no JSON ({error}); expected an object on each line") from None
            if not isinstance(value, dict):
                raise ValueError(
                    f"{path} line {line} is {type(value).__name__} {str(value)!r:.40}; expected an object, such as "
                    '{"text": "...", "label": "..."}'
                )
            yield line, value


def batches(path: str) -> Iterable[pa.RecordBatch]:
    """Yield the rows of a file as Arrow arrays: the first pass finds the type of each column, the second converts."""
    import pyarrow as pa

    kinds: dict[str, dict[str, int]] = {}
    for line, row in objects(path):
        for name, value in row.items():
            kinds.setdefault(name, {}).setdefault(type_of(value), line)
    if not kinds:
        raise ValueError(f"{path} is empty; expected an object on each line")
    types = {name: unified(set(seen)) for name, seen in kinds.items()}
    fields = [pa.field(LINE, pa.int64())]
    for name, kind in types.items():
        lines = {seen: line for seen, line in kinds[name].items() if seen != "nothing"}
        text = ", ".join(f"{seen} (line {line})" for seen, line in lines.items())
        fields.append(pa.field(name, as_arrow(kind), metadata={MIXED: json.dumps(text)} if kind == "mixed" else None))
    schema = pa.schema(fields)
    for part in chunks(objects(path)):
        arrays = [pa.array([line for line, _ in part], pa.int64())]
        for name, kind in types.items():
            # A key that an object lacks is a missing cell.
            values = [row.get(name) for _, row in part]
            if kind.endswith(AS_JSON):
                values = [value if value is None else json.dumps(value) for value in values]
            elif kind.endswith("number"):
                values = [as_floats(value) for value in values]
            try:
                arrays.append(pa.array(values, schema.field(name).type))
            except UnicodeEncodeError:
                raise ValueError(surrogate(path, name, [line for line, _ in part], values)) from None
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def type_of(value: Any) -> str:
    """Return the name of the type of a JSON value, with a name for integers that do not fit into 64 bits."""
    if isinstance(value, list):
        return f"list of {unified({type_of(item) for item in value})}"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return LARGE
    return arrow_type(value)


def as_floats(value: Any) -> Any:
    """Return a value with its numbers as floats: Arrow refuses integers above 2**53 among them."""
    if isinstance(value, list):
        return [as_floats(item) for item in value]
    return value if value is None else float(value)


def surrogate(path: str, name: str, lines: list[int], values: list[Any]) -> str:
    """Return the message about the first text that is no Unicode: it has half of a pair of escapes."""
    for line, value in zip(lines, values, strict=True):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if halves := [character for character in text if "\ud800" <= character <= "\udfff"]:
            return (
                f"{path} line {line}: {name!r} has the escape \\u{ord(halves[0]):04x} alone, which is half of a "
                "character; remove it, or write the file again as UTF-8"
            )
    return f"{path}: {name!r} is not valid Unicode; write the file again as UTF-8"
