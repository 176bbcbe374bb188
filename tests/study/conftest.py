"""A study of small cells: a network of one layer on digits."""

import pytest

from tlx import Data, Recipe, Study, Train, models, param, tasks

BASE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    train=Train(steps=3, batch=8, eval_batch=64),
)


@pytest.fixture(scope="session")
def base():
    return BASE


@pytest.fixture
def small(base):
    """Two cells."""
    return Study(base=base, cells=param("seed", 0, 1), question="Does a seed matter?")
