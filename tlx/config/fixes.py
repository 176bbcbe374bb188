"""What to write instead of a wrong value: the class that a text names, a tuple of one value, a number in quotes."""

import dataclasses
import inspect
import re
import shlex
import sys
import typing
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from tlx.config.hints import alternatives, choices_of, fits
from tlx.config.records import source
from tlx.files.class_names import is_own, is_record_class
from tlx.trees import closest, near_miss, nearness

PLAIN = inspect.Parameter.POSITIONAL_OR_KEYWORD
PLAIN_TYPES = (int, float, bool, str, type(None), object)
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
YES, NO = ("true", "yes", "on", "1", "1.0"), ("false", "no", "off", "0", "0.0")


class Fix(NamedTuple):
    """A value that a field accepts, as Python `text`; with `kind` and `field` it is a field of a record of that
    class."""

    text: str
    kind: str = ""
    field: str = ""

    def in_python(self, path: str) -> str:
        """Return the argument of a call.

        >>> Fix("'adam'", "Optim", "name").in_python("optim")
        "optim=Optim(name='adam')"
        """
        name = path.rpartition(".")[2]
        text = f"{self.kind}({self.field}={self.text})" if self.field else self.text
        return text if name.isdigit() else f"{name}={text}"

    def in_shell(self, path: str) -> str:
        """Return the option of a command, quoted for a shell.

        >>> Fix("'adam'", "Optim", "name").in_shell("optim"), Fix("Lora()").in_shell("tuning")
        ('--set optim.name=adam', "--set 'tuning=Lora()'")
        """
        path = f"{path}.{self.field}" if self.field else path
        plain = re.fullmatch(r"'([A-Za-z][\w./-]*)'", self.text)
        text = self.text if plain is None or plain[1] in ("None", "True", "False") else plain[1]
        return f"--set {shlex.quote(f'{path}={text}' if plain else f'{path}={double_quoted(text)}')}"


def double_quoted(text: str) -> str:
    """Return Python text with double quotes, which need no escapes within the single quotes of a shell."""
    return text if '"' in text else text.replace("'", '"')


def fix_of(value: object, hint: Any, kinds: Iterable[type] = ()) -> Fix | None:
    """Return a value that a field of the type `hint` accepts and that `value` may mean; None where nothing is close.

    Args:
        value: A value that the field does not accept.
        hint: The declared type of the field.
        kinds: Classes that may be named, besides the loaded subclasses of the classes in `hint`.
    """
    kinds = tuple(kinds)
    choices = {str(choice): choice for choice in choices_of(hint)}
    if isinstance(value, str) and (name := meant(value, choices)):
        return Fix(source(choices[name]))
    for part in alternatives(hint):
        fix = tuple_fix(value, part, kinds) or plain_fix(value, part) or record_fix(value, part, kinds)
        if fix is not None:
            return fix
    return None


def plain_fix(value: object, hint: Any) -> Fix | None:
    """Return the number, text, truth value or None that a value means."""
    text = str(value).strip()
    whole = NUMBER.fullmatch(text) is not None and float(text).is_integer()
    if hint is int and whole and not isinstance(value, bool):
        return Fix(str(int(float(text))))
    if hint is float and isinstance(value, str) and NUMBER.fullmatch(text):
        return Fix(text)
    if hint is bool and text.lower() in (*YES, *NO):
        return Fix(str(text.lower() in YES))
    if hint is type(None) and text.lower() in ("none", "null"):
        return Fix("None")
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return Fix(repr(text))
    return None


def tuple_fix(value: object, hint: Any, kinds: tuple[type, ...]) -> Fix | None:
    """Return the tuple that a single item, or a list, stands for."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is not tuple or len(arguments) != 2 or arguments[1] is not Ellipsis:
        return None
    if isinstance(value, list) and fits(tuple(value), hint):
        return Fix(source(tuple(value)))
    if fits(value, arguments[0]):
        return Fix(f"({source(value)},)")
    fix = record_fix(value, arguments[0], kinds)
    return None if fix is None or fix.field else Fix(f"({fix.text},)")


def record_fix(value: object, hint: Any, kinds: tuple[type, ...]) -> Fix | None:
    """Return the record that a class, or a text, stands for: one of the class that the text names, or of the class
    `hint` from that text."""
    if not isinstance(hint, type) or hint in PLAIN_TYPES:
        return None
    if isinstance(value, type):
        return Fix(call_text(value)) if offered(value, hint) else None
    if not isinstance(value, str):
        return None
    named = kinds_of(hint, kinds)
    if name := meant(value.strip().rpartition(".")[2].partition("(")[0], named):
        return Fix(call_text(named[name]))
    if not is_record_class(hint):
        return None
    hints = typing.get_type_hints(hint)
    for field, kind in hints.items():
        if name := meant(value, [choice for choice in choices_of(kind) if isinstance(choice, str)]):
            return Fix(repr(name), hint.__name__, field)
    first = next(iter(inspect.signature(hint).parameters.values()), None)
    if first is not None and first.kind is not first.KEYWORD_ONLY and fits(value, hints.get(first.name, int)):
        return Fix(f"{hint.__name__}({value!r})")
    return None


def meant(text: str, names: Collection[str]) -> str:
    """Return the name that a text surely means: itself, in other letters, or with a slip; an empty text for none.

    >>> meant("lora", ["Dora", "Lora"]), meant("Lroa", ["Dora", "Lora"]), meant("Nothing", ["Noise"])
    ('Lora', 'Lora', '')
    """
    near = [name for name in closest(text, names, n=1) if nearness(text, name) >= 0.6]
    return text if text in names else near[0] if near else ""


def near_kinds(value: object, hint: Any, kinds: Iterable[type] = ()) -> str:
    """Return `; close: 'Lora'` with the classes that a text may name; nothing for other values and types."""
    if not isinstance(value, str) or not (names := accepted_kinds(hint, kinds)):
        return ""
    # A text may also be a slip for a number; then other names would mislead.
    plain = any(part in PLAIN_TYPES for part in parts_of(hint))
    return near_miss(value, closest(value, names) if plain else names)


def accepted_kinds(hint: Any, kinds: Iterable[type] = ()) -> dict[str, type]:
    """Return the classes of the values, or of the items of the tuples, that a field accepts, by name."""
    kinds = tuple(kinds)
    classes = [part for part in parts_of(hint) if isinstance(part, type) and part not in PLAIN_TYPES]
    return {name: kind for part in classes for name, kind in kinds_of(part, kinds).items()}


def parts_of(hint: Any) -> list[Any]:
    """Return the types that a type names: those of a union, of the items of a tuple; not None."""
    parts = [argument for part in alternatives(hint) for argument in (typing.get_args(part) or (part,))]
    return [part for part in parts if part is not type(None)]


def kinds_of(hint: type, kinds: Iterable[type]) -> dict[str, type]:
    """Return the classes that a message may propose for a field of the class `hint`, by name."""
    return {kind.__name__: kind for kind in (*kinds, *subclasses(hint)) if offered(kind, hint)}


def offered(kind: type, hint: type) -> bool:
    """Return whether a message may propose a class for a field of the class `hint`: a base class without fields is only
    a contract."""
    if not is_record_class(kind) or not implements(kind, hint) or kind.__name__.startswith("_"):
        return False
    # A class of tlx that its package does not export is the base of others.
    package = sys.modules.get(".".join(kind.__module__.split(".")[:2]))
    if is_own(kind) and getattr(package, kind.__name__, None) is not kind:
        return False
    return kind is not hint or bool(dataclasses.is_dataclass(kind) and dataclasses.fields(kind))


def implements(kind: type, hint: type) -> bool:
    """Return whether a class is a subclass of `hint`, or has the members of the protocol `hint`."""
    if not getattr(hint, "_is_protocol", False):
        return issubclass(kind, hint)
    members = {*hint.__annotations__, *({"__call__"} & vars(hint).keys())}
    return all(any(name in vars(base) for base in kind.__mro__) for name in members)


def subclasses(kind: type) -> list[type]:
    """Return a class and all its loaded subclasses."""
    lower: list[type] = kind.__subclasses__()
    return [kind, *(each for direct in lower for each in subclasses(direct))]


def call_text(kind: type) -> str:
    """Return the shortest call of a class; fields without a default have `...` for their value.

    >>> from tlx.types import Learn
    >>> call_text(Learn)
    'Learn()'
    """
    needed = [
        parameter.name
        for parameter in inspect.signature(kind).parameters.values()
        if parameter.default is parameter.empty and parameter.kind in (parameter.KEYWORD_ONLY, PLAIN)
    ]
    return f"{kind.__name__}({', '.join(f'{name}=...' for name in needed)})"


def call_fault(function: Any, positional: int, names: Sequence[str]) -> str:
    """Return what is wrong with the arguments of a call, and the closest names; an empty text where they fit.

    Args:
        function: A class or a function.
        positional: The number of arguments without a name.
        names: The names of the others.
    """
    name = getattr(function, "__name__", str(function))
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return ""
    word = "field" if isinstance(function, type) else "argument"
    if unknown := [argument for argument in names if argument not in parameters]:
        return f"{name} has no {word} {unknown[0]!r}{near_miss(unknown[0], parameters)}"
    several = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values())
    by_place = [parameter.name for parameter in parameters.values() if parameter.kind is PLAIN]
    if positional > len(by_place) and not several:
        if not parameters:
            return f"{name} has no {word}s"
        accepts = f"at most {len(by_place)} {word}s without a name" if by_place else f"its {word}s by name only"
        return f"{name} accepts {accepts}, such as {name}({next(iter(parameters))}=...)"
    present = {*names, *by_place[:positional]}
    needed = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.KEYWORD_ONLY, PLAIN)
        and parameter.name not in present
    ]
    return f"{name} needs the {word} {needed[0]!r}, such as {name}({needed[0]}=...)" if needed else ""
