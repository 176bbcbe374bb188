"""Runs blended into one model that loads, with its metrics and the rule that chose it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import tlx
from tlx import Data, Optim, Recipe, Train, Weights, models, tasks, tuning
from tlx.analysis import soups
from tlx.functional.calibration import at_temperature, fit_temperature
from tlx.training.reopen import Meter, reopen
from tlx.trees import flatten
from tlx.weights import blend, inserted, merge

RECIPE = Recipe(
    data=Data(target="digits", shots=10),
    task=tasks.Classification(),
    model=models.Cnn(size=8, widths=(4, 4), dense=6),
    optim=Optim(lr=0.02),
    train=Train(steps=40, batch=16, eval_batch=64, eval_every=40),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An initial run, two fine-tuned runs from it, one diverged run, and an Mlp."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)

        def run_folder(name, **changes):
            return tlx.run(dataclasses.replace(RECIPE, **changes), folder / name, quiet=True).folder

        first = run_folder("first")
        pretrained = {"weights": Weights(str(first))}
        good = [run_folder(f"good{seed}", seed=seed, **pretrained) for seed in (1, 2)]
        poor = run_folder("poor", optim=Optim(lr=3.0), seed=3, **pretrained)
        other = run_folder("other", model=models.Mlp(inputs=(8, 8, 1), widths=(4,)))
    return {"first": first, "good": good, "poor": poor, "other": other}


def score(folder, variables, split="validation"):
    opened = reopen(folder)
    return Meter(opened)(variables, split).metrics(opened.ready.task)["accuracy"]


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_uniform_soup_is_written_measured_and_loads(runs, tmp_path):
    actual = soups.soup(runs["good"], tmp_path / "soup")
    built = tlx.load_pretrained(tmp_path / "soup")
    same(built.variables, blend.soup([tlx.load_pretrained(one).variables for one in runs["good"]]))
    assert built.task.names == tuple("0123456789")
    assert json.loads((tmp_path / "soup" / "blend.json").read_text()) == actual
    assert actual["selection"].startswith("uniform: ")
    for split in ("validation", "test"):
        assert actual["metrics"][f"{split}/accuracy"] == score(runs["first"], built.variables, split)
    assert [item["run"] for item in actual["ingredients"]] == [str(one) for one in runs["good"]]
    assert all(item["chosen"] for item in actual["ingredients"])
    assert actual["notes"] == []


@pytest.mark.slow
def test_the_temperature_of_a_soup_is_that_of_its_own_answers(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    base = dataclasses.replace(
        RECIPE, task=tasks.Classification(calibrate=True), weights=Weights(str(runs["first"])),
        train=dataclasses.replace(RECIPE.train, steps=10, eval_every=10),
    )  # fmt: skip
    inputs = [tlx.run(dataclasses.replace(base, seed=n), tmp_path / f"{n}", quiet=True) for n in (1, 2)]
    actual = soups.soup([run.folder for run in inputs], tmp_path / "soup")
    built, opened = tlx.load_pretrained(tmp_path / "soup"), reopen(inputs[0].folder)
    scores = Meter(opened)(built.variables, "validation").scores
    assert built.task.temperature == pytest.approx(fit_temperature(scores["logits"], scores["label"]))
    assert built.task.temperature != inputs[0].result["task"]["temperature"]
    loss = at_temperature(scores["logits"], scores["label"], built.task.temperature)["calibrated_loss"].mean()
    assert actual["metrics"]["validation/calibrated_loss"] == pytest.approx(loss)


def test_runs_with_other_units_of_their_outputs_are_refused(runs):
    def opened(mean):
        run = reopen(runs["first"])
        task = tasks.Regression(standardise=True, mean=(mean,), deviation=(2.0,))
        return run._replace(ready=run.ready._replace(task=task))

    with pytest.raises(ValueError, match=r"units.*") as error:
        soups.check_fit(opened(1.5), opened(2.5))
    assert all(part in str(error.value) for part in ("1.5", "2.5", "tasks.Regression"))


@pytest.mark.slow
def test_a_soup_of_lora_runs_is_the_mean_of_their_adapters(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    train = dataclasses.replace(RECIPE.train, steps=10, eval_every=10)
    recipe = dataclasses.replace(
        RECIPE, weights=Weights(str(runs["first"])), tuning=tuning.Lora(rank=2, on="pool"), train=train
    )
    inputs = [tlx.run(dataclasses.replace(recipe, seed=n), tmp_path / f"{n}", quiet=True).folder for n in (1, 2)]
    actual = soups.soup(inputs, tmp_path / "soup")
    built, base = tlx.load_pretrained(tmp_path / "soup"), tlx.load_pretrained(runs["first"])
    assert not inserted(built) and actual["notes"] == []
    assert actual["metrics"]["test/accuracy"] == score(runs["first"], built.variables, "test")
    adapted = [tlx.load_adapter(base, folder / "adapter") for folder in inputs]
    leaves, pretrained = flatten(built.variables.params), flatten(base.variables.params)
    mean = flatten(merge.merge(merge.sum_adapters(adapted, [0.5, 0.5]).variables).params)
    np.testing.assert_allclose(leaves["pool/kernel"], mean["pool/kernel"], rtol=1e-5, atol=1e-6)
    assert {path for path in leaves if not np.array_equal(leaves[path], pretrained[path])} == {
        "pool/kernel", "head/kernel", "head/bias"
    }  # fmt: skip


def test_a_greedy_soup_leaves_out_runs_that_lower_it_and_never_reads_the_test_split(runs, tmp_path, monkeypatch):
    calls = []
    measure = Meter.__call__
    monkeypatch.setattr(Meter, "__call__", lambda self, v, split: (calls.append(split), measure(self, v, split))[1])
    inputs = [runs["poor"], *runs["good"]]
    actual = soups.soup(inputs, tmp_path / "soup", greedy=True)
    assert calls[:-1] == ["validation"] * (len(calls) - 1)
    assert calls[-1] == "test"
    values = [item["validation"] for item in actual["ingredients"]]
    assert actual["metrics"]["validation/accuracy"] >= max(values)
    assert actual["order"][0] == int(np.argmax(values))
    assert not actual["ingredients"][0]["chosen"]
    assert actual["selection"] == "greedy, on the validation split of the first run"
    assert values[0] == pytest.approx(score(runs["first"], reopen(runs["poor"]).after))


def test_wise_is_on_the_line(runs, tmp_path):
    opened = reopen(runs["good"][0])
    for share, end in ((0.0, opened.before), (1.0, opened.after)):
        actual = soups.wise(runs["good"][0], share, tmp_path / f"{share}")
        same(tlx.load_pretrained(tmp_path / f"{share}").variables, end)
        assert actual["ends"]["after" if share else "before"] == actual["metrics"]["validation/accuracy"]
    same(opened.before, tlx.load_pretrained(runs["first"]).variables)
    actual = soups.wise(runs["good"][0], 0.3, tmp_path / "point")
    built = tlx.load_pretrained(tmp_path / "point").variables
    same(built, blend.interpolate(opened.before, opened.after, 0.3))
    assert flatten(built.stats)
    assert actual["selection"] == "none: the user chose share 0.3"
    assert soups.wise(runs["first"], 1.0, tmp_path / "scratch")["notes"] == [
        "there are no pretrained weights: share 0 means the random initial weights"
    ]


def test_incompatible_runs_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match=r"first and .*other have different models: .*'blocks/00/kernel' and "):
        soups.soup([runs["first"], runs["other"]], tmp_path / "soup")
    with pytest.raises(ValueError, match="a soup needs two runs or more, got 1"):
        soups.soup([runs["first"]], tmp_path / "soup")
    with pytest.raises(ValueError, match=r"share is 1.5; expected"):
        soups.wise(runs["first"], 1.5, tmp_path / "soup")
    with pytest.raises(FileNotFoundError, match="contains no run"):
        soups.soup([runs["first"], tmp_path], tmp_path / "soup")
    with pytest.raises(FileExistsError, match="is not empty; choose another directory"):
        soups.soup(runs["good"], runs["first"])
    assert not (tmp_path / "soup").exists()


def renamed(opened, names):
    """Return a reopened run with other class names in its data."""
    task = dataclasses.replace(opened.ready.task, names=names)
    return opened._replace(ready=opened.ready._replace(task=task), pretrained=opened.pretrained._replace(task=task))


def test_outputs_in_another_order_are_reordered_by_name(runs):
    opened = reopen(runs["first"])
    other = renamed(opened, tuple("1023456789"))
    soups.check_fit(opened, other)
    actual = soups.in_order_of(opened, other)
    head, before = (flatten(run.after.params)["head/kernel"] for run in (actual, opened))
    np.testing.assert_array_equal(head, before[:, [1, 0, *range(2, 10)]])
    assert actual.pretrained.task.names == opened.ready.task.names
    (note,) = soups.renamed([opened, other])
    assert "was reordered by class name: (1, 0, 2, " in note and "to (0, 1, 2, " in note
    (note,) = soups.renamed([opened, renamed(opened, tuple(f"LABEL_{n}" for n in range(10)))])
    assert "keep their positions" in note


def test_other_classes_are_refused(runs):
    opened = reopen(runs["first"])
    with pytest.raises(ValueError, match="have different classes"):
        soups.check_fit(opened, renamed(opened, tuple(str(n) for n in range(1, 11))))


def test_a_run_trained_on_the_selection_split_is_refused(runs):
    opened = reopen(runs["first"])
    for stored in (opened.splits.validation, opened.splits.test):
        splits = dataclasses.replace(opened.splits, streams={"source": stored.view(np.arange(5))})
        with pytest.raises(ValueError, match=f"trained on 5 of the {len(stored)} examples that .* uses for"):
            soups.check_fit(opened, opened._replace(splits=splits))
    soups.check_fit(opened, opened)


def test_inserted_parameters_are_not_written_as_plain_weights(runs):
    opened = reopen(runs["first"])
    params = opened.after.params | {"prompt": {"tokens": np.zeros((1, 2), np.float32)}}
    remaining = opened.pretrained._replace(variables=opened.after._replace(params=params))
    with pytest.raises(ValueError, match=r"has 1 parameters that its tuning added \('prompt/tokens'"):
        soups.check_plain(opened._replace(pretrained=remaining))


def test_ingredients_with_different_initial_weights_are_noted(runs):
    opened = [reopen(run) for run in (runs["first"], runs["good"][0])]
    assert len(notes := soups.notes(opened)) == 1 and notes[0].startswith("the runs started from different weights")
    assert soups.notes([opened[1], opened[1]]) == []
