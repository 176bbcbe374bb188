"""The algebra of a sweep: lists of overrides, multiplied, chained, zipped; and the cells that they make of a recipe.

Not `sweep.py`: a module of that name would take the place of the function `tlx.study.sweep`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tlx import config


class Override(NamedTuple):
    """What one cell changes: `changes` is path -> value, `names` is column -> what the study's table shows there."""

    names: dict[str, Any]
    changes: dict[str, Any]


class Cell(NamedTuple):
    """One recipe of a sweep, with the override that made it. `names` has every column of the sweep, None where the
    recipe has no such field or the cell no such label."""

    names: dict[str, Any]
    changes: dict[str, Any]
    recipe: Any

    @property
    def fingerprint(self) -> str:
        return config.fingerprint(self.recipe)


Given = Override | Cell | Mapping[str, Any]


def param(path: str, *values: Any) -> list[Override]:
    """One override a value of the field at `path`, in a column of that name.

    A value that is a range, a list, an array or an iterator stands for what it holds; a tuple is one value, for recipes
    hold tuples.

    >>> [override.changes for override in param("seed", range(3))]
    [{'seed': 0}, {'seed': 1}, {'seed': 2}]
    """
    every = [item for value in values for item in (value if _is_list(value) else (value,))]
    if not every:
        raise ValueError(f"param({path!r}) has no values")
    return [_by_path({path: value}) for value in every]


def choice(column: str, bundles: Mapping[Any, Mapping[str, Any]]) -> list[Override]:
    """One override a label, each of which sets several fields at once: `choice("method", {"probe": {"tuning": Probe(),
    "optim.lr": 1e-2}, "full": {}})`."""
    if not bundles:
        raise ValueError(f"choice({column!r}) has no labels")
    for label, changes in bundles.items():
        if not isinstance(label, str | int | float) or not isinstance(changes, Mapping):
            raise TypeError(
                f"choice({column!r}) wants {{label: {{path: value, ...}}, ...}} with a string or a number as label, "
                f"got {label!r}: {changes!r}"
            )
    return [Override({column: label}, _plain(changes)) for label, changes in bundles.items()]


def prod(*parts: Iterable[Given]) -> list[Override]:
    """Every override of one part together with every one of the others; the last part varies fastest.

    >>> len(prod(param("optim.lr", 1e-3, 1e-4), param("seed", range(5))))
    10
    """
    found = [Override({}, {})]
    for part in parts:
        given = listed(part)
        found = [_together("prod", one, other) for one in found for other in given]
    return found


def chain(*parts: Iterable[Given]) -> list[Override]:
    """The overrides of one part after those of another."""
    return [override for part in parts for override in listed(part)]


def zip_(*parts: Iterable[Given]) -> list[Override]:
    """The first overrides of all parts together, the second ones, ...; ValueError for parts of unequal lengths."""
    given = [listed(part) for part in parts]
    if len({len(part) for part in given}) > 1:
        raise ValueError(f"zip_ wants parts of one length, got {', '.join(str(len(part)) for part in given)}")
    found = []
    for row in zip(*given, strict=True):
        override = Override({}, {})
        for other in row:
            override = _together("zip_", override, other)
        found.append(override)
    return found


def sweep(base: Any, cells: Iterable[Given]) -> list[Cell]:
    """The recipes that the overrides make of `base`, each with its names.

    `cells` is what the functions above return, or any list of `{path: value}`, whose paths are the columns. A column
    that is a path is filled in everywhere with what the cell's recipe has there. Raises ValueError or TypeError for an
    unknown path and for a value that its field does not take, ValueError for a cell that is there twice, under one name
    or two.
    """
    given = listed(cells)
    if not given:
        raise ValueError("a sweep needs at least one cell; [{}] is the recipe as it is")
    recipes = [_changed(base, override.changes) for override in given]
    columns = list(dict.fromkeys(column for override in given for column in override.names))
    paths = {column for column in columns if _is_path(column, given)}
    made = []
    for override, recipe in zip(given, recipes, strict=True):
        names = {
            column: _shown_at(recipe, column) if column in paths else override.names.get(column) for column in columns
        }
        made.append(Cell(names, override.changes, recipe))
    _check_apart(made)
    return made


def listed(cells: Iterable[Given]) -> list[Override]:
    """Each as an override; TypeError for what is none."""
    if isinstance(cells, Mapping | str) or not isinstance(cells, Iterable):
        raise TypeError(f"a sweep is made of a list of {{path: value}}, got {cells!r}")
    return [_override(number, cell) for number, cell in enumerate(cells, 1)]


def shown(value: Any) -> Any:
    """What a table shows of a value: numbers, strings and None as they are, all else as the text a user would write."""
    return value if value is None or isinstance(value, bool | int | float | str) else config.source(value)


def told(names: Mapping[str, Any]) -> str:
    """The names of a cell on a line.

    >>> told({"method": "LoRA", "seed": 3})
    'method=LoRA seed=3'
    """
    return (
        " ".join(f"{column}={value}" for column, value in names.items() if value is not None) or "the recipe as it is"
    )


def _override(number: int, cell: Given) -> Override:
    if isinstance(cell, Override):
        return cell
    if isinstance(cell, Cell):
        return Override(cell.names, cell.changes)
    if not isinstance(cell, Mapping):
        raise TypeError(
            f"cell {number} of the sweep is {cell!r}; give {{path: value}}, or what param, choice, prod, chain and "
            "zip_ return"
        )
    return _by_path(cell)


def _by_path(changes: Mapping[str, Any]) -> Override:
    plain = _plain(changes)
    return Override({path: shown(value) for path, value in plain.items()}, plain)


def _plain(changes: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's, which is what recipes hold."""
    return {path: value.item() if hasattr(value, "item") else value for path, value in changes.items()}


def _is_list(value: Any) -> bool:
    single = isinstance(value, str | bytes | tuple | Mapping) or getattr(value, "ndim", 1) == 0
    return isinstance(value, Iterable) and not single


def _together(how: str, one: Override, other: Override) -> Override:
    if twice := [column for column in other.names if column in one.names]:
        raise ValueError(f"{how}: two parts have a column {twice[0]!r}")
    if twice := [path for path in other.changes if path in one.changes]:
        raise ValueError(f"{how}: two parts set {twice[0]!r}")
    return Override(one.names | other.names, one.changes | other.changes)


def _changed(base: Any, changes: Mapping[str, Any]) -> Any:
    recipe = base
    for number, (path, value) in enumerate(changes.items()):
        if lost := [earlier for earlier in list(changes)[:number] if earlier.startswith(f"{path}.")]:
            raise ValueError(f"{path!r} would overwrite {lost[0]!r}, which was set before it; set {path!r} first")
        recipe = config.assign(recipe, path, value)
    config.check(recipe)
    return recipe


def _is_path(column: str, given: list[Override]) -> bool:
    """Whether the column shows the field of its name, rather than a label."""
    both = [one for one in given if column in one.names and column in one.changes]
    return bool(both) and all(one.names[column] == shown(one.changes[column]) for one in both)


def _shown_at(recipe: Any, path: str) -> Any:
    try:
        return shown(config.at(recipe, path))
    except ValueError:
        return None


def _check_apart(cells: list[Cell]) -> None:
    """ValueError where two cells have one name, or one recipe."""
    by_names: dict[str, int] = {}
    by_recipe: dict[str, int] = {}
    for number, cell in enumerate(cells):
        name, fingerprint = told(cell.names), cell.fingerprint
        one, other = by_names.setdefault(name, number), by_recipe.setdefault(fingerprint, number)
        if one == other == number:
            continue
        if one == other:
            raise ValueError(f"cells {one + 1} and {number + 1} are the same: {name}; leave one out")
        if one != number:
            path = config.diff(cells[one].recipe, cell.recipe)[0][0]
            raise ValueError(
                f"cells {one + 1} and {number + 1} are both named {name}, and differ in {path}; "
                "give them a column that says so"
            )
        raise ValueError(
            f"cells {other + 1} and {number + 1} are one recipe under two names, {told(cells[other].names)} and "
            f"{name}; leave one out"
        )
