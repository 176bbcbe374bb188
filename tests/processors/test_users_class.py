"""A processor of a user's class: it is opened where the class is known, and named where it is not."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np
import pytest

from tlx import Data, Recipe, Train, Weights, load_pretrained, models, save_pretrained, tasks
from tlx.data import Dataset, Source
from tlx.predict import opened
from tlx.processors import Processor
from tlx.training.prepare import open_data, prepare
from tlx.types import Column, Field
from tlx.weights import Manifest, Pretrained
from tlx.weights.export import export_pretrained


@dataclass(frozen=True, kw_only=True)
class Words(Source):
    """A few texts of two classes."""

    def open(self):
        rows = [{"text": "ab"[n % 2] * n, "label": n % 2} for n in range(1, 21)]
        columns = {"text": Column("text"), "label": Column("class", ("odd", "even"))}
        return Dataset("words", {"train": rows, "validation": rows, "test": rows}, columns, "words-1")


@dataclass(frozen=True, kw_only=True)
class Counts(Processor):
    """How often each of three `letters` is in a text."""

    letters: str = "abc"
    reads: ClassVar = ("text",)

    @property
    def fields(self):
        return {"counts": Field((3,), "float32")}

    def __call__(self, example):
        return {"counts": np.array([example["text"].count(letter) for letter in self.letters], np.float32)}


@pytest.fixture
def saved(tmp_path):
    """The folder of a model with a processor of the class."""
    model = models.build(models.Mlp(inputs=(3,), widths=(4,), input="counts"), models.Pooled(2))
    variables = models.initialise(model, jax.random.key(0))
    task = tasks.Classification(classes=2, names=("odd", "even"))
    pretrained = Pretrained(model, variables, Counts(letters="xab"), Manifest("", {}, ()), task)
    return save_pretrained(pretrained, tmp_path / "saved")


def recipe(folder, **data):
    return Recipe(
        data=Data(target=Words(), **data),
        task=tasks.Classification(),
        weights=Weights(str(folder)),
        train=Train(steps=1),
    )


def test_it_is_opened_where_its_class_is_known(saved):
    assert load_pretrained(saved).processor is None
    assert load_pretrained(saved, processors=(Counts,)).processor == Counts(letters="xab")
    assert opened(saved, processor=Counts()).processor == Counts(letters="xab")


def test_an_export_holds_it(saved, tmp_path):
    written = export_pretrained(opened(saved, processor=Counts()), tmp_path / "written")
    assert load_pretrained(written, processors=(Counts,)).processor == Counts(letters="xab")
    with pytest.raises(ValueError, match=r"processor\.json uses your own class 'Counts'; .*--config FILE"):
        opened(saved)


def test_a_recipe_with_such_weights_names_the_class(saved):
    with pytest.raises(
        ValueError, match=r"processor\.json is of the class 'Counts'.*Data\(processor=Counts\(\.\.\.\)\)"
    ):
        prepare(recipe(saved), open_data(recipe(saved)))


@pytest.mark.parametrize(("letters", "notes"), [("xab", 0), ("abc", 1)])
def test_another_processor_than_that_of_the_weights_is_noted(saved, letters, notes):
    changed = recipe(saved, processor=Counts(letters=letters))
    ready = prepare(changed, open_data(changed))
    assert ready.processor == Counts(letters=letters)
    assert ready.stored_processor == Counts(letters="xab")
    named = [note for note in ready.notes if "letters='xab'" in note and "letters='abc'" in note]
    assert len(named) == notes
