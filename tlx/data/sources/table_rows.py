"""The records of a split of a table: each is read when it is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.overlap import Origin
from tlx.data.sources.broken import REMEDY, content_of
from tlx.data.sources.cells import class_names
from tlx.data.sources.labels import LabelColumn
from tlx.data.sources.raw_table import CLASSES, LINE, RawTable
from tlx.data.sources.roles import Roles
from tlx.processors.columns import HEAVY, LABEL
from tlx.trees import Example
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.data.sources.division import Division
    from tlx.data.sources.tabular import Tabular


class TableRow(Mapping[str, Any]):
    """One record. A cell is read when it is first asked for, so that a label costs no image."""

    def __init__(self, rows: TableRows, position: int):
        self.rows, self.position, self.cells = rows, position, dict[str, Any]()

    def __getitem__(self, role: str) -> Any:
        if role not in self.cells:
            self.cells[role] = self.rows.cell(role, self.position)
        return self.cells[role]

    def __contains__(self, role: object) -> bool:
        return role in self.rows.roles

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows.roles)

    def __len__(self) -> int:
        return len(self.rows.roles)


class TableRows(Sequence[Example]):
    """The records of a split.

    Args:
        table: All columns.
        roles: The columns of each role.
        columns: The kind of each role.
        rows: The row of each record in the table.
        division: How the split was made; it holds the groups and times of the records.
        label: The label of all rows.
        settings: The settings of the source.
    """

    def __init__(
        self,
        table: RawTable,
        roles: Roles,
        columns: Mapping[str, Column],
        rows: np.ndarray,
        division: Division,
        label: LabelColumn,
        settings: Tabular,
    ):
        self.table, self.roles, self.columns, self.rows = table, roles, columns, rows
        self.groups, self.times, self.settings = division.groups, division.times, settings
        self.group_names, self.time_form = division.group_names, division.time_form
        self.indicators = label.indicators
        labels = label.labels[division.table]
        self.labels = None if labels is None else labels[division.places]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Example:  # type: ignore[override]
        if not 0 <= position < len(self):
            raise IndexError(f"{self.table.name} has {len(self)} rows in this split; there is no row {position}")
        return TableRow(self, position)

    def __getitems__(self, positions: Sequence[int]) -> list[Example]:
        """Return the records at these positions. Their texts are read together, which is faster than one by one."""
        records = [TableRow(self, position) for position in positions]
        for role, names in self.roles.items():
            if role != LABEL and self.columns[role].kind == "text" and len(names) == 1:
                cells = self.table.column(names[0]).take(self.rows[np.asarray(positions, int)]).to_pylist()
                for record, cell in zip(records, cells, strict=True):
                    record.cells[role] = cell
        return list(records)

    def place(self, position: int) -> str:
        """Return the name of a record for a message: its file and line, or the file of its image or sound."""
        row = int(self.rows[position])
        if self.table.folder is not None and LINE not in self.table.arrow.column_names:
            for role in HEAVY:
                file = self.table.cell(self.roles[role][0], row) if role in self.roles else None
                if isinstance(file, str):
                    return str(self.table.folder / file)
        return self.table.place(row)

    @property
    def remedy(self) -> str:
        """Return the end of a message about an image or a sound of these records that cannot be read."""
        return REMEDY if self.settings.broken == "error" else ""

    def origins(self, rows: np.ndarray) -> dict[str, Origin]:
        """Return the rows of the table of the records at `rows`, by its digest."""
        return {self.table.digest: Origin(np.arange(len(rows)), self.rows[rows])}

    def raw(self, name: str) -> list[Any]:
        """Return a whole column of these records as Python values, whatever its role."""
        return list(self.table.column(name).take(self.rows).to_pylist())

    def cell(self, role: str, position: int) -> Any:
        """Return the content of one cell of a record, as `tlx.processors.columns` reads it."""
        row = int(self.rows[position])
        if role == LABEL:
            return self._label(position, row)
        contents = [self.table.cell(name, row) for name in self.roles[role]]
        kind = self.columns[role].kind
        if kind in HEAVY:
            return content_of(contents[0], self.table.folder, self.table.place(row), self.roles[role][0])
        if kind == "words":
            return contents[0].split() if isinstance(contents[0], str) else contents[0]
        if len(contents) == 1:
            return contents[0]
        return "\n".join("" if content is None else str(content) for content in contents)

    def _label(self, position: int, row: int) -> Any:
        if self.labels is not None:
            return self.labels[position]
        column, names = self.columns[LABEL], self.roles[LABEL]
        if column.kind == "text":
            return self.table.cell(names[0], row)
        if column.kind == "numbers":
            cells = [self.table.cell(name, row) for name in names]
            return np.array(cells[0] if len(cells) == 1 else cells, np.float32)
        if len(names) > 1:
            return [number for number, name in enumerate(names) if float(self.table.cell(name, row))]
        declared = self.table.cell(names[0], row)
        if column.kind == "answers":
            return declared
        if self.indicators:
            return np.flatnonzero(np.asarray(declared)).tolist()
        if isinstance(declared, list) and self.table.metadata(names[0], CLASSES) is not None:
            # The format numbers the classes.
            return declared
        return [column.classes.index(name) for name in class_names(declared, self.settings, column.kind)]
