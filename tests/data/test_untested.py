"""A data set without a test split has no test metric; every request for one is refused."""

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
def without_test(request, monkeypatch):
    """The digits under another name, without a test split, or with a test split in which all labels are -1."""
    open_dataset = examples.open_dataset

    def opened(name):
        dataset = open_dataset("digits")
        splits = {split: dataset.splits[split] for split in ("train", "validation")}
        if request.param == "withheld":
            records = [dict(dataset.splits["test"].source[n]) | {"label": -1} for n in range(8)]
            splits["test"] = Examples("made up", "test", records, dataset.columns)
        return dataclasses.replace(dataset, name="made up", splits=splits)

    monkeypatch.setattr(examples, "open_dataset", opened)


def test_a_run_without_a_test_split_measures_validation_only_and_says_so(without_test, tmp_path, capsys):
    outcome = tlx.run(RECIPE, tmp_path / "run")
    assert outcome.metrics.keys() == {f"validation/{name}" for name in outcome.result["measures"]}
    assert outcome.result["test_split"] == "none" and "test" not in outcome.result["examples"]
    [note] = [note for note in outcome.result["notes"] if "this run has no test score" in note]
    output = capsys.readouterr().err
    assert f"note: {note}" in output and "validation/accuracy" in output and "test/accuracy" not in output
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert note[1:].replace("'", "&#39;") in page
    assert "On the validation split" in page and "On the test split" not in page
    assert {path.name for path in (tmp_path / "run" / "predictions").iterdir()} == {"validation.npz"}
    # The run is complete and is read as it is.
    resumed = tlx.run(RECIPE, tmp_path / "run", resume=True, quiet=True)
    assert resumed.result == outcome.result


def test_the_validation_split_is_the_test_split_if_requested(without_test, tmp_path):
    recipe = dataclasses.replace(RECIPE, data=Data(target="digits", test_on="validation"))
    outcome = tlx.run(recipe, tmp_path / "run", quiet=True, how=How(quiet=True, leave="learned"))
    assert "test/accuracy" in outcome.metrics and outcome.result["test_split"] == "measured"
    assert any(
        "validation split of 'digits', because data.test_on='validation'" in note for note in outcome.result["notes"]
    )


def test_a_study_with_a_test_metric_is_refused_before_training(without_test, tmp_path):
    base = dataclasses.replace(RECIPE, data=Data(target="elsewhere"))
    study = Study(base=base, cells=param("seed", range(2)), question="?")
    with pytest.raises(ValueError) as error:
        run_study(study, tmp_path / "study", quiet=True)
    for part in ("metric is 'test/accuracy'", "'elsewhere'", "'validation/accuracy'", "data.test_on='validation'"):
        assert part in str(error.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_study_with_a_validation_metric_runs_as_usual(without_test, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    base = dataclasses.replace(RECIPE, data=Data(target="elsewhere"))
    study = Study(base=base, cells=param("seed", range(2)), question="?", metric="validation/accuracy")
    results = run_study(study, tmp_path / "study", quiet=True)
    assert results.counts["done"] == 2
    for path in (tmp_path / "study" / "cells").glob("*/result.json"):
        assert json.loads(path.read_text())["test_split"] == "none"


def test_classical_methods_are_refused_too(without_test, tmp_path):
    recipe = dataclasses.replace(RECIPE, data=Data(target="elsewhere", source="mnist5k", labels=0))
    with pytest.raises(ValueError, match="compared on the test split, but 'elsewhere' has no test split with labels"):
        classical(recipe, tmp_path / "out")


def constant_run(tmp_path, task=RECIPE.task, **changes):
    return tlx.run(dataclasses.replace(RECIPE, task=task, **changes), tmp_path / "run")


def test_a_classifier_with_a_constant_answer_is_noted(tmp_path, capsys):
    # With this learning rate the bias of one class exceeds everything else.
    outcome = constant_run(tmp_path, optim=Optim("sgd", lr=1e4, schedule="constant"))
    notes = [note for note in outcome.result["notes"] if "the model predicts" in note]
    assert (
        len(notes) == 2
        and notes[1].startswith("the model predicts '")
        and notes[1].endswith(" for all 359 test examples")
    )
    output = capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for note in notes:
        assert f"note: {note}" in output and note[1:].replace("'", "&#39;") in page


def test_too_many_classes_and_a_too_large_batch_are_noted(tmp_path, capsys):
    outcome = constant_run(
        tmp_path, task=tasks.Classification(classes=11), data=Data(target="digits", shots=1),
        train=dataclasses.replace(RECIPE.train, batch=16),
    )  # fmt: skip
    expected = (
        "the task has 11 classes and the data have 10: there are no examples of the other classes",
        "train has 10 examples, fewer than the batch size 16: one step uses some examples more than once",
    )
    output = capsys.readouterr().err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for note in expected:
        assert note in outcome.result["notes"] and f"note: {note}" in output and note[1:] in page
