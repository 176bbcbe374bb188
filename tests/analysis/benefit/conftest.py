"""A source run with weights, and a recipe that starts from them."""

import dataclasses

import pytest

from tlx import Data, Optim, Recipe, Train, Weights, models, run, tasks, tuning

SOURCE = Recipe(
    data=Data(target="digits"),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(32,)),
    optim=Optim(lr=0.01),
    train=Train(steps=120, batch=32, eval_batch=256),
)


CONFIG = '''"""A tiny transfer."""
from tlx import Data, Optim, Recipe, Train, Weights, models, tasks

def recipe():
    return Recipe(
        data=Data(target="digits", shots=2), task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(32,)), weights=Weights({source!r}),
        optim=Optim(lr=0.003), train=Train(steps=4, batch=16, eval_every=2, eval_batch=256),
    )
'''


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        return run(SOURCE, tmp_path_factory.mktemp("source") / "run", quiet=True)


@pytest.fixture(scope="session")
def recipe(source):
    """The target itself is the source, so that transfer pays."""
    return dataclasses.replace(
        SOURCE,
        data=Data(target="digits", shots=8),
        weights=Weights(str(source.folder)),
        tuning=tuning.Full(decay=0.9),
        optim=Optim(lr=0.003),
        train=Train(steps=20, batch=16, eval_batch=256),
    )


@pytest.fixture
def tiny(source):
    """The file of a recipe with the weights of the source."""
    return CONFIG.format(source=str(source.folder))
