"""The common part of all sources with rows and columns: roles of columns, labels, and the division into splits.

A source of this kind defines `tables()`. It declares no reader of its own: the columns come as Arrow arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np

from tlx.data.examples import Examples
from tlx.data.sources.base import Dataset, Source
from tlx.data.sources.broken import without_broken
from tlx.data.sources.cells import Cells, Kind
from tlx.data.sources.division import division
from tlx.data.sources.labels import LabelColumn, label_column
from tlx.data.sources.media import Entry, digest_of_entries, entries_of, frames_note, without_blanks
from tlx.data.sources.raw_table import RawTable
from tlx.data.sources.roles import INPUTS, Roles, roles_of
from tlx.data.sources.several_labels import several_labels
from tlx.data.sources.table_rows import TableRows
from tlx.processors.columns import HEAVY, LABEL
from tlx.processors.sounds import rate_of
from tlx.types import Column

# The kind of the column of each input.
KINDS: Mapping[str, Any] = {
    "text": "text", "text_pair": "text", "words": "words", "image": "image", "audio": "audio",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tabular(Source):
    """Rows with columns: inputs, a label, and columns that divide the rows.

    Args:
        test_share: The share of the rows that is held out as the test split where the source has none: the same rows
            each time, an equal share of every class. 0 holds none out.
        text: The column of the texts, or several that are joined line by line; `text_pair` is the second text of a
            pair. Without a name the column is chosen where only one is possible, and a note of the run names it.
        words: A column of words (a list, or a text with spaces between), in the place of a text.
        image: The column of the images: file names, the bytes of files, or arrays.
        audio: The column of the sounds, likewise.
        label: The column of the labels, or several columns: of numbers, or of classes that a row has or has not. () is
            for texts without labels, from which language models learn.
        label_kind: The kind of a label: a "class", a "number", several "classes" or "numbers" in one cell, "tags" of
            the `words`, a "text" that a model is to write, or "answers" to the question `text` in the context
            `text_pair`, as SQuAD has them. By default "tags" beside words, "answers" where the cells hold such answers,
            "classes" with a `separator`, "number" where all labels are numbers and one is not whole, else "class". A
            "nan" or "inf" among numbers is an error; with label_kind="class" it is the name of a class, as any other
            text is.
        separator: The text between the classes of one cell.
        classes: The names of the classes in their order. By default they are sorted.
        missing: How to treat rows without a label: "error" names the first, "drop" leaves them out with a note.
        broken: How to treat rows whose image or sound cannot be read: "error" names the first one when a run reads it,
            "drop" decodes every file once, before the run, and leaves such rows out with a note.
        split: A column that says to which split a row belongs: "train", "validation" or "test".
        group: A column of groups, such as patients: all rows of a group are in one split.
        time: A column of times or numbers: the last rows are the test split, the rows before them the validation split.
    """

    test_share: float = 0.2
    text: str | tuple[str, ...] | None = None
    text_pair: str | None = None
    words: str | None = None
    image: str | None = None
    audio: str | None = None
    label: str | tuple[str, ...] | None = None
    label_kind: Kind | None = None
    separator: str | None = None
    classes: tuple[str, ...] = ()
    missing: Literal["error", "drop"] = "error"
    broken: Literal["error", "drop"] = "error"
    split: str | None = None
    group: str | None = None
    time: str | None = None

    # The fields that always count in the fingerprint of the content; others count where they are set.
    COUNTED: ClassVar[tuple[str, ...]] = ()
    # The fields that say where the data are.
    PLACES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name in ("text", "label", "classes"):
            if isinstance(getattr(self, name), list):
                # A source is hashed.
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if isinstance(self.classes, str):
            raise ValueError(f"classes={self.classes!r}; expected the names of the classes, such as ('neg', 'pos')")
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share={self.test_share}; expected 0 (no test split) or a share below 1")
        for name in ("missing", "broken"):
            if getattr(self, name) not in ("error", "drop"):
                raise ValueError(f"{name}={getattr(self, name)!r}; expected 'error' or 'drop'")
        if self.label_kind not in (None, *get_args(Kind)):
            raise ValueError(f"label_kind={self.label_kind!r}; expected one of {', '.join(map(repr, get_args(Kind)))}")
        inputs = [name for name in INPUTS if name != "text_pair" and getattr(self, name) is not None]
        if len(inputs) > 1:
            both = " and ".join(f"{name}={getattr(self, name)!r}" for name in inputs)
            raise ValueError(f"{both} are both set; set only one of them")
        if self.label_kind == "tags" and self.words is None:
            raise ValueError("label_kind='tags' requires a column of words: set words=...")
        if self.group is not None and self.time is not None:
            raise ValueError(f"group={self.group!r} and time={self.time!r} are both set; set only one of them")

    def tables(self) -> dict[str, RawTable]:
        """Return the table of each split; "train" alone where the source has no further splits."""
        raise TypeError(f"{type(self).__name__} defines no tables(); return a dict of RawTable")

    def stamps(self) -> tuple[Any, ...]:
        """Return values that change when the data change; they are cheap to read."""
        return ()

    def open(self) -> Dataset:
        """Open the source.

        Raises:
            FileNotFoundError, IsADirectoryError: A path is wrong.
            ValueError: A file is empty or damaged, a column is missing, or a label cannot be read. The message names
                the file, the line, and the nearest column.
        """
        rows, columns, content, notes = opened(self, self.stamps())
        # The files that the rows name may change although the table does not.
        content, frames = with_files(content, rows)
        if "audio" in columns:
            sounds = (row["audio"] for part in rows.values() for row in part)
            sound = next((sound for sound in sounds if sound is not None), b"")
            columns = {**columns, "audio": Column("audio", rate=rate_of(sound, str(self)))}
        # New examples each time: they hold what was processed, which ends with the run.
        splits = {
            split: Examples(str(self), split, part, columns, key=content if len(part) else "")
            for split, part in rows.items()
        }
        return Dataset(str(self), splits, columns, content, (*notes, *frames))

    def whole(self) -> Self:
        """Return the source, which then divides off no test split."""
        return replace(self, test_share=0.0)


# The last few are cached, because each run of a group opens its data.
@lru_cache(maxsize=8)
def opened(
    settings: Tabular, stamps: tuple[Any, ...]
) -> tuple[dict[str, TableRows], dict[str, Column], str, tuple[str, ...]]:
    """Open a source as it was at `stamps`: choose columns, read labels, divide the rows.

    Returns:
        The records of each split, the columns, the fingerprint of the content, and the notes.
    """
    tables = settings.tables()
    for split, table in tables.items():
        if not len(table):
            raise ValueError(f"{table.name} has no rows in its split {split!r}; expected at least one row")
    roles, notes = roles_of(settings, tables["train"])
    for table in tables.values():
        for name in (name for names in roles.values() for name in names):
            table.column(name)
            table.check_types(name)
    files = [name for role in HEAVY if role in roles for name in roles[role]]
    tables = {split: without_blanks(table, files) for split, table in tables.items()}
    label = read_label(settings, tables, roles)
    columns = {role: Column(KINDS[role]) for role in roles if role != LABEL}
    if LABEL in roles:
        columns[LABEL] = label.column
    if settings.broken == "drop":
        label = without_broken(tables, roles, columns, label, str(settings))
    splits = {}
    for split, part in division(settings, tables, label).items():
        rows = TableRows(tables[part.table], roles, columns, label.rows[part.table][part.places], part, label, settings)
        splits[split] = rows
    notes = (*notes, *label.notes)
    if settings.time is not None:
        notes = (*notes, f"the rows of {settings} are ordered by {settings.time!r}, a column of {part.time_form}")
    return splits, columns, fingerprint_of(settings, tables), notes


def with_files(content: str, rows: Mapping[str, TableRows]) -> tuple[str, tuple[str, ...]]:
    """Return the fingerprint of the content, with the images and sounds in files that the rows name, and the note on
    files of several frames."""
    digests: dict[str, str] = {}
    files: dict[str, Entry | None] = {}
    seen = set()
    for split, part in rows.items():
        if id(part.table) not in seen:
            seen.add(id(part.table))
            entries = entries_of(part.table, [name for role in HEAVY for name in part.roles.get(role, ())], split)
            digests[split] = digest_of_entries(entries)
            files |= entries
    if any(digests.values()):
        content = hashlib.sha256(json.dumps([content, digests], sort_keys=True).encode()).hexdigest()[:16]
    return content, frames_note(files)


def read_label(settings: Tabular, tables: Mapping[str, RawTable], roles: Roles) -> LabelColumn:
    """Read the label of all splits, from one column or from several. Without a label all rows are used."""
    if LABEL not in roles:
        every = {split: np.arange(len(table)) for split, table in tables.items()}
        return LabelColumn(Column("text"), every, dict.fromkeys(every))
    cells = {name: {split: Cells.of(table, name) for split, table in tables.items()} for name in roles[LABEL]}
    if len(cells) > 1:
        return several_labels(settings, cells)
    return label_column(settings, next(iter(cells.values())))


def fingerprint_of(settings: Tabular, tables: Mapping[str, RawTable]) -> str:
    """Return a hash of the content and of the settings, without the places of the files."""
    values = {}
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        if setting.name not in settings.PLACES and (setting.name in settings.COUNTED or value != setting.default):
            values[setting.name] = value
    document = [{split: table.digest for split, table in tables.items()}, values]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
