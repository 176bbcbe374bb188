"""Write the rows of a table with their answers as CSV, JSON Lines or Parquet, chunk by chunk."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tlx.data.sources.raw_table import LINE, RawTable, as_arrow, unified
from tlx.files.durable import write_whole
from tlx.trees import Json, finite, near_miss

if TYPE_CHECKING:
    import pyarrow as pa

FORMS = (".csv", ".tsv", ".jsonl", ".parquet")
# Added to the names of the answers where a column of the rows has one of them.
PREFIX = "tlx_"
# Rows of a group of a Parquet file.
GROUP = 65536
# The end of a line for the `csv` module: some of its versions quote a carriage return only where this holds one.
QUOTED_END = "\r\n"
# The digits of a number that are written: no more are the same on every machine.
DIGITS = 7


class AnswerColumns(NamedTuple):
    """The columns of a file of answers.

    Attributes:
        table: The rows.
        own: The columns of the rows that the file holds.
        kinds: By name of a single value, its kind as `raw_table.unified` spells it.
        names: The names of the values of an answer, some of which hold several by name.
        prefix: What is added to both kinds of names.
        separator: The text between several classes in one cell.
    """

    table: RawTable
    own: tuple[str, ...]
    kinds: Mapping[str, str]
    names: tuple[str, ...]
    prefix: str
    separator: str

    def narrow_columns(self) -> dict[str, type[np.floating]]:
        """Return the columns of the rows with numbers, or lists of numbers, of less than 64 bits, and their types."""
        import pyarrow as pa

        types: dict[str, type[np.floating]] = {str(pa.float16()): np.float16, str(pa.float32()): np.float32}
        kinds = {name: self.table.arrow.schema.field(name).type for name in self.own}
        numbers = {name: str(getattr(kind, "value_type", kind)) for name, kind in kinds.items()}
        return {name: types[kind] for name, kind in numbers.items() if kind in types}

    def rows(self, start: int, values: Sequence[Json | None]) -> Iterator[tuple[Json, Json]]:
        """Yield the cells of each row and the values of its answer, all None for a row without one."""
        part = self.table.arrow.select(list(self.own)).slice(start, len(values)).to_pylist()
        for name, kind in self.narrow_columns().items():
            for cells in part:
                cells[name] = shortest(cells[name], kind)
        nothing = dict.fromkeys(self.names)
        yield from zip(part, (nothing if value is None else value for value in values), strict=True)


def form_of(path: Path) -> str:
    """Return the form of a file by its ending. Raises ValueError for an unknown one."""
    ending = path.suffix.lower()
    if ending not in FORMS:
        raise ValueError(
            f"{path} ends in {ending or 'nothing'!r}; expected {', '.join(FORMS)}{near_miss(ending, FORMS)}"
        )
    return ending


def flat(values: Json) -> Json:
    """Return the values of an answer with one name for each number.

    >>> flat({"prediction": "yes", "probabilities": {"no": 0.1, "yes": 0.9}})
    {'prediction': 'yes', 'p(no)': 0.1, 'p(yes)': 0.9}
    """
    cells: Json = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            short = "p" if name == "probabilities" else name
            cells |= {f"{short}({part})": number for part, number in value.items()}
        else:
            cells[name] = value
    return cells


def prefix_of(names: Iterable[str], taken: Sequence[str]) -> str:
    """Return what is added to the names of the answers so that no column of the rows has one of them.

    >>> prefix_of(["prediction", "probability"], ["text", "prediction"])
    'tlx_'
    """
    names, prefix = list(names), ""
    while any(prefix + name in taken for name in names):
        prefix += PREFIX
    return prefix


def is_frame(rows: Any) -> bool:
    """Return whether rows are a data frame of pandas or polars, or an Arrow table."""
    return hasattr(rows, "columns") and hasattr(rows, "shape") and not isinstance(rows, Mapping)


def with_answers(frame: Any, answers: Sequence[Json | None]) -> Any:
    """Return a frame with the columns of the answers to its rows, with the names that `write_table` gives them.

    Args:
        frame: A data frame of pandas or polars, or an Arrow table.
        answers: The values of the answer to each row; None for a row without one.

    Returns:
        A frame of the same type, with the rows in the same order and, in pandas, with the same index.
    """
    cells = [flat(answer or {}) for answer in answers]
    names = list(dict.fromkeys(name for row in cells for name in row)) or ["prediction"]
    grouped = [name for answer in answers for name in answer or ()]
    taken = frame.column_names if hasattr(frame, "column_names") else [str(name) for name in frame.columns]
    prefix = prefix_of(dict.fromkeys((*grouped, *names)), taken)
    columns = {prefix + name: [row.get(name) for row in cells] for name in names}
    if hasattr(frame, "append_column"):
        for name, values in columns.items():
            frame = frame.append_column(name, [values])
        return frame
    if hasattr(frame, "hstack"):
        return frame.hstack(type(frame)(columns))
    return frame.assign(**columns)


def rounded(value: Any) -> Any:
    """Return the values of an answer with `DIGITS` significant digits."""
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def shortest(value: Any, kind: type[np.floating]) -> Any:
    """Return a number, or a list of numbers, as the shortest decimal number that is the same in its type.

    >>> shortest([1.100000023841858, None], np.float32)
    [1.1, None]
    """
    if isinstance(value, list):
        return [shortest(part, kind) for part in value]
    return value if value is None else float(str(kind(value)))


def write_table(
    path: Path, form: str, table: RawTable, files: Sequence[Path], headers: Sequence[Json], separator: str = ";"
) -> tuple[str, ...]:
    """Write a file of rows and answers, whole or not at all.

    Args:
        path: The file.
        form: Its form, one of `FORMS`.
        table: The rows.
        files: The files of the chunks in order: a line with a header, and a line for each answer.
        headers: Their headers: `kinds` of the single values, and `names` of the values.
        separator: The text between several classes in one cell.

    Returns:
        The columns that the form cannot hold, such as the bytes of images in CSV.
    """
    kinds: dict[str, set[str]] = {}
    names: dict[str, None] = {}
    for header in headers:
        names |= dict.fromkeys(header["names"])
        for name, kind in header["kinds"].items():
            kinds.setdefault(name, set()).add(kind)
    if not names:
        names, kinds = {"prediction": None}, {"prediction": {"text"}}
    left_out = () if form == ".parquet" else tuple(name for name in table.names if is_binary(table, name))
    prefix = prefix_of((*names, *kinds), table.names)
    own = tuple(name for name in table.names if name not in left_out)
    single = {name: unified(seen) for name, seen in kinds.items()}
    columns = AnswerColumns(table, own, single, tuple(names), prefix, separator)
    chunks = chunk_values(files)
    if form == ".parquet":
        write_parquet(path, columns, chunks)
    elif form == ".jsonl":
        write_whole(path, jsonl_pieces(columns, chunks))
    else:
        write_whole(path, csv_pieces(columns, chunks, "\t" if form == ".tsv" else ","))
    return left_out


def chunk_values(files: Iterable[Path]) -> Iterator[tuple[int, list[Json | None]]]:
    """Yield the first row and the answers of each chunk."""
    start = 0
    for file in files:
        with file.open(encoding="utf-8") as stream:
            next(stream)
            values = [json.loads(line) for line in stream]
        yield start, values
        start += len(values)


class CsvLines(list[str]):
    """The lines of a CSV writer, each with a line feed at its end."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix(QUOTED_END) + "\n")


def csv_pieces(
    columns: AnswerColumns, chunks: Iterable[tuple[int, list[Json | None]]], delimiter: str
) -> Iterator[bytes]:
    """Yield the content of a CSV file."""
    lines = CsvLines()
    writer = csv.writer(lines, delimiter=delimiter, lineterminator=QUOTED_END)
    writer.writerow([*columns.own, *(columns.prefix + name for name in columns.kinds)])
    spell = partial(cell_text, separator=columns.separator)
    for start, values in chunks:
        for cells, answer in columns.rows(start, values):
            single = flat(answer)
            mine = [json_or_text(cell) for cell in cells.values()]
            writer.writerow([*mine, *(spell(single.get(name)) for name in columns.kinds)])
        yield "".join(lines).encode()
        lines.clear()


def jsonl_pieces(columns: AnswerColumns, chunks: Iterable[tuple[int, list[Json | None]]]) -> Iterator[bytes]:
    """Yield the content of a JSON Lines file."""
    for start, values in chunks:
        lines = []
        for cells, answer in columns.rows(start, values):
            row = finite(cells)
            row |= {columns.prefix + name: value for name, value in finite(answer).items()}
            lines.append(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        yield "".join(lines).encode()


def write_parquet(path: Path, columns: AnswerColumns, chunks: Iterable[tuple[int, list[Json | None]]]) -> None:
    """Write a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet

    rows = columns.table.arrow.select(list(columns.own)).replace_schema_metadata(None)
    types = [pa.field(columns.prefix + name, as_arrow(kind)) for name, kind in columns.kinds.items()]
    schema = pa.schema([*rows.schema, *types])
    part_file = path.with_name(f".{path.name}.partial")
    try:
        with pyarrow.parquet.ParquetWriter(part_file, schema) as writer:
            waiting: list[pa.Table] = []
            for start, values in chunks:
                single = [flat(value) if value is not None else {} for value in values]
                arrays = [
                    pa.array([cells.get(name) for cells in single], as_arrow(kind))
                    for name, kind in columns.kinds.items()
                ]
                part = rows.slice(start, len(values))
                waiting.append(pa.Table.from_arrays([*part.columns, *arrays], schema=schema))
                if sum(map(len, waiting)) >= GROUP:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        os.replace(part_file, path)
    except BaseException:
        part_file.unlink(missing_ok=True)
        raise


def is_binary(table: RawTable, name: str) -> bool:
    """Return whether a column holds bytes: files, or arrays."""
    import pyarrow as pa

    if name == LINE:
        return True
    kind = table.arrow.schema.field(name).type
    kinds = [kind] if not pa.types.is_struct(kind) else [part.type for part in kind]
    return any(pa.types.is_binary(part) or pa.types.is_large_binary(part) for part in kinds)


def cell_text(value: Any, separator: str) -> str:
    """Return a value of an answer as the text of one cell."""
    if isinstance(value, list):
        return separator.join(map(str, value))
    return json_or_text(value)


def json_or_text(value: Any) -> str:
    """Return a cell as the text of a CSV file: nothing for a missing one, JSON for lists."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | dict):
        return json.dumps(finite(value), ensure_ascii=False, default=str)
    return str(value)
