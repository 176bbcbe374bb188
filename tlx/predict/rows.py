"""The rows that a model answers: a table of any source, texts, pairs of texts or files. Labels are not needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.examples import Examples
from tlx.data.sources.base import Source
from tlx.data.sources.class_checks import counted
from tlx.data.sources.division import Division
from tlx.data.sources.files import FileTable
from tlx.data.sources.folder import Folder, files_of
from tlx.data.sources.labels import LabelColumn
from tlx.data.sources.media import Entry, digest_of_entries, entries_of, frames_note, media_kind
from tlx.data.sources.raw_table import CHUNK, LINE, RawTable, key_of
from tlx.data.sources.roles import IMAGES, PAIRS, SOUNDS, TEXTS, is_text, sample
from tlx.data.sources.table_rows import TableRows
from tlx.data.sources.tabular import Tabular
from tlx.processors.columns import HEAVY
from tlx.trees import Example, Json, near_miss
from tlx.types import Column

if TYPE_CHECKING:
    import pyarrow as pa

    from tlx.predict.opening import ModelInputs
    from tlx.processors.base import Processor

Roles = dict[str, tuple[str, ...]]
# Usual names of columns with the names of files.
FILES = ("file", "path", "filename", "file_name")
WORDS = ("words", "tokens")


@dataclass(frozen=True)
class InputRows:
    """Rows that a model answers.

    Args:
        table: The columns of the rows.
        read: Returns the example of a row. Raises ValueError for one that cannot be read.
        what: What the rows are, in words.
        roles: The columns of each input, for messages and printing.
        named: Returns the name of a row for a message; by default that of the table.
    """

    table: RawTable
    read: Callable[[int], Example]
    what: str
    roles: Roles = field(default_factory=dict)
    named: Callable[[int], str] | None = None

    def __len__(self) -> int:
        return len(self.table)

    def place(self, row: int) -> str:
        """Return the name of a row for a message."""
        return self.table.place(row) if self.named is None else self.named(row)

    @cached_property
    def files(self) -> dict[str, Entry | None]:
        """Return the entries of the images and sounds that the rows name."""
        return entries_of(self.table, [name for role in HEAVY for name in self.roles.get(role, ())], "")

    def notes(self) -> tuple[str, ...]:
        """Return notes on the rows."""
        return frames_note(self.files)

    @cached_property
    def identity(self) -> Json:
        """Return JSON values that differ where the rows, the files that they name, or their inputs differ."""
        files = digest_of_entries(self.files)
        content = self.table.digest or digest_of(self.table.arrow)
        return {
            "data": key_of(content, files) if files else content,
            "columns": {role: list(names) for role, names in self.roles.items()},
        }

    def example(self, row: int) -> Any:
        """Return the inputs of a row as a JSON value: a text or a list of words, or a list where there are several."""
        names = [name for names in self.roles.values() for name in names]
        cells = [self.table.arrow[name][row].as_py() for name in names]
        values = [cell if isinstance(cell, str | list) else cell_words(cell, self.place(row)) for cell in cells]
        return values[0] if len(values) == 1 else values

    def words(self, row: int) -> str:
        """Return the inputs of a row as one line."""
        example, roles = self.example(row), [role for role, names in self.roles.items() for _ in names]
        parts = example if len(roles) > 1 else [example]
        return " / ".join(cell_words(part, "") for part in parts)


def digest_of(arrow: pa.Table) -> str:
    """Return a hash of the names, the types and the cells of a table in memory."""
    digest = hashlib.sha256(str(arrow.schema).encode())
    for batch in arrow.combine_chunks().to_batches(max_chunksize=CHUNK):
        digest.update(batch.serialize())
    return digest.hexdigest()


def cell_words(cell: Any, place: str) -> str:
    """Return a cell as words of one line; the place of its row where it is no text and no list."""
    if isinstance(cell, list):
        return " ".join(map(str, cell))
    if isinstance(cell, dict) and isinstance(cell.get("path"), str):
        return str(cell["path"])
    return place if isinstance(cell, bytes | dict) or cell is None else " ".join(str(cell).split())


def table_of(source: Source, split: str | None = None) -> RawTable:
    """Return the table of a source, without reading any label.

    Args:
        source: A table or a folder of images or sounds.
        split: The split, where the source has several.

    Raises:
        FileNotFoundError, IsADirectoryError: A path is wrong.
        ValueError: A file is empty or damaged, or there are several splits and none is named.
        TypeError: The source has no rows with columns.
    """
    if not isinstance(source, Tabular):
        raise TypeError(
            f"{source} is a {type(source).__name__}; expected a table (CSV, JSON Lines, Parquet), a folder of images "
            "or sounds, or a data set that `datasets` saved"
        )
    source.stamps()
    if isinstance(source, Folder) and source.table is None:
        return folder_table(Path(source.path))
    # A file without labels may have a single column.
    if isinstance(source, FileTable):
        tables = {name: source.table(path) for name, path in source.paths.items()}
    else:
        tables = source.tables()
    if split is None and len(tables) > 1:
        raise ValueError(
            f"{source} has the splits {', '.join(map(repr, tables))}; choose one: --split NAME (split=...)"
        )
    if split is not None and split not in tables:
        raise ValueError(
            f"{source} has no split {split!r}{near_miss(split, tables)}; it has {', '.join(map(repr, tables))}"
        )
    table = tables[split or next(iter(tables))]
    if not len(table):
        raise ValueError(f"{table.name} has no rows; expected at least one")
    return table


def folder_table(folder: Path) -> RawTable:
    """Return the table of all images or sounds below a folder, with their names in the column `file`."""
    import pyarrow as pa

    files = sorted(files_of(folder))
    kinds = {media_kind(name) for name, _ in files}
    if len(kinds) != 1:
        has = "images and sounds; expected one of them" if kinds else "no image, no sound and no table"
        raise ValueError(f"{folder} has {has}; name the folder of the files, or a table")
    names = [name for name, _ in files]
    digest = hashlib.sha256(repr(files).encode()).hexdigest()
    return RawTable(str(folder), pa.table({"file": names}), digest, folder, {"file": kinds.pop()})


def table_rows(
    table: RawTable, inputs: ModelInputs, stated: Mapping[str, Sequence[str]] | None = None, rate: int = 0
) -> InputRows:
    """Return the rows of a table as inputs of a model.

    Args:
        table: The table.
        inputs: The inputs of the model, with the columns that they had in training.
        stated: The columns that the user names, by role.
        rate: The samples per second that the model reads.

    Raises:
        ValueError: The table has no column for an input, or several are possible; the message has the nearest names.
    """
    if not len(table):
        raise ValueError(f"{table.name} has no rows; expected at least one")
    roles = chosen_columns(table, inputs, {role: tuple(names) for role, names in (stated or {}).items() if names})
    for names in roles.values():
        for name in names:
            table.check_types(name)
    columns = {role: inputs.columns[role] if role in inputs.columns else Column("text") for role in roles}
    columns = {
        role: column if column.kind != "audio" or column.rate else Column("audio", rate=rate)
        for role, column in columns.items()
    }
    places = np.arange(len(table))
    label = LabelColumn(Column("class"), {}, {"train": None})
    # The caller decides on broken rows.
    settings = Tabular(broken="drop")
    rows = TableRows(table, roles, columns, places, Division("train", places), label, settings)
    examples = Examples(table.name, "rows", rows, columns)

    texts = [name for role, names in roles.items() if columns[role].kind == "text" for name in names]

    def read(row: int) -> Example:
        if texts and all(is_blank(table.cell(name, row)) for name in texts):
            blank = " and ".join(map(repr, texts))
            raise ValueError(f"{table.place(row)}: {blank} {'is' if len(texts) == 1 else 'are'} missing; add the text")
        try:
            return examples[row]
        except ValueError:
            empty = [names[0] for names in roles.values() if len(names) == 1 and table.cell(names[0], row) is None]
            if not empty:
                raise
            raise ValueError(f"{table.place(row)}: {empty[0]!r} is missing; add the value") from None

    unused = [name for name in table.names if not any(name in names for names in roles.values())]
    assigned = ", ".join(f"{role} is {' + '.join(map(repr, names))}" for role, names in roles.items())
    others = f"; other columns: {', '.join(map(repr, unused))}" if unused else ""
    if any(columns[role].kind in HEAVY for role in roles) and table.names == ("file",):
        return InputRows(table, read, f"{len(table):,} files", roles, lambda row: file_place(table, row))
    return InputRows(table, read, f"a table with {counted(len(table))}; {assigned}{others}", roles)


def is_blank(cell: Any) -> bool:
    """Return whether a cell is missing, or a text without words."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def file_place(table: RawTable, row: int) -> str:
    """Return the path of the file of a row."""
    return str((table.folder or Path()) / table.arrow["file"][row].as_py())


def plain_table(values: Sequence[str], column: str, name: str) -> RawTable:
    """Return texts, or names of files, as a table with one column."""
    import pyarrow as pa

    check_encodable(values, name)
    digest = hashlib.sha256(repr(list(values)).encode()).hexdigest()
    return RawTable(name, pa.table({column: pa.array(values, pa.string())}), digest)


def check_encodable(values: Sequence[str], name: str) -> None:
    """Raise ValueError, with the number of the row, for a text with a part that is no character."""
    for row, value in enumerate(values):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name} row {row} is {value!r:.60}; its character {error.start}, {value[error.start]!r}, is half of a "
                "pair (a surrogate): decode the text from its bytes with the right encoding"
            ) from None


def plain_rows(table: RawTable, inputs: ModelInputs, processor: Processor) -> InputRows:
    """Return a table with one column of texts, or of names of files, as inputs of a model.

    Args:
        table: The table.
        inputs: The inputs of the model.
        processor: The processor, which reads one cell.

    Raises:
        ValueError: The model reads pairs of texts.
    """
    (column,) = table.names
    cells = table.arrow[column]
    if inputs.stated and "text_pair" in inputs.columns:
        raise ValueError(
            f"{cells[0].as_py()!r:.60}: the model reads pairs of texts; give both texts, --pair TEXT TEXT, or a table "
            "with a column for each"
        )
    words = "words" in inputs.columns
    role = next((role for role in inputs.columns if role in HEAVY), "text")
    count = f"{len(table):,} {'text' if role == 'text' else 'file'}{'' if len(table) == 1 else 's'}"

    def read(row: int) -> Example:
        cell = cells[row].as_py()
        if not words:
            return processor.read(cell)
        if not cell.split():
            raise ValueError(f"{cell!r} has no words; expected a text")
        return {"words": cell.split()}

    def named(row: int) -> str:
        if LINE in table.arrow.column_names:
            return table.place(row)
        cell = cells[row].as_py()
        return str(cell) if role in HEAVY else f"{cell!r:.60}"

    return InputRows(table, read, count, {role: (column,)}, named)


def pair_rows(pairs: Sequence[tuple[str, str]], inputs: ModelInputs) -> InputRows:
    """Return pairs of texts as inputs of a model. Raises ValueError for a model that reads no pairs."""
    import pyarrow as pa

    if "text" not in inputs.columns or (inputs.stated and "text_pair" not in inputs.columns):
        raise ValueError(f"{pairs[0]!r:.80} is a pair of texts; the model reads {inputs.reads}: give one text for each")
    for n in (0, 1):
        check_encodable([pair[n] for pair in pairs], "the pairs")
    first, second = (pa.array([pair[n] for pair in pairs], pa.string()) for n in (0, 1))
    digest = hashlib.sha256(repr(list(pairs)).encode()).hexdigest()
    table = RawTable("the pairs", pa.table({"text": first, "text_pair": second}), digest)
    return InputRows(
        table,
        lambda row: {"text": pairs[row][0], "text_pair": pairs[row][1]},
        f"{len(pairs):,} pair{'' if len(pairs) == 1 else 's'} of texts",
        {"text": ("text",), "text_pair": ("text_pair",)},
        lambda row: f"pair {row + 1}",
    )


def chosen_columns(table: RawTable, inputs: ModelInputs, stated: Roles) -> Roles:
    """Return the columns of each input: those that the user names, those of the training table, else by their names."""
    pair = "text" in inputs.columns and not inputs.stated
    known = (*inputs.columns, *(("text_pair",) if pair else ()))
    if strange := [role for role in stated if role not in known]:
        raise ValueError(
            f"{strange[0]}={' + '.join(stated[strange[0]])!r} names an input that the model does not have; it reads "
            f"{inputs.reads}{near_miss(strange[0], known)}"
        )
    for names in stated.values():
        for name in names:
            table.column(name)
    # A folder of images has no column that has the name of another table.
    media = set(table.kinds.values())
    roles: Roles = {}
    for role in inputs.columns:
        if role in stated:
            roles[role] = stated[role]
        elif role in inputs.names and not (missing(table, inputs.names[role]) and inputs.columns[role].kind in media):
            check_names(table, role, inputs.names[role])
            roles[role] = inputs.names[role]
    if "text_pair" in stated:
        roles["text_pair"] = stated["text_pair"]
    used = [name for names in roles.values() for name in names]
    free = [name for name in table.names if name not in used]
    lacking = [role for role in inputs.columns if role not in roles]
    if "text" in lacking and (pair or "text_pair" in lacking):
        lowered = {name.lower(): name for name in free}
        pairs = [names for names in PAIRS if set(names) <= lowered.keys()]
        if len(pairs) == 1 and "text_pair" not in roles:
            return {
                **roles,
                **{role: (lowered[name],) for role, name in zip(("text", "text_pair"), pairs[0], strict=True)},
            }
    for role in lacking:
        roles[role] = (column_by_name(table, role, inputs.columns[role].kind, free),)
        free = [name for name in free if (name,) != roles[role]]
    return {role: roles[role] for role in known if role in roles}


def missing(table: RawTable, names: Sequence[str]) -> list[str]:
    """Return the names that are no columns of a table."""
    return [name for name in names if name not in table.names]


def check_names(table: RawTable, role: str, names: Sequence[str]) -> None:
    """Raise ValueError where a table lacks a column that was the input `role`, or the label, in training."""
    if lacking := missing(table, names):
        raise ValueError(
            f"{table.name} has no column {lacking[0]!r}, which was the {role} in training"
            f"{near_miss(lacking[0], table.names)}; it has {', '.join(map(repr, table.names))}. Name the column: "
            f"--{role.replace('_', '-')} COLUMN ({role}=...)"
        )


def column_by_name(table: RawTable, role: str, kind: str, free: Sequence[str]) -> str:
    """Return the only possible column of an input: by its name, by its content, or by being the only one."""
    usual = {"text": TEXTS, "words": (*WORDS, *TEXTS), "image": (*IMAGES, *FILES), "audio": (*SOUNDS, *FILES)}
    declared = [name for name, media in table.kinds.items() if media == kind and name in free]
    likely = declared or [name for name in free if name.lower() in ((role, *usual[kind]) if kind in usual else (role,))]
    if kind in HEAVY and not likely:
        likely = [name for name in free if names_files(table, name, kind)]
    if kind in ("text", "words") and not likely:
        likely = [name for name in free if is_text(table, name)]
    if len(likely) == 1:
        return likely[0]
    if len(free) == 1:
        return free[0]
    which = f"{' and '.join(map(repr, likely))} are possible" if likely else "no column has its name or its content"
    raise ValueError(
        f"{table.name}: the column of the input {role!r} is not clear, {which}; it has "
        f"{', '.join(map(repr, table.names))}. Name the column: --{role.replace('_', '-')} COLUMN ({role}=...)"
    )


def names_files(table: RawTable, name: str, kind: str) -> bool:
    """Return whether the cells of a column are names of files of this kind."""
    cells = sample(table, name)[:20]
    return bool(cells) and all(isinstance(cell, str) and media_kind(cell) == kind for cell in cells)
