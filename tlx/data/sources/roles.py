"""Choose the columns of a table: which are the inputs, and which is the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.sources.raw_table import LINE, RawTable
from tlx.processors.columns import LABEL

if TYPE_CHECKING:
    from tlx.data.sources.tabular import Tabular

# Usual names of columns, for sources that name none.
TEXTS = ("text", "sentence", "review", "body", "content", "comment", "document", "message", "tweet", "question")
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text_a", "text_b"),
    ("question", "context"),
)  # fmt: skip
LABELS = ("label", "labels", "class", "target", "category", "sentiment", "stars", "rating", "score", "answers", "y")
IMAGES = ("image", "img", "picture", "photo", "pixels")
SOUNDS = ("audio", "sound", "wav", "speech")
# The inputs that a source may name, in the order of the columns of a data set.
INPUTS = ("text", "text_pair", "words", "image", "audio")
# The columns that divide the rows and are neither input nor label.
DIVIDERS = ("split", "group", "time")
# A column of texts has at least this many characters a cell on average, and mostly different cells.
LONG, DIFFERENT = 12.0, 0.5
# A label has at most this share of different cells.
REPEATED = 0.2
# Rows that are looked at.
SAMPLE = 5000

Roles = dict[str, tuple[str, ...]]


def roles_of(settings: Tabular, table: RawTable) -> tuple[Roles, tuple[str, ...]]:
    """Return the columns of each role, and a note where some were chosen by their names or their content.

    Raises ValueError where a named column is missing or used twice, and where the choice is not clear.
    """
    roles: Roles = {}
    for role in (*INPUTS, LABEL):
        names = getattr(settings, role)
        if names is not None:
            roles[role] = (names,) if isinstance(names, str) else tuple(names)
    used = [name for names in roles.values() for name in names]
    for name in (*used, *(getattr(settings, role) for role in DIVIDERS if getattr(settings, role) is not None)):
        table.column(name)
    if twice := [name for name in used if used.count(name) > 1]:
        raise ValueError(f"{settings} uses the column {twice[0]!r} twice; choose a different column for each role")
    explicit = {role: names for role, names in roles.items() if names}
    free = [name for name in table.names if name not in used and name not in _dividers(settings)]
    # The inputs come first where they have one of the usual names: the label is then what is left.
    if not roles.keys() & set(INPUTS) - {"text_pair"}:
        roles |= _inputs_by_name(table, free)
        free = [name for name in free if (name,) not in roles.values()]
    if LABEL not in roles:
        roles[LABEL] = (_label(table, free),)
        free = [name for name in free if (name,) != roles[LABEL]]
    if not roles.keys() & set(INPUTS) - {"text_pair"}:
        roles["text"] = (_text(table, free),)
    roles = {role: roles[role] for role in (*INPUTS, LABEL) if roles.get(role)}
    if roles.keys() == explicit.keys():
        return roles, ()
    chosen = {name for names in roles.values() for name in names} | _dividers(settings)
    unused = [name for name in table.names if name not in chosen]
    also = f"; not used: {', '.join(map(repr, unused))}" if unused else ""
    assignments = ", ".join(f"{role} is {' + '.join(map(repr, names))}" for role, names in roles.items())
    return roles, (f"columns of {settings}: {assignments}{also}",)


def _dividers(settings: Tabular) -> set[str]:
    return {name for role in DIVIDERS if (name := getattr(settings, role)) is not None}


def _inputs_by_name(table: RawTable, free: Sequence[str]) -> Roles:
    """Return the inputs that their names or their format make clear; {} where that is none."""
    declared: Roles = {kind: (name,) for name, kind in table.kinds.items() if name in free}
    if declared:
        return declared
    lowered = {name.lower(): name for name in free}
    pairs = [pair for pair in PAIRS if set(pair) <= lowered.keys()]
    if len(pairs) == 1:
        first, second = (lowered[name] for name in pairs[0])
        return {"text": (first,), "text_pair": (second,)}
    for role, usual in (("image", IMAGES), ("audio", SOUNDS), ("text", TEXTS)):
        likely = [lowered[name] for name in usual if name in lowered]
        if len(likely) == 1:
            return {role: (likely[0],)}
    return {}


def _label(table: RawTable, free: Sequence[str]) -> str:
    """Return the only possible column of the label: by its name, by being the only one, or by its repeated cells."""
    likely = [name for name in free if name.lower() in LABELS]
    if len(likely) == 1:
        return likely[0]
    if len(free) == 1:
        return free[0]
    repeated = [name for name in likely or free if 1 < distinct(table, name)[0] <= REPEATED * distinct(table, name)[1]]
    if len(repeated) == 1:
        return repeated[0]
    raise ValueError(_unclear(table, "label", "label='...'"))


def _text(table: RawTable, free: Sequence[str]) -> str:
    """Return the only possible column of the text: by its name, by being the only one, or by its long cells."""
    likely = [name for name in free if name.lower() in TEXTS]
    if len(likely) == 1:
        return likely[0]
    if len(free) == 1:
        return free[0]
    texts = [name for name in free if is_text(table, name)]
    if len(texts) == 1:
        return texts[0]
    raise ValueError(_unclear(table, "text", "text='...'"))


def _unclear(table: RawTable, role: str, remedy: str) -> str:
    place = f"{table.name} line 1" if LINE in table.arrow.column_names else table.name
    return (
        f"{place}: the column of the {role} is not clear; the columns are "
        f"{', '.join(map(repr, table.names))}. Name the column: {remedy}"
    )


def sample(table: RawTable, name: str) -> list[Any]:
    """Return the first cells of a column that are not missing."""
    return [cell for cell in table.column(name).slice(0, SAMPLE).to_pylist() if cell is not None]


def distinct(table: RawTable, name: str) -> tuple[int, int]:
    """Return how many different cells the first rows of a column have, and how many rows that are."""
    cells = sample(table, name)
    return len({repr(cell) for cell in cells}), len(cells)


def is_text(table: RawTable, name: str) -> bool:
    """Return whether a column holds sentences: long texts, most of them different."""
    cells = sample(table, name)
    if not cells or not all(isinstance(cell, str) for cell in cells):
        return False
    return float(np.mean([len(cell) for cell in cells])) >= LONG and len(set(cells)) >= DIFFERENT * len(cells)
