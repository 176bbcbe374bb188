"""Names of classes: whether two lists name the same classes, and in which order.

>>> match(("zero", "one"), ("One ", "zero")).take
(1, 0)
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

PLACEHOLDER = re.compile(r"(?:(?:label|class)[ _-]?)?([0-9]+)")
SHOWN = 12


class Match(NamedTuple):
    """The places of our classes in another list of classes.

    `take[n]` is the place in the other list of our class n, None if the two lists do not name the same classes.
    `by_position` are our classes that were paired by their position alone, because one of the two names is a
    placeholder such as "LABEL_0", "class 0" or "0".
    """

    take: tuple[int, ...] | None
    by_position: tuple[int, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether the classes are the same in another order."""
        return self.take is not None and self.take != tuple(range(len(self.take)))


def plain(name: str) -> str:
    """Return a name without differences of case, white space and Unicode form.

    >>> plain(" New   York")
    'new york'
    """
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


def placeholder(name: str, number: int) -> bool:
    """Return whether the name of the class with this number says no more than the number.

    >>> placeholder("LABEL_1", 1), placeholder("LABEL_1", 0), placeholder("cat", 1)
    (True, False, False)
    """
    found = PLACEHOLDER.fullmatch(plain(name))
    return found is not None and found[1].lstrip("0") == str(number).lstrip("0")


def match(theirs: Sequence[str], ours: Sequence[str]) -> Match:
    """Find our classes in another list by name: first by the exact name, then without case and white space.

    Classes whose name is on one side only are paired if they have the same number and one of the two names is a
    placeholder. Every other difference means that the lists name other classes.
    """
    if len(theirs) != len(ours):
        return Match(None)
    spellings: tuple[Callable[[str], str], ...] = (str, plain)
    for complete, spelling in product((True, False), spellings):
        found = paired([*map(spelling, theirs)], [*map(spelling, ours)])
        if found is not None and not (complete and found.by_position):
            return found
    return Match(None)


def paired(theirs: list[str], ours: list[str]) -> Match | None:
    """The match of two lists of equal length in one spelling, None if there is none or a name occurs twice."""
    if len(set(theirs)) < len(theirs) or len(set(ours)) < len(ours):
        return None
    places = {name: place for place, name in enumerate(theirs)}
    rest = tuple(n for n, name in enumerate(ours) if name not in places)
    free = set(range(len(theirs))) - {places[name] for name in ours if name in places}
    if any(n not in free or not (placeholder(theirs[n], n) or placeholder(ours[n], n)) for n in rest):
        return None
    return Match(tuple(places.get(name, n) for n, name in enumerate(ours)), rest)


def contradictions(theirs: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Return our names that the other list gives to a class with another number.

    A placeholder of the other list may be given to another class, as long as the lists are not the same names in two
    orders: classes "0", "1" and "2" may be renamed to "1", "2" and "3".

    >>> contradictions(("no", "yes"), ("yes", "no")), contradictions(("no", "yes"), ("bad", "good"))
    (['yes', 'no'], [])
    """
    known, given = [plain(name) for name in theirs], [plain(name) for name in ours]
    same = sorted(known) == sorted(given)
    return [
        name
        for n, name in enumerate(ours)
        if given[n] in known[:n] + known[n + 1 :] and (same or not placeholder(given[n], known.index(given[n])))
    ]


def shown(names: Sequence[str]) -> str:
    """Return a list of class names for a message.

    >>> shown(("no", "yes"))
    '(no, yes)'
    """
    more = f", ... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"({', '.join(names[:SHOWN])}{more})"
