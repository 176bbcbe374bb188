"""Small real runs, one from scratch and one from its weights, and what changed in them."""

import dataclasses

import pytest

import tlx
from tlx import Data, Optim, Recipe, Train, Weights, models, tasks, tuning
from tlx.analysis import changes

RECIPE = Recipe(
    data=Data(target="digits", shots=10),
    task=tasks.Classification(),
    model=models.Cnn(size=8, widths=(4, 4), dense=6),
    optim=Optim(lr=0.02),
    train=Train(steps=30, batch=16, eval_batch=64, eval_every=15),
)


def without_page(make):
    """Turn the report off; it has separate tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        return make()


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return without_page(lambda: tlx.run(RECIPE, tmp_path_factory.mktemp("runs") / "scratch", quiet=True))


@pytest.fixture(scope="session")
def tuned(scratch, tmp_path_factory):
    """Start from `scratch` with a new head and a frozen stem, selected by validation."""
    recipe = dataclasses.replace(
        RECIPE,
        weights=Weights(str(scratch.folder), reset=("head/.*",)),
        tuning=tuning.Freeze(through="stem"),
        train=dataclasses.replace(RECIPE.train, select="best-validation"),
        seed=1,
    )
    return without_page(lambda: tlx.run(recipe, tmp_path_factory.mktemp("runs") / "tuned", quiet=True))


@pytest.fixture(scope="session")
def document(tuned):
    return without_page(lambda: changes.moved(tuned))
