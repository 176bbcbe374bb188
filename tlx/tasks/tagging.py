"""Tagging schemes: which entities the tags of words name, and which tags break the scheme.

The rules are those of `seqeval` 1.2.2: its default mode, and `mode="strict"` with IOB2 and IOBES.

Shapes: B batch, T tokens, C classes, K types of entities.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx.types import Array

Scheme = Literal["BIO", "IOB1", "BIOES", ""]
# The letters of each scheme: begin, inside, end, single.
LETTERS: dict[str, str] = {"BIO": "BI", "IOB1": "BI", "BIOES": "BIES"}
TAG = re.compile(r"([BIES])(?:-(.+))?", re.DOTALL)


class Entity(NamedTuple):
    """An entity: its type, and the numbers of its first and its last word."""

    type: str
    first: int
    last: int


class Tagging(NamedTuple):
    """The rules of a scheme for some classes. Class C is a word outside of every entity, as before and after a text.

    Attributes:
        types: The types of entities [K].
        kinds: The number of the type of each class, int[C + 1]; K outside of entities.
        starts: Whether the second of two neighbouring tags begins an entity, bool[C + 1, C + 1].
        stops: Whether an entity ends between two neighbouring tags, bool[C + 1, C + 1].
        closes: Whether a tag may be the last one of an entity, bool[C + 1].
        breaks: Whether two neighbouring tags break the scheme, bool[C + 1, C + 1].
    """

    types: tuple[str, ...]
    kinds: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    closes: np.ndarray
    breaks: np.ndarray


def detected(names: Sequence[str], outside: str) -> Scheme:
    """Return the scheme that class names state; "" for plain tags.

    >>> detected(("O", "B-PER", "I-PER"), "O"), detected(("O", "PER"), "O"), detected(("O", "B"), "O")
    ('BIO', '', '')
    >>> detected(("O", "I-PER"), "O"), detected(("O", "B-PER", "E-PER", "S-PER"), "O")
    ('IOB1', 'BIOES')
    """
    matches = [TAG.fullmatch(name) for name in names if name != outside]
    if not matches or None in matches:
        return ""
    letters = {match[1] for match in matches if match}
    # A single letter may be any class, unless it is one of a pair.
    plain = any(match[2] is None for match in matches if match) and not {"B", "I"} <= letters
    if plain or not letters & {"B", "I"}:
        return ""
    if letters & {"E", "S"}:
        return "BIOES"
    return "BIO" if "B" in letters else "IOB1"


def tagging_of(names: Sequence[str], outside: str, scheme: str, strict: bool = False) -> Tagging:
    """Return the rules of a scheme for these classes.

    Args:
        names: The class names [C]: `outside`, or a letter of the scheme and a type, such as "B-PER".
        outside: The class of words outside of every entity.
        scheme: "BIO", "IOB1" or "BIOES".
        strict: Whether only entities count that follow the scheme. Otherwise a tag that continues no entity begins one,
            and an entity without a last tag ends with its last word.

    Raises:
        ValueError: A class name does not belong to the scheme.
    """
    tags = [("O", None) if name == outside else letter_and_type(name, outside, scheme) for name in names]
    tags.append(("O", None))
    types = tuple(sorted({kind for _, kind in tags if kind is not None}))
    kinds = np.array([len(types) if kind is None else types.index(kind) for _, kind in tags], np.int32)
    same = kinds[:, None] == kinds
    letters = np.array([letter for letter, _ in tags])

    def pair(before: str, after: str) -> np.ndarray:
        return np.isin(letters, list(before))[:, None] & np.isin(letters, list(after))

    inside = pair("BI", "IE") & same
    if scheme == "IOB1":
        breaks = pair("BIO", "B") & ~(pair("BI", "B") & same)
    else:
        breaks = pair("BIESO", "IE") & ~inside
        if scheme == "BIOES":
            breaks |= pair("BI", "BIESO") & ~inside
    if strict:
        closes = np.isin(letters, list("ES" if scheme == "BIOES" else "BI"))
        return Tagging(types, kinds, pair("BIESO", "BS"), ~inside, closes, breaks)
    other = ~same & pair("BIES", "BIESO")
    starts = pair("BIESO", "BS") | pair("ESO", "EI") | (~same & pair("BIESO", "BIES"))
    stops = pair("ES", "BIESO") | pair("BI", "BSO") | other
    return Tagging(types, kinds, starts, stops, letters != "O", breaks)


def letter_and_type(name: str, outside: str, scheme: str) -> tuple[str, str]:
    """Return the letter and the type of entity that a class name states; the type is "" where it states none."""
    match = TAG.fullmatch(name)
    if match is None or match[1] not in LETTERS[scheme]:
        letters = ", ".join(f"{letter}-TYPE" for letter in LETTERS[scheme])
        raise ValueError(
            f"scheme={scheme!r}, but one of the classes is {name!r}; expected {outside!r} (outside) and {letters}. Set "
            'scheme="" for plain tags'
        )
    return match[1], match[2] or ""


def entity_counts(tagging: Tagging, label: Array, prediction: Array, counted: Array) -> tuple[Array, Array, Array]:
    """Count the entities of each type that are in both, only predicted, and only true, each int[B, K].

    An entity is right if its type, its first word and its last word are right (Tjong Kim Sang and De Meulder, 2003).

    Args:
        tagging: The rules of the scheme.
        label: The true classes, int[B, T].
        prediction: The predicted classes, int[B, T].
        counted: Which tokens stand for a word, bool[B, T].
    """
    order = jnp.argsort(~counted, axis=-1, stable=True)
    present = jnp.take_along_axis(counted, order, -1)
    outside = len(tagging.kinds) - 1
    sides = []
    for tags in (label, prediction):
        words = jnp.where(present, jnp.take_along_axis(tags, order, -1), outside)
        sides.append((*entities_on_device(tagging, words), jnp.asarray(tagging.kinds)[words]))
    (true, true_end, true_kind), (guess, guess_end, guess_kind) = sides
    right = true & guess & (true_end == guess_end) & (true_kind == guess_kind)
    types = jnp.arange(len(tagging.types))

    def by_type(marks: Array, kinds: Array) -> Array:
        return (marks[..., None] & (kinds[..., None] == types)).sum(1)

    hits = by_type(right, true_kind)
    return hits, by_type(guess, guess_kind) - hits, by_type(true, true_kind) - hits


def entities_on_device(tagging: Tagging, tags: Array) -> tuple[Array, Array]:
    """Return whether an entity begins at each word, bool[B, T], and the number of the last word of the entity, int[B,
    T]."""
    length = tags.shape[1]
    outside = jnp.full_like(tags[:, :1], len(tagging.kinds) - 1)
    before = jnp.concatenate([outside, tags[:, :-1]], 1)
    after = jnp.concatenate([tags[:, 1:], outside], 1)
    stops = jnp.asarray(tagging.stops)[tags, after]
    ends = jax.lax.cummin(jnp.where(stops, jnp.arange(length), length - 1), axis=1, reverse=True)
    last = jnp.take_along_axis(tags, ends, 1)
    return jnp.asarray(tagging.starts)[before, tags] & jnp.asarray(tagging.closes)[last], ends


def entities_of(tagging: Tagging, tags: Sequence[int]) -> list[Entity]:
    """Return the entities in a list of classes, in their order."""
    outside, entities, first = len(tagging.kinds) - 1, list[Entity](), None
    padded = [outside, *tags, outside]
    for place in range(1, len(padded) - 1):
        before, tag, after = padded[place - 1 : place + 2]
        if tagging.starts[before, tag]:
            first = place
        if first is not None and tagging.stops[tag, after]:
            if tagging.closes[tag]:
                entities.append(Entity(tagging.types[tagging.kinds[tag]], first - 1, place - 1))
            first = None
    return entities


def broken_note(
    names: Sequence[str], tagging: Tagging, strict: bool, name: str, labels: Iterable[Sequence[int]]
) -> str:
    """Return a sentence on the labels that break the scheme: how many, the most frequent pair, and how they count; ""
    where none does."""
    outside, pairs, texts, total = len(names), Counter[tuple[int, int]](), 0, 0
    for tags in labels:
        total += 1
        padded = np.array([outside, *tags, outside])
        broken = tagging.breaks[padded[:-1], padded[1:]]
        texts += bool(broken.any())
        pairs.update(zip(padded[:-1][broken].tolist(), padded[1:][broken].tolist(), strict=True))
    if not pairs:
        return ""
    (before, after), most = pairs.most_common(1)[0]
    place = (
        f"{names[after]!r} at the beginning of a text" if before == outside
        else f"{names[before]!r} at the end of a text" if after == outside
        else f"{names[after]!r} after {names[before]!r}"
    )  # fmt: skip
    count = sum(pairs.values())
    rule = (
        "strict=True counts only entities that follow the scheme" if strict
        else "a tag that continues no entity begins one, and an entity without a last tag ends with its last word "
        "(the default mode of seqeval)"
    )  # fmt: skip
    return (
        f"illegal tag sequences in {texts:,} of {total:,} texts of {name}: {count:,} in all, most often {place} "
        f"({most:,} times); {rule}"
    )
