"""Compare lists of class names: whether they name the same classes, and in which order.

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

    Attributes:
        take: `take[n]` is the place of our class n in the other list; None if the lists do not name the same classes.
        by_position: Our classes that were paired by their position alone, because one of the two names is a
            placeholder such as "LABEL_0", "class 0" or "0".
    """

    take: tuple[int, ...] | None
    by_position: tuple[int, ...] = ()

    @property
    def moves(self) -> bool:
        """Return whether the classes are the same in another order."""
        return self.take is not None and self.take != tuple(range(len(self.take)))


def plain(name: str) -> str:
    """Return a name without differences of case, white space and Unicode form.

    >>> plain(" New   York")
    'new york'
    """
    return " ".join(unicodedata.normalize("NFKC", name).split()).casefold()


def placeholder(name: str, number: int) -> bool:
    """Return whether a class name contains no more than the number of the class.

    >>> placeholder("LABEL_1", 1), placeholder("LABEL_1", 0), placeholder("cat", 1)
    (True, False, False)
    """
    digits = PLACEHOLDER.fullmatch(plain(name))
    return digits is not None and digits[1].lstrip("0") == str(number).lstrip("0")


def match(theirs: Sequence[str], ours: Sequence[str]) -> Match:
    """Find our classes in another list by name: first by the exact name, then without case and white space.

    Two classes with different names are paired if they have the same number and one of the two names is a placeholder.
    Every other difference means that the lists name other classes.

    Args:
        theirs: The class names of the other list, in order.
        ours: Our class names, in order.
    """
    if len(theirs) != len(ours):
        return Match(None)
    spellings: tuple[Callable[[str], str], ...] = (str, plain)
    for complete, spelling in product((True, False), spellings):
        pairing = paired([*map(spelling, theirs)], [*map(spelling, ours)])
        if pairing is not None and not (complete and pairing.by_position):
            return pairing
    return Match(None)


def paired(theirs: list[str], ours: list[str]) -> Match | None:
    """Match two lists of equal length in one spelling; None if they do not match or a name occurs twice."""
    if len(set(theirs)) < len(theirs) or len(set(ours)) < len(ours):
        return None
    places = {name: place for place, name in enumerate(theirs)}
    unmatched = tuple(n for n, name in enumerate(ours) if name not in places)
    unused = set(range(len(theirs))) - {places[name] for name in ours if name in places}
    if any(n not in unused or not (placeholder(theirs[n], n) or placeholder(ours[n], n)) for n in unmatched):
        return None
    return Match(tuple(places.get(name, n) for n, name in enumerate(ours)), unmatched)


def contradictions(theirs: Sequence[str], ours: Sequence[str]) -> list[str]:
    """Return our names that belong to a class with another number in the other list.

    A placeholder of the other list may name another class in ours, unless the lists are the same names in two orders:
    classes "0", "1" and "2" may be renamed to "1", "2" and "3".

    >>> contradictions(("no", "yes"), ("yes", "no")), contradictions(("no", "yes"), ("bad", "good"))
    (['yes', 'no'], [])
    """
    their_names, our_names = [plain(name) for name in theirs], [plain(name) for name in ours]
    same = sorted(their_names) == sorted(our_names)
    return [
        name
        for n, name in enumerate(ours)
        if our_names[n] in their_names[:n] + their_names[n + 1 :]
        and (same or not placeholder(our_names[n], their_names.index(our_names[n])))
    ]


def format_names(names: Sequence[str]) -> str:
    """Return a list of class names for a message.

    >>> format_names(("no", "yes"))
    '(no, yes)'
    """
    more = f", ... and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"({', '.join(names[:SHOWN])}{more})"
