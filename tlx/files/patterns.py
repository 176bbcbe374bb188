"""Match regular expressions of the user in a time that their form cannot make exponential.

`re` tries one path after another and needs exponential time for `(a+)+b`. `re` matches a pattern with few paths; any
other pattern becomes an automaton, which follows all paths at once (Thompson, 1968). References to groups and
conditions on them have no automaton and are refused.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST = 4096
MOST_STATES = 20_000
# `re` tries at most about N to this power ways through a text of N characters.
MOST_CHOICES = 3
ONE = (codes.LITERAL, codes.NOT_LITERAL, codes.ANY, codes.IN)
REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT)


class Pattern:
    """A compiled pattern. `fullmatch` returns whether it matches the whole of a text."""

    def __init__(self, pattern: str):
        self.pattern = pattern
        self.plain = re.compile(pattern)
        tree = parser.parse(pattern)
        self.automaton = None if choices(tree) <= MOST_CHOICES else Automaton(tree)

    def fullmatch(self, text: str) -> bool:
        """Return whether the pattern matches the whole `text`.

        >>> Pattern("(a+)+b").fullmatch("a" * 1000)
        False
        """
        if self.automaton is None:
            return self.plain.fullmatch(text) is not None
        return len(text) in self.automaton.ends(0, text, 0)


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str, what: str = "pattern") -> Pattern:
    """Compile a regular expression.

    Args:
        pattern: The expression, in the syntax of `re`.
        what: Its name in errors.

    Raises:
        ValueError: The expression is malformed, too long, or refers to its own groups.
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"{what} {pattern[:40]!r}... has {len(pattern):,} characters; expected at most {LONGEST:,}")
    try:
        return Pattern(pattern)
    except re.error as error:
        raise ValueError(f"{what} {pattern!r} is not a regular expression: {error}") from None
    except (RecursionError, OverflowError):
        raise ValueError(f"{what} {pattern[:40]!r}... is nested too deeply or repeats too often; simplify it") from None
    except Unsupported as error:
        raise ValueError(f"{what} {pattern!r} {error}; write it without") from None


class Unsupported(Exception):
    """A part of an expression that has no automaton of an acceptable size."""


def choices(tree: Iterable[Any]) -> int:
    """Count the places where `re` may have to try several ways; a large number where they multiply.

    >>> [choices(parser.parse(pattern)) for pattern in ("a", ".*/bias", "(a|bc)d?")]
    [0, 1, 2]
    """
    count = 0
    for code, value in tree:
        if code in REPEATS:
            low, high, body = value
            single = len(body) == 1 and body[0][0] in ONE
            # Ways within a repeated part multiply with each repetition.
            count += (0 if low == high else 1) if single else MOST_CHOICES + 1
        elif code is codes.BRANCH:
            count += 1 + max(choices(branch) for branch in value[1])
        elif code is codes.SUBPATTERN:
            count += choices(value[3])
        elif code not in (*ONE, codes.AT):
            count += MOST_CHOICES + 1
    return count


class Automaton:
    """States with edges: `single` [state] -> (test, next) for one character, `free` [state] -> [(guard, next)]."""

    def __init__(self, tree: Any):
        self.single: list[tuple[Any, int] | None] = []
        self.free: list[list[tuple[Any, int]]] = []
        self.flags = tree.state.flags
        self.start, self.accept = self.state(), self.state()
        self.link(tree, self.start, self.accept, self.flags)

    def state(self) -> int:
        """Add a state and return its number."""
        if len(self.free) >= MOST_STATES:
            raise Unsupported("repeats too much")
        self.single.append(None)
        self.free.append([])
        return len(self.free) - 1

    def link(self, tree: Iterable[Any], begin: int, end: int, flags: int) -> None:
        """Add the states and edges that lead from `begin` to `end` over the sequence `tree`."""
        here = begin
        for code, value in tree:
            after = self.state()
            self.part(code, value, here, after, flags)
            here = after
        self.free[here].append((None, end))

    def part(self, code: Any, value: Any, here: int, after: int, flags: int) -> None:
        if code in ONE:
            self.single[here] = (character(code, value, flags), after)
        elif code is codes.SUBPATTERN:
            _, on, off, body = value
            self.link(body, here, after, (flags | on) & ~off)
        elif code is codes.BRANCH:
            for way in value[1]:
                begin = self.state()
                self.free[here].append((None, begin))
                self.link(way, begin, after, flags)
        elif code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            low, high, body = value
            self.repeat(low, high, body, here, after, flags)
        elif code in (codes.ASSERT, codes.ASSERT_NOT, codes.AT):
            self.free[here].append(((code, self.guard(code, value, flags)), after))
        else:
            raise Unsupported(
                f"uses {str(code).lower()}, a back-reference or an atomic match, which tlx does not support"
            )

    def repeat(self, low: int, high: int, body: Any, here: int, after: int, flags: int) -> None:
        for _ in range(low):
            step = self.state()
            self.link(body, here, step, flags)
            here = step
        self.free[here].append((None, after))
        if high == codes.MAXREPEAT:
            loop = self.state()
            self.free[here].append((None, loop))
            self.link(body, loop, here, flags)
            return
        for _ in range(high - low):
            begin, step = self.state(), self.state()
            self.free[here].append((None, begin))
            self.link(body, begin, step, flags)
            self.free[step].append((None, after))
            here = step

    def guard(self, code: Any, value: Any, flags: int) -> Any:
        if code is codes.AT:
            # `re` itself decides where a position is: it sees one position, so it has one way.
            return re.compile(POSITIONS[value], flags & (re.MULTILINE | re.ASCII))
        direction, body = value
        if direction < 0:
            raise Unsupported("looks behind")
        begin, end = self.state(), self.state()
        self.link(body, begin, end, flags)
        return begin, end

    def ends(self, begin: int, text: str, at: int, accept: int | None = None) -> set[int]:
        """Return the positions at which a path from the state `begin` at position `at` accepts."""
        accept = self.accept if accept is None else accept
        positions: set[int] = set()
        states = {begin}
        for place in range(at, len(text) + 1):
            states = self.closure(states, text, place)
            if accept in states:
                positions.add(place)
            if place == len(text) or not states:
                break
            edges = [edge for state in states if (edge := self.single[state])]
            states = {after for test, after in edges if test.fullmatch(text[place])}
        return positions

    def closure(self, states: set[int], text: str, place: int) -> set[int]:
        """Return the states that are reached without reading a character."""
        reached, waiting = set(states), list(states)
        while waiting:
            for guard, after in self.free[waiting.pop()]:
                if after not in reached and (guard is None or self.holds(guard[0], guard[1], text, place)):
                    reached.add(after)
                    waiting.append(after)
        return reached

    def holds(self, code: Any, guard: Any, text: str, place: int) -> bool:
        if code is codes.AT:
            return guard.match(text, place) is not None
        begin, end = guard
        return bool(self.ends(begin, text, place, end)) is (code is codes.ASSERT)


POSITIONS = {
    codes.AT_BEGINNING: r"^",
    codes.AT_BEGINNING_STRING: r"\A",
    codes.AT_BOUNDARY: r"\b",
    codes.AT_NON_BOUNDARY: r"\B",
    codes.AT_END: r"$",
    codes.AT_END_STRING: r"\Z",
}
CATEGORIES = {
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_NOT_SPACE: r"\S",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_NOT_WORD: r"\W",
}


def character(code: Any, value: Any, flags: int) -> re.Pattern[str]:
    """Return the pattern of one character."""
    flags_kept = flags & (re.IGNORECASE | re.DOTALL | re.ASCII)
    if code is codes.ANY:
        return re.compile(".", flags_kept)
    if code is not codes.IN:
        return re.compile(f"[{'^' if code is codes.NOT_LITERAL else ''}{escaped(value)}]", flags_kept)
    inside = ""
    for kind, item in value:
        if kind is codes.LITERAL:
            inside += escaped(item)
        elif kind is codes.RANGE:
            inside += f"{escaped(item[0])}-{escaped(item[1])}"
        elif kind is codes.CATEGORY:
            inside += CATEGORIES[item]
    return re.compile(f"[{'^' if value[0][0] is codes.NEGATE else ''}{inside}]", flags_kept)


def escaped(point: int) -> str:
    return f"\\U{point:08x}"
