"""Check JSON documents of protocol buffers against the description of the message, before the library parses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tlx.files.documents import format_value
from tlx.trees import near_miss

# The types of a field, by their number in a description.
NUMBERS, WHOLE, TRUTH, TEXT, MESSAGE = (1, 2), (3, 4, 5, 13), (8,), (9, 12), (11,)
WANTED = {NUMBERS: "a number", WHOLE: "a whole number", TRUTH: "true or false", TEXT: "a string", MESSAGE: "an object"}
# Types of numbers that TFDS knows and NumPy does not.
DTYPES = ("string", "bfloat16")


def check_message(value: Any, description: Any, path: Path, remedy: str, where: str = "") -> None:
    """Check a document, and every document within it, against the description of a message.

    Args:
        value: The document, or a part of it.
        description: The `DESCRIPTOR` of the message.
        path: The file, for the error.
        remedy: Advice for the user, for the error.
        where: The place of the part in the document.

    Raises:
        ValueError: The message does not have a field, or a field has a value of another type.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{path}: {where or 'the document'} is {format_value(value)}; expected an object; {remedy}")
    fields = {name: field for field in description.fields for name in (field.json_name, field.name)}
    for name, inner in value.items():
        place = f"{where}.{name}" if where else name
        if name not in fields:
            near = near_miss(name, {field.json_name for field in description.fields})
            raise ValueError(f"{path}: TFDS has no field {place}{near if len(near) < 200 else ''}; {remedy}")
        field = fields[name]
        if inner is None:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if not isinstance(inner, dict):
                raise ValueError(f"{path}: {place} is {format_value(inner)}; expected an object; {remedy}")
            entry = field.message_type.fields_by_name["value"]
            for key, item in inner.items():
                check_value(item, entry, path, remedy, f"{place}.{key}")
        elif repeated(field):
            if not isinstance(inner, list):
                raise ValueError(f"{path}: {place} is {format_value(inner)}; expected a list; {remedy}")
            for number, item in enumerate(inner):
                check_value(item, field, path, remedy, f"{place}[{number}]")
        else:
            check_value(inner, field, path, remedy, place)


def repeated(field: Any) -> bool:
    """Return whether a field holds a list. Older versions of the library have a label for it."""
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


def check_value(value: Any, field: Any, path: Path, remedy: str, where: str) -> None:
    """Check one value of a field."""
    kind = next((kinds for kinds in WANTED if field.type in kinds), None)
    if kind == MESSAGE and field.message_type.full_name.startswith("tensorflow_datasets."):
        check_message(value, field.message_type, path, remedy, where)
    elif kind is not None and not fits(value, kind):
        raise ValueError(f"{path}: {where} is {format_value(value)}; expected {WANTED[kind]}; {remedy}")
    elif field.name == "dtype" and not known_dtype(value):
        raise ValueError(f"{path}: {where} is {format_value(value)}; expected a number type, such as 'uint8'; {remedy}")


def fits(value: Any, kind: tuple[int, ...]) -> bool:
    """Return whether a value has the type of a field."""
    if kind == TRUTH:
        return isinstance(value, bool)
    if kind == TEXT:
        return isinstance(value, str)
    if kind == MESSAGE:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return False
    if kind == WHOLE:
        text = value if isinstance(value, str) else str(value) if isinstance(value, int) and abs(value) < 2**64 else ""
        return len(text) < 20 and text.removeprefix("-").isdecimal() and -(2**63) <= int(text) < 2**63
    return isinstance(value, int | float)


def known_dtype(name: str) -> bool:
    """Return whether TFDS or NumPy has a type of this name."""
    if name in DTYPES:
        return True
    try:
        np.dtype(name)
    except (TypeError, ValueError):
        return False
    return name != ""
