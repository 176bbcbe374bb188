"""The declared types of fields: whether a value has one, and the words that say what a field accepts."""

import types
import typing
from typing import Any

from tlx.config.records import source
from tlx.trees import closest


def fits(value: object, hint: Any) -> bool:
    """Return whether a value has the declared type `hint`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(fits, value, arguments))
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint) if isinstance(origin or hint, type) else True


def alternatives(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the values of a field that accepts only some, None among them; nothing for other fields.

    >>> choices_of(typing.Literal["first", "mean"] | None)
    ('first', 'mean', None)
    """
    choices: list[Any] = []
    for part in alternatives(hint):
        if typing.get_origin(part) is typing.Literal:
            choices += typing.get_args(part)
        elif part is type(None):
            choices.append(None)
        else:
            return ()
    return () if choices == [None] else tuple(choices)


def accepted(hint: Any) -> str:
    """Return the values that a field accepts, as a message names them.

    >>> accepted(typing.Literal["jit", "pmap"]), accepted(tuple[int, ...] | None)
    ("one of 'jit', 'pmap'", 'tuple[int, ...] | None')
    """
    if choices := choices_of(hint):
        return f"one of {', '.join(map(source, choices))}"
    return name_of(hint)


def name_of(hint: Any) -> str:
    """Return a type as it stands in Python, without the modules of its classes."""
    if hint in (None, type(None), Ellipsis):
        return "..." if hint is Ellipsis else "None"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(name_of, arguments))
    if origin is typing.Literal:
        return " | ".join(map(source, arguments))
    if arguments and isinstance(origin, type):
        return f"{origin.__name__}[{', '.join(map(name_of, arguments))}]"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def near_choices(value: object, hint: Any) -> str:
    """Return `; close: 'a'` with the choices of a field that are close to a text; nothing where none is."""
    if not isinstance(value, str):
        return ""
    near = closest(value, [choice for choice in choices_of(hint) if isinstance(choice, str)])
    return f"; close: {', '.join(map(repr, near))}" if near else ""
