"""What arms can be chosen by: the columns in which they differ, and every further field of their recipes."""

from collections.abc import Iterator
from typing import Any

from tlx.records.studies import Arm, Table
from tlx.report import words
from tlx.report.study import names
from tlx.report.study.names import Columns

NONE = "–"


def of_columns(table: Table, columns: Columns) -> list[dict[str, Any]]:
    """A group of choices a column in which arms differ."""
    arms = [named(arm.names, columns) for arm in table.study.arms]
    return [group(name, names.short(name, columns.every), [one[name] for one in arms]) for name in columns.varying]


def of_fields(held: list[dict[str, str]]) -> list[dict[str, Any]]:
    """A group of choices a field of what `further` found."""
    return [group(path, path, [one[path] for one in held]) for path in (held[0] if held else ())]


def group(name: str, short: str, values: list[str]) -> dict[str, Any]:
    """Every value once, the dash last."""
    return {"name": name, "short": short, "values": sorted(dict.fromkeys(values), key=NONE.__eq__)}


def named(given: dict[str, Any], columns: Columns) -> dict[str, str]:
    """The names of a cell in the columns that differ, as text; a dash where it has no such column."""
    return {name: names.value(given[name]) if columns.says(name, given) else NONE for name in columns.varying}


def further(table: Table, columns: Columns) -> list[dict[str, str]]:
    """Of every arm the fields in which recipes differ between arms, as text; a dash where a recipe has no such field,
    and where no cell of the arm has begun. Fields that are columns by the same name are left to these, and so are those
    that differ within an arm (its seed), for an arm is shown whole or not at all."""
    arms = [shared(arm) for arm in table.study.arms]
    known = [one for one in arms if one]
    paths = [
        path
        for path in dict.fromkeys(path for one in known for path in one)
        if len({one.get(path, NONE) for one in known}) > 1
    ]
    torn = {path for one in known for path in paths if one.get(path, NONE) is None}
    kept = [path for path in paths if path not in torn and path not in columns.every]
    return [{path: (one or {}).get(path) or NONE for path in kept} for one in arms]


def shared(arm: Arm) -> dict[str, str | None] | None:
    """The fields of an arm's recipes, None for one in which its cells differ; None where no cell has begun."""
    every = [dict(leaves(recipe)) for cell in arm.cells if (recipe := cell.recipe())]
    if not every:
        return None
    found: dict[str, str | None] = {}
    for path in dict.fromkeys(path for one in every for path in one):
        values = {one.get(path, NONE) for one in every}
        found[path] = values.pop() if len(values) == 1 else None
    return found


def leaves(document: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Everything below a dumped recipe with its dotted path, as text; `path.kind` is the class of a record.

    >>> dict(leaves({"kind": "Recipe", "optim": {"kind": "Optim", "lr": 1e-3}, "terms": [{"kind": "Mmd"}], "at": [1]}))
    {'optim.kind': 'Optim', 'optim.lr': '0.001', 'terms.0.kind': 'Mmd', 'at': '(1,)'}
    """
    if isinstance(document, dict) and "repr" not in document:
        for name, value in document.items():
            if name != "class" and (path or name != "kind"):
                yield from leaves(value, f"{path}.{name}" if path else name)
    elif isinstance(document, list) and any(isinstance(item, dict) for item in document):
        for index, item in enumerate(document):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, told(document)


def told(value: Any) -> str:
    """A field as text, equal where the values are.

    >>> told(1.0), told(1e-3), told(0.12345678), told("sgd"), told([0.5, "a"])
    ('1', '0.001', '0.12345678', 'sgd', "(0.5, 'a')")
    """
    if isinstance(value, float):
        short = names.value(value)
        return short if float(short) == value else repr(value)
    return str(value) if value is None or isinstance(value, int | str) else words.source(value, -10_000)
