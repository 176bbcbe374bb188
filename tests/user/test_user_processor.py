"""A user-defined processor that turns texts into counts of letters."""

import pytest
from click.testing import CliRunner

from tlx import Weights, config
from tlx.cli import main
from tlx.training.prepare import open_data, prepare

FILE = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.data import Dataset, Source
from tlx.processors import Processor
from tlx.types import Column, Field


@dataclass(frozen=True, kw_only=True)
class Vowels(Source):
    """Words in which "a" or "e" comes more often."""

    def open(self):
        random = np.random.default_rng(0)
        rows = [self.row(n % 2, random) for n in range(120)]
        columns = {"text": Column("text"), "label": Column("class", ("a", "e"))}
        splits = {"train": rows[40:], "validation": rows[:20], "test": rows[20:40]}
        return Dataset("vowels", splits, columns, "vowels-1")

    def row(self, label, random):
        shares = [0.1, 0.4, 0.2, 0.2, 0.1] if label else [0.4, 0.1, 0.2, 0.2, 0.1]
        letters = random.choice(list("aebcd"), 12, p=shares)
        return {"text": "".join(letters), "label": label}


@dataclass(frozen=True, kw_only=True)
class Letters(Processor):
    """How often each of the `letters` comes in a text."""

    letters: str = "abcdefgh"

    reads: ClassVar = ("text",)
    noun: ClassVar = "a counter of letters"

    @property
    def fields(self):
        return {"counts": Field((len(self.letters),), "float32")}

    def __call__(self, example):
        return {"counts": np.array([example["text"].count(letter) for letter in self.letters], np.float32)}

    def read(self, argument):
        return {"text": argument}


def recipe():
    return Recipe(
        data=Data(target=Vowels(), processor=Letters()),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8,), widths=(8,), input="counts"),
        optim=Optim(lr=3e-2),
        train=Train(steps=6, batch=8, eval_every=3),
    )
'''


@pytest.mark.slow
def test_a_user_defined_processor_supports_all_steps(check_recipe):
    life = check_recipe(FILE, "optim.lr", (1e-3, 1e-2), examples=lambda folder: ["aabbcc", "eecbe"])
    command = ["export", str(life.folder), str(life.file.parent / "exported")]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2 and "your own class 'Letters'" in refused.output
    done = CliRunner().invoke(main, [*command, "--config", str(life.file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    further = config.replace(life.recipe, weights=Weights(str(life.folder)), model=None)
    assert prepare(further, open_data(further)).stored_processor == life.recipe.data.processor
