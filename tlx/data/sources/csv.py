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
from tlx.files.durable import sha256_once
from tlx.processors.columns import LABEL
from tlx.trees import near_miss
from tlx.types import Column, Example

Kind = Literal["class", "number", "classes", "tags"]

# Usual names of columns, for sources that name none.
TEXTS = ("text", "sentence", "review", "body", "content", "comment", "document", "message", "tweet", "question")
PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text_a", "text_b"))
LABELS = ("label", "labels", "class", "target", "category", "sentiment", "stars", "rating", "score", "y")
# Labels with more distinct values than this, most of them with one example, are no classes.
MANY_CLASSES = 100


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
            numbers and one is not whole, else "class".
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
            raise ValueError(f"words={self.words!r} and text={self.text!r} are both given; choose one")
        if (self.label_kind == "tags") and self.words is None:
            raise ValueError("label_kind='tags' is for words: name the column of the words, words=...")
        if self.label_kind == "classes" and not self.separator:
            raise ValueError(
                "label_kind='classes' needs a separator that stands between the classes of a cell, such as ';'"
            )
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
                name, split, Rows(table, split), table.columns, key=table.fingerprint if len(part.places) else ""
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


class Rows(Sequence[Example]):
    """The records of a split. Each is read from its file when it is needed."""

    def __init__(self, table: CsvTable, split: str):
        self.table, self.part = table, table.parts[split]
        header = self.part.file.header
        self.cells = {role: header.index(name) for role, name in table.names.items()}

    def __len__(self) -> int:
        return len(self.part.places)

    def __getitem__(self, position: int) -> Example:  # type: ignore[override]
        if not 0 <= position < len(self):
            raise IndexError(f"{self.part.file.path} has {len(self)} rows in this split; there is none at {position}")
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
        notes.append(f"{dropped:,} rows of {settings} have no label in {names[LABEL]!r} and are left out")
    kind = settings.label_kind or kind_of(
        settings, [cell for split in cells for cell in cells[split][labelled_rows[split]]]
    )
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
        raise ValueError(f"{settings} names the column {twice[0]!r} twice; give each role its own column")
    named = dict(names)
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
    if names.keys() == named.keys():
        return names, []
    unused = [name for name in file.header if name not in names.values()]
    also = f"; not used: {', '.join(map(repr, unused))}" if unused else ""
    assignments = ", ".join(f"{role} is {name!r}" for role, name in names.items())
    return names, [f"of the columns of {settings}, {assignments}{also}"]


def only(file: CsvFile, taken: Mapping[str, str], known: Sequence[str], role: str, remedy: str) -> str:
    """Return the only possible column: by its name, else the only one that is left. Raises ValueError where several are
    possible."""
    free = [name for name in file.header if name not in taken.values()]
    likely = [name for name in free if name.lower() in known]
    if len(likely) == 1:
        return likely[0]
    if len(free) == 1:
        return free[0]
    raise ValueError(
        f"{file.path} line 1: which column is the {role}? It has {', '.join(map(repr, file.header))}; name it: {remedy}"
    )


def place(file: CsvFile, name: str) -> int:
    """Return the position of a column in the header. Raises ValueError with the nearest name where it is missing."""
    if name not in file.header:
        raise ValueError(
            f"{file.path} line 1 has no column {name!r}{near_miss(name, file.header)}; it has "
            f"{', '.join(map(repr, file.header))}"
        )
    return file.header.index(name)


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
                "rows; fill it in, or leave such rows out with missing='drop'"
            )
        labelled_rows[split] = np.flatnonzero(~empty)
        dropped += int(empty.sum())
    return labelled_rows, dropped


def kind_of(settings: Csv, cells: Sequence[str]) -> Kind:
    """Return the kind of the labels where the source does not state it."""
    if settings.words is not None:
        return "tags"
    if settings.separator:
        return "classes"
    if settings.classes:
        return "class"
    numbers = [number_in(cell) for cell in cells]
    whole = all(number is not None and float(number).is_integer() for number in numbers)
    return "number" if cells and None not in numbers and not whole else "class"


def number_in(cell: str) -> float | None:
    """Return the number in a cell; None where the cell is no number."""
    try:
        return float(cell)
    except ValueError:
        return None


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
    kept: Mapping[str, np.ndarray],
    label: str,
) -> Column:
    """Return the column of the label, with its classes. Raises ValueError for labels that look like names, or that are
    none of the given classes."""
    if kind == "number":
        return Column("number")
    counts: dict[str, int] = {}
    for split, column in cells.items():
        for row in kept[split].tolist():
            for name in names_in(column[row], settings, kind):
                if settings.classes and name not in settings.classes:
                    raise ValueError(
                        f"{files[split].path} line {files[split].line(row)}: {label!r} is {name!r}, which is none of "
                        f"the classes given{near_miss(name, settings.classes)}"
                    )
                counts[name] = counts.get(name, 0) + 1
    total = sum(map(len, kept.values()))
    if len(counts) > MANY_CLASSES and len(counts) > total / 2 and not settings.classes:
        raise ValueError(
            f"{files['train'].path}: {label!r} has {len(counts):,} different labels in {total:,} rows, which look like "
            "names and not like classes; name another column, or label_kind='number'"
        )
    if settings.classes:
        return Column(kind, settings.classes)
    numeric = all(number_in(name) is not None for name in counts)
    names = sorted(counts, key=lambda name: (float(name), name)) if numeric else sorted(counts)
    return Column(kind, tuple(names))


def encoded(column: Column, file: CsvFile, cells: np.ndarray, kept: np.ndarray, label: str) -> np.ndarray | None:
    """Return int32[N] classes or float32[N] numbers; None where each label is a list. Raises ValueError for a cell that
    is no number."""
    if column.kind == "class":
        numbers = {name: number for number, name in enumerate(column.classes)}
        return np.array([numbers[cells[row].strip()] for row in kept.tolist()], np.int32)
    if column.kind != "number":
        return None
    values = np.zeros(len(kept), np.float32)
    for n, row in enumerate(kept.tolist()):
        number = number_in(cells[row])
        if number is None or not np.isfinite(number):
            raise ValueError(f"{file.path} line {file.line(row)}: {label!r} is {cells[row]!r:.40}; expected a number")
        values[n] = number
    return values


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
