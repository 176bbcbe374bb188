"""Parts that do not fit together are refused before any weights are initialised and before compilation."""

from dataclasses import dataclass

import pytest

from tlx import Data, Learn, Recipe, models, tasks, tuning
from tlx.training.prepare import prepare
from tlx.types import Phase


@dataclass(frozen=True, kw_only=True)
class Halves(tuning.Tuning):
    """Two phases with shares that do not sum to one."""

    def phases(self, model):
        return Phase(0.5, ((".*", Learn()),)), Phase(0.4, ((".*", Learn()),))


VIT = models.Vit(size=8, patch=4, channels=1, width=8, depth=1, heads=2, mlp=8)
WRONG = {
    "nothing": (
        tuning.Lora(rank=1, on=r"block/\d+/mlp/up"),
        "Lora(on='block/\\\\d+/mlp/up') matches no layer; close: 'blocks/\\\\d+/mlp/up'",
    ),
    "no matrix": (
        tuning.Vera(rank=1, on="stem/patch"),
        "Vera(on='stem/patch') matches 'stem/patch' ... dense layer: its kernel is (4, 4, 1, 8)",
    ),
    "rank": (
        tuning.Dora(rank=9),
        "rank 9 ... matrix 'blocks/00/attention/query/kernel', 8x8 ... 8",
    ),
    "rule": (
        tuning.Rules((r"block/.*", None), (".*", Learn())),
        "rule 'block/.*' ... parameter; close: 'blocks/.*'",
    ),
    "shares": (Halves(), "the shares of the phases sum to 0.9, not to 1: [0.5, 0.4]"),
    "turns": (
        tuning.InTurn((0.5, tuning.Lora(rank=9)), (0.5, tuning.Full())),
        "rank 9 ... matrix 'blocks/00/attention/query/kernel', 8x8 ... 8",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_invalid_tuning_is_refused_before_initialisation(what, monkeypatch):
    def fail_if_initialised(model, key):
        raise AssertionError("numbers were drawn")

    how, message = WRONG[what]
    monkeypatch.setattr("tlx.training.prepare.models.initialise", fail_if_initialised)
    recipe = Recipe(data=Data(target="digits"), task=tasks.Classification(classes=10), model=VIT, tuning=how)
    with pytest.raises(ValueError) as error:
        prepare(recipe)
    for part in message.split(" ... "):
        assert part in str(error.value)
