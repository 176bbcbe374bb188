"""Cut examples into slices by the values of a column: each value, or the quarters of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from tlx.data.examples import Examples
from tlx.data.sources.cells import number_in
from tlx.data.sources.combined import column_values, text_of
from tlx.processors.columns import LABEL

# Numbers with more different values than this are cut at their quartiles.
FEW = 8
# A column has at most this many slices; rarer values are one slice together.
MOST = 20
EMPTY = "(empty)"


class Slice(NamedTuple):
    """A part of the examples: the column, the value in words, and the positions of its examples."""

    column: str
    value: str
    places: np.ndarray


def slices(examples: Examples, column: str) -> list[Slice]:
    """Return the slices of examples by a column, which is a column of their table or "label".

    Raises ValueError, with the nearest name, where there is no such column.
    """
    values = column_values(examples, column)
    numbers = [None if is_empty(value) else number_in(value) for value in values]
    cut = not names_classes(examples, column) and is_cut(numbers, values)
    plain = [EMPTY if is_empty(value) else text_of(value).strip() for value in values]
    titles, names = quarters(numbers) if cut else ([], plain)
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    array = np.array(names, object)
    if len(counts) > MOST:
        frequent = sorted(counts, key=lambda name: (-counts[name], name))[: MOST - 1]
        others = f"{len(counts) - len(frequent):,} other values"
        kept = np.isin(array, frequent)
        array = np.where(kept, array, others)
        order: Sequence[str] = [*frequent, others]
    else:
        order = [name for name in (*titles, EMPTY) if name in counts] if cut else sorted(counts, key=sort_key)
    return [Slice(column, name, np.flatnonzero(array == name)) for name in order]


def names_classes(examples: Examples, column: str) -> bool:
    """Return whether a column is the label, and the label names classes; their numbers are no measurements."""
    label = examples.roles.get(LABEL, ())
    return bool(examples.classes) and column in (LABEL, *label)


def is_cut(numbers: Sequence[float | None], values: Sequence[Any]) -> bool:
    """Return whether all cells that are not empty are finite numbers, and more than `FEW` of them differ."""
    filled = [number for number, value in zip(numbers, values, strict=True) if not is_empty(value)]
    finite = {number for number in filled if number is not None and math.isfinite(number)}
    return len(finite) > FEW and all(number in finite for number in filled)


def is_empty(value: Any) -> bool:
    """Return whether a cell is missing, blank, or NaN."""
    blank = isinstance(value, str) and not value.strip()
    return value is None or blank or (isinstance(value, float) and math.isnan(value))


def quarters(numbers: Sequence[float | None]) -> tuple[list[str], list[str]]:
    """Return the names of the quarters from low to high, such as "above 3 to 7", and for each number the name of its
    quarter. The quartiles divide all numbers; the names have the digits that tell the quartiles apart.

    >>> quarters([1.0, 2.0, 3.0, 4.0, None])[1]
    ['1 to 1.75', 'above 1.75 to 2.5', 'above 2.5 to 3.25', 'above 3.25 to 4', '(empty)']
    >>> quarters([1700000000.0, 1700000004.0])[0][0]
    '1700000000 to 1700000001'
    """
    finite = np.array([number for number in numbers if number is not None])
    edges = np.unique(np.quantile(finite, (0, 0.25, 0.5, 0.75, 1)))
    # Seventeen digits tell any two numbers apart. More than six are easier to read without an exponent.
    spelled = [[f"{edge:.{digits}g}" for edge in edges] for digits in range(6, 18)]
    different = [words for words in spelled if len(set(words)) == len(words)]
    plain = [words for words in different if words is spelled[0] or "e+" not in "".join(words)]
    words = (plain or different)[0]
    titles = [f"{'above ' if n else ''}{low} to {high}" for n, (low, high) in enumerate(pairwise(words))] or words
    inner = edges[1:-1]
    places = (None if number is None else int(np.searchsorted(inner, number, side="left")) for number in numbers)
    return titles, [EMPTY if place is None else titles[place] for place in places]


def sort_key(name: str) -> tuple[int, float, str]:
    """Return a key that sorts numbers by value, then texts, then the empty ones."""
    number = number_in(name)
    if name == EMPTY:
        return 2, 0.0, name
    return (0, number, name) if number is not None and not math.isnan(number) else (1, 0.0, name)
