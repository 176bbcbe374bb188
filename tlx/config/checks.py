"""Check the fields of a record: their types, and the choices of those with few values.

An error states the value, what the field accepts, the closest names, and a value to write instead.
"""

import math
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from tlx.config.fixes import fix_of, near_kinds
from tlx.config.hints import accepted, choices_of, fits, near_choices
from tlx.config.records import fields, is_record, source

# The entries by which a recipe.json says what a value is.
RESERVED = ("kind", "class", "repr")


def check(value: object, path: str = "") -> None:
    """Raise TypeError, with the field's path, where a record holds a value of the wrong type, ValueError for NaN."""
    for _, error in faults(value, path):
        raise error


def faults(value: object, path: str = "") -> Iterator[tuple[str, Exception]]:
    """Yield the dotted path of each field with a wrong value, and the error that `check` raises for it."""
    if is_record(value):
        try:
            hints = typing.get_type_hints(type(value))
        except NameError as error:
            # A processor that holds a tokenizer, for example: it comes with weights.
            yield (
                path,
                TypeError(
                    f"{path} is a {type(value).__name__}, which a recipe cannot record, because one of its fields is a "
                    f"{error.name}; leave it out: what comes with weights is used without being named"
                ),
            )
            return
        for name, field in fields(value).items():
            where = f"{path}.{name}" if path else name
            if name in RESERVED:
                message = (
                    f"{type(value).__name__} has a field {name!r}, a name that is reserved in recipe.json "
                    f"({', '.join(RESERVED)}); rename the field"
                )
                yield where, ValueError(message)
            try:
                conform(field, hints.get(name, Any), where)
            except TypeError as error:
                yield where, error
            if isinstance(field, float) and math.isnan(field):
                yield where, ValueError(f"{where} is nan; expected a number")
            yield from faults(field, where)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from faults(item, f"{path}.{index}")


def conform(value: object, hint: Any, path: str, kinds: Iterable[type] = (), *, shell: bool = False) -> Any:
    """Return `value` in the type `hint`: an int becomes a float where the hint is float.

    Args:
        value: The value of a field.
        hint: The declared type of the field.
        path: The dotted path of the field, for messages.
        kinds: Classes that the message may propose, besides the loaded subclasses of `hint`.
        shell: Propose `--set PATH=VALUE` instead of Python.

    Raises:
        TypeError: The value has another type.
    """
    if not fits(value, hint):
        raise mismatch(value, hint, path, kinds, shell=shell)
    wants_float = hint is float or (float in typing.get_args(hint) and int not in typing.get_args(hint))
    return float(value) if wants_float and isinstance(value, int) and not isinstance(value, bool) else value


def mismatch(value: object, hint: Any, path: str, kinds: Iterable[type] = (), *, shell: bool = False) -> TypeError:
    """Return the error of a value that its field does not accept; the arguments are those of `conform`."""
    fix = fix_of(value, hint, kinds)
    if fix is None:
        write = near_kinds(value, hint, kinds)
    else:
        write = f"; write {fix.in_shell(path) if shell else fix.in_python(path)}"
    return TypeError(f"{path} is {shown(value)}; expected {accepted(hint)}{near_choices(value, hint)}{write}")


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    return f"the class {value.__name__}" if isinstance(value, type) else source(value)


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ValueError for a value that is not among the `choices` of the field `name`; the message has the closest.

    >>> check_choice("dtype", "bf16", ("float32", "bfloat16"))
    Traceback (most recent call last):
    ValueError: dtype is 'bf16'; expected one of 'float32', 'bfloat16'; close: 'bfloat16'
    """
    hint: Any = typing.Literal.__getitem__(tuple(choices))
    # By their types too, because True equals 1.
    if not any(value == choice and isinstance(value, type(choice)) for choice in choices_of(hint)):
        raise ValueError(f"{name} is {shown(value)}; expected {accepted(hint)}{near_choices(value, hint)}")


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
