"""The files of a finished run: a complete model for every tuning, and the adapter."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import tlx
from tlx import Data, Optim, Recipe, Train, Weights, models, tasks, tuning
from tlx.data import examples
from tlx.objectives import Supervised, Term
from tlx.training.prepare import prepare
from tlx.trees import added, flatten

RECIPE = Recipe(
    data=Data(target="digits", shots=2, size=8),
    task=tasks.Classification(classes=10),
    model=models.Vit(size=8, patch=4, channels=1, width=8, depth=1, heads=2, mlp=8),
    optim=Optim(lr=0.05, schedule="constant"),
    train=Train(steps=2, batch=16, eval_batch=512),
)
MLP = models.Mlp(inputs=(8, 8, 1), widths=(8, 8))
CNN = models.Cnn(size=8, widths=(2,), dense=8)
DENSE = r"stem|blocks/\d+"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extra(Term):
    """The supervised loss, and a parameter outside the model."""

    def insert(self, model, params, key):
        return added(params, {"extra/kernel": np.ones((2, 2), np.float32)}, "Extra")

    def loss(self, view):
        return Supervised().loss(view)


# Each tuning with its model, and whether its inserted parameters can be merged into plain weights.
RUNS = {
    "Lora": (tuning.Lora(rank=2, dropout=0.1), RECIPE.model, True),
    "Dora": (tuning.Dora(rank=2, rank_stabilised=True, on=DENSE), MLP, True),
    "Vera": (tuning.Vera(rank=4, on=DENSE), MLP, True),
    "Ia3": (tuning.Ia3(on="pool", inputs="pool"), CNN, True),
    "BitFit": (tuning.BitFit(), MLP, None),
    "Adapter": (tuning.Adapter(width=2, placement="houlsby"), RECIPE.model, False),
    "Prefix": (tuning.Prefix(tokens=2), RECIPE.model, False),
    "Prompt": (tuning.Prompt(tokens=2), RECIPE.model, False),
    "SideHead": (tuning.SideHead(), MLP, False),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Turn the report off, which has separate tests, and compile quickly."""
    monkeypatch.setattr("tlx.report.available", lambda: False)
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def finished(name, folder, **changes):
    how, model, _ = RUNS[name]
    recipe = dataclasses.replace(RECIPE, tuning=how, model=model, **changes)
    return tlx.run(recipe, folder, quiet=True), recipe


def logits(pretrained, folder):
    """Return the recorded test logits of the run, and the test logits of `pretrained`."""
    remaining = np.load(Path(folder) / "predictions" / "test.npz")
    source = examples.open_dataset("digits").splits["test"]
    chosen = range(0, len(remaining["indices"]), 29)
    image = np.stack([pretrained.processor(source[int(remaining["indices"][n])])["image"] for n in chosen])
    forward = jax.jit(lambda v, x: models.forward(pretrained.model, v, {"image": x})[0]["logits"])
    return remaining["logits"][list(chosen)], np.asarray(forward(pretrained.variables, image))


# A merged tuning on a stream of blocks, and one that is not merged; the slow tests have the others.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in ("Lora", "SideHead") else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_a_run_with_any_tuning_saves_a_model_with_the_recorded_logits(name, tmp_path):
    result, recipe = finished(name, tmp_path / "run")
    merged = RUNS[name][2]
    read = tlx.load_pretrained(result.folder)
    np.testing.assert_allclose(*logits(read, result.folder), rtol=0, atol=1e-5)
    assert (result.folder / "adapter").is_dir() == (merged is not None)
    assert (result.folder / "model" / "adapter").is_dir() == (merged is False)
    assert bool(flatten(read.variables.params).keys() - flatten(read.model.params).keys()) == (merged is False)
    # After export it is the same model.
    reopened = tlx.load_pretrained(tlx.save_pretrained(read, tmp_path / "exported"))
    jax.tree.map(np.testing.assert_array_equal, reopened.variables, read.variables)
    if merged is None:
        return
    # The adapter on the base of the recipe is the model of the run.
    start, plain = prepare(recipe), prepare(dataclasses.replace(recipe, tuning=tuning.Full()))
    base = read._replace(model=plain.model, variables=plain.variables)
    other = base._replace(variables=models.initialise(plain.model, jax.random.key(5)))
    full = tlx.load_adapter(base, result.folder / "adapter")
    np.testing.assert_allclose(*logits(full, result.folder), rtol=0, atol=1e-5)
    assert flatten(full.variables.params).keys() == flatten(start.variables.params).keys()
    with pytest.raises(ValueError, match="was trained on another base"):
        tlx.load_adapter(other, result.folder / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Prefix", "SideHead", "Dora"])
def test_a_run_starts_from_a_run_with_an_adapter(name, tmp_path):
    result, _ = finished(name, tmp_path / "first")
    recipe = dataclasses.replace(RECIPE, model=None, weights=Weights(str(result.folder)), tuning=tuning.Probe())
    second = tlx.run(recipe, tmp_path / "second", quiet=True)
    np.testing.assert_allclose(*logits(tlx.load_pretrained(second.folder), second.folder), rtol=0, atol=1e-5)
    assert (second.folder / "adapter").is_dir() == (name != "Dora")


@pytest.mark.slow
def test_parameters_inserted_by_a_term_are_not_part_of_the_model(tmp_path):
    result, _ = finished("SideHead", tmp_path / "run", objective=(Extra(),))
    for folder in ("adapter", "model/adapter"):
        tensors = load_file(result.folder / folder / "adapter_model.safetensors")
        assert not [path for path in tensors if path.startswith("extra")]
    assert json.loads((result.folder / "adapter" / "adapter_config.json").read_text())["peft_type"] == "TLX"
