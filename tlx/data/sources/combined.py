"""Combine data sets: several as one, or the rows of one that meet a condition."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.overlap import Origin, joined_origins, origins
from tlx.data.sources.base import Dataset, Source
from tlx.processors.base import format_source
from tlx.processors.columns import LABEL, spelled
from tlx.trees import Example, near_miss
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.data.examples import Examples

# Kinds of labels that are numbers of classes.
OF_CLASSES = ("class", "classes", "tags")


@dataclass(frozen=True, kw_only=True)
class Concat(Source):
    """Several data sets as one: split by split, the examples of the first, then those of the second, and so on.

        Concat(("books.csv", "films.csv"))

    All have the same inputs and the same kind of label. Classes are matched by name; the classes of the first data set
    come first. A split that one of them lacks holds the examples of the others. Groups are matched by value: a patient
    of two files is one group.
    """

    sources: tuple[str | Source, ...] = field(kw_only=False)

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise ValueError(f"sources={self.sources!r}; expected two or more data sets")
        short = tuple(source.short if isinstance(source, Source) else source for source in self.sources)
        object.__setattr__(self, "sources", short)

    def __str__(self) -> str:
        return " + ".join(map(str, self.sources))

    def whole(self) -> Source:
        """Return the same data sets, which divide off no test split."""
        return Concat(tuple(map(whole_of, self.sources)))

    def open(self) -> Dataset:
        """Open all data sets.

        Raises ValueError where their columns differ, where some have groups or times and others have none, and where a
        group is in two splits.
        """
        from tlx.data.examples import Examples, open_dataset

        datasets = [open_dataset(source) for source in self.sources]
        first = datasets[0]
        for source, dataset in zip(self.sources[1:], datasets[1:], strict=True):
            if described(dataset) != described(first):
                raise ValueError(
                    f"{format_source(source)} has {described(dataset)}, but {format_source(self.sources[0])} has "
                    f"{described(first)}; expected the same inputs and the same kind of label"
                )
        classes = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.classes))
        columns = dict(first.columns)
        if LABEL in columns:
            columns[LABEL] = columns[LABEL]._replace(classes=classes)
        fingerprint = digest([dataset.fingerprint for dataset in datasets])
        check_alike(self.sources, datasets)
        splits, numbers = {}, dict[str, int]()
        for split in dict.fromkeys(split for dataset in datasets for split in dataset.splits):
            parts = [dataset.splits[split] for dataset in datasets if split in dataset.splits]
            rows = JoinedRows(parts, classes, columns, numbers)
            splits[split] = Examples(str(self), split, rows, columns, key=fingerprint)
        check_groups(splits)
        return Dataset(str(self), splits, columns, fingerprint, tuple(n for dataset in datasets for n in dataset.notes))


@dataclass(frozen=True, kw_only=True)
class Where(Source):
    """The examples of a data set that have one of the given values in a column.

        Where("reviews.csv", column="language", values=("en", "de"))

    Args:
        source: The data set.
        column: A column of its table, or "label".
        values: The values to keep, as texts; numbers match their text (3 and "3").
        without: The values to leave out, in the place of `values`.
    """

    source: str | Source = field(kw_only=False)
    column: str
    values: tuple[str | int | float | bool, ...] = ()
    without: tuple[str | int | float | bool, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.source, Source):
            object.__setattr__(self, "source", self.source.short)
        for name in ("values", "without"):
            if isinstance(getattr(self, name), str):
                raise ValueError(
                    f"{name}={getattr(self, name)!r}; expected several values: {name}=({getattr(self, name)!r},)"
                )
        if bool(self.values) == bool(self.without):
            raise ValueError(
                f"values={self.values!r} and without={self.without!r}; expected exactly one of them, such as "
                "values=('en',)"
            )

    def __str__(self) -> str:
        condition = ", ".join(map(str, self.values)) if self.values else f"not {', '.join(map(str, self.without))}"
        return f"{self.source} ({self.column}: {condition})"

    def whole(self) -> Source:
        """Return the same rows of a source that divides off no test split."""
        return replace(self, source=whole_of(self.source))

    def open(self) -> Dataset:
        """Open the data set. Raises ValueError where there is no such column, or no row has such a value."""
        from tlx.data.examples import Examples, open_dataset

        dataset = open_dataset(self.source)
        chosen = self.values or self.without
        splits, values_seen = {}, dict[str, int]()
        for split, examples in dataset.splits.items():
            values = [text_of(value) for value in column_values(examples, self.column)]
            for value in values:
                values_seen[value] = values_seen.get(value, 0) + 1
            is_kept = np.isin(np.array(values, object), [text_of(value) for value in chosen], invert=not self.values)
            rows = ChosenRows(examples, np.flatnonzero(is_kept))
            if len(rows):
                splits[split] = rows
        if missing := [value for value in chosen if text_of(value) not in values_seen]:
            some = ", ".join(f"{name!r} ({count:,})" for name, count in list(values_seen.items())[:8])
            raise ValueError(
                f"no row of {dataset.name} has {missing[0]!r} in {self.column!r}"
                f"{near_miss(text_of(missing[0]), values_seen, listed=True)}; it has {some}"
            )
        fingerprint = digest([dataset.fingerprint, self.column, list(self.values), list(self.without)])
        parts = {
            split: Examples(str(self), split, rows, dataset.columns, key=fingerprint) for split, rows in splits.items()
        }
        return Dataset(str(self), parts, dataset.columns, fingerprint, dataset.notes)


def whole_of(source: str | Source) -> str | Source:
    """Return a source, or the source that a text names; it divides off no test split."""
    from tlx.data.sources.named import source_named

    return (source_named(source) if isinstance(source, str) else source).whole().short


class Joined(Sequence[Example]):
    """The records of several splits, one after the other."""

    def __init__(self, parts: Sequence[Examples]):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def find(self, position: int) -> tuple[int, int]:
        """Return the number of the split that has the record at a position, and its position there."""
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} rows in this split; there is no row {position}")
        part = int(np.searchsorted(self.ends, position, side="right"))
        return part, position - int(self.ends[part - 1] if part else 0)

    def place(self, position: int) -> str:
        """Return the name of a record for a message."""
        part, inside = self.find(position)
        return self.parts[part].place(int(self.parts[part].rows[inside]))

    def origins(self, rows: np.ndarray) -> dict[str, Origin]:
        """Return the rows of tables that the records at `rows` come from."""
        part_of, starts = np.searchsorted(self.ends, rows, side="right"), np.array([0, *self.ends[:-1]])
        members = [np.flatnonzero(part_of == number) for number in range(len(self.parts))]
        views = [part.view(rows[m] - start) for part, m, start in zip(self.parts, members, starts, strict=True)]
        return joined_origins(zip(members, views, strict=True))


class JoinedRows(Joined):
    """The records of several splits, one after the other, with the classes of all of them.

    `group_numbers` are the numbers of the groups by value in all splits; those of further values are added.
    """

    def __init__(
        self,
        parts: Sequence[Examples],
        classes: Sequence[str],
        columns: Mapping[str, Column],
        group_numbers: dict[str, int],
    ):
        super().__init__(parts)
        self.columns = columns
        self.numbers = [np.array([classes.index(name) for name in part.classes], np.int32) for part in parts]
        self.labels = None
        if all(part.scalar for part in parts):
            labels = [part.labels() for part in parts]
            if parts[0].kind == "class":
                labels = [numbers[part] for numbers, part in zip(self.numbers, labels, strict=True)]
            self.labels = np.concatenate(labels)
        self.groups, self.group_names = joined_groups(parts, group_numbers)
        times = [part.times for part in parts if part.times is not None]
        self.times = np.concatenate(times) if times else None
        self.time_form = getattr(parts[0].source, "time_form", "")
        self.roles = parts[0].roles

    def __getitem__(self, position: int) -> Example:  # type: ignore[override]
        part, inside = self.find(position)
        record = self.parts[part].source[int(self.parts[part].rows[inside])]
        if LABEL not in self.columns or self.columns[LABEL].kind not in OF_CLASSES:
            return record
        return Relabelled(record, self.numbers[part])

    def raw(self, name: str) -> list[Any]:
        """Return a whole column of these records."""
        return [value for part in self.parts for value in column_values(part, name)]


def joined_groups(parts: Sequence[Examples], numbers: dict[str, int]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return int64[N], the group of each example of several splits, and the values of the groups by number.

    Equal values have equal numbers, which `numbers` holds for all splits; those of further values are added to it.
    Where a source does not state the values of its groups, they are taken as groups of that data set alone.
    """
    groups = []
    for part in parts:
        if part.groups is None:
            return None, ()
        names = getattr(part.source, "group_names", ())
        values, members = np.unique(part.groups, return_inverse=True)
        spelled_values = [names[value] if names else f"{part.name} {value}" for value in values.tolist()]
        places = np.array([numbers.setdefault(value, len(numbers)) for value in spelled_values], np.int64)
        groups.append(places[members])
    return np.concatenate(groups), tuple(numbers)


def check_alike(sources: Sequence[str | Source], datasets: Sequence[Dataset]) -> None:
    """Raise ValueError where some data sets have groups or times and others have none, or times of another form."""
    for name, setting in (("groups", "group"), ("times", "time")):
        has = [any(getattr(part, name) is not None for part in dataset.splits.values()) for dataset in datasets]
        if any(has) and not all(has):
            one, other = sources[has.index(True)], sources[has.index(False)]
            raise ValueError(
                f"{format_source(one)} has {name}, but {format_source(other)} has none; set {setting}='...' in all of "
                f"these data sets or in none"
            )
    forms = [
        getattr(part.source, "time_form", "") for dataset in datasets for part in list(dataset.splits.values())[:1]
    ]
    if len(set(forms)) > 1:
        place = next(number for number, form in enumerate(forms) if form != forms[0])
        raise ValueError(
            f"the times of {format_source(sources[0])} are {forms[0]}, but the times of "
            f"{format_source(sources[place])} are {forms[place]}; expected numbers in all of these data sets, or dates "
            "in all"
        )


def check_groups(splits: Mapping[str, Examples]) -> None:
    """Raise ValueError where a group is in two splits."""
    groups = {split: examples.groups for split, examples in splits.items() if examples.groups is not None}
    for first, second in combinations(groups, 2):
        both = np.intersect1d(groups[first], groups[second])
        if len(both):
            places = [splits[split].place(int((groups[split] == both[0]).argmax())) for split in (first, second)]
            name = splits[second].source.group_names[int(both[0])]  # type: ignore[attr-defined]
            raise ValueError(
                f"the group {name!r} is in the split {first!r} ({places[0]}) and in the split {second!r} "
                f"({places[1]}); {len(both):,} of the groups are in both. Expected each group in one split: join the "
                "files into one, name the splits by files or by split='...', or use data.folds, which divides all rows "
                "by group"
            )


class Relabelled(Mapping[str, Any]):
    """A record whose classes have other numbers: c becomes `numbers[c]`."""

    def __init__(self, record: Example, numbers: np.ndarray):
        self.record, self.numbers = record, numbers

    def __getitem__(self, name: str) -> Any:
        if name != LABEL:
            return self.record[name]
        label = self.record[LABEL]
        return self.numbers[label].tolist() if np.ndim(label) or isinstance(label, list) else int(self.numbers[label])

    def __iter__(self) -> Any:
        return iter(self.record)

    def __len__(self) -> int:
        return len(self.record)


class ChosenRows(Sequence[Example]):
    """Some records of a split, at these positions."""

    def __init__(self, examples: Examples, positions: np.ndarray):
        self.examples, self.positions, self.roles = examples, positions, examples.roles
        self.labels = examples.labels()[positions] if examples.scalar else None
        for name in ("groups", "times"):
            values = getattr(examples, name)
            setattr(self, name, None if values is None else values[positions])
        self.group_names = getattr(examples.source, "group_names", ())
        self.time_form = getattr(examples.source, "time_form", "")
        self.members = None if examples.members is None else examples.members.at(positions)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Example:  # type: ignore[override]
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} rows in this split; there is no row {position}")
        return self.examples.source[int(self.examples.rows[self.positions[position]])]

    def place(self, position: int) -> str:
        """Return the name of a record for a message."""
        return self.examples.place(int(self.examples.rows[self.positions[position]]))

    def origins(self, rows: np.ndarray) -> dict[str, Origin]:
        """Return the rows of tables that the records at `rows` come from."""
        return origins(self.examples.view(self.positions[rows]))

    def raw(self, name: str) -> list[Any]:
        """Return a whole column of these records."""
        values = column_values(self.examples, name)
        return [values[position] for position in self.positions.tolist()]


def column_values(examples: Examples, name: str) -> list[Any]:
    """Return a whole column of examples as Python values: a column of the table, or the names of the labels.

    Raises ValueError with the nearest name where there is no such column.
    """
    read = getattr(examples.source, "raw", None)
    if name == LABEL and examples.scalar:
        labels = examples.labels().tolist()
        return [examples.classes[label] for label in labels] if examples.kind == "class" else labels
    if read is not None:
        values = read(name)
        return [values[row] for row in examples.rows.tolist()]
    if name not in examples.columns:
        raise ValueError(
            f"{examples.name} has no column {name!r}{near_miss(name, examples.columns, listed=True)}; it has "
            f"{', '.join(examples.columns)}"
        )
    return [examples.source[row][name] for row in examples.rows.tolist()]


def text_of(value: Any) -> str:
    """Return a value as text: whole numbers without a point, booleans in lower case."""
    from tlx.data.sources.cells import spelled as class_name

    return value if isinstance(value, str) else class_name(value)


def described(dataset: Dataset) -> str:
    """Return the inputs and the kind of label of a data set in words."""
    kind = dataset.columns[LABEL].kind if LABEL in dataset.columns else "no label"
    return f"{spelled(dataset.columns)} with a label of the kind {kind}"


def digest(parts: Any) -> str:
    """Return the fingerprint of plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
