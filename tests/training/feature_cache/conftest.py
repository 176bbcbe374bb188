"""A small text encoder with a real tokenizer, and a separate feature cache for each test."""

import dataclasses

import jax
import pytest

from tlx import Data, Optim, Recipe, Train, Weights, load_pretrained, models, save_pretrained, tasks, tuning
from tlx.weights import Manifest, Pretrained

CONFIG = models.Bert(vocabulary=30522, width=16, depth=3, heads=2, mlp=24, positions=64, dropout=0.2)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """The directory of the encoder: random weights, the tokenizer of MiniLM."""
    model = models.build(CONFIG)
    variables = models.initialise(model, jax.random.key(3))
    processor = load_pretrained("minilm-l6").processor
    folder = tmp_path_factory.mktemp("encoder")
    return str(save_pretrained(Pretrained(model, variables, processor, Manifest("", {}, ()), None), folder))


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The folder of the feature cache of this test."""
    monkeypatch.setattr("tlx.training.feature_cache.store.cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "prefixes"


@pytest.fixture(scope="session")
def text(encoder):
    """Return a recipe on 64 tweets."""
    return Recipe(
        data=Data(target="sentiment/tweets", shots=32, tokens=24, buckets=(16,), group=2),
        task=tasks.Classification(classes=2),
        weights=Weights(encoder, pooling="mean"),
        tuning=tuning.Freeze(through="blocks/01"),
        optim=Optim(lr=0.01, warmup=0.1, clip=1.0),
        train=Train(steps=12, batch=16, eval_every=6, eval_batch=64),
    )


@pytest.fixture(scope="session")
def image():
    """Return a recipe on 40 digits."""
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16, 12), dropout=0.3),
        tuning=tuning.Freeze(through="stem"),
        optim=Optim(lr=0.01),
        train=Train(steps=12, batch=16, eval_every=6, eval_batch=64),
    )


@pytest.fixture(scope="session")
def changed():
    """Return `changed(recipe, tuning=..., data={"shots": 8})`: the recipe with other fields, at most one level deep."""

    def change(recipe, **fields):
        built = {
            name: dataclasses.replace(getattr(recipe, name), **value) if isinstance(value, dict) else value
            for name, value in fields.items()
        }
        return dataclasses.replace(recipe, **built)

    return change
