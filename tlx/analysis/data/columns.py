"""Describe the columns of data: where each comes from, what is missing, and which columns are not used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tlx.data.sources.roles import DIVIDERS, distinct, sample
from tlx.data.sources.table_rows import TableRows
from tlx.processors.columns import LABEL
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data import Examples
    from tlx.processors.columns import Columns

# Usual names of columns whose rows belong together, so that they should be in one split.
TOGETHER = (
    "patient", "subject", "user", "author", "speaker", "person", "customer", "session", "group", "document", "site",
    "product", "thread", "conversation",
)  # fmt: skip


def table_rows(examples: Examples) -> TableRows | None:
    """Return the rows of the table that examples come from; None for data of another form. Of several tables it is the
    first."""
    source: Any = examples.source
    while not isinstance(source, TableRows):
        if hasattr(source, "parts"):
            source = source.parts[0].source
        elif hasattr(source, "examples"):
            source = source.examples.source
        else:
            return None
    return source


def fields(columns: Columns, rows: TableRows | None) -> list[Json]:
    """Return for each column its `name`, `kind`, the columns that it is read `from`, and its `missing` cells (None
    where that is not known)."""
    described = []
    for name in sorted(columns, key=LABEL.__eq__):
        column, names = columns[name], () if rows is None else rows.roles.get(name, ())
        kind = str(column.kind)
        if column.classes:
            kind += f", {len(column.classes):,} classes"
        if column.rate:
            kind += f", {column.rate:,} samples per second"
        missing = None if rows is None else sum(map(rows.table.missing, names))
        described.append({"name": name, "kind": kind, "from": list(names), "missing": missing})
    return described


def unused(rows: TableRows | None) -> list[Json]:
    """Return the columns of a table that have no role: `name`, `type`, the number of `different` values among the first
    rows, and an `example`."""
    if rows is None:
        return []
    used = {name for names in rows.roles.values() for name in names}
    used |= {name for role in DIVIDERS if (name := getattr(rows.settings, role)) is not None}
    described = []
    for name in (name for name in rows.table.names if name not in used):
        values = sample(rows.table, name)
        described.append(
            {
                "name": name,
                "type": str(rows.table.column(name).type),
                "different": distinct(rows.table, name)[0],
                "example": f"{values[0]!s:.60}" if values else "",
            }
        )
    return described


def split_groups(rows: TableRows | None, unused_columns: list[Json], parts: dict[str, Examples]) -> list[str]:
    """Return a note for each unused column with a name such as "patient" whose values lie in two splits."""
    notes = []
    for column in unused_columns:
        name = column["name"]
        words = name.lower().replace("-", "_").split("_")
        if rows is None or not set(words) & set(TOGETHER):
            continue
        values = {
            split: set(map(str, examples_rows.raw(name)))
            for split, part in parts.items()
            if (examples_rows := table_rows(part)) is part.source and name in examples_rows.table.names
        }
        train = set().union(*(values[split] for split in values if split not in ("validation", "test")))
        both = train & values.get("test", set())
        if both and len(train) < len(rows):
            notes.append(
                f"{len(both):,} values of {name!r} are in train and in test; where the rows of one value belong "
                f"together, set group={name!r} in the source"
            )
    return notes
