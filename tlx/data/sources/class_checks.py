"""Check the classes of a label: that they can be meant, and that they can be learned."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.sources.cells import Cells, Kind, class_names, has_comma, is_finite, number_in, spelled
from tlx.trees import near_miss

if TYPE_CHECKING:
    from tlx.data.sources.tabular import Tabular

# Labels with more distinct values than this, most of them with one example, are no classes. The first limit is for a
# label whose kind is not stated.
SEVERAL_CLASSES, MANY_CLASSES = 10, 100
# More whole numbers than this are asked about, unless they number the classes of a large table.
MANY_INTEGERS = 20


def check_classes(
    kind: Kind, cells: Mapping[str, Cells], counts: Mapping[str, Mapping[str, int]], total: int, *, stated: bool
) -> None:
    """Raise ValueError for classes that cannot be meant or cannot be learned.

    Args:
        kind: The kind of the label.
        cells: The cells of the label by split.
        counts: By split, the number of rows of each class.
        total: The number of rows with a label.
        stated: Whether the source states the kind.
    """
    part = cells["train"]
    names = {name for count in counts.values() for name in count}
    where = f"{part.table.name}: {part.name!r}"
    limit = SEVERAL_CLASSES if kind == "class" and not stated else MANY_CLASSES
    if len(names) > limit and len(names) > total / 2:
        meant = "" if len(names) > MANY_CLASSES else ", or label_kind='class' if each is a class"
        raise ValueError(
            f"{where} has {len(names):,} different labels in {total:,} rows, which is too many for classes; name "
            f"another column, or set label_kind='number'{meant}"
        )
    if not names:
        raise ValueError(
            f"{part.table.name}: no cell of {part.name!r} names a class, in {total:,} rows; name the column of the "
            "labels, label='...', or the classes, classes=(...)"
        )
    if len(names) == 1 and kind == "class":
        raise ValueError(
            f"{where} is {names.pop()!r} in all {total:,} rows; expected two classes or more: name another column, or "
            "state all classes with classes=(...)"
        )
    for split, count in counts.items():
        if kind == "class" and (unseen := sorted(count.keys() - counts["train"].keys())):
            name = unseen[0]
            number = next(n for n, value in enumerate(cells[split].values) if spelled(value).strip() == name)
            raise ValueError(
                f"{cells[split].first(number)}: the class {name!r} of {cells[split].name!r} is in "
                f"{counted(count[name])} of the {split} split and in no training row"
                f"{near_miss(name, counts['train'])}; correct it, or accept it with classes=(...), which lists all "
                "classes"
            )


def counted(rows: int) -> str:
    """Return a number of rows in words."""
    return "1 row" if rows == 1 else f"{rows:,} rows"


def check_commas(values: Sequence[tuple[Cells, int, Any]]) -> None:
    """Raise ValueError where all values are texts of numbers and some have a decimal comma.

    `values` are the distinct values, each with its cells and its number there.
    """
    texts = [value for _, _, value in values if isinstance(value, str)]
    if len(texts) < len(values) or not all(has_comma(text) or text.strip().lstrip("-").isdigit() for text in texts):
        return
    for part, number, value in values:
        if has_comma(value):
            point = value.strip().replace(",", ".")
            raise ValueError(
                f"{part.first(number)}: {part.name!r} is {value!r:.40}, as are the other labels: decimal commas? Write "
                f"numbers with a point ({point:.40}), or read the file with pandas.read_csv(..., decimal=',') and use "
                "Frame; set label_kind='class' where these are the names of classes"
            )


def check_integers(part: Cells, numbers: Collection[float], total: int) -> None:
    """Raise ValueError for whole numbers that may be meant as numbers, such as ages.

    These are many different numbers with few rows each, or many that do not count from 0 or 1.

    Args:
        part: The cells of the training rows.
        numbers: The different numbers.
        total: The number of rows with a label.
    """
    count, least, most = len(numbers), int(min(numbers)), int(max(numbers))
    consecutive = least in (0, 1) and most - least + 1 == count
    rare = count > SEVERAL_CLASSES and count > total / 2
    if rare or (count > MANY_INTEGERS and (not consecutive or total < 10 * count)):
        raise ValueError(
            f"{part.table.place(0)}: {part.name!r} has {count:,} different whole numbers from {least} to {most} in "
            f"{total:,} rows; are these numbers or classes? Set label_kind='number' or label_kind='class'"
        )


def similar_classes(settings: Tabular, kind: Kind, cells: Mapping[str, Cells], rows: Mapping[str, np.ndarray]) -> str:
    """Return a sentence on two classes that are probably one, with a row of each; "" where there are none.

    Two classes are similar where they are the same number, or differ only in case, in white space at the ends, or in
    the Unicode form of their characters.
    """
    seen: dict[float | str, tuple[str, str]] = {}
    for split, part in cells.items():
        for number in np.unique(part.codes[rows[split]]).tolist():
            for name in class_names(part.values[number], settings, kind):
                value = number_in(name)
                text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
                key = value if value is not None and is_finite(value) else text
                if key not in seen:
                    seen[key] = (name, part.first(number))
                other, elsewhere = seen[key]
                if other != name:
                    place = part.first(number)
                    same = "is the same number" if key is value else "differs only in case, spaces or Unicode form"
                    return f"{place}: {part.name!r} is {name!r}, and {elsewhere} has {other!r}, which {same}"
    return ""
