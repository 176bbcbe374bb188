"""Name the arms and the values of a study on its page and in its tables."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tlx.records.studies import StudyTable
from tlx.report import words

BETWEEN = " · "


class Columns(NamedTuple):
    """The columns that differ between arms: `treatment`, in which an arm differs from its baseline, and `context`, in
    which it does not.

    `every` are all columns of the study but the seed. In `optional` columns None means that an arm has no such thing,
    and is not written.
    """

    treatment: tuple[str, ...]
    context: tuple[str, ...]
    every: tuple[str, ...]
    optional: frozenset[str] = frozenset()

    @property
    def varying(self) -> tuple[str, ...]:
        return tuple(name for name in self.every if name in self.treatment or name in self.context)

    def arm(self, names: Mapping[str, Any]) -> str:
        return self.label(names, (*self.treatment, *self.context) or self.every)

    def method(self, names: Mapping[str, Any]) -> str:
        return self.label(names, self.treatment or self.every)

    def setting(self, names: Mapping[str, Any]) -> str:
        """Return the setting of an arm; empty if no column is the context."""
        return self.label(names, self.context) if self.context else ""

    def label(self, names: Mapping[str, Any], chosen: Sequence[str]) -> str:
        return label({name: names.get(name) for name in chosen if self.says(name, names)}, chosen, self.every)

    def says(self, name: str, names: Mapping[str, Any]) -> bool:
        return name in names and not (name in self.optional and names[name] is None)


def columns(table: StudyTable) -> Columns:
    """Determine which columns describe the treatment, and which the context. Without a baseline, numeric columns are
    the context."""
    study = table.study
    arms = [arm.names for arm in study.arms]
    all_columns = tuple(dict.fromkeys(name for names in arms for name in names))
    varying = [name for name in all_columns if len({repr(names.get(name)) for names in arms}) > 1]
    differing = {
        name
        for comparison in table.comparisons
        for name in varying
        if comparison.arm.names.get(name) != comparison.baseline.names.get(name)
    }
    chosen = differing or study.baseline.keys() & set(varying)
    if not study.baseline:
        chosen = {name for name in varying if not all(numeric(names.get(name)) for names in arms)} or set(varying)
    treatment = tuple(name for name in varying if name in chosen)
    optional = frozenset(treatment) - study.baseline.keys() if study.baseline else frozenset()
    return Columns(treatment, tuple(name for name in varying if name not in chosen), all_columns, optional)


def numeric(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def short(name: str, names: Iterable[str]) -> str:
    """Return the last part of a path, if no other column ends in it.

    >>> short("data.shots", ["data.shots", "seed"]), short("a.lr", ["a.lr", "b.lr"])
    ('shots', 'a.lr')
    """
    last = name.rpartition(".")[2]
    return last if [column.rpartition(".")[2] for column in names].count(last) == 1 else name


def label(names: Mapping[str, Any], chosen: Sequence[str], every: Sequence[str]) -> str:
    """Return the label of an arm: texts stand alone, numbers follow the name of their column.

    >>> label({"method": "LoRA", "data.labels": 16}, ["method", "data.labels"], ["method", "data.labels"])
    'LoRA · labels 16'
    """
    parts = [
        names[name] if isinstance(names[name], str) else f"{short(name, every)} {value(names[name])}"
        for name in chosen
        if name in names
    ]
    return BETWEEN.join(parts) or "all"


def value(item: object) -> str:
    """Return a cell's name as text.

    >>> [value(x) for x in (16, 0.001, 1e-05, True, None, "LoRA")]
    ['16', '0.001', '1e-05', 'True', 'None', 'LoRA']
    """
    return f"{item:g}" if isinstance(item, float) else str(item)


class Unit(NamedTuple):
    """Format values of a metric and their differences: shares as per cent and points, others unchanged."""

    share: bool
    digits: int

    @property
    def points(self) -> str:
        return "\N{NO-BREAK SPACE}points" if self.share else ""

    def value(self, number: float) -> str:
        if not math.isfinite(number):
            return "–"
        return words.percent(number, self.digits) if self.share else words.number(number, pad=True)

    def gain(self, number: float) -> str:
        """Return a difference with its sign, in points for a share."""
        if not math.isfinite(number):
            return "–"
        text = f"{100 * number:+.{self.digits}f}" if self.share else ("+" if number >= 0 else "") + words.number(number)
        return text.replace("-", "\N{MINUS SIGN}", 1)

    def size(self, number: float) -> str:
        """Return a difference without its sign."""
        return f"{100 * number:.{self.digits}f}" if self.share else words.number(number)

    def gains(self, low: float, high: float) -> str:
        return f"[{self.gain(low)}, {self.gain(high)}]" if math.isfinite(low) else "–"

    def span(self, low: float, high: float) -> str:
        """Return an interval of values, without the unit."""
        if not math.isfinite(low):
            return "–"
        ends = (f"{100 * end:.{self.digits}f}" if self.share else words.number(end, pad=True) for end in (low, high))
        return f"[{', '.join(ends)}]".replace("-", "\N{MINUS SIGN}")


def unit(table: StudyTable) -> Unit:
    """Return the unit: a tenth of a point, or a hundredth if an interval is narrower than two tenths."""
    widths = [comparison.difference.high - comparison.difference.low for comparison in table.comparisons]
    widths += [summary.high - summary.low for summary in table.summaries]
    narrow = any(0 < width < 0.002 for width in widths)
    return Unit(table.study.declared(table.metric).points, 2 if narrow else 1)


def metric(name: str) -> str:
    """Return the words of a metric with its split: `test/f1` as "test macro F1"."""
    split = name.partition("/")[0] if "/" in name else ""
    return f"{split} {words.metric(name)}".strip()


def counted(number: int, singular: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> counted(1, "seed"), counted(3, "seed"), counted(2, "is", "are")
    ('1 seed', '3 seeds', '2 are')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
