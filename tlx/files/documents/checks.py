"""Declare the form of a document: the allowed values of each part, in words for an error.

A form has `wants`, the words, and `faults(value, where)`, which yields each part of a value that does not fit.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from tlx.trees import near_miss

LONGEST_VALUE = 80
# Above this a whole number does not fit into the index of an array.
LARGEST = 2**31 - 1


class DocumentError(ValueError):
    """A file does not have its expected form."""


class Fault(NamedTuple):
    """One part of a document that does not fit: its place `where` (`size.height`), the value `received`, and the
    expected value `wants`."""

    where: str
    received: str
    wants: str


class Form(Protocol):
    """The allowed values of a part of a document."""

    @property
    def wants(self) -> str:
        """Return the form in words, for the end of a sentence that begins with "expected"."""

    def faults(self, value: object, where: str) -> Iterator[Fault]:
        """Yield the parts of `value`, at the place `where`, that do not fit."""


def format_value(value: object) -> str:
    """Return a value as an error shows it: its `repr` or, where that is long, its beginning.

    >>> format_value([1, "a"])
    "[1, 'a']"
    """
    if isinstance(value, dict):
        return f"an object with {len(value)} entries"
    if isinstance(value, list) and len(value) > 8:
        return f"a list of {len(value)} values"
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a whole number of {value.bit_length()} bits"
    text = (
        {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else repr(value)
    )
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def is_whole(value: object) -> bool:
    """Return whether a value is an integer and no boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def between(low: float | None, high: float | None) -> str:
    """Return the words for a range, "" where it is open on both sides."""
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}" if abs(high) < LARGEST else f", {low:g} or more"
    return f", {low:g} or more" if low is not None else f", at most {high:g}" if high is not None else ""


@dataclass(frozen=True)
class Simple:
    """A form that fits a value as a whole or not at all."""

    def fits(self, value: Any) -> bool:
        raise TypeError(f"{type(self).__name__} does not define fits(value); define it")

    @property
    def wants(self) -> str:
        return "a value"

    def faults(self, value: object, where: str) -> Iterator[Fault]:
        if not self.fits(value):
            yield Fault(where, format_value(value), self.wants)


@dataclass(frozen=True)
class Anything(Simple):
    """Any value."""

    def fits(self, value: Any) -> bool:
        return True


@dataclass(frozen=True)
class Null(Simple):
    """null."""

    def fits(self, value: Any) -> bool:
        return value is None

    @property
    def wants(self) -> str:
        return "null"


@dataclass(frozen=True)
class Flag(Simple):
    """true or false."""

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    @property
    def wants(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Whole(Simple):
    """A whole number in a range."""

    low: int = 0
    high: int = LARGEST

    def fits(self, value: Any) -> bool:
        return is_whole(value) and self.low <= value <= self.high

    @property
    def wants(self) -> str:
        return f"a whole number{between(self.low, self.high)}"


@dataclass(frozen=True)
class Real(Simple):
    """A finite number in a range; `above` excludes the lower end. Without `finite`, NaN and infinity fit too."""

    low: float | None = None
    high: float | None = None
    above: bool = False
    finite: bool = True

    def fits(self, value: Any) -> bool:
        if not (is_whole(value) or isinstance(value, float)):
            return False
        if is_whole(value) and value.bit_length() > 1000:
            return False
        if not math.isfinite(value):
            return not self.finite
        if self.low is not None and (value <= self.low if self.above else value < self.low):
            return False
        return self.high is None or value <= self.high

    @property
    def wants(self) -> str:
        if self.above and self.low is not None:
            return f"a number above {self.low:g}" + ("" if self.high is None else f", at most {self.high:g}")
        return f"a number{between(self.low, self.high)}"


@dataclass(frozen=True)
class Text(Simple):
    """A string that `pattern` matches in full; `description` describes it in words."""

    pattern: str = r"(?s:.*)"
    description: str = "a string"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    @property
    def wants(self) -> str:
        return self.description


@dataclass(frozen=True)
class OneOf(Simple):
    """One of a few strings or numbers."""

    values: tuple[Any, ...]

    def fits(self, value: Any) -> bool:
        return any(type(value) is type(allowed) and value == allowed for allowed in self.values)

    @property
    def wants(self) -> str:
        return ("one of " if len(self.values) > 1 else "") + ", ".join(map(repr, self.values))

    def faults(self, value: object, where: str) -> Iterator[Fault]:
        if not self.fits(value):
            near = near_miss(value, map(str, self.values)) if isinstance(value, str) and len(self.values) > 12 else ""
            yield Fault(where, format_value(value), self.wants + near)


@dataclass(frozen=True)
class Either:
    """A value of one of several forms."""

    forms: tuple[Form, ...]

    @property
    def wants(self) -> str:
        return " or ".join(form.wants for form in self.forms)

    def faults(self, value: object, where: str) -> Iterator[Fault]:
        faults_by_form = [list(form.faults(value, where)) for form in self.forms]
        if all(faults_by_form):
            # A fault inside the value is more precise than a fault of the whole value.
            inner = [faults for faults in faults_by_form if faults[0].where != where]
            yield inner[0][0] if inner else Fault(where, format_value(value), self.wants)


def maybe(form: Form) -> Either:
    """Return a form that also allows null."""
    return Either((form, Null()))


@dataclass(frozen=True)
class Rows:
    """A list of values of one form, at least `low` and at most `high` of them."""

    form: Form = Anything()
    low: int = 0
    high: int | None = None

    @property
    def wants(self) -> str:
        if self.low == self.high:
            return f"a list of {self.low} values, each {self.form.wants}"
        return f"a list{' that is not empty' if self.low else ''}, each value {self.form.wants}"

    def faults(self, value: object, where: str) -> Iterator[Fault]:
        if not isinstance(value, list) or len(value) < self.low or (self.high is not None and len(value) > self.high):
            yield Fault(where, format_value(value), self.wants)
            return
        for position, item in enumerate(value):
            yield from self.form.faults(item, f"{where}[{position}]")


@dataclass(frozen=True)
class Mapped:
    """An object with free keys, or with keys that match `keys`. All values have one form."""

    form: Form = Anything()
    keys: Text = Text()

    @property
    def wants(self) -> str:
        return "an object" if isinstance(self.form, Anything) else f"an object, each value {self.form.wants}"

    def faults(self, value: object, where: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield Fault(where, format_value(value), self.wants)
            return
        free = self.keys.pattern == Text.pattern
        if free and isinstance(self.form, Simple) and all(map(self.form.fits, value.values())):
            return
        for name, item in value.items():
            if not (free or self.keys.fits(name)):
                yield Fault(f"a key of {where or 'the document'}", format_value(name), self.keys.wants)
            yield from self.form.faults(item, joined(where, name))


@dataclass(frozen=True)
class Record:
    """An object with `required` and `optional` fields; `others` is the form of every other field."""

    required: Mapping[str, Form] = field(default_factory=dict)
    optional: Mapping[str, Form] = field(default_factory=dict)
    others: Form = Anything()

    @property
    def wants(self) -> str:
        names = ", ".join(map(repr, list(self.required)[:4]))
        return f"an object with {names}" if names else "an object"

    def faults(self, value: object, where: str) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield Fault(where, format_value(value), self.wants)
            return
        for name, form in self.required.items():
            if name not in value:
                near = near_miss(name, [extra for extra in value if extra not in self.required])
                yield Fault(joined(where, name), "missing", form.wants + (near if "close" in near else ""))
            else:
                yield from form.faults(value[name], joined(where, name))
        for name, form in self.optional.items():
            if name in value:
                yield from form.faults(value[name], joined(where, name))
        if not isinstance(self.others, Anything):
            for name in value.keys() - self.required.keys() - self.optional.keys():
                yield from self.others.faults(value[name], joined(where, name))


def joined(where: str, name: str) -> str:
    """Return the place of a field within the place `where`."""
    plain = re.fullmatch(r"[\w/-]{1,60}", name) is not None
    return f"{where}.{name}" if where and plain else name if plain else f"{where}[{format_value(name)}]"


def check(document: object, form: Form, name: object, remedy: str = "") -> Any:
    """Return `document` where it fits `form`; else raise DocumentError.

    Args:
        document: The content of the file.
        form: The expected form.
        name: The file, or another origin of the document, as the error shows it.
        remedy: Advice for the user, for the end of the error.

    Raises:
        DocumentError: A part does not fit. The message names the file, the place, the value received and the value
            expected.
    """
    fault = next(iter(form.faults(document, "")), None)
    if fault is None:
        return document
    sentence = f"{fault.where} is {fault.received}" if fault.where else f"the document is {fault.received}"
    raise DocumentError(f"{name}: {sentence}; expected {fault.wants}{f'; {remedy}' if remedy else ''}")
