"""Assign examples to splits by the data alone: no random state, so every machine agrees."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence

import numpy as np

SHARES: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}


def place(identity: str) -> float:
    """Return a number in [0, 1) that depends on `identity` alone and looks random: the first 8 bytes of its sha256."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64


def by_hash(identity: str, shares: Mapping[str, float] = SHARES) -> str:
    """Return the split of one example. Examples with one identity (a document, say) share a split."""
    where, edge = place(identity), 0.0
    for name, share in shares.items():
        edge += share
        if where < edge:
            return name
    return name


def stratified(
    labels: Sequence[int] | np.ndarray, name: str, shares: Mapping[str, float] = SHARES
) -> dict[str, np.ndarray]:
    """Return the positions of each split, in order. Every class is divided by `shares`. `name` seeds the order of the
    data set."""
    labels = np.asarray(labels)
    places = np.array([place(f"{name}/{position}") for position in range(len(labels))])
    parts: dict[str, list[np.ndarray]] = {split: [] for split in shares}
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(places[members], kind="stable")]
        edges = np.round(np.cumsum(list(shares.values())) * len(members)).astype(int)
        for split, part in zip(shares, np.split(members, edges[:-1]), strict=True):
            parts[split].append(part)
    return {split: np.sort(np.concatenate(part)) for split, part in parts.items()}


def with_all(
    parts: dict[str, np.ndarray], labels: np.ndarray, name: str, shares: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Return the parts of `stratified`; where the classes are so small that a part is empty, those of all examples
    together, whatever their class."""
    if all(map(len, parts.values())):
        return parts
    return stratified(np.zeros(len(labels), int), name, shares)


def dealt(strata: np.ndarray, name: str, count: int) -> np.ndarray:
    """Return int[N], the part of each example: parts of equal size, with equal numbers of every class, up to one.

    The examples are ordered by class, inside a class in an order that `name` seeds, and dealt out in turn.

    Args:
        strata: int[N], the class of each example.
        name: Seeds the order.
        count: The number of parts.
    """
    places = np.array([place(f"{name}/{position}") for position in range(len(strata))])
    parts = np.empty(len(strata), int)
    parts[np.lexsort((places, strata))] = np.arange(len(strata)) % count
    return parts


def by_group(groups: np.ndarray, strata: np.ndarray, name: str, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the positions of each split, in order. All examples of a group are in one split.

    The groups are taken from large to small, equal sizes in an order that `name` seeds. Each goes to the split that
    still lacks most of the classes of the group, so that every split has about its share of every class.

    Args:
        groups: int[N], the group of each example.
        strata: int[N], the class of each example.
        name: Seeds the order.
        shares: The share of each split.

    Raises:
        ValueError: There are fewer groups than splits.
    """
    numbers, members = np.unique(groups, return_inverse=True)
    if len(numbers) < len(shares):
        raise ValueError(
            f"there are {len(numbers)} groups for {', '.join(shares)}; expected at least one group for each"
        )
    classes, of_class = np.unique(strata, return_inverse=True)
    counts = np.zeros((len(numbers), len(classes)))
    np.add.at(counts, (members, of_class), 1)
    order = sorted(range(len(numbers)), key=lambda n: (-counts[n].sum(), place(f"{name}/{n}")))
    lacking = np.outer(list(shares.values()), counts.sum(0))
    total = np.maximum(counts.sum(0), 1)
    split_of = np.zeros(len(numbers), int)
    left = set(range(len(shares)))
    for step, group in enumerate(order):
        # As many groups as there are empty splits: each empty split gets one of them.
        open_splits = sorted(left) if len(order) - step <= len(left) else range(len(shares))
        split = max(open_splits, key=lambda n: (float((lacking[n] * counts[group] / total).sum()), -n))
        lacking[split] -= counts[group]
        split_of[group] = split
        left.discard(split)
    return {split: np.flatnonzero(split_of[members] == number) for number, split in enumerate(shares)}


def latest(times: np.ndarray, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the positions of each split, in order: every split is later than those before it.

    Examples with equal times are in one split.

    Args:
        times: float[N], the time of each example.
        shares: The share of each split, from early to late.

    Raises:
        ValueError: The times do not differ enough to divide the examples.
    """
    ordered = np.sort(times)
    edges = np.round(np.cumsum(list(shares.values()))[:-1] * len(times)).astype(int)
    bounds = [ordered[min(edge, len(times) - 1)] for edge in edges]
    split_of = np.searchsorted(np.array(bounds), times, side="right")
    parts = {split: np.flatnonzero(split_of == number) for number, split in enumerate(shares)}
    if empty := [split for split, part in parts.items() if not len(part)]:
        raise ValueError(
            f"no example is in the split {empty[0]!r}: {len(np.unique(times)):,} different times in {len(times):,} "
            f"rows cannot be divided by {', '.join(f'{split} {share:g}' for split, share in shares.items())}"
        )
    return parts


def png(image: np.ndarray) -> io.BytesIO:
    """Return uint8[H, W] as a PNG file object. TFDS stores such bytes unchanged, but would encode an array by
    TensorFlow."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file
