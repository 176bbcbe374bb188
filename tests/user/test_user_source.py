"""A user-defined source: records in memory, with declared columns."""

import pytest

FILE = '''
from dataclasses import dataclass

import numpy as np

from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.data import Dataset, Source
from tlx.types import Column


@dataclass(frozen=True, kw_only=True)
class Bars(Source):
    """Images of a horizontal or a vertical bar under noise of the deviation `noise`."""

    count: int = 120
    noise: float = 20.0

    def open(self):
        random = np.random.default_rng(0)
        rows = [self.row(n % 2, random) for n in range(self.count)]
        columns = {"image": Column("image"), "label": Column("class", ("across", "down"))}
        splits = {"train": rows[40:], "validation": rows[:20], "test": rows[20:40]}
        return Dataset("bars", splits, columns, f"bars-{self.count}-{self.noise}")

    def row(self, label, random):
        image = np.zeros((8, 8, 1))
        place = random.integers(8)
        image[(slice(None), place) if label else place] = 200
        noisy = image + random.normal(0, self.noise, image.shape)
        return {"image": np.clip(noisy, 0, 255).astype(np.uint8), "label": label}


def recipe():
    return Recipe(
        data=Data(target=Bars()),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        optim=Optim(lr=3e-3),
        train=Train(steps=6, batch=8, eval_every=3),
    )
'''


@pytest.mark.slow
def test_a_user_defined_source_supports_all_steps(check_recipe):
    """Runs on different data do not share batches, so they train one by one or side by side, as the planner chooses."""
    check_recipe(FILE, "optim.lr", (1e-3, 1e-2))
