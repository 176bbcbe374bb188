"""Records: values with named fields, and the dotted paths of the numbers and strings below them."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from tlx.files import class_names

Named = Mapping[str, type]
MISSING = object()

# A dataclass or a named tuple of the recipe.
Record = TypeVar("Record")


def is_record(value: object) -> bool:
    """Return whether a value has named fields: a frozen dataclass or a named tuple. (A Linen module's dataclass is not
    frozen.)"""
    return class_names.is_record_class(type(value))


def fields(value: Any) -> dict[str, Any]:
    """Return the fields of a record by name."""
    names = value._fields if hasattr(value, "_fields") else [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names}


def replace(value: Any, **changes: Any) -> Any:
    """Return a record with some fields changed; a dataclass checks itself again."""
    return value._replace(**changes) if hasattr(value, "_fields") else dataclasses.replace(value, **changes)


def leaves(value: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every number, string and None below a record with its dotted path, and `path.kind` for the class of a
    record."""
    if is_record(value):
        if path:
            yield f"{path}.kind", type(value).__name__
        for name, field in fields(value).items():
            yield from leaves(field, f"{path}.{name}" if path else name)
    elif isinstance(value, tuple) and any(map(is_record, value)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, value


def is_plain(value: object) -> bool:
    """Return whether JSON has the value as it is."""
    return value is None or isinstance(value, bool | int | float | str)


def lasting_repr(value: object) -> str:
    """Return the `repr` of a value without the addresses in it, which change from process to process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def source(value: object) -> str:
    """Return the text that a user would write for a value, which `parse` reads back; fields at their defaults are left
    out.

    >>> from tlx.types import Learn
    >>> source((Learn(lr=0.5), 1, "a"))
    "(Learn(lr=0.5), 1, 'a')"
    """
    if is_record(value):
        defaults = class_names.defaults(type(value))
        changed = [(name, field) for name, field in fields(value).items() if defaults.get(name, MISSING) != field]
        return f"{type(value).__name__}({', '.join(f'{name}={source(field)}' for name, field in changed)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(source, value))}{',' if len(value) == 1 else ''})"
    return repr(value) if is_plain(value) else " ".join(lasting_repr(value).split())


def diff(before: object, after: object) -> list[tuple[str, Any, Any]]:
    """Return `(path, before, after)` wherever two records differ; a side that lacks the path holds None."""
    left, right = dict(leaves(before)), dict(leaves(after))
    paths = list(left) + [path for path in right if path not in left]
    return [(path, left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)]
