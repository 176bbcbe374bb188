"""List the choices by which arms are filtered: the columns in which they differ, and every further field of their
recipes."""

from collections.abc import Iterator

from tlx.records.studies import Arm, StudyTable
from tlx.report import words
from tlx.report.study import names
from tlx.report.study.names import Columns
from tlx.trees import Json

NONE = "–"


def of_columns(table: StudyTable, columns: Columns) -> list[Json]:
    """Return one group of choices per column in which arms differ."""
    arms = [name_texts(arm.names, columns) for arm in table.study.arms]
    return [group(name, names.short(name, columns.every), [texts[name] for texts in arms]) for name in columns.varying]


def of_fields(arm_fields: list[dict[str, str]]) -> list[Json]:
    """Return one group of choices per field of the result of `further`."""
    return [
        group(path, path, [fields[path] for fields in arm_fields]) for path in (arm_fields[0] if arm_fields else ())
    ]


def group(name: str, short: str, values: list[str]) -> Json:
    """Return every value once, the dash last."""
    return {"name": name, "short": short, "values": sorted(dict.fromkeys(values), key=NONE.__eq__)}


def name_texts(arm_names: Json, columns: Columns) -> dict[str, str]:
    """Return the names of a cell in the columns that differ, as text; a dash if it has no such column."""
    return {name: names.value(arm_names[name]) if columns.says(name, arm_names) else NONE for name in columns.varying}


def further(table: StudyTable, columns: Columns) -> list[dict[str, str]]:
    """Return, for every arm, the fields in which recipes differ between arms, as text.

    A dash stands for a missing field, and for an arm with no begun cell. Fields with the name of a column are left out,
    and so are fields that differ within an arm (its seed), because an arm is shown whole or not at all.
    """
    arms = [shared(arm) for arm in table.study.arms]
    present = [fields for fields in arms if fields]
    paths = [
        path
        for path in dict.fromkeys(path for fields in present for path in fields)
        if len({fields.get(path, NONE) for fields in present}) > 1
    ]
    varying_paths = {path for fields in present for path in paths if fields.get(path, NONE) is None}
    constant_paths = [path for path in paths if path not in varying_paths and path not in columns.every]
    return [{path: (fields or {}).get(path) or NONE for path in constant_paths} for fields in arms]


def shared(arm: Arm) -> dict[str, str | None] | None:
    """Return the fields of an arm's recipes, None for a field in which its cells differ; None if no cell has begun."""
    recipes = [dict(leaves(recipe)) for cell in arm.cells if (recipe := cell.recipe())]
    if not recipes:
        return None
    values_by_path: dict[str, str | None] = {}
    for path in dict.fromkeys(path for fields in recipes for path in fields):
        values = {fields.get(path, NONE) for fields in recipes}
        values_by_path[path] = values.pop() if len(values) == 1 else None
    return values_by_path


def leaves(document: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield every leaf of a dumped recipe with its dotted path, as text; `path.kind` is the class of a record.

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
        yield path, field_text(document)


def field_text(value: object) -> str:
    """Return a field as text; equal values have equal texts.

    >>> field_text(1.0), field_text(1e-3), field_text(0.12345678), field_text("sgd"), field_text([0.5, "a"])
    ('1', '0.001', '0.12345678', 'sgd', "(0.5, 'a')")
    """
    if isinstance(value, float):
        short = names.value(value)
        return short if float(short) == value else repr(value)
    return str(value) if value is None or isinstance(value, int | str) else words.source(value, -10_000)
