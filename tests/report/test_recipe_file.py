"""A recipe is written as a config file that makes the same recipe, or the message says why it cannot be."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
from flax import linen

from tlx import Data, Optim, Recipe, Train, Weights, config, models, tasks, terms, tuning
from tlx.cli import load_recipe
from tlx.data import Arrays, Crop, Numbers
from tlx.processors import NumberProcessor
from tlx.report.recipe_file import code, config_file, write_config

ROWS = np.random.default_rng(0).normal(size=(20, 2))
RECIPES = {
    "images": Recipe(
        data=Data(target="digits", augment=(Crop(padding=1),), shots=5),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        tuning=tuning.Rules((r"stem/.*", None), (r".*", tuning.Learn(lr=0.5))),
        train=Train(steps=10, ema=0.9),
    ),
    "texts": Recipe(
        data=Data(source="sentiment/amazon", target="sentiment/movies", labels=0),
        task=tasks.Classification(),
        weights=Weights("minilm-l6", pooling="mean"),
        tuning=tuning.Lora(rank=4),
        objective=(terms.Supervised(on="source"), terms.Dann()),
        optim=Optim("adamw", lr=5e-4),
    ),
    "numbers": Recipe(
        data=Data(target=Numbers((ROWS, np.arange(20) % 2), classes=("a", "b")), processor=NumberProcessor.of(ROWS)),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(2,), input="numbers"),
    ),
    "arrays": Recipe(
        data=Data(target=Arrays({"text": ["a", "b"], "label": ["x", "y"]}, text="text")),
        task=tasks.Classification(),
        weights=Weights("minilm-l6"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Louder(tuning.Full):
    """A tuning of the user, in this file."""

    volume: int = 11


@pytest.mark.parametrize("name", RECIPES)
def test_the_file_makes_the_same_recipe(name, tmp_path):
    file = write_config(RECIPES[name], tmp_path / "mine.py")
    assert config.fingerprint(load_recipe(str(file), ())[1]) == config.fingerprint(RECIPES[name])
    assert max(map(len, file.read_text().splitlines())) <= 120


def test_fields_at_their_defaults_are_left_out():
    assert code(RECIPES["images"].train) == "Train(steps=10, ema=0.9)"
    assert "eval_batch" not in config_file(RECIPES["images"])


def test_a_class_of_the_user_is_imported_from_its_module():
    recipe = config.replace(RECIPES["images"], tuning=Louder())
    assert re.search(rf"^from {re.escape(Louder.__module__)} import Louder$", config_file(recipe), re.MULTILINE)


def test_what_cannot_be_imported_is_refused():
    @dataclass(frozen=True, kw_only=True)
    class Here(tuning.Full):
        """A tuning of a session."""

    with pytest.raises(ValueError, match=r"your class Here of this session"):
        config_file(config.replace(RECIPES["images"], tuning=Here()))
    module = models.Linen(module=linen.Dense(3), shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"model\.module is Dense"):
        config_file(config.replace(RECIPES["images"], model=module))
