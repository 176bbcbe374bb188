"""Read tables in CSV files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tlx.data.sources.csv_file import TABBED, CsvFile
from tlx.data.sources.files import FileTable
from tlx.data.sources.raw_table import RawTable, key_of, stored
from tlx.files.durable import sha256_once

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Csv(FileTable):
    """A table with a header line in a CSV file.

    Args:
        path: The file of the training examples, or the only file.
        validation: The file of the validation split, if there is one.
        test: The file of the test split. Without one the share `test_share` of `path` is held out.
        delimiter: The character between cells; None finds it in the header and the first rows, and prefers the tab in
            a file that ends in .tsv.
        quote: The character around a cell that holds a delimiter or a line break.
        encoding: The encoding of the files.

    The other fields are those of every table (see `tlx.data.sources.tabular.Tabular`).
    """

    path: str = field(kw_only=False)
    validation: str | None = None
    test: str | None = None
    delimiter: str | None = None
    quote: str = '"'
    encoding: str = "utf-8"

    NOUN: ClassVar[str] = "a CSV file with a header line"
    COUNTED: ClassVar[tuple[str, ...]] = (
        "test_share", "text", "text_pair", "words", "label", "label_kind", "separator", "classes", "missing",
        "delimiter", "quote", "encoding",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_kind == "classes" and not self.separator and not isinstance(self.label, tuple):
            raise ValueError("label_kind='classes' requires a separator between the classes of a cell, such as ';'")
        for name in ("delimiter", "quote"):
            if getattr(self, name) is not None and len(getattr(self, name)) != 1:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected one character")

    def table(self, path: str) -> RawTable:
        """Return all columns of one file as texts."""
        digest = sha256_once(Path(path))

        def convert() -> Iterable[pa.RecordBatch]:
            return CsvFile(path, self.encoding, self.delimiter, self.quote).batches()

        key = key_of("csv", digest, self.encoding, self.delimiter, self.quote, Path(path).suffix.lower() == TABBED)
        return RawTable(path, stored(key, convert, path), digest, Path(path).parent)

    def tables(self) -> dict[str, RawTable]:
        """Return the table of each file by split. Raises ValueError for one without a column for the label."""
        tables = super().tables()
        for table in tables.values():
            if len(table.names) < 2 and self.label != ():
                raise ValueError(
                    f"{table.name} line 1 has the columns {list(table.names)!r:.80}, split at "
                    f"{self.delimiter or 'the delimiter of the header'!r}; expected a text and a label: set the "
                    "delimiter, check the header line, or state label=() for texts without labels"
                )
        return tables
