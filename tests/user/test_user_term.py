"""A user-defined term that compares the examples of a batch."""

import json

import pytest

FILE = '''
from dataclasses import dataclass

from tlx import Data, Optim, Recipe, Train, models, tasks, terms
from tlx.models import features


@dataclass(frozen=True, kw_only=True)
class Spread(terms.Term):
    """`weight` times the variance of the head's input over the batch of the stream `on`."""

    on: str = "labelled"
    weight: float = 0.1

    def needs(self, streams):
        return terms.Needs(forward=(self.on,), features=True, taps=("features",))

    def loss(self, view):
        spread = features(view.taps[self.on]).var(0).sum()
        return self.weight * spread, {"spread": spread}


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        objective=(terms.Supervised(), Spread()),
        optim=Optim(lr=3e-3),
        train=Train(steps=6, batch=16, eval_every=3, accumulate=2),
    )
'''


@pytest.mark.slow
def test_a_user_defined_term_supports_all_steps(check_recipe):
    artifacts = check_recipe(FILE, "objective.1.weight", (0.01, 1.0))
    lines = [json.loads(line) for line in (artifacts.folder / "metrics.jsonl").read_text().splitlines()]
    assert any(line["name"] == "train/spread/spread" for line in lines)
