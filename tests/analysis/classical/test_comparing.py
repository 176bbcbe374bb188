"""Classical methods on the data and the model of a recipe."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Data, Recipe, Train, Weights, models, save_pretrained, tasks, terms
from tlx.analysis import classical
from tlx.analysis.benefit.arms import assigned
from tlx.analysis.classical import METHODS
from tlx.analysis.classical.comparing import Reader, check, same
from tlx.analysis.classical.methods import logistic, standard
from tlx.cli import main
from tlx.data import evaluation_batches, load
from tlx.functional import significance
from tlx.weights import Manifest, Pretrained

MODEL = models.Mlp(inputs=(8, 8, 1), widths=(24, 16))
QUICK = ("target", "coral", "kliep")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A pretrained model without a head."""
    folder = tmp_path_factory.mktemp("saved")
    built = models.build(MODEL, None)
    variables = models.initialise(built, jax.random.key(5))
    save_pretrained(Pretrained(built, variables, None, Manifest("", {}, ()), None), folder)
    return Recipe(
        data=Data(source="mnist5k", target="digits", labels=3, size=8),
        task=tasks.Classification(),
        weights=Weights(source=str(folder)),
        objective=(terms.Supervised(on="source"), terms.Supervised()),
        train=Train(eval_batch=512),
    )


@pytest.fixture(scope="module")
def compared(recipe, tmp_path_factory):
    """The document of three seeds, its folder, and the printed text."""
    folder, output = tmp_path_factory.mktemp("out") / "new", []
    document = classical.compare(recipe, folder, methods=QUICK, seeds=3, say=output.append)
    return document, folder, output


def test_all_results_are_recorded(compared, recipe):
    document, folder, _ = compared
    assert json.loads((folder / "classical.json").read_text()) == document
    actual = document["predictions"]
    labels, splits = np.array(actual["labels"]), load(recipe.data, 0)
    np.testing.assert_array_equal(labels, splits.test.labels())
    assert actual["indices"] == splits.test.rows.tolist()
    rows = {row["name"]: row for row in document["methods"]}
    assert list(rows) == ["source", *QUICK] == list(actual["by_method"])
    correct = {name: np.array(output) == labels for name, output in actual["by_method"].items()}
    for name, row in rows.items():
        assert row["accuracies"] == correct[name].mean(1).tolist()
        if name == "source":
            assert "difference" not in row
            continue
        gain = significance.paired(correct[name].mean(1), correct["source"].mean(1))
        assert row["difference"]["mean"] == gain.mean and row["difference"]["low"] == gain.low
        _, low, high = significance.over_seeds_and_examples(correct[name], correct["source"])
        assert (row["difference"]["examples_low"], row["difference"]["examples_high"]) == (low, high)
    compared_to_source = [row["difference"] for name, row in rows.items() if name != "source"]
    fixed = [name for name in QUICK if rows[name]["difference"]["by"] == "examples"]
    assert all((correct[name] == correct[name][0]).all() for name in fixed)
    for name in fixed:
        assert rows[name]["difference"]["p"] == significance.mcnemar(correct[name][0], correct["source"][0])
    assert [one["holm"] for one in compared_to_source] == significance.holm([one["p"] for one in compared_to_source])
    assert rows["target"]["difference"]["low"] < rows["target"]["difference"]["high"]


def test_seeds_draw_the_labels_that_a_run_of_the_seed_has(compared, recipe):
    document, *_ = compared
    assert [row["seed"] for row in document["seeds"]] == [0, 1, 2]
    for row in document["seeds"]:
        splits = load(recipe.data, row["seed"])
        assert row["granted"] == splits.streams["labelled"].rows.tolist() and row["data"] == splits.fingerprint
    assert len({tuple(row["granted"]) for row in document["seeds"]}) == 3
    assert document["examples"]["granted"] == 30


@pytest.mark.slow
def test_features_are_the_input_of_the_head_and_are_computed_once(recipe):
    read = Reader()
    splits = load(recipe.data, 0)
    ready = read.ready(recipe, splits)
    inputs = read.inputs(splits)
    (batch, *_) = evaluation_batches(splits.test, ready.processor, batch=7)
    x = np.asarray(batch["image"], np.float64).reshape(7, -1)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), ready.pretrained.params)
    for stage in (p["stem"], p["blocks"]["00"]):
        x = np.maximum(x @ stage["kernel"] + stage["bias"], 0)
    np.testing.assert_allclose(inputs.test[:7], x, rtol=1e-4, atol=1e-5)
    # Rows and labels belong to the same examples; labels of other examples could hardly be fitted.
    scaled, rest = standard(inputs).source, np.random.default_rng(0).permutation(inputs.labels)
    value, random = (logistic(scaled, labels).score(scaled, labels) for labels in (inputs.labels, rest))
    assert value > 2 * random
    # The labelled examples are target examples, with their labels.
    np.testing.assert_array_equal(inputs.granted_labels, splits.streams["labelled"].labels())
    places = np.flatnonzero(np.isin(splits.streams["unlabelled"].rows, splits.streams["labelled"].rows))
    np.testing.assert_array_equal(inputs.granted, inputs.target[places])
    other = load(recipe.data, 1)
    read.ready(assigned(recipe, {"seed": 1}), other)
    assert same(inputs, read.inputs(other))
    # If each seed initialises the model, the features differ.
    drawn = dataclasses.replace(recipe, weights=None, model=MODEL)
    read = Reader()
    read.ready(drawn, splits)
    before = read.inputs(splits)
    read.ready(assigned(drawn, {"seed": 1}), other)
    assert not same(before, read.inputs(other))
    assert not np.allclose(before.test, read.inputs(other).test)


def test_results_that_do_not_depend_on_the_seed_are_not_repeated(compared):
    document, _, output = compared
    assert sum("principal" in one or "source's" in one for one in output) == 0
    assert [sum(METHODS[name].about in one for one in output) for name in ("source", *QUICK)] == [1, 3, 1, 1]
    for name in ("source", "coral", "kliep"):
        first, *rest = document["predictions"]["by_method"][name]
        assert all(other == first for other in rest)


@pytest.mark.parametrize(
    ("changes", "methods", "message"),
    [
        ({"data": Data(target="digits", size=8), "objective": (terms.Supervised(),)}, None,
         "the recipe has no source, but these methods transfer from a source; give Data(source=...)"),
        ({"task": tasks.Regression()}, None, "classical methods are for tasks.Classification, not tasks.Regression"),
        ({}, ("koral",), "there is no method 'koral'; close: 'coral', 'kliep'"),
        ({"data.labels": 0, "objective": (terms.Supervised(on="source"),)}, ("tradaboost",),
         "the method 'tradaboost' needs labels of the target, but data.labels is 0, which grants none"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_compared_are_refused(recipe, tmp_path, changes, methods, message):
    for path, value in changes.items():
        recipe = assigned(recipe, {path: value})
    with pytest.raises(ValueError) as error:
        classical.compare(recipe, tmp_path / "out", methods=methods)
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


def test_a_setting_without_labels_leaves_out_methods_that_need_them(recipe):
    bare = assigned(recipe, {"data.labels": 0, "objective": (terms.Supervised(on="source"),)})
    assert check(bare, None, 1) == [name for name in METHODS if name not in ("target", "tradaboost")]
    assert check(recipe, None, 1) == list(METHODS)


def test_only_transport_is_left_out_if_its_library_is_missing(recipe, monkeypatch):
    monkeypatch.setattr("tlx.analysis.classical.comparing.find_spec", lambda name: None)
    assert check(recipe, None, 1) == [name for name in METHODS if name != "ot"]


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_the_document(tmp_path, monkeypatch):
    file = tmp_path / "digits.py"
    file.write_text(
        "from tlx import Data, Recipe, models, tasks, terms\n\n\n"
        "def recipe():\n"
        "    return Recipe(data=Data(source='mnist5k', target='digits', labels=2, size=8),\n"
        "                  task=tasks.Classification(), model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),\n"
        "                  objective=(terms.Supervised(on='source'),))\n"
    )
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        main, ["classical", str(file), "--methods", "target,subspace", "--seeds", "2", "--quiet"]
    )
    assert result.exit_code == 0, result.output
    for recorded in (
        "mnist5k to digits: 3,500 source",
        "20 granted",
        "subspace",
        "over seeds and examples",
        "random initial weights",
    ):
        assert recorded in result.output
    document = json.loads((tmp_path / "runs" / "classical-digits" / "classical.json").read_text())
    assert [row["name"] for row in document["methods"]] == ["source", "target", "subspace"]
    result = CliRunner().invoke(main, ["classical", str(file), "--methods", "pca"])
    assert result.exit_code == 2 and "tlx: there is no method 'pca'; close: " in result.output
