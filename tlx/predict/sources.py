"""The rows of a source: a table, a data set by name, or several of them (`Concat`, `Where`). Labels are not needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx import config
from tlx.data.sources.base import Dataset, Source
from tlx.data.sources.combined import Concat, Where, text_of
from tlx.data.sources.named import source_named
from tlx.data.sources.raw_table import CHUNK, RawTable, key_of, stored
from tlx.data.sources.roles import INPUTS
from tlx.data.sources.tabular import Tabular
from tlx.predict.rows import InputRows, table_of, table_rows
from tlx.processors.columns import HEAVY, LABEL
from tlx.processors.columns import inputs as inputs_among
from tlx.recipe import classes
from tlx.trees import near_miss

if TYPE_CHECKING:
    import pyarrow as pa

    from tlx.data.examples import Examples
    from tlx.predict.opening import ModelInputs
    from tlx.recipe import Recipe

# A source as a recipe writes it, such as `Where("a.csv", column="language", values=("en",))`.
CALL = re.compile(r"([A-Za-z_]\w*)\(.*\)", re.DOTALL)
# The column of the numbers of examples of images and sounds.
EXAMPLE = "example"
Stated = Mapping[str, Sequence[str]]


def spelled_source(text: str, recipe: Recipe | None = None) -> Source | None:
    """Return the source that a text spells as a recipe does; None for any other text.

    Args:
        text: The text.
        recipe: A recipe with the classes of the user.

    Raises:
        ValueError, TypeError: The source has a wrong argument.

    >>> spelled_source('Csv("a.csv", encoding="latin-1")').path
    'a.csv'
    >>> spelled_source("Great (a film)") is None
    True
    """
    call = CALL.fullmatch(text.strip())
    known = classes(recipe)
    if call is None or call[1] not in known:
        return None
    source = config.parse(text, known)
    return source if isinstance(source, Source) else None


def source_rows(
    source: str | Source, inputs: ModelInputs, stated: Stated | None = None, split: str | None = None, rate: int = 0
) -> InputRows:
    """Return the rows of a source as inputs of a model.

    Args:
        source: The source, or its name.
        inputs: The inputs of the model.
        stated: The columns that the user names, by role; by default those that a table names itself.
        split: The split, where the source has several.
        rate: The samples per second that the model reads.

    Raises:
        FileNotFoundError, IsADirectoryError: A path is wrong.
        ValueError: A column or an input is missing, no row is chosen, or there are several splits and none is named.
    """
    named = source_named(source) if isinstance(source, str) else source
    if isinstance(named, Concat):
        parts = [source_rows(part, inputs, stated, split, rate) for part in named.sources]
        return joined_rows(str(named), parts)
    if isinstance(named, Where):
        return chosen_rows(named, source_rows(named.source, inputs, stated, split, rate))
    if isinstance(named, Tabular):
        columns = {role: names for role, names in (stated or {}).items() if names}
        return table_rows(table_of(named, split), inputs, columns or stated_roles(named), rate)
    if roles := [role for role, names in (stated or {}).items() if names]:
        raise ValueError(f"{roles[0]} names a column of a table, but {named} states its columns itself")
    return dataset_rows(named.open(), inputs, split)


def stated_roles(source: Tabular) -> dict[str, tuple[str, ...]]:
    """Return the columns of the inputs that a table names itself."""
    names = {role: getattr(source, role) for role in INPUTS if getattr(source, role) is not None}
    return {role: (name,) if isinstance(name, str) else tuple(name) for role, name in names.items()}


def joined_rows(name: str, parts: Sequence[InputRows]) -> InputRows:
    """Return several tables as one: the rows of the first, then those of the second, and so on.

    A column that one of them lacks is empty there. Raises ValueError where a column has different types.
    """
    import pyarrow as pa

    tables = [plain_columns(part.table) for part in parts]
    try:
        arrow = pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{name}: a column has different types in its tables; use one type: {error}") from None
    ends = np.cumsum([len(part) for part in parts])

    def part_of(row: int) -> tuple[InputRows, int]:
        part = int(np.searchsorted(ends, row, side="right"))
        return parts[part], row - int(ends[part - 1] if part else 0)

    def read(row: int) -> Any:
        part, place = part_of(row)
        return part.read(place)

    def named(row: int) -> str:
        part, place = part_of(row)
        return part.place(place)

    table = RawTable(name, arrow, key_of([part.table.digest for part in parts]))
    return InputRows(table, read, f"{len(table):,} rows of {len(parts)} tables", parts[0].roles, named)


def plain_columns(table: RawTable) -> pa.Table:
    """Return the columns of a table without the numbers of their lines and without metadata."""
    import pyarrow as pa

    return pa.Table.from_arrays([table.arrow[name] for name in table.names], names=list(table.names))


def chosen_rows(source: Where, rows: InputRows) -> InputRows:
    """Return the rows that have one of the values of a source in its column.

    Raises ValueError where there is no such column, or no such row.
    """
    column = selecting_column(source)
    values = [text_of(value) for value in rows.table.column(column).to_pylist()]
    wanted = [text_of(value) for value in source.values or source.without]
    is_kept = np.isin(np.array(values, object), wanted, invert=not source.values)
    places = np.flatnonzero(is_kept)
    if not len(places):
        some = ", ".join(map(repr, list(dict.fromkeys(values))[:8]))
        raise ValueError(
            f"no row of {rows.table.name} is chosen by {column!r}: {', '.join(wanted)}"
            f"{near_miss(wanted[0], set(values))}; it has {some}"
        )
    table = rows.table
    arrow = table.arrow.filter(is_kept)
    choice = [table.digest, column, "values" if source.values else "without", *wanted]
    chosen = RawTable(str(source), arrow, key_of(choice), table.folder, table.kinds)
    return InputRows(
        chosen,
        lambda row: rows.read(int(places[row])),
        f"{len(places):,} of {rows.what}",
        rows.roles,
        lambda row: rows.place(int(places[row])),
    )


def selecting_column(source: Where) -> str:
    """Return the column of the table by which rows are chosen; "label" is the column that the table names so."""
    table = source.source
    while isinstance(table, Where):
        table = table.source
    is_label = source.column == LABEL and isinstance(table, Tabular) and isinstance(table.label, str)
    return table.label if is_label else source.column  # type: ignore[union-attr]


def dataset_rows(dataset: Dataset, inputs: ModelInputs, split: str | None) -> InputRows:
    """Return a split of a data set as inputs of a model.

    Raises ValueError where an input is missing, or where there are several splits and none is named.
    """
    present = inputs_among(dataset.columns)
    optional = () if inputs.stated or "text" not in inputs.columns else ("text_pair",)
    roles = [role for role in (*inputs.columns, *optional) if role in present]
    for role, column in inputs.columns.items():
        if role not in present or present[role].kind != column.kind:
            raise ValueError(
                f"{dataset.name} has no input {role!r} of the kind {column.kind!r}; it has {', '.join(present)}, and "
                f"the model reads {inputs.reads}"
            )
    splits = {name: part for name, part in dataset.splits.items() if len(part)}
    if split is None and len(splits) > 1:
        raise ValueError(
            f"{dataset.name} has the splits {', '.join(map(repr, splits))}; choose one: --split NAME (split=...)"
        )
    chosen = split or next(iter(splits), "train")
    if chosen not in splits:
        raise ValueError(
            f"{dataset.name} has no split {chosen!r}{near_miss(chosen, splits)}; it has "
            f"{', '.join(map(repr, splits)) or 'no examples'}"
        )
    examples = splits[chosen].unlabelled()
    table = example_table(splits[chosen], dataset.fingerprint)
    return InputRows(
        table,
        lambda row: {role: value for role, value in examples[row].items() if role in roles},
        f"the split {chosen!r} of {dataset.name} with {len(table):,} examples",
        {role: (role,) if role in table.names else (EXAMPLE,) for role in roles},
        lambda row: examples.place(int(examples.rows[row])),
    )


def example_table(examples: Examples, fingerprint: str) -> RawTable:
    """Return the texts, the numbers and the labels of examples as a table; images and sounds have a number only."""
    light = [name for name, column in inputs_among(examples.columns).items() if column.kind not in HEAVY]
    labels = named_labels(examples)

    def batches() -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for start in range(0, len(examples), CHUNK):
            places = range(start, min(start + CHUNK, len(examples)))
            columns: dict[str, Any] = {EXAMPLE: pa.array(places, pa.int64())}
            if light:
                rows = [examples.unlabelled().light(place) for place in places]
                columns |= {name: plain_cells([row[name] for row in rows]) for name in light}
            if labels is not None:
                columns[LABEL] = pa.array(labels[start : places.stop])
            yield pa.RecordBatch.from_pydict(columns)

    key = key_of("examples", fingerprint, examples.split, light, labels is not None, len(examples))
    return RawTable(f"{examples.name} {examples.split}", stored(key, batches, examples.name), key)


def named_labels(examples: Examples) -> list[Any] | None:
    """Return the names of the classes, or the numbers, of all examples; None where they have none that can be read."""
    if not examples.labelled or not examples.scalar:
        return None
    try:
        labels = examples.labels().tolist()
    except ValueError:
        # A test split without labels has a number in their place that is no class.
        return None
    return [examples.classes[label] for label in labels] if examples.kind == "class" else labels


def plain_cells(cells: Sequence[Any]) -> pa.Array:
    """Return texts, lists of words or numbers as an Arrow array."""
    import pyarrow as pa

    return pa.array([cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in cells])
