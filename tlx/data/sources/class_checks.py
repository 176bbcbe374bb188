"""Check the classes of a label: that they can be meant, and that they can be learned."""

from __future__ import annotations

from collections.abc import Mapping

from tlx.data.sources.cells import Cells, Kind, spelled
from tlx.trees import near_miss

# Labels with more distinct values than this, most of them with one example, are no classes.
MANY_CLASSES = 100


def check_classes(kind: Kind, cells: Mapping[str, Cells], counts: Mapping[str, Mapping[str, int]], total: int) -> None:
    """Raise ValueError for classes that cannot be meant or cannot be learned."""
    part = cells["train"]
    names = {name for count in counts.values() for name in count}
    where = f"{part.table.name}: {part.name!r}"
    if len(names) > MANY_CLASSES and len(names) > total / 2:
        raise ValueError(
            f"{where} has {len(names):,} different labels in {total:,} rows, which is too many for classes; name "
            "another column, or set label_kind='number'"
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
