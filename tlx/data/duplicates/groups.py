"""Find the inputs that are alike, from their sketches.

Shapes: N inputs, K numbers of a signature, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tlx.data.duplicates.sketches import ALIKE_IMAGES, ALIKE_TEXTS, BANDS, PLANES, ROWS, Sketch, mixed

# Pairs whose signatures are compared at a time.
PAIRS = 200_000


class Groups(NamedTuple):
    """The groups of N inputs: int[N] each, the place of the first input of the group. Inputs of one `exact` group are
    equal; those of one `near` group are equal or nearly so. Texts without content are in no group with others."""

    exact: np.ndarray
    near: np.ndarray

    def split(self, sizes: Sequence[int]) -> list[Groups]:
        """Return the groups of parts of these sizes, with the places in the whole."""
        edges = np.cumsum(sizes)[:-1]
        return [Groups(exact, near) for exact, near in zip(*(np.split(side, edges) for side in self), strict=True)]


def grouped(sketches: Sequence[Sketch]) -> Groups:
    """Return the groups of all inputs of several sketches, one after the other.

    Where every input was decoded, its pixels or samples decide what is equal, else its bytes.
    """
    decoded = all(len(sketch.decoded) == len(sketch.content) for sketch in sketches)
    content = np.concatenate([sketch.decoded if decoded else sketch.content for sketch in sketches])
    empty = np.concatenate([sketch.empty for sketch in sketches])
    _, first, of = np.unique(content, return_index=True, return_inverse=True)
    exact = first[of]
    exact[empty] = np.flatnonzero(empty)
    if not sketches[0].kind:
        return Groups(exact, exact.copy())
    starts = np.cumsum([0, *(len(sketch.content) for sketch in sketches)])
    places = np.concatenate(
        [start + np.arange(len(sketch.decoded)) for start, sketch in zip(starts, sketches, strict=False)]
    )
    # One input of each exact group has to be compared.
    chosen = np.unique(exact[places], return_index=True)[1]
    chosen = chosen[~empty[places[chosen]]]
    signature = np.concatenate([sketch.signature for sketch in sketches])[chosen]
    return Groups(exact, joined(exact, exact[places[chosen]][near_pairs(signature, sketches[0].kind)]))


def near_pairs(signature: np.ndarray, kind: str) -> np.ndarray:
    """Return int[P, 2], places of near duplicates. Not every pair of a group is listed, but the pairs connect it."""
    if kind == "text":
        keys = [band(signature[:, ROWS * number : ROWS * (number + 1)]) for number in range(BANDS)]
        rows, alike = signature, ALIKE_TEXTS
    else:
        rows, alike = standard(signature), ALIKE_IMAGES
        keys = planes(rows)
    pairs = np.unique(np.concatenate([*map(neighbours, keys), np.zeros((0, 2), int)]), axis=0)
    similar = [
        (rows[part[:, 0]] == rows[part[:, 1]]).mean(1)
        if kind == "text"
        else (rows[part[:, 0]] * rows[part[:, 1]]).sum(1)
        for part in cut(pairs)
    ]
    return pairs[np.concatenate([*similar, np.zeros(0)]) >= alike - 1e-6]


def cut(pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the pairs in parts."""
    for start in range(0, len(pairs), PAIRS):
        yield pairs[start : start + PAIRS]


def band(minima: np.ndarray) -> np.ndarray:
    """Return uint64[N], a hash of the numbers of a band [N, ROWS]."""
    keys = np.zeros(len(minima), np.uint64)
    for column in minima.T:
        keys = mixed(keys ^ column.astype(np.uint64))
    return keys


def standard(small: np.ndarray) -> np.ndarray:
    """Return float32[N, K], small images with mean 0 and length 1, so that a product of two is their correlation; 0 for
    an image of one colour."""
    rows = small.astype(np.float32)
    rows -= rows.mean(1, keepdims=True)
    lengths = np.sqrt((rows**2).sum(1, keepdims=True))
    return np.where(lengths > 1, rows / np.maximum(lengths, 1), 0).astype(np.float32)


def planes(rows: np.ndarray) -> list[np.ndarray]:
    """Return the keys of `PLANES` bands: on which sides of 16 random planes an image lies (Charikar, 2002).

    Images that correlate with 0.99 agree in a band with probability 0.48, and in one of 8 bands with 0.99.
    """
    normals = np.random.Generator(np.random.PCG64(0)).standard_normal((rows.shape[1], 16 * PLANES)).astype(np.float32)
    bits = (rows @ normals > 0).reshape(len(rows), PLANES, 16)
    return list((bits @ (1 << np.arange(16))).T)


def neighbours(keys: np.ndarray) -> np.ndarray:
    """Return int[P, 2]: each place with the first place, and with the place before it, of the same key.

    This is linear in the number of places, however many have one key.
    """
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    is_first = np.r_[True, ordered[1:] != ordered[:-1]]
    firsts = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    rest = np.flatnonzero(~is_first)
    return np.concatenate([np.stack([firsts[rest], order[rest]], 1), np.stack([order[rest - 1], order[rest]], 1)])


def joined(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the groups after the groups of each pair are joined; a group has the number of its first place."""
    parents: dict[int, int] = {}

    def root(place: int) -> int:
        while (parent := parents.get(place, place)) != place:
            parents[place] = place = parents.get(parent, parent)
        return place

    for first, second in pairs.tolist():
        low, high = sorted((root(first), root(second)))
        parents[high] = low
    result = groups.copy()
    if parents:
        members = np.flatnonzero(np.isin(groups, list(parents)))
        result[members] = [root(place) for place in groups[members].tolist()]
    return result
