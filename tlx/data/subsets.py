"""Which of the examples: so many of every class, a share of each, a long tail, some classes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tlx.trees import near_miss

if TYPE_CHECKING:
    from tlx.data.examples import Examples

Labels = Sequence[int] | np.ndarray


def subset(
    labels: Labels,
    *,
    shots: int | None = None,
    fraction: float | None = None,
    seed: int,
    classes: Mapping[int, str] | None = None,
    named: str = "shots",
) -> np.ndarray:
    """Positions, ascending, of `shots` examples of every class, or of a `fraction` of each (at least one).

    Every class is put in an order by `seed` and the first are taken, so subsets of one seed nest. `classes` are the
    names of those to take, so that one without examples is noticed; `named` is what asked for `shots`, in the error.
    Raises ValueError for a class with fewer than `shots`.
    """
    if (shots is None) == (fraction is None):
        raise ValueError("give one of shots and fraction")
    labels = np.asarray(labels)
    counts = {}
    for label in classes or np.unique(labels).tolist():
        members = int((labels == label).sum())
        if shots is not None and members < shots:
            called = repr(classes[label]) if classes else label
            raise ValueError(f"class {called} has {members} training examples, fewer than {named}={shots}")
        counts[label] = shots if shots is not None else max(1, round((fraction or 0) * members))
    return first_of_each(labels, counts, seed)


def long_tail(labels: Labels, imbalance: float, seed: int) -> np.ndarray:
    """Positions, ascending, of a long tail (Cui et al., 2019): of the class at rank r of C by its number of examples
    (those of equally many by their order), at most n / imbalance^(r / (C - 1)) are kept, and at least one, n being the
    number of the most frequent. Of one seed, those of a longer tail lie among those of a shorter one.
    """
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels, return_counts=True)
    ranked = np.argsort(-sizes, kind="stable")
    most, last = int(sizes.max()), max(1, len(classes) - 1)
    wanted = {int(classes[n]): max(1, round(most * imbalance ** (-rank / last))) for rank, n in enumerate(ranked)}
    return first_of_each(labels, wanted, seed)


def first_of_each(labels: np.ndarray, counts: Mapping[int, int], seed: int) -> np.ndarray:
    """Positions, ascending, of the first so many of every class, in the order that `seed` puts it in."""
    chosen = []
    for label, count in counts.items():
        members = np.flatnonzero(labels == label)
        # Sorting uniform numbers, for the stream behind `random` is the same in every numpy and that behind
        # `permutation` is not.
        order = np.argsort(np.random.Generator(np.random.PCG64([seed, int(label)])).random(len(members)), kind="stable")
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def numbers_of(names: Sequence[str], classes: Sequence[str], field: str, what: str) -> list[int]:
    """The numbers of the classes of these names; ValueError for one that is none of `what`'s."""
    for name in names:
        if name not in classes:
            told = f"{what} has numbers for labels" if not classes else f"{what} has no class {name!r}"
            raise ValueError(f"{field}: {told}{near_miss(name, classes)}")
    return [classes.index(name) for name in names]


def of_classes(examples: Examples, numbers: Sequence[int]) -> Examples:
    """The examples of these classes."""
    return examples.view(np.flatnonzero(np.isin(examples.labels(), numbers)))
