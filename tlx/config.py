"""Recipes as values: check, override, dump, load, source, fingerprint, diff.

A config is a frozen keyword-only dataclass whose fields are numbers, strings, None, tuples, named tuples and other such
dataclasses. `classes` are those that may appear by name, in files and in overrides (see `tlx.files.class_names`).
"""

import ast
import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from tlx.files import class_names, schema_1
from tlx.files import user_code as code
from tlx.files.class_names import Classes
from tlx.trees import Json, near_miss

Named = Mapping[str, type]
MISSING = object()
# The entries by which a recipe.json says what a value is.
RESERVED = ("kind", "class", "repr")
# The version of recipe.json, and of the rule by which fingerprints are made (see `tlx.records.migrations`).
SCHEMA = 2


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


def dump(value: object) -> Any:
    """Return a record as JSON values; `load` reads them.

    A record is `{"kind": name, field: value, ...}`, with `"class": "module:Class"` where the class is a user's. A value
    that is neither a record nor plain (a module, a function) becomes its `repr` without the addresses in it, which
    change from process to process; a function of the user's is also named `module:name`.
    """
    if _is_plain(value):
        return value
    if is_record(value):
        place = class_names.place(type(value))
        header = {"kind": type(value).__name__} | ({"class": place} if place else {})
        return header | {name: dump(field) for name, field in fields(value).items()}
    if isinstance(value, tuple | list):
        return [dump(item) for item in value]
    text = {"repr": _lasting_repr(value)}
    if isinstance(value, types.FunctionType) and value.__qualname__.isidentifier():
        return text | ({"function": place} if (place := class_names.place(value)) else {})
    return text


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _lasting_repr(value: object) -> str:
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
    return repr(value) if _is_plain(value) else " ".join(_lasting_repr(value).split())


def load(document: object, classes: Named, original: object = MISSING, path: str = "") -> Any:
    """Return the value that `dump` wrote.

    Args:
        document: JSON values.
        classes: the classes that it may name.
        original: a value from which to take what was written as a `repr` alone: what lies at the same path there, else
            the only part with that `repr`.
        path: the dotted path of the document, for messages.

    Raises:
        ValueError: The document names an unknown class, a user's class that is not in `classes`, or an unknown field;
            or a value was written as a `repr` and is not in `original`.
        TypeError: A field has another type than it declares.
    """
    if isinstance(document, list):
        return tuple(
            load(item, classes, original, f"{path}.{n}" if path else str(n)) for n, item in enumerate(document)
        )
    if not isinstance(document, dict):
        return document
    if "repr" in document:
        return _find_original(document, original, path)
    if not isinstance(document.get("kind"), str):
        raise ValueError(f"a record has no field kind (the name of its class); it has {sorted(map(str, document))[:6]}")
    if not isinstance(place := document.get("class"), str | None):
        raise ValueError(f"the class of a {document['kind']} is {place!r}; expected the text module:Class")
    kind = _classes(classes).written(document["kind"], place)
    written = {name: value for name, value in document.items() if name not in ("kind", "class")}
    values = {
        name: load(value, classes, original, f"{path}.{name}" if path else name) for name, value in written.items()
    }
    return _built(kind, values)


def _find_original(document: Json, original: object, path: str) -> Any:
    """Return the value that was written as a `repr`, taken from a value that contains it."""
    values = {} if original is MISSING else dict(leaves(original))
    text = document["repr"]
    if path in values and _lasting_repr(values[path]) == text:
        return values[path]
    matches = {id(value): value for value in values.values() if _lasting_repr(value) == text}
    if len(matches) == 1:
        return next(iter(matches.values()))
    where = f"{path}: " if path else ""
    text = f"the function {document['function']}" if "function" in document else f"the repr {text}"
    text = " ".join(text.split())
    raise ValueError(f"{where}the document contains only {text}; pass the config file too (--config FILE)")


def _classes(classes: Named) -> Classes:
    return classes if isinstance(classes, Classes) else Classes(classes)


def _built(kind: type, values: Mapping[str, Any]) -> Any:
    """Return a record of the class `kind`, whose fields have their declared types; raise ValueError for other fields,
    TypeError for other types."""
    hints = typing.get_type_hints(kind)
    names = kind._fields if hasattr(kind, "_fields") else [f.name for f in dataclasses.fields(kind)]
    if unknown := sorted(values.keys() - set(names)):
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}{near_miss(unknown[0], names)}")
    for name, value in values.items():
        conform(value, hints.get(name, Any), f"{kind.__name__}.{name}")
    try:
        return kind(**values)
    except (ArithmeticError, LookupError, AttributeError) as error:
        # The checks of a class may fail in other ways on values that make no sense.
        raise ValueError(f"{kind.__name__} does not accept these values ({type(error).__name__}: {error})") from None


def fingerprint(value: object, *, with_sources: bool = True, schema: int = SCHEMA) -> str:
    """Return sixteen hexadecimal digits that two equal recipes share and two different ones do not.

    A field at its default counts only where recipes of schema 1 always wrote it, so that a field that is added to a
    class changes no fingerprint. Where a recipe holds classes or functions of the user's, their source counts too (see
    `tlx.files.user_code`).

    Args:
        value: a recipe, or a part of one.
        with_sources: False leaves the user's source out, as runs of early versions did.
        schema: the version of the rule; of schema 1 every field of a user's class counts.
    """
    document = _printed(value, schema)
    digests, state = code.of([value]) if with_sources else ({}, [])
    if digests:
        document = {"recipe": document, "sources": sorted({*digests.values()}), "state": state}
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _printed(value: object, schema: int) -> Any:
    """Return the part of a value that counts in a fingerprint, as JSON values. Whole floats become ints, because 1 and
    1.0 are equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, tuple | list) and not is_record(value):
        return [_printed(item, schema) for item in value]
    if not is_record(value):
        return value if _is_plain(value) else {"repr": _lasting_repr(value)}
    kind, defaults = type(value), class_names.defaults(type(value))
    if class_names.is_own(kind):
        always = schema_1.ALWAYS.get(kind.__name__, ())
    else:
        always = tuple(fields(value)) if schema == 1 else ()
    printed = {name: _printed(field, schema) for name, field in fields(value).items()}
    counted = {
        name: field
        for name, field in printed.items()
        # Compared as text, where True is not 1.
        if name in always
        or name not in defaults
        or json.dumps(field, sort_keys=True) != json.dumps(_printed(defaults[name], schema), sort_keys=True)
    }
    # The code of an installed package counts nowhere else: all that its class says counts here.
    if schema > 1 and not class_names.is_own(kind) and not code.of([value])[0]:
        return {"kind": kind.__name__, "class": class_names.place(kind)} | printed
    return {"kind": kind.__name__} | counted


def sources(value: object) -> dict[str, str]:
    """Return the SHA-256 of each source file that a recipe depends on, by its path (see `tlx.files.user_code.of`)."""
    return code.of([value])[0]


def diff(before: object, after: object) -> list[tuple[str, Any, Any]]:
    """Return `(path, before, after)` wherever two records differ; a side that lacks the path holds None."""
    left, right = dict(leaves(before)), dict(leaves(after))
    paths = list(left) + [path for path in right if path not in left]
    return [(path, left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)]


def override(value: Record, path: str, text: str, classes: Named) -> Record:
    """Return `value` with the field at the dotted `path` set to the value of `text`.

    `text` is a Python literal, a call of a known class with literal arguments (`Freeze(through='blocks/03')`), or a
    bare string. Raises ValueError for an unknown path, naming the nearest, and TypeError for a value that the field
    does not take.
    """
    return assign(value, path, parse(text, classes))


def at(value: object, path: str) -> Any:
    """Return the field at the dotted `path`; raise ValueError for an unknown path, naming the nearest."""
    field = value
    for name in path.split("."):
        field = _parts(field).get(name, MISSING)
        if field is MISSING:
            raise _unknown(path, value)
    return field


def assign(value: Record, path: str, new: object) -> Record:
    """Return `value` with the field at the dotted `path` set to `new`; raises as `override` does."""
    at(value, path)
    return _assign(value, path.split("."), path, new)


def _assign(value: Any, parts: list[str], path: str, new: Any) -> Any:
    name, *rest = parts
    field = _assign(_parts(value)[name], rest, path, new) if rest else new
    if not is_record(value):
        return (*value[: int(name)], field, *value[int(name) + 1 :])
    hint = typing.get_type_hints(type(value)).get(name, Any)
    where = ".".join(path.split(".")[: -len(rest) or None])
    return replace(value, **{name: conform(field, hint, where)})


def _parts(value: object) -> dict[str, Any]:
    """Return the next fields that a path may name: the fields of a record, the positions of a tuple."""
    if is_record(value):
        return fields(value)
    return {str(n): item for n, item in enumerate(value)} if isinstance(value, tuple) else {}


def _unknown(path: str, root: object) -> ValueError:
    paths = [leaf.removesuffix(".kind") for leaf, _ in leaves(root)]
    return ValueError(f"the recipe has no field {path!r}{near_miss(path, paths)}")


def parse(text: str, classes: Named) -> Any:
    """Parse a value of the command line: a literal, a call of one of `classes`, or the text itself."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        return text
    if isinstance(node, ast.Call | ast.Tuple | ast.List):
        return _build(node, classes)
    try:
        return ast.literal_eval(node)
    except ValueError:
        return text


def _build(node: ast.expr, classes: Named) -> Any:
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_build(item, classes) for item in node.elts)
    if not isinstance(node, ast.Call):
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ValueError(f"{ast.unparse(node)!r} is not a literal; put quotes around a string") from None
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    arguments = {item.arg: _build(item.value, classes) for item in node.keywords if item.arg}
    try:
        return _classes(classes).typed(name)(*(_build(item, classes) for item in node.args), **arguments)
    except TypeError as error:
        raise TypeError(f"{ast.unparse(node)}: {error}") from None


def check(value: object, path: str = "") -> None:
    """Raise TypeError, with the field's path, where a record holds a value of the wrong type, ValueError for NaN."""
    if is_record(value):
        hints = typing.get_type_hints(type(value))
        for name, field in fields(value).items():
            where = f"{path}.{name}" if path else name
            if name in RESERVED:
                raise ValueError(
                    f"{type(value).__name__} has a field {name!r}, a name that is reserved in recipe.json "
                    f"({', '.join(RESERVED)}); rename the field"
                )
            conform(field, hints.get(name, Any), where)
            if isinstance(field, float) and math.isnan(field):
                raise ValueError(f"{where} is nan; expected a number")
            check(field, where)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            check(item, f"{path}.{index}")


def conform(value: object, hint: Any, path: str) -> Any:
    """Return `value` in the type `hint`: an int becomes a float where the hint is float. Raise TypeError for another
    type."""
    if not _fits(value, hint):
        expected = hint.__name__ if isinstance(hint, type) else str(hint)
        for module in ("tlx.types.", "typing."):
            expected = expected.replace(module, "")
        raise TypeError(f"{path} is {value!r}; expected {expected}")
    wants_float = hint is float or (float in typing.get_args(hint) and int not in typing.get_args(hint))
    return float(value) if wants_float and isinstance(value, int) and not isinstance(value, bool) else value


def check_seed(seed: Any, path: str) -> None:
    """Raise an error for a seed that is not a whole number below 2**32: JAX keeps 32 bits, so 2**32 would be the seed 0
    again.

    Raises:
        TypeError: `seed` is not an int.
        ValueError: `seed` is negative, or 2**32 or more.
    """
    conform(seed, int, path)
    if not 0 <= seed < 2**32:
        raise ValueError(f"{path} is {seed}; expected a whole number from 0 to {2**32 - 1}, because JAX uses 32 bits")


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint) if isinstance(origin or hint, type) else True
