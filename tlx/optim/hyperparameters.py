"""The float fields of a recipe as a tree of arrays: what a sweep may vary without compiling a new program."""

import types
import typing
from collections.abc import Mapping
from typing import Any

from tlx import config


def hyperparameters(value: object) -> dict[str, Any]:
    """Return the float fields of a record (tuples of floats too), and of the records in its fields, as a tree: the
    numbers that a sweep may vary without a new program. Those that `static` of the class lists decide shapes and are
    left out."""
    hints = typing.get_type_hints(type(value))
    numbers: dict[str, Any] = {}
    static = getattr(type(value), "static", ())
    for name, field in config.fields(value).items():
        if name in static:
            continue
        if config.is_record(field):
            if inner := hyperparameters(field):
                numbers[name] = inner
            continue
        if isinstance(field, tuple) and takes_floats(hints.get(name)):
            numbers[name] = {str(n): float(item) for n, item in enumerate(field)}
            continue
        is_float = hints.get(name) is float or float in typing.get_args(hints.get(name))
        if is_float and isinstance(field, int | float) and not isinstance(field, bool):
            numbers[name] = float(field)
    return numbers


def takes_floats(hint: Any) -> bool:
    """Return whether a type is a tuple of floats, or may be one.

    >>> takes_floats(tuple[float, ...] | None), takes_floats(tuple[str, ...]), takes_floats(float)
    (True, False, False)
    """
    if typing.get_origin(hint) is tuple:
        return set(typing.get_args(hint)) <= {float, Ellipsis}
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and any(map(takes_floats, typing.get_args(hint)))


def with_hyperparameters(value: Any, values: Mapping[str, Any]) -> Any:
    """Return `value` with traced arrays in the place of its float fields, without checking them again."""
    if not config.is_record(value):
        return tuple(values[str(n)] for n in range(len(value)))
    changed = {
        name: with_hyperparameters(getattr(value, name), new) if isinstance(new, Mapping) else new
        for name, new in values.items()
    }
    if hasattr(value, "_fields"):
        return value._replace(**changed)
    copy = object.__new__(type(value))
    for name, field in config.fields(value).items():
        object.__setattr__(copy, name, changed.get(name, field))
    return copy
