"""Understand the arguments of `tlx predict`: texts, files, folders, tables, standard input.

An argument that looks like a path is never taken as a text without a word: it is a file, or it is an error.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from tlx.data.sources.base import Source
from tlx.data.sources.csv import Csv
from tlx.data.sources.folder import Folder
from tlx.data.sources.jsonl import Jsonl
from tlx.data.sources.media import media_kind
from tlx.data.sources.named import ENDINGS, OTHER, source_named, source_of_folder
from tlx.data.sources.raw_table import LINE, RawTable, chunks, key_of, stored
from tlx.data.sources.tabular import Tabular
from tlx.files.durable import sha256_once
from tlx.predict.rows import InputRows, plain_rows, plain_table, table_of, table_rows
from tlx.predict.sources import source_rows, spelled_source
from tlx.processors.columns import HEAVY
from tlx.trees import closest

if TYPE_CHECKING:
    import pyarrow as pa

    from tlx.predict.opening import OpenedModel
    from tlx.recipe import Recipe

STDIN, STDIN_NAME = "-", "standard input"
Form = Literal["lines", "csv", "jsonl"]
# The last part of a word that looks like the name of a file: a point and a few letters.
ENDING = re.compile(r"[^\s.]\.[A-Za-z][A-Za-z0-9]{0,6}$")
NOUNS = {"image": "an image", "audio": "a sound"}
# The longest path that is looked up, in characters, and the longest name of a file, in bytes.
LONGEST, LONGEST_NAME = 1024, 255


def understood(
    arguments: Sequence[str],
    model: OpenedModel,
    *,
    literal: bool = False,
    form: Form | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    split: str | None = None,
    stdin: BinaryIO | None = None,
    recipe: Recipe | None = None,
) -> list[tuple[str, InputRows]]:
    """Return the rows that arguments name, in order; the texts and the files next to each other are joined.

    `-` is standard input, and a pipe such as `<(...)` is read like it. A folder is its images, sounds or table, a file
    a table, an image, a sound, or lines of text by the end of its name. A source as a recipe writes it, such as
    `Where("a.csv", ...)`, is that source; with `split` a name is that of a data set. Anything else is a text, unless it
    looks like a path.

    Args:
        arguments: The words of the command line.
        model: The opened model.
        literal: Take every argument as a text.
        form: How to read standard input, and files without a known ending. None: lines.
        columns: The columns of a table by role, where the user names them.
        split: The split of a source that has several.
        stdin: The stream of standard input.
        recipe: A recipe with the user's classes of sources.

    Returns:
        For each part its name ("" for texts and files among the arguments) and its rows.

    Raises:
        FileNotFoundError: An argument looks like a path, and there is no such file.
        ValueError: The model does not read this kind of input, or a file is empty or damaged.
    """
    parts = ArgumentParts(model, form, dict(columns or {}), split)
    for argument in arguments:
        path = path_of(argument)
        if literal:
            parts.plain.append(argument)
        elif argument == STDIN:
            with spooled(stdin, form) as file:
                parts.add_lines(STDIN_NAME, file)
        elif path is not None and path.is_dir():
            parts.add_folder(path)
        elif path is not None and path.is_file():
            parts.add_file(argument, path)
        elif path is not None and (path.is_fifo() or path.is_char_device()):
            parts.add_pipe(argument, path)
        elif (source := spelled_source(argument, recipe)) is not None:
            parts.add_table(argument, source)
        elif split is not None and is_name(argument):
            parts.add_table(argument, source_named(argument))
        elif looks_like_path(argument):
            raise missing(argument, model)
        else:
            parts.plain.append(argument)
    parts.settle()
    stated = [role for role, names in (columns or {}).items() if names]
    if stated and not parts.tables:
        raise ValueError(f"--{stated[0].replace('_', '-')} names a column, but no argument is a table")
    if split is not None and not parts.sources:
        raise ValueError(f"--split {split} names a split of a data set, but no argument is a data set or a table")
    if parts.by_ending and not parts.is_form_used:
        raise ValueError(
            f"{parts.by_ending[0]} is a table by its ending, and --format {form} is for standard input and for files "
            f"without a known ending; leave the option out, or use standard input: - < {parts.by_ending[0]}"
        )
    return parts.parts


class ArgumentParts:
    """The parts that arguments name so far. The arguments are those of `understood`.

    `plain` are the texts, and the names of images and sounds, since the last part.
    """

    def __init__(self, model: OpenedModel, form: Form | None, columns: dict[str, Sequence[str]], split: str | None):
        self.model, self.form, self.columns, self.split = model, form, columns, split
        self.parts: list[tuple[str, InputRows]] = []
        self.plain: list[str] = []
        # The tables, and those of them that may have several splits.
        self.tables = self.sources = 0
        # The tables that are read by their ending and not by the form, and whether the form says how to read a part.
        self.by_ending: list[str] = []
        self.is_form_used = False

    def settle(self) -> None:
        """Make a part of the texts and the names of files."""
        if self.plain:
            column = "file" if set(HEAVY) & self.model.inputs.columns.keys() else "text"
            table = plain_table(self.plain, column, "the arguments")
            self.parts.append(("", plain_rows(table, self.model.inputs, self.model.processor)))
            self.plain = []

    def add_table(self, name: str, source: Source) -> None:
        """Add the rows of a source."""
        self.settle()
        self.tables, self.sources = self.tables + 1, self.sources + 1
        rate = getattr(self.model.processor, "rate", 0)
        self.parts.append((name, source_rows(source, self.model.inputs, self.columns, self.split, rate)))

    def add_folder(self, path: Path) -> None:
        """Add the table, the images or the sounds of a folder."""
        source = source_of_folder(path)
        check_folder(path, source, self.model)
        self.add_table(str(path), source)

    def add_file(self, name: str, path: Path) -> None:
        """Add an image or a sound, the rows of a table, or the lines of a text."""
        ending, kind = path.suffix.lower(), media_kind(path.name)
        if kind:
            check_media(path, kind, self.model)
            self.plain.append(name)
        elif ending in ENDINGS:
            if self.form not in (None, ending.removeprefix(".")):
                self.by_ending.append(name)
            self.add_table(name, ENDINGS[ending](name))
        elif ending in OTHER and ending != ".txt":
            # It raises the error for a file that tlx does not read.
            source_named(str(path))
        else:
            self.add_lines(name, path)

    def add_pipe(self, name: str, path: Path) -> None:
        """Add the lines or the table of a pipe, such as that of `<(...)`, as of standard input."""
        if path.suffix.lower() in ENDINGS and self.form is None:
            raise ValueError(f"{name} is a pipe, so its ending is not read; name its form: --format csv or jsonl")
        with path.open("rb") as stream, spooled(stream, self.form) as file:
            self.add_lines(name, file)

    def add_lines(self, name: str, path: Path) -> None:
        """Add the lines of a file, or its table where the form of the input says so."""
        self.settle()
        self.is_form_used = True
        self.tables += self.form in ("csv", "jsonl")
        self.parts.append((name, file_rows(path, self.form or "lines", self.model, self.columns, name)))


def path_of(argument: str) -> Path | None:
    """Return the path that an argument may be; None for a text that is too long or has several lines."""
    if not argument or "\n" in argument or "\0" in argument or len(argument) >= LONGEST:
        return None
    path = Path(argument)
    return path if all(len(os.fsencode(part)) <= LONGEST_NAME for part in path.parts) else None


def looks_like_path(argument: str) -> bool:
    """Return whether an argument is likely meant as the path of a file.

    >>> [looks_like_path(text) for text in ("reviews.csv", "good and/or bad", "data/a", "a fine film.", "my film.png")]
    [True, False, True, False, True]
    """
    path = path_of(argument)
    if path is None:
        return False
    ending = path.suffix.lower()
    if ending in (*ENDINGS, *OTHER) or media_kind(argument):
        return True
    has_separator = any(separator in argument for separator in (os.sep, os.altsep) if separator)
    if re.search(r"\s", argument):
        # A path with spaces, in a folder that exists.
        return has_separator and path.parent.is_dir()
    return has_separator or argument.startswith("~") or ENDING.search(argument) is not None


def is_name(argument: str) -> bool:
    """Return whether an argument may be the name of a data set: it has no spaces, and it is no file of tables."""
    return re.search(r"\s", argument) is None and Path(argument).suffix.lower() not in (*ENDINGS, *OTHER)


def missing(argument: str, model: OpenedModel) -> FileNotFoundError:
    """Return the error for an argument that looks like a path, where there is no file."""
    path = Path(argument).expanduser()
    if not path.parent.is_dir():
        near = f"; there is no folder {path.parent}"
    else:
        files = [entry.name for entry in path.parent.iterdir()]
        alike = [name for name in files if Path(name).suffix.lower() == path.suffix.lower()]
        names = closest(path.name, alike or files)
        near = f"; close: {', '.join(map(repr, names))}" if names else ""
    return FileNotFoundError(f"there is no file {argument}{near}{literal_hint(argument, model)}")


def check_media(path: Path, kind: str, model: OpenedModel) -> None:
    """Raise ValueError for an image or a sound that the model does not read."""
    kinds = {column.kind for column in model.inputs.columns.values()}
    # A processor of the user may read files of any kind.
    if kind not in kinds and kinds & {"text", "words", *HEAVY}:
        raise ValueError(
            f"{path} is {NOUNS[kind]}, but {model.source} reads {model.inputs.reads}{literal_hint(str(path), model)}"
        )


def check_folder(path: Path, source: object, model: OpenedModel) -> None:
    """Raise IsADirectoryError for a folder without a table where the model reads no images and no sounds."""
    kinds = {column.kind for column in model.inputs.columns.values()}
    if isinstance(source, Folder) and not kinds & set(HEAVY):
        raise IsADirectoryError(
            f"{path} is a directory without a table; {model.source} reads {model.inputs.reads}: name a file with one "
            f"text per line, or a table ({', '.join(ENDINGS)}){literal_hint(str(path), model)}"
        )


def literal_hint(text: str, model: OpenedModel) -> str:
    """Return the hint for a text that is no path; "" where the model reads no texts."""
    kinds = {column.kind for column in model.inputs.columns.values()}
    return f"; for the text {text!r:.60}, use --literal" if kinds & {"text", "words"} else ""


@contextmanager
def spooled(stream: BinaryIO | None, form: Form | None) -> Iterator[Path]:
    """Copy standard input into a temporary file, because its rows are read more than once."""
    ending = {"csv": ".csv", "jsonl": ".jsonl"}.get(form or "", ".txt")
    handle, name = tempfile.mkstemp(suffix=ending, prefix="tlx-input-")
    source = sys.stdin.buffer if stream is None else stream
    try:
        with os.fdopen(handle, "wb") as file:
            while block := source.read(1 << 20):
                file.write(block)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def file_rows(
    path: Path, form: Form, model: OpenedModel, columns: Mapping[str, Sequence[str]] | None, name: str
) -> InputRows:
    """Return the rows of a file: its lines, or a table.

    Args:
        path: The file.
        form: How to read it.
        model: The opened model.
        columns: The columns of a table by role, where the user names them.
        name: The name of the file in messages.
    """
    if form == "lines":
        return plain_rows(line_table(path, name), model.inputs, model.processor)
    reader: Callable[[str], Tabular] = Csv if form == "csv" else Jsonl
    try:
        table = table_of(reader(str(path)))
    except ValueError as error:
        # The name of a temporary file says nothing.
        raise ValueError(str(error).replace(str(path), name)) from None
    table = RawTable(name, table.arrow, table.digest, Path(), table.kinds)
    return table_rows(table, model.inputs, columns, getattr(model.processor, "rate", 0))


def line_table(path: Path, name: str) -> RawTable:
    """Return the lines of a text file that are not blank, mapped into memory.

    Raises ValueError for a file that is not UTF-8, and for one without such lines.
    """
    digest = sha256_once(path)
    try:
        arrow = stored(key_of("lines", digest), lambda: line_batches(path))
    except UnicodeDecodeError:
        try:
            path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{name} is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}); convert it, for "
                f"example: iconv -f latin1 -t utf-8 {name}"
            ) from None
        raise
    if not arrow.num_rows:
        raise ValueError(f"{name} is empty; expected one text per line")
    return RawTable(name, arrow, digest)


def line_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the lines of a file that are not blank, each with its number."""
    import pyarrow as pa

    schema = pa.schema([(LINE, pa.int64()), ("text", pa.string())])
    # Some editors write a byte order mark before the text.
    with path.open(encoding="utf-8-sig") as stream:
        lines = ((number, line.rstrip("\n")) for number, line in enumerate(stream, 1) if line.strip())
        for part in chunks(lines):
            numbers, texts = zip(*part, strict=True)
            yield pa.RecordBatch.from_arrays(
                [pa.array(numbers, pa.int64()), pa.array(texts, pa.string())], schema=schema
            )
    yield pa.RecordBatch.from_arrays([pa.array([], pa.int64()), pa.array([], pa.string())], schema=schema)
