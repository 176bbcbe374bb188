"""Read one CSV file: its header and its rows, with their lines."""

from __future__ import annotations

import csv
import mmap
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlx.data.sources.raw_table import LINE, chunks

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = (",", ";", "\t", "|")
# The end of the name of a file whose cells are between tabs.
TABBED = ".tsv"
# Rows by which a delimiter is checked.
FIRST_ROWS = 20
MARK = b"\xef\xbb\xbf"
# The beginnings of files in encodings whose line breaks are no single bytes.
WIDE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class CsvFile:
    """A file with a header line.

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
        with Path(path).open("rb") as stream:
            self.content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        for mark, name in WIDE.items():
            if self.content[:2] == mark:
                raise ValueError(f"{path} is {name}; convert it: iconv -f utf-16 -t utf-8 {path} > new.csv")
        self.skip = len(MARK) if self.content[: len(MARK)] == MARK else 0
        if self.content.find(b"\n") < 0 <= self.content.find(b"\r"):
            raise ValueError(
                f"{path} has lines that end in \\r alone; expected \\n or \\r\\n: convert it, "
                f"tr '\\r' '\\n' < {path} > new.csv"
            )
        self.delimiter = delimiter or self._delimiter()
        self.header = self._checked()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows as texts, with the line of each (`raw_table.LINE`).

        Raises ValueError for a row of another length than the header, and for a file without rows.
        """
        import pyarrow as pa

        types = [pa.int64(), *(pa.string() for _ in self.header)]
        schema = pa.schema(list(zip((LINE, *self.header), types, strict=True)))
        empty = True
        for part in chunks(self._checked_rows()):
            arrays = [pa.array(cells, kind) for cells, kind in zip(zip(*part, strict=True), types, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)
            empty = False
        if empty:
            raise ValueError(f"{self.path} has a header but no rows; expected at least one row")

    def _checked_rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the line and the cells of each row below the header."""
        rows, width = self._rows(), len(self.header)
        next(rows)
        for line, cells in rows:
            if len(cells) != width:
                raise ValueError(
                    f"{self.path} line {line} has {len(cells)} cells, but the header has {width} (the delimiter is "
                    f"{self.delimiter!r}); quote each cell that contains the delimiter"
                )
            yield (line, *cells)

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield each row that is not empty: its line and its cells."""
        lines = Lines(self)
        reader = self._reader(lines)
        while True:
            line = lines.number + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise ValueError(
                    f"{self.path} line {line} cannot be read ({error}); check its quotes ({self.quote})"
                ) from None
            if cells:
                yield line, cells

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
        """Return the delimiter: of those in the header the most frequent one that divides the first rows into as many
        cells as the header; the tab comes first in a file that ends in .tsv. A comma where the header has none."""
        end = self.content.find(b"\n", self.skip)
        header = self._decoded(self.content[self.skip : end if end >= 0 else len(self.content)], 1)
        likely = sorted((mark for mark in DELIMITERS if mark in header), key=header.count, reverse=True)
        if Path(self.path).suffix.lower() == TABBED and "\t" in likely:
            likely.insert(0, "\t")
        return next((mark for mark in likely if self._fits(mark)), likely[0] if likely else ",")

    def _fits(self, delimiter: str) -> bool:
        """Return whether the first rows have as many cells as the header where a delimiter divides them."""
        rows = csv.reader(Lines(self), delimiter=delimiter, quotechar=self.quote, strict=True)
        try:
            return len({len(cells) for cells in islice((row for row in rows if row), FIRST_ROWS)}) == 1
        except csv.Error:
            return False

    def _checked(self) -> list[str]:
        """Return the header. Raises ValueError where there is none, or it names a column twice."""
        line, cells = next(self._rows(), (1, []))
        header = [cell.strip() for cell in cells]
        if duplicates := [name for name in header if header.count(name) > 1]:
            raise ValueError(
                f"{self.path} line {line} has two columns with the name {duplicates[0]!r}; choose a different name for "
                "each"
            )
        if not header:
            raise ValueError(f"{self.path} has blank lines only; expected a header line and rows")
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
