"""A finished run that is opened again has exactly its initial state, or the error says why not."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, Weights, config, models, run, tasks, tuning
from tlx.training.evaluate import passes
from tlx.training.prepare import open_data, prepare
from tlx.training.reopen import Meter, aligned, batches_of, recipe_of, reopen
from tlx.trees import flatten, nest
from tlx.types import Variables

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(),
    model=models.Cnn(size=8, widths=(4, 4), dense=6),
    optim=Optim(lr=0.05),
    train=Train(steps=3, batch=16, eval_batch=64),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run from scratch, and a run from its weights with a new head and a frozen stem."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        first = run(RECIPE, folder / "first", quiet=True)
        weights = Weights(str(first.folder), reset=("head/.*",))
        recipe = dataclasses.replace(RECIPE, weights=weights, tuning=tuning.Probe(), seed=3)
        second = run(recipe, folder / "second", quiet=True)
    return first, second


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.slow
def test_the_initial_weights_are_rebuilt(runs):
    first, second = map(reopen, (one.folder for one in runs))
    assert first.ready.recipe == runs[0].recipe
    same(first.before, prepare(RECIPE, open_data(RECIPE)).variables)
    assert set(first.new) == set(flatten(first.before.params))
    assert second.new == ("head/bias", "head/kernel")
    same(second.before.params["stem"], first.after.params["stem"])
    same(second.before.params["stem"], second.after.params["stem"])
    assert not np.array_equal(second.before.params["head"]["kernel"], first.after.params["head"]["kernel"])
    assert not np.array_equal(second.before.params["head"]["kernel"], second.after.params["head"]["kernel"])


def test_the_meter_gives_the_metrics_of_the_run(runs):
    opened = reopen(runs[1].folder)
    for split in ("validation", "test"):
        actual = Meter(opened)(opened.after, split)
        for name, value in actual.metrics(opened.ready.task).items():
            assert value == pytest.approx(runs[1].metrics[f"{split}/{name}"], rel=1e-5)
        np.testing.assert_array_equal(
            actual.indices, np.load(runs[1].folder / "predictions" / f"{split}.npz")["indices"]
        )


def test_forward_passes_give_every_example_once_in_order(runs):
    opened = reopen(runs[0].folder)
    actual = passes(batches_of(opened, opened.splits.train), lambda inputs: {"mean": inputs["image"].mean((1, 2, 3))})
    np.testing.assert_array_equal(actual["index"], opened.splits.train.rows)
    np.testing.assert_array_equal(actual["label"], opened.splits.train.labels())
    assert len(actual["mean"]) == len(opened.splits.train)


def copied(runs, tmp_path, **changes):
    """Return the folder of the second run with other values in its recipe and a matching fingerprint."""
    shutil.copytree(runs[1].folder, tmp_path / "run")
    # The digests would show any other change of the files.
    (tmp_path / "run" / "files.json").unlink()
    recipe = dataclasses.replace(runs[1].recipe, **changes)
    document = {"recipe": config.dump(recipe), "fingerprint": config.fingerprint(recipe)}
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(document))
    result = json.loads((tmp_path / "run" / "result.json").read_text()) | {"fingerprint": document["fingerprint"]}
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    return tmp_path / "run"


def test_changed_initial_weights_are_detected(runs, tmp_path):
    folder = copied(runs, tmp_path, weights=None)
    with pytest.raises(ValueError, match=r"the random initial weights.* frozen parameter 'blocks/00/kernel'"):
        reopen(folder)


def test_changed_data_are_detected(runs, tmp_path):
    folder = copied(runs, tmp_path, data=Data(target="digits", shots=5))
    with pytest.raises(ValueError, match="restore the data set"):
        reopen(folder)


def test_a_folder_without_a_finished_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="contains no run"):
        reopen(tmp_path)


def test_a_recipe_that_its_file_cannot_name(tmp_path):
    from flax import linen

    built = dataclasses.replace(RECIPE, model=models.Linen(module=linen.Dense(10), shape=(64,)))
    document = {"recipe": config.dump(built), "fingerprint": config.fingerprint(built)}
    (tmp_path / "recipe.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"recipe.json .*model.module: .*Dense\(.*\).* \(--config FILE\)"):
        recipe_of(tmp_path)
    assert recipe_of(tmp_path, built) == built
    with pytest.raises(ValueError, match="the config does not belong to"):
        recipe_of(tmp_path, RECIPE)


def test_parameters_removed_by_a_merge_are_left_out_and_the_others_stay(tmp_path):
    """The merged kernels of LoRA changed although they were frozen. Other parameters keep their initial values."""
    recipe = dataclasses.replace(
        RECIPE, model=models.Mlp(inputs=(8, 8, 1), widths=(4, 4)), tuning=tuning.Lora(rank=1, on="stem")
    )
    ready = prepare(recipe, open_data(recipe))
    pretrained = flatten(ready.variables.params)
    plain = {path: leaf for path, leaf in pretrained.items() if "lora" not in path}
    merged = Variables(nest(plain | {"stem/kernel": plain["stem/kernel"] + 1}), {})
    assert flatten(aligned(ready, merged, tmp_path).params).keys() == plain.keys()
    assert flatten(aligned(ready, ready.variables, tmp_path).params).keys() == pretrained.keys()
    other = Variables(nest(plain | {"blocks/00/kernel": plain["blocks/00/kernel"] + 1}), {})
    with pytest.raises(ValueError, match="the frozen parameter 'blocks/00/kernel' has other values"):
        aligned(ready, other, tmp_path)
    with pytest.raises(ValueError, match="ended with the parameter 'strange', and"):
        aligned(ready, Variables(merged.params | {"strange": np.zeros(1)}, {}), tmp_path)
