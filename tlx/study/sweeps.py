"""The algebra of a sweep: lists of overrides that are multiplied, chained and zipped, and the resulting cells of a
recipe.

This module is not named `sweep.py`, because that name would hide the function `tlx.study.sweep`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tlx import config
from tlx.recipe import Recipe
from tlx.records.studies import FOLD


class Override(NamedTuple):
    """Changes of one cell: `changes` is path -> value, `names` is column -> value shown in the study's table."""

    names: dict[str, Any]
    changes: dict[str, Any]


class Cell(NamedTuple):
    """One recipe of a sweep, with its override.

    `names` has every column of the sweep; None if the recipe has no such field or the cell no such label.
    """

    names: dict[str, Any]
    changes: dict[str, Any]
    recipe: Recipe

    @property
    def fingerprint(self) -> str:
        return config.fingerprint(self.recipe)


Given = Override | Cell | Mapping[str, Any]


def param(path: str, *values: Any) -> list[Override]:
    """Return one override per value of the field at `path`, in a column of that name.

    A range, a list, an array or an iterator stands for its elements; a tuple is one value, because recipes contain
    tuples.

    >>> [override.changes for override in param("seed", range(3))]
    [{'seed': 0}, {'seed': 1}, {'seed': 2}]
    """
    all_values = [item for value in values for item in (value if _is_list(value) else (value,))]
    if not all_values:
        raise ValueError(f"param({path!r}) has no values")
    return [_by_path({path: value}) for value in all_values]


def choice(column: str, bundles: Mapping[Any, Mapping[str, Any]]) -> list[Override]:
    """Return one override per label; each sets several fields at once.

    Example: `choice("method", {"probe": {"tuning": Probe(), "optim.lr": 1e-2}, "full": {}})`.
    """
    if not bundles:
        raise ValueError(f"choice({column!r}) has no labels")
    for label, changes in bundles.items():
        if not isinstance(label, str | int | float) or not isinstance(changes, Mapping):
            raise TypeError(
                f"choice({column!r}) wants {{label: {{path: value, ...}}, ...}} with a string or a number as "
                f"label, got {label!r}: {changes!r}"
            )
    return [Override({column: label}, _plain(changes)) for label, changes in bundles.items()]


def folds(count: int) -> list[Override]:
    """Return one override per fold of the data, so that the cells of an arm together test every example once.

    The report then computes each metric over the examples of all folds.

    >>> [override.changes for override in folds(2)]
    [{'data.folds': 2, 'data.fold': 0}, {'data.folds': 2, 'data.fold': 1}]
    """
    if count < 2:
        raise ValueError(f"folds({count}); expected 2 folds or more")
    return [Override({FOLD: number}, {"data.folds": count, FOLD: number}) for number in range(count)]


def prod(*parts: Iterable[Given]) -> list[Override]:
    """Return every override of one part combined with every override of the others; the last part varies fastest.

    >>> len(prod(param("optim.lr", 1e-3, 1e-4), param("seed", range(5))))
    10
    """
    overrides = [Override({}, {})]
    for part in parts:
        factors = listed(part)
        overrides = [_together("prod", left, right) for left in overrides for right in factors]
    return overrides


def chain(*parts: Iterable[Given]) -> list[Override]:
    """Return the overrides of all parts, one part after another."""
    return [override for part in parts for override in listed(part)]


def zip_(*parts: Iterable[Given]) -> list[Override]:
    """Combine the first overrides of all parts, the second ones, ...

    Raises:
        ValueError: The parts have unequal lengths.
    """
    lists = [listed(part) for part in parts]
    if len({len(part) for part in lists}) > 1:
        raise ValueError(f"zip_ wants parts of equal length, got {', '.join(str(len(part)) for part in lists)}")
    overrides = []
    for row in zip(*lists, strict=True):
        override = Override({}, {})
        for item in row:
            override = _together("zip_", override, item)
        overrides.append(override)
    return overrides


def sweep(base: Recipe, cells: Iterable[Given]) -> list[Cell]:
    """Return the recipes that the overrides make of `base`, each with its names.

    Args:
        base: the recipe.
        cells: the result of the functions above, or any list of `{path: value}`, whose paths are the columns. A column
            that is a path shows every cell's value at that path.

    Raises:
        ValueError: A path is unknown, a field does not accept a value, or a cell occurs twice, under one name or two.
        TypeError: A field does not accept a value.
    """
    overrides = listed(cells)
    if not overrides:
        raise ValueError("a sweep needs at least one cell; [{}] runs the recipe without changes")
    recipes = [_changed(base, override.changes) for override in overrides]
    columns = list(dict.fromkeys(column for override in overrides for column in override.names))
    paths = {column for column in columns if _is_path(column, overrides)}
    sweep_cells = []
    for override, recipe in zip(overrides, recipes, strict=True):
        names = {
            column: _table_value_at(recipe, column) if column in paths else override.names.get(column)
            for column in columns
        }
        sweep_cells.append(Cell(names, override.changes, recipe))
    _check_apart(sweep_cells)
    return sweep_cells


def listed(cells: Iterable[Given]) -> list[Override]:
    """Return each item as an override; raise TypeError for other types."""
    if isinstance(cells, Mapping | str) or not isinstance(cells, Iterable):
        raise TypeError(f"a sweep is made of a list of {{path: value}}, got {cells!r}")
    return [_override(number, cell) for number, cell in enumerate(cells, 1)]


def table_value(value: object) -> Any:
    """Return a value as a table shows it: numbers, strings and None unchanged, all else as the text a user would
    write."""
    return value if value is None or isinstance(value, bool | int | float | str) else config.source(value)


def names_text(names: Mapping[str, Any]) -> str:
    """Return the names of a cell on one line.

    >>> names_text({"method": "LoRA", "seed": 3})
    'method=LoRA seed=3'
    """
    return (
        " ".join(f"{column}={value}" for column, value in names.items() if value is not None)
        or "the recipe without changes"
    )


def _override(number: int, cell: Given) -> Override:
    if isinstance(cell, Override):
        return cell
    if isinstance(cell, Cell):
        return Override(cell.names, cell.changes)
    if not isinstance(cell, Mapping):
        raise TypeError(
            f"cell {number} of the sweep is {cell!r}; expected {{path: value}}, or the result of param, choice, "
            "prod, chain or zip_"
        )
    return _by_path(cell)


def _by_path(changes: Mapping[str, Any]) -> Override:
    plain = _plain(changes)
    return Override({path: table_value(value) for path, value in plain.items()}, plain)


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert NumPy numbers to Python numbers, which recipes contain."""
    return {path: value.item() if hasattr(value, "item") else value for path, value in changes.items()}


def _is_list(value: object) -> bool:
    single = isinstance(value, str | bytes | tuple | Mapping) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Iterable) and not single


def _together(how: str, first: Override, second: Override) -> Override:
    if twice := [column for column in second.names if column in first.names]:
        raise ValueError(f"{how}: two parts have the column {twice[0]!r}")
    if twice := [path for path in second.changes if path in first.changes]:
        raise ValueError(f"{how}: two parts set {twice[0]!r}")
    return Override(first.names | second.names, first.changes | second.changes)


def _changed(base: Recipe, changes: Mapping[str, Any]) -> Recipe:
    for number, path in enumerate(changes):
        if lost := [earlier for earlier in list(changes)[:number] if earlier.startswith(f"{path}.")]:
            raise ValueError(f"{path!r} would overwrite {lost[0]!r}, which is set before it; set {path!r} first")
    recipe = config.assign_all(base, changes)
    config.check(recipe)
    return recipe


def _is_path(column: str, overrides: list[Override]) -> bool:
    """Return whether the column shows the field of its name, rather than a label."""
    matching = [override for override in overrides if column in override.names and column in override.changes]
    return bool(matching) and all(
        override.names[column] == table_value(override.changes[column]) for override in matching
    )


def _table_value_at(recipe: Recipe, path: str) -> Any:
    try:
        return table_value(config.at(recipe, path))
    except ValueError:
        return None


def _check_apart(cells: list[Cell]) -> None:
    """Raise ValueError if two cells have the same name, or the same recipe."""
    by_names: dict[str, int] = {}
    by_recipe: dict[str, int] = {}
    for number, cell in enumerate(cells):
        name, fingerprint = names_text(cell.names), cell.fingerprint
        first, twin = by_names.setdefault(name, number), by_recipe.setdefault(fingerprint, number)
        if first == twin == number:
            continue
        if first == twin:
            raise ValueError(f"cells {first + 1} and {number + 1} are the same: {name}; remove one of them")
        if first != number:
            path = config.diff(cells[first].recipe, cell.recipe)[0][0]
            raise ValueError(
                f"cells {first + 1} and {number + 1} have the same name, {name}, but differ in {path}; add a "
                "column that shows this difference"
            )
        raise ValueError(
            f"cells {twin + 1} and {number + 1} have the same recipe under two names, {names_text(cells[twin].names)} "
            f"and {name}; remove one of them"
        )
