"""Read tables in CSV files. Rows are found by their offsets, so a file may be larger than memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tlx.data.datasets.splits import stratified
from tlx.data.examples import Examples
from tlx.data.sources.base import Dataset, Source
from tlx.data.sources.csv_file import CsvFile
from tlx.data.sources.csv_labels import Kind, column_of, encoded, kind_of, names_in, with_labels
from tlx.files.durable import sha256_once
from tlx.processors.columns import LABEL
from tlx.trees import Example, near_miss
from tlx.types import Column

# Usual names of columns, for sources that name none.
TEXTS = ("text", "sentence", "review", "body", "content", "comment", "document", "message", "tweet", "question")
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text_a", "text_b"))
LABELS = ("label", "labels", "class", "target", "category", "sentiment", "stars", "rating", "score", "y")


@dataclass(frozen=True, kw_only=True)
class Csv(Source):
    """A table with a header line: a text, a pair of texts or a list of words in each row, and its label.

    Args:
        path: The file of the training examples, or the only file.
        validation: The file of the validation split, if there is one.
        test: The file of the test split. Without one the share `test_share` of `path` is held out: the same rows each
            time, an equal share of every class. A share of 0 holds none out.
        text: The column of the texts; `text_pair` is the second text of a pair. Without a name the column is chosen
            where only one is possible, and a note of the run names it.
        words: A column of words with spaces between, in the place of a text.
        label: The column of the labels.
        label_kind: The kind of a label: a "class", a "number", several "classes" in one cell, or "tags" of the
            `words`. By default "tags" beside words, "classes" with a `separator`, "number" where all labels are
            numbers and one is not whole, else "class". A "nan" or "inf" among numbers is an error; with
            label_kind="class" it is the name of a class, as any other text is.
        separator: The text between the classes of one cell.
        classes: The names of the classes in their order. By default they are sorted.
        missing: How to treat rows without a label: "error" names the first, "drop" leaves them out with a note.
        delimiter: The character between cells; None finds it in the header.
        quote: The character around a cell that holds a delimiter or a line break.
        encoding: The encoding of the files.
    """

    path: str = field(kw_only=False)
    validation: str | None = None
    test: str | None = None
    test_share: float = 0.2
    text: str | None = None
    text_pair: str | None = None
    words: str | None = None
    label: str | None = None
    label_kind: Kind | None = None
    separator: str | None = None
    classes: tuple[str, ...] = ()
    missing: Literal["error", "drop"] = "error"
    delimiter: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise ValueError(f"test_share={self.test_share}; expected 0 (no test split) or a share below 1")
        if self.missing not in ("error", "drop"):
            raise ValueError(f"missing={self.missing!r}; expected 'error' or 'drop'")
        if self.label_kind not in (None, "class", "number", "classes", "tags"):
            raise ValueError(f"label_kind={self.label_kind!r}; expected 'class', 'number', 'classes' or 'tags'")
        if self.words is not None and (self.text is not None or self.text_pair is not None):
            raise ValueError(f"words={self.words!r} and text={self.text!r} are both set; set only one of them")
        if (self.label_kind == "tags") and self.words is None:
            raise ValueError("label_kind='tags' requires a column of words: set words=...")
        if self.label_kind == "classes" and not self.separator:
            raise ValueError("label_kind='classes' requires a separator between the classes of a cell, such as ';'")
        for name in ("delimiter", "quote"):
            if getattr(self, name) is not None and len(getattr(self, name)) != 1:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected one character")

    def __str__(self) -> str:
        return Path(self.path).name

    @property
    def paths(self) -> dict[str, str]:
        """Return the file of each split that has one."""
        files = {"train": self.path, "validation": self.validation, "test": self.test}
        return {split: path for split, path in files.items() if path is not None}

    def open(self) -> Dataset:
        """Open the table.

        Raises:
            FileNotFoundError: A file is missing.
            IsADirectoryError: A path is a directory.
            ValueError: A file is empty or damaged, a column is missing, or a label cannot be read. The message names
                the file, the line, and the nearest column.
        """
        stamps = []
        for path in self.paths.values():
            if Path(path).is_dir():
                raise IsADirectoryError(f"{path} is a directory; expected a CSV file")
            if not Path(path).is_file():
                raise FileNotFoundError(f"no file {path}; expected a CSV file with a header line")
            stamps.append((Path(path).stat().st_mtime_ns, Path(path).stat().st_size))
        table = read_table(self, tuple(stamps))
        name = Path(self.path).name
        splits = {
            split: Examples(
                name, split, CsvRows(table, split), table.columns, key=table.fingerprint if len(part.places) else ""
            )
            for split, part in table.parts.items()
        }
        return Dataset(name, splits, table.columns, table.fingerprint, table.notes)


@dataclass(frozen=True)
class Part:
    """The rows of one split: their places in a file, and their labels, where each label is one number."""

    file: CsvFile
    places: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class CsvTable:
    """The files of a source, opened: columns by role (`names`), and the rows of each split."""

    settings: Csv
    names: Mapping[str, str]
    columns: dict[str, Column]
    parts: Mapping[str, Part]
    fingerprint: str
    notes: tuple[str, ...]


class CsvRows(Sequence[Example]):
    """The records of a split. Each is read from its file when it is needed."""

    def __init__(self, table: CsvTable, split: str):
        self.table, self.part = table, table.parts[split]
        header = self.part.file.header
        self.cells = {role: header.index(name) for role, name in table.names.items()}

    def __len__(self) -> int:
        return len(self.part.places)

    def __getitem__(self, position: int) -> Example:  # type: ignore[override]
        if not 0 <= position < len(self):
            raise IndexError(f"{self.part.file.path} has {len(self)} rows in this split; there is no row {position}")
        cells = self.part.file.row(int(self.part.places[position]))
        record: dict[str, Any] = {role: cells[place] for role, place in self.cells.items() if role != LABEL}
        if "words" in record:
            record["words"] = record["words"].split()
        if LABEL in self.cells:
            record[LABEL] = self._label(position, cells[self.cells[LABEL]])
        return record

    def _label(self, position: int, cell: str) -> Any:
        if self.part.labels is not None:
            return self.part.labels[position]
        column = self.table.columns[LABEL]
        return [column.classes.index(name) for name in names_in(cell, self.table.settings, column.kind)]


@lru_cache(maxsize=8)
def read_table(settings: Csv, stamps: tuple[Any, ...]) -> CsvTable:
    """Open the files of a source, as they were at `stamps`: find columns, classes and splits."""
    files = {
        split: CsvFile(path, settings.encoding, settings.delimiter, settings.quote)
        for split, path in settings.paths.items()
    }
    names, notes = columns_of(settings, files["train"])
    for file in files.values():
        for name in names.values():
            place(file, name)
    cells = {split: file.scan(place(file, names[LABEL])) for split, file in files.items()}
    labelled_rows, dropped = with_labels(settings, files, cells, names[LABEL])
    if dropped:
        notes.append(f"{dropped:,} rows of {settings} have no label in {names[LABEL]!r} and are not used")
    kind = settings.label_kind or kind_of(settings, files, cells, labelled_rows, names[LABEL])
    column = column_of(settings, kind, files, cells, labelled_rows, names[LABEL])
    inputs = {role: Column("words" if role == "words" else "text") for role in names if role != LABEL}
    parts = {
        split: Part(
            files[split],
            labelled_rows[split],
            encoded(column, files[split], cells[split], labelled_rows[split], names[LABEL]),
        )
        for split in files
    }
    if "test" not in parts and settings.test_share:
        parts |= divided(parts["train"], settings.test_share, kind)
    return CsvTable(settings, names, {**inputs, LABEL: column}, parts, fingerprint_of(settings), tuple(notes))


def columns_of(settings: Csv, file: CsvFile) -> tuple[dict[str, str], list[str]]:
    """Return the column of each role, and a note where a column was chosen by its name."""
    roles = {role: getattr(settings, role) for role in ("text", "text_pair", "words", LABEL)}
    names = {role: name for role, name in roles.items() if name is not None}
    for name in names.values():
        place(file, name)
    if twice := [name for name in names.values() if list(names.values()).count(name) > 1]:
        raise ValueError(f"{settings} uses the column {twice[0]!r} twice; choose a different column for each role")
    explicit_names = dict(names)
    if LABEL not in names:
        names[LABEL] = only(file, names, LABELS, "label", "label='...'")
    if not {"text", "words"} & set(names):
        lowered = {name.lower(): name for name in file.header}
        pairs = [pair for pair in PAIRS if set(pair) <= lowered.keys()]
        if len(pairs) == 1:
            first, second = (lowered[name] for name in pairs[0])
            names |= {"text": first, "text_pair": names.get("text_pair", second)}
        else:
            names["text"] = only(file, names, TEXTS, "text", "text='...'")
    order = [role for role in ("text", "text_pair", "words", LABEL) if role in names]
    names = {role: names[role] for role in order}
    if names.keys() == explicit_names.keys():
        return names, []
    unused = [name for name in file.header if name not in names.values()]
    also = f"; not used: {', '.join(map(repr, unused))}" if unused else ""
    assignments = ", ".join(f"{role} is {name!r}" for role, name in names.items())
    return names, [f"columns of {settings}: {assignments}{also}"]


def only(file: CsvFile, names: Mapping[str, str], candidates: Sequence[str], role: str, remedy: str) -> str:
    """Return the only possible column: by its name, else the only one that is left. Raises ValueError where several are
    possible."""
    free = [name for name in file.header if name not in names.values()]
    likely = [name for name in free if name.lower() in candidates]
    if len(likely) == 1:
        return likely[0]
    if len(free) == 1:
        return free[0]
    raise ValueError(
        f"{file.path} line 1: the column of the {role} is not clear; the columns are "
        f"{', '.join(map(repr, file.header))}. Name the column: {remedy}"
    )


def place(file: CsvFile, name: str) -> int:
    """Return the position of a column in the header. Raises ValueError with the nearest name where it is missing."""
    if name not in file.header:
        raise ValueError(
            f"{file.path} line 1 has no column {name!r}{near_miss(name, file.header)}; it has "
            f"{', '.join(map(repr, file.header))}"
        )
    return file.header.index(name)


def divided(part: Part, share: float, kind: str) -> dict[str, Part]:
    """Split a training part: return it without the share of every class that becomes the test split, and the test
    split."""
    strata = part.labels if part.labels is not None and kind == "class" else np.zeros(len(part.places), np.int32)
    rows = stratified(strata, "test", {"train": 1 - share, "test": share})
    return {
        split: Part(part.file, part.places[members], None if part.labels is None else part.labels[members])
        for split, members in rows.items()
    }


def fingerprint_of(settings: Csv) -> str:
    """Return a hash of the content of all files and of the settings, without the names of the files."""
    paths = settings.paths
    values = {setting.name: getattr(settings, setting.name) for setting in fields(settings) if setting.name not in
              ("path", "validation", "test")}  # fmt: skip
    document = [{split: sha256_once(Path(path)) for split, path in paths.items()}, values]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
