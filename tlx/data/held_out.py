"""Find the training, validation and test splits of a data set, under any of their names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tlx.data import DATASETS
from tlx.data.datasets.splits import by_group, latest, stratified, with_all
from tlx.data.settings import Data
from tlx.processors.columns import LABEL

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.sources import Dataset


def held_out_splits(dataset: Dataset, test_on: str) -> tuple[Examples, Examples | None, Examples, str]:
    """Return the training split, the validation split (None where there is none to spare), the test split, and the
    reason why the test split is empty ("" where it is not)."""
    splits = dataset.splits
    if "train" not in splits:
        raise ValueError(f"data set {dataset.name!r} has no 'train' split; it has {', '.join(map(repr, splits))}")
    train, validation, test = splits["train"], validation_split(dataset), splits.get("test")
    if test_on == "validation":
        if validation is None:
            raise ValueError(f"data.test_on is 'validation', but data set {dataset.name!r} has no validation split")
        return train, None, validation, ""
    untested = ""
    if test is None:
        untested = f"data set {dataset.name!r} has no test split"
    elif dataset.name not in DATASETS and withheld(test, train):
        untested = f"data set {dataset.name!r} does not publish the labels of its test split"
    if not untested:
        assert test is not None
        return train, validation, test, ""
    if validation is None:
        raise ValueError(
            f"data set {dataset.name!r} has no 'test' split and no 'validation' split; expected at least one of them, "
            "or data.folds=5, which tests a fifth of the training split"
        )
    from tlx.data.examples import Sealed

    nothing = Sealed(dataset.name, "test", (), dataset.columns)
    return train, validation, nothing, f"{untested} (data.test_on='validation' tests on the validation split)"


def has_test(data: Data) -> bool:
    """Return whether there is a split to test on. Raises as `open_dataset`, and ValueError where there is no split to
    measure on."""
    from tlx.data.examples import open_dataset

    return data.folds is not None or not held_out_splits(open_dataset(data.target), data.test_on)[-1]


def validation_split(dataset: Dataset) -> Examples | None:
    """Return the validation split under any of its names, None where there is none or it is empty."""
    splits = dataset.splits
    return splits.get("validation") or splits.get("valid") or splits.get("dev")


def withheld(test: Examples, train: Examples) -> bool:
    """Return whether the test labels mark missing labels: the first class is -1; or all numbers are NaN, or all are -1
    and no training label is negative.

    Labels after the first are only read where the first is such a mark.
    """
    if not len(test):
        return False
    if not test.scalar:
        return False
    first = float(test.source[0][LABEL])
    if test.kind == "class":
        return first == -1
    if not math.isnan(first) and first != -1:
        return False
    labels = np.array([float(test.source[row][LABEL]) for row in range(len(test.source))])
    if math.isnan(first):
        return bool(np.isnan(labels).all())
    return bool((labels == -1).all()) and not (train.labels() < 0).any()


def divided(train: Examples, share: float, name: str = "validation") -> tuple[Examples, Examples]:
    """Split a training split: return it without the held-out share of every class, and that share.

    Examples of one group stay together, and where the examples have times the last ones are held out. Of a mixture each
    member holds out the same examples in every mixture.
    """
    shares = {"train": 1 - share, name: share}
    if (members := train.members) is not None:
        drawn = dict[str, list[np.ndarray]]()
        for number in range(len(members.names)):
            positions = np.flatnonzero(members.numbers == number)
            for split, chosen in stratified(np.zeros(len(positions), int), name, shares).items():
                drawn.setdefault(split, []).append(positions[chosen])
        parts = {split: np.concatenate(pieces) for split, pieces in drawn.items()}
    elif train.times is not None:
        parts = latest(train.times, shares)
    elif train.groups is not None:
        parts = by_group(train.groups, train.strata(), name, shares)
    else:
        parts = with_all(stratified(train.strata(), name, shares), train.strata(), name, shares)
    if not len(parts[name]):
        raise ValueError(
            f"{train.name} has {len(train):,} training examples, too few to hold out the share {share:g} of them for "
            f"{name}; add examples, or raise data.validation"
        )
    return train.view(parts["train"]), train.view(parts[name])
