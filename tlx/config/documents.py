"""Recipes as JSON documents: dump, load, fingerprint."""

import dataclasses
import hashlib
import inspect
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from tlx.config.checks import conform
from tlx.config.records import MISSING, Named, fields, is_plain, is_record, lasting_repr, leaves
from tlx.files import class_names, schema_1
from tlx.files import user_code as code
from tlx.files.class_names import as_classes
from tlx.trees import Json, near_miss

# The version of recipe.json, and of the rule by which fingerprints are made (see `tlx.records.migrations`).
SCHEMA = 2


def dump(value: object) -> Any:
    """Return a record as JSON values; `load` reads them.

    A record is `{"kind": name, field: value, ...}`, with `"class": "module:Class"` where the class is a user's. A value
    that is neither a record nor plain (a module, a function) becomes its `repr` without the addresses in it, which
    change from process to process; a function of the user's is also named `module:name`.
    """
    if is_plain(value):
        return value
    if is_record(value):
        place = class_names.place(type(value))
        header = {"kind": type(value).__name__} | ({"class": place} if place else {})
        return header | {name: dump(field) for name, field in fields(value).items()}
    if isinstance(value, tuple | list):
        return [dump(item) for item in value]
    text = {"repr": lasting_repr(value)}
    if isinstance(value, types.FunctionType) and value.__qualname__.isidentifier():
        return text | ({"function": place} if (place := class_names.place(value)) else {})
    return text


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
    kind = as_classes(classes).written(document["kind"], place)
    written = {name: value for name, value in document.items() if name not in ("kind", "class")}
    values = {
        name: load(value, classes, original, f"{path}.{name}" if path else name) for name, value in written.items()
    }
    return _built(kind, values)


def _find_original(document: Json, original: object, path: str) -> Any:
    """Return the value that was written as a `repr`, taken from a value that contains it."""
    values = {} if original is MISSING else dict(leaves(original))
    text = document["repr"]
    if path in values and lasting_repr(values[path]) == text:
        return values[path]
    matches = {id(value): value for value in values.values() if lasting_repr(value) == text}
    if len(matches) == 1:
        return next(iter(matches.values()))
    where = f"{path}: " if path else ""
    text = f"the function {document['function']}" if "function" in document else f"the repr {text}"
    text = " ".join(text.split())
    raise ValueError(f"{where}the document contains only {text}; pass the config file too (--config FILE)")


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
        return value if is_plain(value) else {"repr": lasting_repr(value)}
    kind, defaults = type(value), class_names.defaults(type(value))
    if class_names.is_own(kind):
        always = schema_1.ALWAYS.get(kind.__name__, ())
    else:
        always = tuple(fields(value)) if schema == 1 else ()
    printed = {name: _printed(field, schema) for name, field in fields(value).items()}
    counted = {
        name: field
        for name, field in printed.items()
        if name in always or name not in defaults or _text(field) != _text(_printed(defaults[name], schema))
    }
    # The code of an installed package counts nowhere else: all that its class says counts here.
    if schema > 1 and not class_names.is_own(kind) and not code.of([value])[0]:
        inherited = _inherited(kind)
        said = {
            name: field
            for name, field in printed.items()
            if name not in inherited or _text(field) != _text(_printed(inherited[name], schema))
        }
        return {"kind": kind.__name__, "class": class_names.place(kind)} | said
    return {"kind": kind.__name__} | counted


def _inherited(kind: type) -> Json:
    """Return the defaults, in tlx, of the fields that a class inherits from a class of tlx and does not declare again,
    without those that recipes of schema 1 always wrote: a field that tlx adds changes no fingerprint."""
    inherited: Json = {}
    for base in reversed(kind.__mro__):
        if class_names.is_own(base):
            if dataclasses.is_dataclass(base) or hasattr(base, "_field_defaults"):
                always = schema_1.ALWAYS.get(base.__name__, ())
                inherited |= {name: value for name, value in class_names.defaults(base).items() if name not in always}
        else:
            declared = inspect.get_annotations(base)
            inherited = {name: value for name, value in inherited.items() if name not in declared}
    return inherited


def _text(printed: object) -> str:
    """Return JSON values as text, in which True is not 1."""
    return json.dumps(printed, sort_keys=True)


def sources(value: object) -> dict[str, str]:
    """Return the SHA-256 of each source file that a recipe depends on, by its path (see `tlx.files.user_code.of`)."""
    return code.of([value])[0]
