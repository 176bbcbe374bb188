"""Read tables in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tlx.data.sources.feature_types import described, kept_metadata
from tlx.data.sources.files import FileTable
from tlx.data.sources.raw_table import CHUNK, RawTable, key_of, stored
from tlx.files.durable import sha256_once

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Parquet(FileTable):
    """A table in a Parquet file.

    The fields are those of every table (see `tlx.data.sources.tabular.Tabular`), and `path`, `validation` and `test`
    for the file of each split. The file is converted once, so that rows can be read at random; it may be larger than
    memory.
    """

    NOUN: ClassVar[str] = "a Parquet file"

    def table(self, path: str) -> RawTable:
        """Return all columns of one file."""
        digest = sha256_once(Path(path))
        arrow = stored(key_of("parquet", digest), lambda: batches(path), path)
        arrow, kinds = described(arrow)
        return RawTable(path, arrow, digest, Path(path).parent, kinds)


def batches(path: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file. Raises ValueError for a file that is damaged or has two columns of one name."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        # The cache holds one dictionary for a column, but each row group of the file has its own.
        fields = [field.with_type(without_dictionary(field.type)) for field in file.schema_arrow]
        schema = pa.schema(fields, kept_metadata(file.schema_arrow))
        names = schema.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{path} has two columns with the name {twice[0]!r}; choose a different name for each")
        empty = True
        for batch in file.iter_batches(CHUNK):
            columns = [
                column if column.type == kind else column.cast(kind)
                for column, kind in zip(batch.columns, schema.types, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
            empty = False
        if empty:
            yield pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); write it again") from None


def without_dictionary(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column whose cells are numbers of a dictionary, else the type itself."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind
