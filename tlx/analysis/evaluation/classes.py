"""Match the classes of other data with those of a run, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tlx.data.examples import Examples
from tlx.data.sources.cells import Cells, class_names, number_in
from tlx.data.sources.raw_table import RawTable
from tlx.data.sources.tabular import Tabular
from tlx.processors.columns import LABEL
from tlx.tasks.classes import plain
from tlx.trees import near_miss


class ClassLookup:
    """Find the classes of a run by the names of other data.

    Args:
        classes: The classes of the run's data, in the order of the model's outputs.
        names: The names that the task gives them; they may differ.
    """

    def __init__(self, classes: Sequence[str], names: Sequence[str]):
        self.classes = tuple(classes)
        self.known = tuple(dict.fromkeys((*classes, *names)))
        self.numbers: dict[str, int] = {}
        # The exact names come first, and the names of the data before those of the task.
        for spell in (str, plain, as_number):
            for listed in (classes, names):
                for number, name in enumerate(listed[: len(classes)]):
                    self.numbers.setdefault(spell(name), number)

    def find(self, name: str) -> int | None:
        """Return the number of a class; None where the run has no such class."""
        for spell in (str, plain, as_number):
            if spell(name) in self.numbers:
                return self.numbers[spell(name)]
        return None

    def unknown(self, place: str, column: str, name: str) -> ValueError:
        """Return the error for a label that is no class of the run."""
        return ValueError(
            f"{place}: {column!r} is {name!r}, which is no class of the run{near_miss(name, self.known)}; correct the "
            "label, or leave such rows out: Where(source, column=..., without=(...))"
        )


def as_number(name: str) -> str:
    """Return the name of a class that is a whole number without a point: "1" for "1.0"."""
    number = number_in(name)
    return str(int(number)) if number is not None and number.is_integer() else name


def spelled_classes(
    settings: Tabular, tables: Mapping[str, RawTable], column: str, kind: str, lookup: ClassLookup
) -> tuple[str, ...]:
    """Return the classes of a run as a column of other data spells them, in the order of the run.

    Raises ValueError for a label that is no class of the run, with its row and the nearest class, and for two spellings
    of one class.
    """
    spelled: dict[int, str] = {}
    for table in tables.values():
        cells = Cells.of(table, column)
        for number in np.unique(cells.codes).tolist():
            value = cells.values[number]
            if value is None or (isinstance(value, str) and not value.strip()):
                continue
            for name in class_names(value, settings, kind):
                place = lookup.find(name)
                if place is None:
                    raise lookup.unknown(cells.first(number), column, name)
                if spelled.setdefault(place, name) != name:
                    raise ValueError(
                        f"{cells.first(number)}: {column!r} is {name!r}, and other rows have {spelled[place]!r} for "
                        "the same class; use one spelling"
                    )
    return tuple(spelled.get(number, name) for number, name in enumerate(lookup.classes))


def aligned(examples: Examples, lookup: ClassLookup) -> Examples:
    """Return examples whose labels are numbered as the classes of the run.

    Raises ValueError for an example with a class that the run does not have.
    """
    numbers = [lookup.find(name) for name in examples.classes]
    if numbers == list(range(len(lookup.classes))):
        return examples
    unknown = {number for number, place in enumerate(numbers) if place is None}
    for position in range(len(examples)) if unknown else ():
        for label in np.ravel(examples.light(position)[LABEL]).tolist():
            if label in unknown:
                place = examples.place(int(examples.rows[position]))
                raise lookup.unknown(place, LABEL, examples.classes[label])
    mapping = np.array([-1 if place is None else place for place in numbers], np.int64)
    return examples.renamed(lookup.classes, mapping)
