"""A study: what it accepts, what it refuses, and the content of `study.json`."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from tlx import Study, choice, param, prod, tasks
from tlx.cli.studies import load_study
from tlx.optim import Optim
from tlx.study.base import document, settle
from tlx.tuning import Full, Probe

METHODS = choice("method", {"full": {}, "probe": {"tuning": Probe(), "optim.lr": 0.1}})


def study_with(recipe, **changes):
    inputs = {"base": recipe, "cells": prod(METHODS, param("seed", range(2))), "question": "Is a probe enough?"}
    return Study(**(inputs | changes))


def test_the_file_has_everything_that_a_reader_needs(base):
    study = study_with(base, baseline={"method": "full"}, smallest=0.01, name="probes")
    written = document(study, "x", "tlx study x.py", "x.py")
    fingerprints = [cell.fingerprint for cell in study.cells]
    assert written == {
        "name": "probes",
        "question": "Is a probe enough?",
        "baseline": {"method": "full"},
        "metric": "test/accuracy",
        "smallest": 0.01,
        "command": "tlx study x.py",
        "file": "x.py",
        "cells": [
            {"fingerprint": fingerprints[0], "names": {"method": "full", "seed": 0}, "changes": []},
            {
                "fingerprint": fingerprints[1],
                "names": {"method": "full", "seed": 1},
                "changes": [["seed", "0", "1"]],
            },
            {
                "fingerprint": fingerprints[2],
                "names": {"method": "probe", "seed": 0},
                "changes": [["tuning", "Full()", "Probe()"], ["optim.lr", "0.001", "0.1"]],
            },
            {
                "fingerprint": fingerprints[3],
                "names": {"method": "probe", "seed": 1},
                "changes": [["tuning", "Full()", "Probe()"], ["optim.lr", "0.001", "0.1"], ["seed", "0", "1"]],
            },
        ],
    }


def test_a_field_created_by_an_override_has_no_earlier_value(base):
    cells = [{"tuning": Full(), "tuning.decay": 0.5}]
    study = Study(base=replace(base, tuning=Probe()), cells=cells, question="?")
    assert document(study, "x")["cells"][0]["changes"] == [
        ["tuning", "Probe()", "Full(decay=0.5)"],
        ["tuning.decay", "-", "0.5"],
    ]


def test_the_metric_is_the_primary_metric_of_the_task_by_default(base):
    assert study_with(base).metric == "test/accuracy"
    assert study_with(replace(base, task=tasks.Regression())).metric == "test/mse"
    assert study_with(base, metric="validation/f1").metric == "validation/f1"


def test_a_baseline_may_be_a_python_value(base):
    study = study_with(base, cells=param("tuning", Full(), Probe()), baseline={"tuning": Full()})
    assert study.baseline == {"tuning": "Full()"}


def test_another_base_gives_other_cells_with_the_same_names(base):
    study = study_with(base, baseline={"method": "full"})
    other = replace(study, base=replace(base, optim=Optim("sgd")))
    assert [cell.names for cell in other.cells] == [cell.names for cell in study.cells]
    assert not other.by_fingerprint.keys() & study.by_fingerprint.keys()
    assert all(cell.recipe.optim.name == "sgd" for cell in other.cells)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"base": 3}, TypeError, "base is int, not a tlx.Recipe"),
        ({"cells": []}, ValueError, "a sweep needs at least one cell; [{}] runs the recipe"),
        (
            {"cells": choice("steps", {"few": {"train.steps": 2}})},
            ValueError,
            "'steps' is a column that tlx adds to the table; ",
        ),
        (
            {"baseline": {"methods": "full"}},
            ValueError,
            "the baseline names the column 'methods', which no cell has; close: 'method'",
        ),
        (
            {"baseline": {"method": "ful"}},
            ValueError,
            "the baseline is method=ful, but no cell has this value; close: 'full'",
        ),
        (
            {"metric": "accuracy"},
            ValueError,
            "metric is 'accuracy'; expected ",
        ),
        ({"smallest": -1.0}, ValueError, "smallest is -1; expected "),
    ],
)
def test_invalid_studies_are_refused(base, changes, error, message):
    with pytest.raises(error) as raised:
        study_with(base, **changes)
    assert message in str(raised.value)


def test_the_study_of_few_labels_has_twelve_arms_of_five_seeds():
    study = load_study(str(Path(__file__).parents[2] / "experiments" / "labels.py"), ["train.steps=2"])
    names = [cell.names for cell in study.cells]
    assert len(names) == 4 * 3 * 5
    assert set(names[0]) == {"method", "labels", "seed"}
    assert {cell.recipe.train.steps for cell in study.cells} == {2}
    # Arms that are paired by seed differ only in the method.
    assert names[0] == {"method": "full", "labels": 16, "seed": 0}
    assert [cell.recipe.data.shots for cell in study.cells[::5]] == [8, 32, 128] * 4


EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").glob("*.py"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_can_be_opened(path, monkeypatch):
    # As for a script, modules beside it can be imported.
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__doc__
    if hasattr(module, "study"):
        assert load_study(str(path), []).cells


def test_a_directory_with_other_content_is_not_changed(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError) as raised:
        settle(tmp_path / "file", document(small, "x"))
    assert str(raised.value) == f"{tmp_path / 'file'} is a file; choose another directory with --out"
    with pytest.raises(FileExistsError) as raised:
        settle(tmp_path, document(small, "x"))
    assert str(raised.value) == f"{tmp_path} is not empty and contains no study; choose another directory with --out"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
