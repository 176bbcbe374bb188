"""Read the label of a table: the rows that have one, its kind, its classes and its numbers.

All functions look at the different values of a column and not at its rows, so a million rows cost little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tlx.data.sources.cells import Cells, Kind, class_names, is_finite, no_number, number_in, spelled
from tlx.data.sources.class_checks import check_classes, check_commas, check_integers, similar_classes
from tlx.data.sources.label_lists import check_lists, check_once, indicator_width, single_labels
from tlx.processors.columns import parsed_answers
from tlx.trees import near_miss
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.data.sources.tabular import Tabular

# Numbers with at most this many distinct values, each in ten rows or more, may be meant as classes.
FEW_NUMBERS = 3


@dataclass(frozen=True)
class LabelColumn:
    """The label of a table: its description, and by split the rows that have one and their numbers.

    `labels` of a split are int32[N] classes or float32[N] numbers; None where each label is a list. With `indicators`
    each list has a 0 or a 1 for each class.
    """

    column: Column
    rows: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray | None]
    notes: tuple[str, ...] = ()
    indicators: bool = False


def label_column(settings: Tabular, cells: Mapping[str, Cells]) -> LabelColumn:
    """Read the label of all splits from one column. Raises ValueError as the functions below do."""
    rows, notes = labelled_rows(settings, cells)
    if settings.label_kind == "text":
        return LabelColumn(Column("text"), rows, dict.fromkeys(rows), notes)
    cells, name = {split: cells[split] for split in rows}, cells["train"].name
    cells, single = single_labels(settings, cells, rows)
    if single:
        notes = (*notes, f"each {name!r} of {settings} is a list of one value, which is read as one label")
    if width := indicator_width(settings, cells, rows):
        classes = settings.classes or tuple(map(str, range(width)))
        note = (
            f"each {name!r} of {settings} has {width} numbers, all of them 0 or 1: they say which of the classes "
            f"{classes[0]!r} to {classes[-1]!r} a row has (label_kind='numbers' reads them as numbers)"
        )
        return LabelColumn(Column("classes", classes), rows, dict.fromkeys(rows), (*notes, note), indicators=True)
    kind = settings.label_kind or kind_of(settings, cells, rows)
    check_lists(kind, cells, rows)
    column = column_of(settings, kind, cells, rows)
    if column.classes and not settings.classes and not cells["train"].declared:
        alike = similar_classes(settings, kind, cells, rows)
        if alike and settings.label_kind is None:
            raise ValueError(
                f"{alike}; use one spelling, or keep both as classes with label_kind={kind!r} or classes=(...)"
            )
        notes = (*notes, alike) if alike else notes
    labels = {split: encoded(column, part, rows[split]) for split, part in cells.items()}
    return LabelColumn(column, rows, labels, notes)


def labelled_rows(settings: Tabular, cells: Mapping[str, Cells]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the rows that have a label, by split, and a note where some are left out.

    With a separator an empty cell is a row without classes. A validation or test split without any label is left out.
    """
    blank = not (settings.separator and settings.label_kind in (None, "classes"))
    rows, notes, dropped, name = {}, list[str](), 0, ""
    for split, part in cells.items():
        empty, name = part.missing(blank), part.name
        if split != "train" and (empty.all() or _is_withheld(settings, part, cells["train"])):
            notes.append(withheld_note(settings, split, len(empty), repr(name)))
            continue
        if empty.any() and settings.missing == "error":
            raise ValueError(
                f"{part.table.place(int(empty.argmax()))}: {name!r} is empty, as in {int(empty.sum()):,} of "
                f"{len(empty):,} rows; add the labels, or skip these rows with missing='drop'"
            )
        if empty.all():
            raise ValueError(
                f"{part.table.name}: {name!r} is empty in all {len(empty):,} rows, so missing='drop' leaves none; name "
                f"the column of the labels, label='...', which is one of {', '.join(part.table.names)}"
            )
        rows[split] = np.flatnonzero(~empty)
        dropped += int(empty.sum())
    if dropped:
        notes.append(f"{dropped:,} rows of {settings} have no label in {name!r} and are not used")
    return rows, tuple(notes)


def withheld_note(settings: Tabular, split: str, count: int, names: str) -> str:
    """Return the note on a split of `count` rows that is left out because it has no labels."""
    return (
        f"{settings} does not publish the labels of its {split} split ({names} is empty or -1 in all {count:,} rows), "
        "so this split is not used"
    )


def _is_withheld(settings: Tabular, part: Cells, train: Cells) -> bool:
    """Return whether all labels of a split are -1, a mark for labels that are not published, and no training label is
    negative."""
    if "-1" in settings.classes or any(number_in(value) != -1 for value in part.values):
        return False
    return all(number is None or number >= 0 for number in map(number_in, train.values))


def kind_of(settings: Tabular, cells: Mapping[str, Cells], rows: Mapping[str, np.ndarray]) -> Kind:
    """Return the kind of the labels where the source does not state it.

    Raises ValueError for "nan" or "inf" in a column of numbers, for decimal commas, where numbers may be meant as
    classes, and where whole numbers may be meant as numbers.
    """
    if settings.words is not None:
        return "tags"
    if is_answers(cells["train"], rows["train"]):
        return "answers"
    if settings.separator:
        return "classes"
    values = [
        (part, number, part.values[number]) for split, part in cells.items()
        for number in np.unique(part.codes[rows[split]]).tolist()
    ]  # fmt: skip
    if any(isinstance(value, tuple) for _, _, value in values):
        flat = [item for _, _, value in values for item in value]
        return "numbers" if flat and all(isinstance(item, float) for item in flat) else "classes"
    if settings.classes or cells["train"].declared or any(isinstance(value, bool) for _, _, value in values):
        return "class"
    check_commas(values)
    numbers = [number_in(value) for _, _, value in values]
    if not values or None in numbers:
        return "class"
    for (part, place, value), number in zip(values, numbers, strict=True):
        if not is_finite(number):
            raise ValueError(
                f"{no_number(part, place, value)}, or state label_kind='class' where it is the name of a class"
            )
    finite = {number for number in numbers if number is not None}
    count = sum(map(len, rows.values()))
    if all(number.is_integer() for number in finite):
        check_integers(cells["train"], finite, count)
        return "class"
    if len(finite) <= FEW_NUMBERS and count >= 10 * len(finite):
        part, place, _ = values[0]
        raise ValueError(
            f"{part.first(place)}: {part.name!r} has only the numbers {', '.join(f'{n:g}' for n in sorted(finite))} in "
            f"{count:,} rows; are these classes? Set label_kind='class' if they are, else label_kind='number'"
        )
    return "number"


def is_answers(part: Cells, rows: np.ndarray) -> bool:
    """Return whether the first label has the answers to a question, as SQuAD has them."""
    value = part.values[int(part.codes[rows[0]])]
    return isinstance(value, str) and value.lstrip().startswith(("{", "[")) and parsed_answers(value) is not None


def column_of(settings: Tabular, kind: Kind, cells: Mapping[str, Cells], rows: Mapping[str, np.ndarray]) -> Column:
    """Return the column of the label, with its classes.

    Raises ValueError for labels that look like names, for one class, for a class that no training row has, and for a
    class that is none of the given classes.
    """
    if kind in ("number", "numbers", "answers"):
        return Column(kind)
    counts: dict[str, dict[str, int]] = {}
    for split, part in cells.items():
        counts[split] = {}
        for number, count in enumerate(np.bincount(part.codes[rows[split]], minlength=len(part.values)).tolist()):
            names = class_names(part.values[number], settings, kind) if count else []
            if kind == "classes":
                check_once(part, number, names)
            for name in names:
                if settings.classes and name not in settings.classes:
                    raise ValueError(
                        f"{part.first(number)}: {part.name!r} is {name!r}; expected one of the classes in "
                        f"classes=...{near_miss(name, settings.classes)}"
                    )
                counts[split][name] = counts[split].get(name, 0) + count
    if classes := settings.classes or cells["train"].declared:
        return Column(kind, classes)
    check_classes(kind, cells, counts, sum(map(len, rows.values())), stated=settings.label_kind is not None)
    distinct = {name for count in counts.values() for name in count}
    if all(is_finite(number_in(name)) for name in distinct):
        return Column(kind, tuple(sorted(distinct, key=lambda name: (float(name), name))))
    return Column(kind, tuple(sorted(distinct)))


def encoded(column: Column, cells: Cells, rows: np.ndarray) -> np.ndarray | None:
    """Return int32[N] classes or float32[N] numbers of these rows; None where each label is a list.

    Raises ValueError for a cell that is no number.
    """
    codes = cells.codes[rows]
    if column.kind == "class":
        numbers = {name: number for number, name in enumerate(column.classes)}
        # A value of no row among `rows` has no class.
        return np.array([numbers.get(spelled(value).strip(), -1) for value in cells.values], np.int32)[codes]
    if column.kind != "number":
        return None
    values = np.zeros(len(cells.values), np.float32)
    for place in np.unique(codes).tolist():
        number = number_in(cells.values[place])
        if number is None or not is_finite(number):
            raise ValueError(no_number(cells, place, cells.values[place]))
        values[place] = number
    return values[codes]
