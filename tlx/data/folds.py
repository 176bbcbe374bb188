"""Divide the training split of a data set into folds, of which one is tested and the others are trained on.

With classes every fold has an equal share of each class; groups stay together. Where the examples have times, a fold is
tested by what came before it (a rolling origin; Tashman, 2000): the examples are cut by time into one block more than
there are folds, fold n tests block n + 1 and trains on the blocks before it, and the first block is only trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tlx.data.datasets.splits import by_group, dealt, latest
from tlx.processors.base import format_source

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.settings import Data
    from tlx.data.sources import Dataset


def of_fold(dataset: Dataset, folds: int, fold: int) -> tuple[Examples, Examples]:
    """Return the training examples and the tested examples of a fold: the same ones in every run.

    Raises:
        ValueError: There is no training split, there are fewer examples or groups than folds, or the times do not
            differ enough.
    """
    if "train" not in dataset.splits:
        raise ValueError(
            f"data set {dataset.name!r} has no 'train' split to divide; it has {', '.join(map(repr, dataset.splits))}"
        )
    train = dataset.splits["train"]
    if len(train) < folds:
        raise ValueError(f"data.folds={folds}, but data set {dataset.name!r} has {len(train)} training examples")
    if train.times is not None:
        blocks = [f"block {number}" for number in range(folds + 1)]
        by_time = list(latest(train.times, dict.fromkeys(blocks, 1 / len(blocks))).values())
        return train.view(np.sort(np.concatenate(by_time[: fold + 1]))), train.view(by_time[fold + 1])
    if train.groups is not None:
        names = [f"fold {number}" for number in range(folds)]
        tested = list(by_group(train.groups, train.strata(), "fold", dict.fromkeys(names, 1 / folds)).values())[fold]
    else:
        tested = np.flatnonzero(dealt(train.strata(), "fold", folds) == fold)
    return train.view(np.setdiff1d(np.arange(len(train)), tested)), train.view(tested)


def fold_notes(data: Data, dataset: Dataset, tested: Examples) -> tuple[str, ...]:
    """Return a note on what is tested where the data are divided into folds."""
    if data.folds is None:
        return ()
    train, target = dataset.splits["train"], format_source(data.target)
    order = " in the order of time, and trained on what came before" if train.times is not None else ""
    notes = [
        f"the test examples are fold {data.fold} of 0 to {data.folds - 1} of the training split of {target}{order}: "
        f"{len(tested):,} of {len(train):,} examples"
    ]
    if test := dataset.splits.get("test"):
        notes.append(
            f"the test split of {target} ({len(test):,} examples) is neither trained nor tested on, because data.folds "
            "divides the training split; data.tests=(Test(name='held-out'),) measures it too"
        )
    return tuple(notes)
