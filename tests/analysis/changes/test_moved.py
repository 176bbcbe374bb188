"""What changed in a run, from its folder to the document."""

import dataclasses
import json

import numpy as np
import pytest
from flax import linen

import tlx
from tlx import Train, models
from tlx.analysis import changes
from tlx.analysis.changes import some
from tlx.analysis.changes.table import tables
from tlx.data import Examples
from tlx.training.reopen import reopen
from tlx.trees import flatten

STAGES = ["stem", "blocks/00", "pool", "head"]


def by_name(document):
    return {row["name"]: row for row in document["stages"]}


def test_the_document_is_in_the_folder_and_names_its_origin(document, tuned):
    stored = json.loads((tuned.folder / "moved.json").read_text(), parse_constant=pytest.fail)
    assert stored == document
    assert (document["fingerprint"], document["data"]) == (tuned.result["fingerprint"], tuned.result["data"])
    assert document["before"]["fresh"] == ["head/bias", "head/kernel"]
    assert document["before"]["fresh_stages"] == ["head"]
    assert document["after"] == {"selection": "best-validation", "step": tuned.result["selected_step"]}
    assert list(by_name(document)) == STAGES
    for recorded in ("2 parameters are not in the pretrained weights", "chosen on the validation split"):
        assert any(recorded in note for note in document["notes"])


def test_a_frozen_stage_has_not_changed_and_the_others_have(document):
    stages = by_name(document)
    unchanged = stages["stem"]
    assert {row["change"] for row in unchanged["weights"].values()} == {0.0}
    assert unchanged["similarity"]["cka"] == pytest.approx(1, abs=1e-9)
    assert unchanged["similarity"]["plain"] == pytest.approx(1, abs=1e-9)
    assert unchanged["probe"]["before"] == unchanged["probe"]["after"]
    for name in STAGES[1:]:
        assert stages[name]["weights"]["all"]["relative"] > 0
        assert stages[name]["similarity"]["cka"] < 0.99


def test_stages_add_up_to_the_weights_of_the_run(document, tuned):
    opened = reopen(tuned.folder)
    before, after = flatten(opened.before.params), flatten(opened.after.params)
    change = sum(np.sum((np.asarray(after[path], np.float64) - np.asarray(before[path])) ** 2) for path in before)
    parts = [row["weights"]["all"]["change"] ** 2 for row in document["stages"]]
    assert sum(parts) == pytest.approx(change, rel=1e-6)
    assert sum(row["weights"]["all"]["count"] for row in document["stages"]) == tuned.result["parameters"]["total"]


def test_probes_read_the_information_in_the_features(document, tuned):
    """Trained features classify the digits; features of a new head trained on random labels could not."""
    probe = by_name(document)["pool"]["probe"]["after"]
    assert probe["value"] > 0.3
    assert probe["low"] < probe["value"] < probe["high"]
    assert probe["right"] / probe["examples"] == probe["value"]
    assert probe["examples"] == document["examples"]["validation"]["count"] == tuned.result["examples"]["validation"]


def test_the_line_ends_at_the_trained_weights(document, tuned):
    points = document["line"]
    assert [point["share"] for point in points] == [n / 10 for n in range(11)]
    for name in ("loss", "accuracy"):
        assert points[-1][name]["value"] == pytest.approx(tuned.metrics[f"validation/{name}"], rel=1e-5)
    assert points[0]["accuracy"]["value"] < points[-1]["accuracy"]["value"]


def test_the_test_split_is_never_opened(tuned, monkeypatch):
    read = Examples.__getitem__

    def watched(self, position):
        if self.split == "test":
            pytest.fail("the test split was read")
        return read(self, position)

    monkeypatch.setattr(Examples, "__getitem__", watched)
    changes.moved(tuned.folder, examples=16)


@pytest.mark.slow
def test_fewer_examples_are_a_stratified_part(tuned):
    parts = []
    document = changes.moved(tuned, examples=40, say=lambda part, outcome, total: parts.append((part, outcome, total)))
    splits = reopen(tuned.folder).splits
    for name in ("train", "validation"):
        stored, indices = document["examples"][name], document["examples"][name]["indices"]
        assert stored["count"] == len(indices) == 40
        full = getattr(splits, name)
        assert stored["of"] == len(full)
        assert set(indices) <= set(full.rows.tolist())
        labels = some(full, 40).labels()
        assert np.bincount(labels, minlength=10).min() >= 2
    for part in ("spectra of kernels", "features", "probes", "the line"):
        message = [(outcome, total) for name, outcome, total in parts if name == part]
        assert message[-1][0] == message[-1][1]
    with pytest.raises(ValueError, match="examples is 3; expected 8 or more"):
        changes.moved(tuned, examples=3)
    changes.moved(tuned)


def test_a_run_from_scratch_is_named(scratch):
    document = changes.moved(scratch)
    assert document["before"]["scratch"]
    assert document["before"]["fresh_stages"] == STAGES
    assert "'before' means the random initial weights" in document["notes"][0]
    # A new bias is zero, so its change has no reference.
    assert by_name(document)["head"]["weights"]["biases"]["relative"] is None
    [stages, line] = tables(document)
    assert [row[0] for row in stages.rows] == STAGES
    assert all(len(row) == len(stages.names) for row in stages.rows)
    assert len(line.rows) == 11


class Net(linen.Module):
    @linen.compact
    def __call__(self, image, train=False):
        x = linen.LayerNorm()(linen.relu(linen.Dense(4)(image.reshape(len(image), -1))))
        return linen.Dense(10)(x)


@pytest.mark.slow
def test_a_bridged_module_is_one_stage(scratch, tmp_path):
    recipe = dataclasses.replace(
        scratch.recipe,
        model=models.Linen(module=Net(), shape=(8, 8, 1)),
        train=Train(steps=2, batch=16, eval_batch=64),
    )
    run = tlx.run(recipe, tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match="--config FILE"):
        changes.moved(run)
    document = changes.moved(run, recipe=recipe)
    [stage] = document["stages"]
    assert stage["name"] == "module"
    assert stage["weights"].keys() == {"all", "kernels", "biases", "norms"}
    assert [kernel["path"] for kernel in document["kernels"]] == ["module/Dense_0/kernel", "module/Dense_1/kernel"]
