"""A data set without a test split has no test metric, and whatever asks for one is refused."""

import dataclasses
import json

import pytest

import tlx
from tlx import Data, Optim, Recipe, Study, Train, models, param, tasks
from tlx.analysis.classical import compare as classical
from tlx.data import Examples, examples
from tlx.study import run_study
from tlx.training.loop import How

RECIPE = Recipe(
    data=Data(target="digits"),
    task=tasks.Classification(),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim(lr=0.01),
    train=Train(steps=4, batch=16, eval_every=4, eval_batch=512),
)


@pytest.fixture(params=["none", "withheld"])
def untested(request, monkeypatch):
    """The digits under another name, without a test split, or with one whose labels are -1."""
    open_dataset = examples.open_dataset

    def opened(name):
        found = open_dataset("digits")
        held = {split: found.splits[split] for split in ("train", "validation")}
        if request.param == "withheld":
            records = [dict(found.splits["test"].source[n]) | {"label": -1} for n in range(8)]
            held["test"] = Examples("made up", "test", records, found.columns)
        return dataclasses.replace(found, name="made up", splits=held)

    monkeypatch.setattr(examples, "open_dataset", opened)


def test_a_run_without_a_test_split_measures_validation_alone_and_says_so(untested, tmp_path, capsys):
    found = tlx.run(RECIPE, tmp_path / "run")
    assert found.metrics.keys() == {f"validation/{name}" for name in ("accuracy", "f1", "loss", "ece")}
    assert found.result["test_split"] == "none" and "test" not in found.result["examples"]
    [note] = [note for note in found.result["notes"] if "this run has no test score" in note]
    said = capsys.readouterr().err
    assert f"note: {note}" in said and "validation/accuracy" in said and "test/accuracy" not in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert note[1:].replace("'", "&#39;") in page
    assert "On the validation split" in page and "On the test split" not in page
    assert {path.name for path in (tmp_path / "run" / "predictions").iterdir()} == {"validation.npz"}
    # It is whole, and taken as it is.
    again = tlx.run(RECIPE, tmp_path / "run", resume=True, quiet=True)
    assert again.result == found.result


def test_where_it_was_asked_for_the_validation_split_is_the_test(untested, tmp_path):
    recipe = dataclasses.replace(RECIPE, data=Data(target="digits", test_on="validation"))
    found = tlx.run(recipe, tmp_path / "run", quiet=True, how=How(quiet=True, leave="learned"))
    assert "test/accuracy" in found.metrics and found.result["test_split"] == "measured"
    assert any(
        "validation split of 'digits', because data.test_on='validation'" in note for note in found.result["notes"]
    )


def test_a_study_by_a_test_metric_is_refused_before_anything_is_trained(untested, tmp_path):
    base = dataclasses.replace(RECIPE, data=Data(target="elsewhere"))
    study = Study(base=base, cells=param("seed", range(2)), question="?")
    with pytest.raises(ValueError) as error:
        run_study(study, tmp_path / "study", quiet=True)
    for part in ("metric is 'test/accuracy'", "'elsewhere'", "'validation/accuracy'", "data.test_on='validation'"):
        assert part in str(error.value)
    assert not (tmp_path / "study").exists()


def test_a_study_by_a_validation_metric_is_none_the_worse(untested, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    base = dataclasses.replace(RECIPE, data=Data(target="elsewhere"))
    study = Study(base=base, cells=param("seed", range(2)), question="?", metric="validation/accuracy")
    found = run_study(study, tmp_path / "study", quiet=True)
    assert found.counts["done"] == 2
    for path in (tmp_path / "study" / "cells").glob("*/result.json"):
        assert json.loads(path.read_text())["test_split"] == "none"


def test_classical_methods_are_refused_too(untested, tmp_path):
    recipe = dataclasses.replace(RECIPE, data=Data(target="elsewhere", source="mnist5k", labels=0))
    with pytest.raises(ValueError, match="compared on the test split, but 'elsewhere' has no test split with labels"):
        classical(recipe, tmp_path / "out")


def constant_run(tmp_path, task=RECIPE.task, **changes):
    return tlx.run(dataclasses.replace(RECIPE, task=task, **changes), tmp_path / "run")


def test_a_classifier_that_always_answers_one_class_is_told(tmp_path, capsys):
    # A rate that pushes the bias of one class beyond all else.
    found = constant_run(tmp_path, optim=Optim("sgd", lr=1e4, schedule="constant"))
    notes = [note for note in found.result["notes"] if "the model predicts" in note]
    assert (
        len(notes) == 2
        and notes[1].startswith("the model predicts '")
        and notes[1].endswith(" for all 359 test examples")
    )
    said = capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for note in notes:
        assert f"note: {note}" in said and note[1:].replace("'", "&#39;") in page


def test_more_classes_than_the_data_have_and_a_batch_beyond_the_data_are_told(tmp_path, capsys):
    found = constant_run(
        tmp_path, task=tasks.Classification(classes=11), data=Data(target="digits", shots=1),
        train=dataclasses.replace(RECIPE.train, batch=16),
    )  # fmt: skip
    expected = (
        "the task has 11 classes and the data have 10: there are no examples of the other classes",
        "train has 10 examples, fewer than the batch size 16: one step uses some examples more than once",
    )
    said = capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for note in expected:
        assert note in found.result["notes"] and f"note: {note}" in said and note[1:] in page
