"""Read one CSV file: its header, the beginning of each row, and any row or column."""

from __future__ import annotations

import csv
import io
import mmap
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

DELIMITERS = (",", ";", "\t", "|")
MARK = b"\xef\xbb\xbf"
# The beginnings of files in encodings whose line breaks are no single bytes.
WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class CsvFile:
    """A file with a header line. The rows are read through a memory map, so any thread may read any of them.

    Raises:
        ValueError: The file is empty, has no header that can be read, or has a row of another length; the message names
            the file, the line and what was expected.
    """

    def __init__(self, path: str, encoding: str, delimiter: str | None, quote: str):
        self.path, self.encoding, self.quote = path, encoding, quote
        # A text may be longer than the 131,072 characters that the library allows by default.
        csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
        if Path(path).stat().st_size == 0:
            raise ValueError(f"{path} is empty; expected a header line and rows")
        try:
            "".encode(encoding)
        except LookupError:
            raise ValueError(
                f"encoding={encoding!r} is unknown; expected an encoding such as 'utf-8' or 'latin-1'"
            ) from None
        self.stream, self.lock = Path(path).open("rb"), threading.Lock()  # noqa: SIM115
        self.content = mmap.mmap(self.stream.fileno(), 0, access=mmap.ACCESS_READ)
        for mark, name in WIDE.items():
            if self.content[:2] == mark:
                raise ValueError(f"{path} is {name}; convert it: iconv -f utf-16 -t utf-8 {path} > new.csv")
        self.skip = len(MARK) if self.content[: len(MARK)] == MARK else 0
        self.delimiter = delimiter or self._delimiter()
        self.header = self._checked()

    def scan(self, place: int) -> np.ndarray:
        """Find the beginning of each row, and return all cells of one column: objects [N]."""
        starts, lines, column = [], [], []
        rows = self._rows()
        next(rows)
        for start, line, cells in rows:
            if len(cells) != len(self.header):
                raise ValueError(
                    f"{self.path} line {line} has {len(cells)} cells, but the header has {len(self.header)} (the "
                    f"delimiter is {self.delimiter!r}); quote each cell that contains the delimiter"
                )
            starts.append(start)
            lines.append(line)
            column.append(cells[place])
        if not starts:
            raise ValueError(f"{self.path} has a header but no rows; expected at least one row")
        self.starts = np.array([*starts, len(self.content)], np.int64)
        self.lines = np.array(lines, np.int64)
        return np.array(column, object)

    def __len__(self) -> int:
        return len(self.lines)

    def line(self, row: int) -> int:
        """Return the line on which a row begins; the header is line 1."""
        return int(self.lines[row])

    def row(self, row: int) -> list[str]:
        """Return the cells of one row."""
        first, last = int(self.starts[row]), int(self.starts[row + 1])
        # Read and not mapped: a file that was cut short since would end the process with a bus error.
        with self.lock:
            self.stream.seek(first)
            content = self.stream.read(last - first)
        cells = next(self._reader(io.StringIO(self._decoded(content, self.line(row)), newline="")), [])
        if len(content) < last - first or len(cells) != len(self.header):
            raise ValueError(f"{self.path} changed while tlx was reading it (line {self.line(row)}); start again")
        return cells

    def _rows(self) -> Iterator[tuple[int, int, list[str]]]:
        """Yield each row that is not empty: its first byte, its line, its cells."""
        lines = Lines(self)
        reader = self._reader(lines)
        while True:
            start, line = lines.offset, lines.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(
                    f"{self.path} line {line} cannot be read ({error}); check its quotes ({self.quote})"
                ) from None
            if cells:
                yield start, line, cells

    def _reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote, strict=True)

    def _decoded(self, content: bytes, line: int) -> str:
        if b"\0" in content:
            raise ValueError(f"{self.path} line {line} contains a NUL byte; the file is damaged or is not a CSV file")
        try:
            return content.decode(self.encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.path} line {line} is not valid {self.encoding} (byte 0x{content[error.start]:02x} at "
                f"{error.start}); set its encoding, such as encoding='latin-1'"
            ) from None

    def _delimiter(self) -> str:
        """Return the most frequent delimiter of the header; a comma where it has none."""
        end = self.content.find(b"\n", self.skip)
        header = self._decoded(self.content[self.skip : end if end >= 0 else len(self.content)], 1)
        return max(DELIMITERS, key=header.count)

    def _checked(self) -> list[str]:
        """Return the header. Raises ValueError where it names a column twice, or has fewer than two columns."""
        _, line, cells = next(self._rows(), (0, 1, []))
        header = [cell.strip() for cell in cells]
        if duplicates := [name for name in header if header.count(name) > 1]:
            raise ValueError(
                f"{self.path} line {line} has two columns with the name {duplicates[0]!r}; choose a different name for "
                "each"
            )
        if len(header) < 2:
            raise ValueError(
                f"{self.path} line {line} has the columns {header!r:.80}, split at {self.delimiter!r}; expected a text "
                "and a label: set the delimiter, or check the header line"
            )
        return header


class Lines(Iterator[str]):
    """The lines of a file, one after the other: `offset` is the first byte not yet read, `number` the last line."""

    def __init__(self, file: CsvFile):
        self.file, self.offset, self.number = file, file.skip, 0

    def __next__(self) -> str:
        content = self.file.content
        if self.offset >= len(content):
            raise StopIteration
        end = content.find(b"\n", self.offset) + 1 or len(content)
        self.number += 1
        line = self.file._decoded(content[self.offset : end], self.number)
        self.offset = end
        return line
