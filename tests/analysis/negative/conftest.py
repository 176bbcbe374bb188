"""An adaptation recipe with constructed sources: the target itself, and the target with shuffled labels."""

import dataclasses

import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, tasks, terms
from tlx.data import examples

RECIPE = Recipe(
    data=Data(source="mnist5k", target="digits", labels=0, size=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
    objective=(terms.Supervised(on="source"), terms.Dann(width=8)),
    optim=Optim(lr=0.01),
    train=Train(steps=8, batch=16, eval_batch=256),
)


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)


@pytest.fixture
def recipe():
    return RECIPE


@pytest.fixture
def constructed_sources(monkeypatch):
    """`copy` is the target under another name; `shuffled` is the target with shuffled training labels."""
    real = examples.open_dataset

    def opened(name):
        if name not in ("copy", "shuffled"):
            return real(name)
        actual = real("digits")
        train = actual.splits["train"].view(np.arange(len(actual.splits["train"])))
        train.name = name
        if name == "shuffled":
            train = Shuffled.of(train)
        splits = {**actual.splits, "train": train}
        return dataclasses.replace(actual, name=name, splits=splits, fingerprint=name)

    monkeypatch.setattr(examples, "open_dataset", opened)


class Shuffled(examples.Examples):
    """The labels of a split in a random order that is drawn once."""

    @classmethod
    def of(cls, train):
        built = train._like(cls, None)
        built.key = ""
        return built

    def _label(self, record, index):
        order = np.random.default_rng(0).permutation(len(self.source))
        return super()._label(self.source[int(order[index])], index)
