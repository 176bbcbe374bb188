"""Use data in memory: data frames, arrays and lists.

A recipe holds a hash of the content in the place of the data, so it can be printed, compared and saved as any other.
The content itself is kept in the cache, from which a saved recipe opens it again.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tlx.assets import cache_dir
from tlx.data.sources.raw_table import (
    CHUNK,
    MIXED,
    SHAPE,
    RawTable,
    arrow_type,
    as_arrow,
    mapped,
    unified,
    write,
)
from tlx.data.sources.tabular import Tabular
from tlx.files.durable import sha256_of

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "validation", "test")
# The axes of one cell of an array of images.
IMAGE_AXES = (2, 3)
# Libraries of tables.
TABLES = ("pandas", "polars", "pyarrow")
# A column as an Arrow array, and its metadata.
Cells = tuple["pa.Array", dict[bytes, str] | None]


@dataclass(frozen=True, kw_only=True)
class InMemory(Tabular):
    """Rows in memory. After it is made, each split is the hash of its content."""

    train: Any = field(kw_only=False)
    validation: Any = None
    test: Any = None

    PLACES: ClassVar[tuple[str, ...]] = SPLITS
    NOUN: ClassVar[str] = "rows"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None and (self.validation is not None or self.test is not None):
            raise ValueError(f"split={self.split!r} and further splits are both set; set only one of them")
        for split in SPLITS:
            value = getattr(self, split)
            if value is not None and not isinstance(value, str):
                object.__setattr__(self, split, kept(self.arrow(value, split)))

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {self.train[:8]}"

    def arrow(self, value: Any, split: str) -> pa.Table:
        """Return the content of a split as Arrow arrays. Raises TypeError for a value of another type."""
        raise TypeError(f"{type(self).__name__} defines no arrow(value, split)")

    def tables(self) -> dict[str, RawTable]:
        """Return the table of each split from the cache.

        Raises FileNotFoundError where the cache was emptied since.
        """
        tables = {}
        for split in SPLITS:
            content = getattr(self, split)
            if content is None:
                continue
            file = file_of(content)
            if not file.is_file():
                raise FileNotFoundError(
                    f"the {self.NOUN} {content[:8]} of the split {split!r} are no longer in the cache ({file.parent}); "
                    f"make the source again from its data: {type(self).__name__}(...)"
                )
            table = mapped(file)
            kinds = {}
            for column in table.schema:
                metadata = column.metadata or {}
                if SHAPE in metadata and len(json.loads(metadata[SHAPE])["shape"]) in IMAGE_AXES:
                    kinds[column.name] = "image"
            tables[split] = RawTable(f"{type(self).__name__.lower()} {content[:8]}", table, content, kinds=kinds)
        return tables


@dataclass(frozen=True, kw_only=True)
class Frame(InMemory):
    """A data frame of pandas or polars, or an Arrow table.

        Frame(frame, text="body", label="stars")

    Args:
        train: The rows, or the training rows.
        validation: The rows of the validation split.
        test: The rows of the test split. Without one the share `test_share` of `train` is held out.

    The other fields are those of every table (see `tlx.data.sources.tabular.Tabular`).
    """

    NOUN: ClassVar[str] = "rows of the frame"

    def arrow(self, value: Any, split: str) -> pa.Table:
        """Return the columns of a frame."""
        return frame_table(value, split)


@dataclass(frozen=True, kw_only=True)
class Arrays(InMemory):
    """Columns of NumPy arrays or lists, by name.

        Arrays({"image": images, "label": digits})

    An array of more than one axis has one cell for each entry of its first axis: uint8[N, H, W] or uint8[N, H, W, C]
    are images.

    Args:
        train: The columns, or those of the training rows.
        validation: The columns of the validation split.
        test: The columns of the test split. Without one the share `test_share` of `train` is held out.

    The other fields are those of every table (see `tlx.data.sources.tabular.Tabular`).
    """

    NOUN: ClassVar[str] = "rows of the arrays"

    def arrow(self, value: Any, split: str) -> pa.Table:
        """Return the columns of a mapping from name to array or list."""
        return columns_table(value, split)


def frame_table(value: Any, what: str) -> pa.Table:
    """Return the columns of a data frame, which `what` names in messages."""
    import pyarrow as pa

    if isinstance(value, pa.Table):
        names, columns = value.column_names, value
    elif hasattr(value, "to_arrow"):
        columns = value.to_arrow()
        names = columns.column_names
    elif hasattr(value, "columns") and hasattr(value, "iloc"):
        names = [str(name) for name in value.columns]
        columns = {name: value.iloc[:, place] for place, name in enumerate(names)}
    else:
        raise TypeError(
            f"{what} is {type(value).__name__}; expected a data frame of pandas or polars, or an Arrow table "
            "(lists and arrays: Arrays({'text': [...], 'label': [...]}))"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the frame has two columns with the name {twice[0]!r}; choose a different name for each")
    return joined({name: column_array(columns[name], name) for name in names})


def columns_table(value: Any, what: str) -> pa.Table:
    """Return the columns of a mapping from name to array or list, which `what` names in messages."""

    if not isinstance(value, Mapping):
        raise TypeError(
            f"{what} is {type(value).__name__}; expected a mapping from the name of a column to its values, such "
            "as {'text': [...], 'label': [...]}"
        )
    for name, column in value.items():
        if isinstance(column, str | bytes):
            kind = "text" if isinstance(column, str) else "bytes object"
            raise ValueError(
                f"{what}: {name!r} is one {kind}, {column!r:.40}; expected a list, such as [{column!r:.40}]"
            )
        if not hasattr(column, "__len__") or getattr(column, "ndim", 1) == 0:
            raise ValueError(
                f"{what}: the column {name!r} is {type(column).__name__} {column!r:.40}; expected a list or an array "
                "with one value for each row"
            )
    lengths = {name: len(column) for name, column in value.items()}
    if not lengths or len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise ValueError(f"{what}: {sizes or 'there are no columns'}; expected columns of one length")
    return joined({str(name): cells_of(column, str(name)) for name, column in value.items()})


def joined(columns: Mapping[str, Cells]) -> pa.Table:
    """Return the table of some columns."""
    import pyarrow as pa

    fields = [pa.field(name, array.type, metadata=metadata) for name, (array, metadata) in columns.items()]
    return pa.Table.from_arrays([array for array, _ in columns.values()], schema=pa.schema(fields))


def cells_of(column: Any, name: str) -> Cells:
    """Return a column as an Arrow array, and how the bytes of its cells are to be read, where they are arrays."""
    import pyarrow as pa

    # Arrays of JAX and torch. Those of tables have missing values, which NumPy has not.
    if hasattr(column, "__array__") and type(column).__module__.partition(".")[0] not in TABLES:
        column = np.asarray(column)
    if isinstance(column, np.ndarray) and column.ndim > 1 and column.dtype != object:
        flat = np.ascontiguousarray(column)
        size = int(np.prod(flat.shape[1:])) * flat.itemsize
        if size * len(flat) >= 2**31:
            content = pa.chunked_array(
                [[row.tobytes() for row in flat[start : start + 1024]] for start in range(0, len(flat), 1024)]
            )
        else:
            content = pa.array([row.tobytes() for row in flat], pa.binary())
        return content, {SHAPE: json.dumps({"dtype": flat.dtype.str, "shape": list(flat.shape[1:])})}
    return column_array(column, name)


def is_picture(value: Any) -> bool:
    """Return whether a cell is an image: of Pillow, or an array uint8[H, W] or uint8[H, W, C]."""
    if hasattr(value, "tobytes") and hasattr(value, "getbands"):
        return True
    return getattr(value, "ndim", 0) in IMAGE_AXES and getattr(value, "dtype", None) == np.uint8


def as_png(value: Any, name: str, row: int) -> bytes | None:
    """Return an image as a PNG file, so that the images of a column may have different sizes.

    Raises ValueError for a value that is no image among images.
    """
    from PIL import Image

    if value is None:
        return None
    if not is_picture(value):
        raise ValueError(
            f"row {row} of {name!r} is {type(value).__name__} {value!r:.40}; expected an image, as in others"
        )
    if not hasattr(value, "getbands"):
        pixels = np.asarray(value)
        if pixels.ndim == 3 and pixels.shape[2] not in (1, 2, 3, 4):
            raise ValueError(
                f"row {row} of {name!r} has the shape {list(pixels.shape)}; expected [H, W] or [H, W, 1 to 4]"
            )
        value = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    if value.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        value = value.convert("RGB")
    stream = io.BytesIO()
    value.save(stream, "PNG")
    return stream.getvalue()


def column_array(column: Any, name: str) -> Cells:
    """Return a column of plain values as an Arrow array.

    A column of values of different types is kept as JSON texts, and its metadata say so: reading it is an error.
    """
    import pyarrow as pa

    try:
        array = pa.array(column, from_pandas=True) if not isinstance(column, pa.ChunkedArray) else column
        return without_nan(array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array), None
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        values = [value.item() if isinstance(value, np.generic) else value for value in list(column)]
    if any(map(is_picture, values)):
        return pa.array([as_png(value, name, row) for row, value in enumerate(values)], pa.binary()), None
    kinds: dict[str, int] = {}
    for row, value in enumerate(values):
        missing = value is None or (isinstance(value, float) and np.isnan(value))
        kinds.setdefault("nothing" if missing else arrow_type(value), row)
    kind = unified(set(kinds))
    if kind in ("mixed", "object"):
        seen = ", ".join(f"{kind} (row {row})" for kind, row in kinds.items() if kind != "nothing")
        return pa.array([None if value is None else str(value) for value in values], pa.string()), {
            MIXED: json.dumps(seen)
        }
    try:
        return pa.array(values, as_arrow(kind), from_pandas=True), None
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        return pa.array(list(map(str, values)), pa.string()), {MIXED: json.dumps(f"{kind} that do not fit ({error})")}


def without_nan(array: pa.Array) -> pa.Array:
    """Return an array of numbers in which NaN is a missing value, as pandas has it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(array.type) or pa.types.is_float16(array.type):
        return array
    nan = pc.is_nan(array)
    return pc.if_else(nan, pa.scalar(None, array.type), array) if pc.any(nan).as_py() else array


def file_of(content: str) -> Any:
    """Return the file of the cache that keeps content of this hash."""
    return cache_dir() / "frames" / f"{content}.arrow"


def kept(table: pa.Table) -> str:
    """Keep a table in the cache. Return the hash of its content."""

    def batches() -> Iterator[pa.RecordBatch]:
        parts = table.replace_schema_metadata(None).combine_chunks().to_batches(CHUNK)
        yield from parts or [empty_batch(table)]

    folder = cache_dir() / "frames"
    folder.mkdir(parents=True, exist_ok=True)
    # The content is hashed once it is written, and other processes write here too.
    part = folder / f"new-{uuid.uuid4().hex[:12]}.arrow"
    write(part, batches())
    content = sha256_of(part)[:32]
    part.replace(file_of(content))
    return content


def empty_batch(table: pa.Table) -> pa.RecordBatch:
    """Return a batch without rows in the columns of a table."""
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in table.schema], schema=table.schema)
