"""Select examples: a number of each class, a share of each class, a long tail, or only some classes."""

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
    setting: str = "shots",
) -> np.ndarray:
    """Return the positions, ascending, of `shots` examples of every class, or of a `fraction` of each class (at least
    one).

    `seed` puts each class in an order and the first examples are chosen, so subsets with the same seed nest.

    Args:
        labels: int[N], the class of each example.
        shots: The number of examples of every class.
        fraction: The share of every class. Give either `shots` or `fraction`.
        seed: Draws the order.
        classes: The names of the classes to choose from, by number, so that a class without examples raises an error.
            None chooses from the classes that occur.
        setting: The name of the setting that `shots` comes from, for the error.

    Raises:
        ValueError: A class has fewer than `shots` examples.
    """
    if (shots is None) == (fraction is None):
        raise ValueError("set either shots or fraction")
    labels = np.asarray(labels)
    counts = {}
    for label in classes or np.unique(labels).tolist():
        members = int((labels == label).sum())
        if shots is not None and members < shots:
            name = repr(classes[label]) if classes else label
            raise ValueError(f"class {name} has {members} training examples, fewer than {setting}={shots}")
        counts[label] = shots if shots is not None else max(1, round((fraction or 0) * members))
    return first_of_each(labels, counts, seed)


def long_tail(labels: Labels, imbalance: float, seed: int) -> np.ndarray:
    """Return the positions, ascending, of a long-tailed subset (Cui et al., 2019).

    The class at rank r of C by its number of examples (ties keep the order of the classes) keeps at most n /
    imbalance^(r / (C - 1)) examples, and at least one, where n is the number of examples of the most frequent class.
    With one seed, a longer tail is a subset of a shorter one.
    """
    labels = np.asarray(labels)
    classes, sizes = np.unique(labels, return_counts=True)
    ranked = np.argsort(-sizes, kind="stable")
    most, last = int(sizes.max()), max(1, len(classes) - 1)
    counts = {int(classes[n]): max(1, round(most * imbalance ** (-rank / last))) for rank, n in enumerate(ranked)}
    return first_of_each(labels, counts, seed)


def first_of_each(labels: np.ndarray, counts: Mapping[int, int], seed: int) -> np.ndarray:
    """Return the positions, ascending, of the first `counts[label]` examples of every class, in the order that `seed`
    draws."""
    positions = []
    for label, count in counts.items():
        members = np.flatnonzero(labels == label)
        # Sorting uniform numbers, for the stream behind `random` is the same in every numpy and that behind
        # `permutation` is not.
        order = np.argsort(np.random.Generator(np.random.PCG64([seed, int(label)])).random(len(members)), kind="stable")
        positions.append(members[order[:count]])
    return np.sort(np.concatenate(positions)) if positions else np.zeros(0, int)


def strata_names(train: Examples, class_numbers: Sequence[int]) -> dict[int, str]:
    """Return the names of the strata from which subsets are drawn, by number: the members of a mixture, or the classes
    (`class_numbers`, or all)."""
    if (members := train.members) is not None:
        return dict(zip(members.keys.tolist(), members.names, strict=True))
    all_numbers = range(len(train.classes) if train.kind == "class" else 0)
    return {number: train.classes[number] for number in class_numbers or all_numbers}


def numbers_of(names: Sequence[str], classes: Sequence[str], field: str, what: str) -> list[int]:
    """Return the numbers of the classes with these names. Raises ValueError for a name that is no class of `what`."""
    for name in names:
        if name not in classes:
            message = (
                f"the labels of {what} are numbers, not classes" if not classes else f"{what} has no class {name!r}"
            )
            raise ValueError(f"{field}: {message}{near_miss(name, classes)}")
    return [classes.index(name) for name in names]


def of_classes(examples: Examples, numbers: Sequence[int]) -> Examples:
    """Return the examples of these classes."""
    return examples.view(np.flatnonzero(np.isin(examples.labels(), numbers)))
