"""Count duplicates within and across splits, and list some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tlx.analysis.data.shown import described
from tlx.data.duplicates.dropping import all_groups
from tlx.data.oddities import first_of, repeated
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data import Examples
    from tlx.data.duplicates import Groups

# Pairs that are listed.
LISTED = 12


def repeats(parts: Mapping[str, Examples]) -> Json:
    """Return the duplicates of all examples.

    Returns:
        `within`: for each split with any, the number of `exact` and of `near` duplicates of an earlier example, and how
        many of the exact ones have an `other_label`. `across`: for each held-out split and each other one, how many of
        its examples are there exactly or nearly. `listed`: pairs, those of two splits first.
    """
    groups = all_groups(list(parts.values())).split([len(part) for part in parts.values()])
    by_name = dict(zip(parts, groups, strict=True))
    within = []
    for name, part in by_name.items():
        exact, near = repeated(part.exact), repeated(part.near)
        if near.any():
            other = other_labels(parts[name], part, exact)
            counts = {"exact": int(exact.sum()), "near": int((near & ~exact).sum()), "of": len(exact)}
            within.append({"split": name, **counts, "other_label": other})
    across = []
    held_out = [name for name in ("test", "validation") if name in by_name]
    for name in held_out:
        for other_name in (other for other in by_name if other != name and (other, name) != ("test", "validation")):
            exact = np.isin(by_name[name].exact, by_name[other_name].exact)
            near = np.isin(by_name[name].near, by_name[other_name].near) & ~exact
            if exact.any() or near.any():
                counts = {"exact": int(exact.sum()), "near": int(near.sum()), "of": len(exact)}
                across.append({"split": name, "other": other_name, **counts})
    return {"within": within, "across": across, "listed": pairs(parts, by_name)}


def other_labels(examples: Examples, groups: Groups, exact: np.ndarray) -> int:
    """Return how many exact duplicates have another label than the first of their group."""
    if not examples.labelled or not examples.scalar:
        return 0
    labels = examples.labels()
    return int((labels != first_of(labels, groups.exact))[exact].sum())


def pairs(parts: Mapping[str, Examples], by_name: Mapping[str, Groups]) -> list[Json]:
    """Return pairs of duplicates: the first of a group with the next one, those in two splits first."""
    names = np.concatenate([np.full(len(part), number) for number, part in enumerate(parts.values())])
    places = np.concatenate([np.arange(len(part)) for part in parts.values()])
    near = np.concatenate([groups.near for groups in by_name.values()])
    exact = np.concatenate([groups.exact for groups in by_name.values()])
    order = np.argsort(near, kind="stable")
    same = np.flatnonzero(near[order][1:] == near[order][:-1])
    candidates = [(int(order[place]), int(order[place + 1])) for place in same[: 50 * LISTED]]
    candidates.sort(key=lambda pair: (names[pair[0]] == names[pair[1]], exact[pair[0]] == exact[pair[1]]))
    split_names = list(parts)
    return [
        {
            "exact": bool(exact[first] == exact[second]),
            "examples": [
                {"split": split_names[names[n]], **described(parts[split_names[names[n]]], int(places[n]))}
                for n in (first, second)
            ],
        }
        for first, second in candidates[:LISTED]
    ]
