"""Divide the rows of a table into splits: by class, by group, by time, or by a column that names the split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tlx.data.datasets.splits import by_group, latest, stratified, with_all
from tlx.data.sources.cells import Cells, spelled
from tlx.data.sources.labels import LabelColumn
from tlx.data.sources.raw_table import RawTable
from tlx.trees import near_miss

if TYPE_CHECKING:
    from tlx.data.sources.tabular import Tabular

SPLITS = ("train", "validation", "test")
# Usual names of the splits in a column.
ALIASES = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}


@dataclass(frozen=True)
class Division:
    """A split: the `places` of its records among the labelled rows of a `table` (the name of a split of the source).

    `groups` int64[N] numbers the group of each record, `times` float64[N] is its time, None where there are none.
    `group_names` are the values of the groups by number, `time_form` is "numbers" or "dates".
    """

    table: str
    places: np.ndarray
    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    group_names: tuple[str, ...] = ()
    time_form: str = ""

    def part(self, places: np.ndarray) -> Division:
        """Return the records at these places of this split."""
        groups = None if self.groups is None else self.groups[places]
        times = None if self.times is None else self.times[places]
        return replace(self, places=self.places[places], groups=groups, times=times)


def division(settings: Tabular, tables: Mapping[str, RawTable], label: LabelColumn) -> dict[str, Division]:
    """Return the splits of a source.

    Raises ValueError where a cell that divides is missing or cannot be read, where a split has no rows, and where a
    group is in two splits.
    """
    # A split without labels has no rows here.
    tables = {split: tables[split] for split in label.rows}
    parts = {}
    groups, names = _numbered(settings.group, tables, label) if settings.group is not None else ({}, ())
    times, form = times_of(settings.time, tables, label) if settings.time is not None else ({}, "")
    for split in tables:
        places = np.arange(len(label.rows[split]))
        parts[split] = Division(split, places, groups.get(split), times.get(split), names, form)
    if settings.split is not None:
        parts = _by_column(settings, tables["train"], label, parts["train"])
    if settings.group is not None:
        _check_groups(settings.group, tables, label, parts)
    if settings.split is not None:
        return parts
    if "test" in parts or not settings.test_share:
        return parts
    train, share, labels = parts["train"], settings.test_share, label.labels["train"]
    strata = labels if labels is not None and label.column.kind == "class" else np.zeros(len(train.places), np.int32)
    return parts | {split: train.part(places) for split, places in divided(train, strata, "test", share).items()}


def divided(part: Division, strata: np.ndarray, name: str, share: float) -> dict[str, np.ndarray]:
    """Return the places that stay in `train` and those of the split `name`, which holds `share` of the records."""
    shares = {"train": 1 - share, name: share}
    if part.times is not None:
        return latest(part.times, shares)
    if part.groups is not None:
        return by_group(part.groups, strata, name, shares)
    return with_all(stratified(strata, name, shares), strata, name, shares)


def _numbered(
    name: str, tables: Mapping[str, RawTable], label: LabelColumn
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the number of the group of each labelled row, by split, and the values of the groups by number. Raises
    ValueError for a row without a group."""
    numbers: dict[str, int] = {}
    groups: dict[str, np.ndarray] = {}
    for split, table in tables.items():
        cells = Cells.of(table, name)
        _check_cells(cells, label.rows[split])
        codes = np.array([numbers.setdefault(spelled(value), len(numbers)) for value in cells.values], np.int64)
        groups[split] = codes[cells.codes][label.rows[split]]
    return groups, tuple(numbers)


def _check_groups(name: str, tables: Mapping[str, RawTable], label: LabelColumn, parts: Mapping[str, Division]) -> None:
    """Raise ValueError for a group that is in two splits."""
    groups = {split: part.groups for split, part in parts.items() if part.groups is not None}
    for first, second in combinations(groups, 2):
        both = np.intersect1d(groups[first], groups[second])
        if not len(both):
            continue
        places = []
        for split in (first, second):
            part = parts[split]
            row = label.rows[part.table][part.places[int((groups[split] == both[0]).argmax())]]
            places.append(tables[part.table].place(int(row)))
        raise ValueError(
            f"{places[1]}: the group {parts[first].group_names[int(both[0])]!r} of {name!r} is in the splits {first!r} "
            f"and {second!r} (see {places[0]}); remove it from one of them"
        )


def _check_cells(cells: Cells, rows: np.ndarray) -> None:
    empty = cells.missing(blank=True)[rows]
    if empty.any():
        raise ValueError(
            f"{cells.table.place(int(rows[empty.argmax()]))}: {cells.name!r} is empty, as in {int(empty.sum()):,} "
            "rows; expected a value that divides the rows"
        )


def times_of(name: str, tables: Mapping[str, RawTable], label: LabelColumn) -> tuple[dict[str, np.ndarray], str]:
    """Return float64[N], the time of each labelled row, by split, and whether the times are "numbers" or "dates".

    Times are numbers, dates, or texts that are dates in ISO 8601.

    Raises ValueError for a cell that is neither, and where some cells are numbers and others are dates, because no
    order of both is known.
    """
    times: dict[str, np.ndarray] = {}
    forms: dict[str, str] = {}
    for split, table in tables.items():
        cells, rows = Cells.of(table, name), label.rows[split]
        _check_cells(cells, rows)
        seconds = np.zeros(len(cells.values))
        for number in np.unique(cells.codes[rows]).tolist():
            place, value = cells.first(number), cells.values[number]
            try:
                form, seconds[number] = _time(value)
            except (ValueError, OverflowError):
                raise ValueError(
                    f"{place}: {name!r} is {value!r:.40}; expected a number, or a date such as 2026-11-29 or "
                    "2026-11-29T16:20:00"
                ) from None
            if forms and form not in forms:
                raise ValueError(
                    f"{place}: {name!r} is {value!s:.40}, one of the {form}, but {next(iter(forms.values()))}; "
                    "expected numbers alone, or dates in ISO 8601 alone, such as 2026-11-29"
                )
            forms.setdefault(form, f"{place} has {value!s:.40}, one of the {form}")
        times[split] = seconds[cells.codes][rows]
    return times, next(iter(forms), "")


def _time(value: object) -> tuple[str, float]:
    """Return "numbers" and a number as it is, or "dates" and a date as seconds since 1970."""
    import datetime

    if isinstance(value, datetime.datetime):
        return "dates", (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()
    if isinstance(value, datetime.date):
        return "dates", datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC).timestamp()
    if isinstance(value, int | float):
        number = float(value)
    else:
        try:
            number = float(str(value))
        except ValueError:
            return _time(datetime.datetime.fromisoformat(str(value).strip()))
    if not np.isfinite(number):
        raise ValueError("not finite")
    return "numbers", number


def _by_column(settings: Tabular, table: RawTable, label: LabelColumn, whole: Division) -> dict[str, Division]:
    """Return the splits that a column names. Raises ValueError for another name, and without a training row."""
    assert settings.split is not None
    cells = Cells.of(table, settings.split)
    rows = label.rows["train"]
    names = []
    for number, value in enumerate(cells.values):
        lowered = "" if value is None else str(value).strip().lower()
        name = ALIASES.get(lowered, lowered)
        if name not in SPLITS and (cells.codes[rows] == number).any():
            raise ValueError(
                f"{cells.first(number)}: {settings.split!r} is {value!r}; expected "
                f"{', '.join(map(repr, SPLITS))}{near_miss(lowered, SPLITS)}"
            )
        names.append(name)
    of_row = np.array(names, object)[cells.codes[rows]]
    parts = {split: whole.part(np.flatnonzero(of_row == split)) for split in SPLITS if (of_row == split).any()}
    if "train" not in parts:
        raise ValueError(f"{table.name}: no row of {settings.split!r} is 'train'; expected training rows")
    return parts
