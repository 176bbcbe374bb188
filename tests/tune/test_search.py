"""Searches: each sampler, one journal for many workers, no test label, failed trials, named mistakes."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tlx import Data, Optim, Recipe, Train, config, models, tasks, tuning
from tlx.data import examples
from tlx.files.documents import DocumentError
from tlx.recipe import OWN
from tlx.records.log import read_metrics
from tlx.tune import attempt, crew, integer, log_uniform, one_of, reading, search, uniform
from tlx.tune.journal import JOURNAL, JournalTurn
from tlx.tune.settings import check_settings

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim(lr=0.01),
    train=Train(steps=4, batch=16, eval_every=2, eval_batch=256),
)
SPACE = {"optim.lr": log_uniform(1e-4, 0.1), "optim.weight_decay": uniform(0.0, 0.1)}
CHOICES = {"tuning": one_of(tuning.Full(), tuning.Probe()), "train.batch": integer(8, 16, step=8)}


@pytest.fixture(autouse=True)
def no_page(monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)


def tried(actual):
    return [(one.number, one.state, one.value, one.point) for one in actual.trials]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    ["tpe", pytest.param("random", marks=pytest.mark.slow), pytest.param("cmaes", marks=pytest.mark.slow)],
)
def test_a_resumed_search_gives_the_results_of_an_unstopped_one(sampler, tmp_path):
    complete = search(RECIPE, SPACE, tmp_path / "whole", trials=4, sampler=sampler, seed=3, quiet=True)
    assert [one.state for one in complete.trials] == ["done"] * 4
    search(RECIPE, SPACE, tmp_path / "parts", trials=2, sampler=sampler, seed=3, quiet=True)
    parts = search(RECIPE, SPACE, tmp_path / "parts", trials=4, sampler=sampler, seed=3, quiet=True)
    assert tried(parts) == tried(complete)
    assert parts.best == max(parts.trials, key=lambda one: one.value)
    # All points have been tried, and more.
    for trials in (4, 1):
        second = search(RECIPE, SPACE, tmp_path / "parts", trials=trials, sampler=sampler, seed=3, quiet=True)
        assert tried(second) == tried(complete)


@pytest.mark.slow
def test_random_points_do_not_depend_on_the_number_of_trials(tmp_path):
    few = search(RECIPE, SPACE, tmp_path / "few", trials=2, sampler="random", quiet=True)
    many = search(RECIPE, SPACE, tmp_path / "many", trials=3, sampler="random", together=1, quiet=True)
    assert [one.point for one in many.trials][:2] == [one.point for one in few.trials]
    # In one program or one after another, up to rounding.
    assert [one.value for one in many.trials][:2] == pytest.approx([one.value for one in few.trials], abs=0.01)
    other = search(RECIPE, SPACE, tmp_path / "other", trials=2, sampler="random", seed=1, quiet=True)
    assert tried(other) != tried(few)


@pytest.mark.slow
def test_points_known_in_advance_run_together(tmp_path, monkeypatch):
    inputs = []

    def execute(trials, report, *more):
        inputs.append([trial.number for trial in trials])
        attempt.execute(trials, report, *more)

    monkeypatch.setattr(crew, "execute", execute)
    search(RECIPE, SPACE, tmp_path / "random", trials=3, sampler="random", together=2, quiet=True)
    assert inputs == [[0, 1], [2]]
    inputs.clear()
    # The next point depends on the earlier results.
    search(RECIPE, SPACE, tmp_path / "tpe", trials=2, sampler="tpe", together=3, quiet=True)
    assert inputs == [[0], [1]]


@pytest.mark.slow
def test_a_grid_is_tried_exactly_once(tmp_path):
    actual = search(RECIPE, CHOICES, tmp_path / "out", trials=99, sampler="grid", quiet=True)
    assert [one.point for one in actual.trials] == [
        {"tuning": how, "train.batch": batch} for how in (tuning.Full(), tuning.Probe()) for batch in (8, 16)
    ]
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 4


@pytest.mark.parametrize(("name", "value"), [("seconds", "12"), ("seconds", float("nan")), ("value", []), ("error", 1)])
def test_a_damaged_line_of_the_journal_is_named_with_its_trial(name, value, tmp_path):
    trial = SimpleNamespace(params={}, system_attrs={}, user_attrs={name: value}, state=SimpleNamespace(name="FAIL"),
                            number=3, intermediate_values={}, value=None)  # fmt: skip
    requested = SimpleNamespace(space={"seed": None}, recipe=RECIPE)
    with pytest.raises(DocumentError) as error:
        reading.record(tmp_path, requested, trial)
    assert str(error.value).startswith(f"{tmp_path / 'journal.log'}, trial 3: {name} is ")


@pytest.mark.slow
def test_a_recipe_that_occurs_twice_is_run_once(tmp_path):
    actual = search(RECIPE, CHOICES, tmp_path / "out", trials=6, quiet=True)
    assert [one.state for one in actual.trials] == ["done"] * 6
    points = {config.source(tuple(one.point.values())): one.value for one in actual.trials}
    assert len(points) == len(list((tmp_path / "out" / "cells").iterdir())) <= 4
    assert all(one.value == points[config.source(tuple(one.point.values()))] for one in actual.trials)


@pytest.mark.slow
def test_the_result_is_a_recipe_and_its_command(tmp_path):
    actual = search(
        RECIPE, SPACE | CHOICES, tmp_path / "out", trials=3, sampler="random", command="tlx run x.py", quiet=True
    )
    recipe = RECIPE
    for change in actual.changes:
        path, _, text = change.partition("=")
        recipe = config.override(recipe, path, text, OWN)
    assert recipe == actual.recipe
    assert config.fingerprint(recipe) == actual.best.fingerprint
    folder = tmp_path / "out" / "cells" / actual.best.fingerprint
    assert json.loads((folder / "result.json").read_text())["metrics"]["validation/accuracy"] == actual.best.value
    # Large files are deleted; files that a table needs are kept.
    assert not {path.name for path in folder.iterdir()} & {"model", "checkpoints", "adapter"}
    document = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert document["best"] == actual.best.number and document["before"]["optim.lr"] == 0.01
    assert document["command"].startswith("tlx run x.py --set optim.lr=0.0")
    assert document["command"].endswith(f"--set train.batch={actual.best.point['train.batch']}")
    assert [one["value"] for one in document["trials"]] == [one.value for one in actual.trials]


@pytest.mark.slow
def test_no_trial_reads_a_test_example(tmp_path, monkeypatch):
    class Unreadable(tuple):
        def __getitem__(self, row):
            raise AssertionError(f"record {row} of the test split was read")

    dataset = examples.open_dataset("digits")
    stored = dataset.splits["test"]
    hidden = examples.Examples(
        stored.name, stored.split, Unreadable(range(len(stored))), stored.columns, rows=stored.rows
    )
    monkeypatch.setattr(
        examples, "open_dataset", lambda name: dataclasses.replace(dataset, splits=dataset.splits | {"test": hidden})
    )
    actual = search(RECIPE, SPACE, tmp_path / "out", trials=3, pruner="hyperband", quiet=True)
    assert [one.error for one in actual.trials] == [None] * 3
    assert not list((tmp_path / "out").rglob("test.npz"))
    for folder in (tmp_path / "out" / "cells").iterdir():
        assert not [line for line in read_metrics(folder) if line["name"].startswith("test/")]
        assert not [name for name in json.loads((folder / "result.json").read_text())["metrics"] if "test" in name]


@pytest.mark.slow
def test_hyperband_stops_bad_trials_and_counts_their_last_value(tmp_path):
    recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, steps=18))
    space = {"optim.lr": log_uniform(1e-6, 0.1)}
    actual = search(recipe, space, tmp_path / "out", trials=8, sampler="random", pruner="hyperband", quiet=True)
    stopped = [one for one in actual.trials if one.state == "stopped"]
    assert stopped and actual.best is not None and {one.state for one in actual.trials} == {"done", "stopped"}
    for one in stopped:
        result = json.loads((tmp_path / "out" / "cells" / one.fingerprint / "result.json").read_text())
        assert result["steps"] == max(one.curve) < 18 == result["asked_steps"]
        assert one.value == one.curve[result["steps"]]


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tmp_path, capsys):
    space = {"optim.lr": one_of(0.01, float("inf"))}
    recipe = dataclasses.replace(RECIPE, optim=Optim("sgd", lr=0.01))
    actual = search(recipe, space, tmp_path / "out", trials=2, sampler="grid")
    good, bad = actual.trials
    assert (good.state, bad.state, bad.value) == ("done", "failed", None) and actual.best == good
    assert bad.error.startswith("Diverged: the loss is nan at step 2")
    output = capsys.readouterr().err.splitlines()
    assert output[0] == f"1/2  optim.lr=0.01: validation/accuracy {good.value:.4f}"
    assert output[1].startswith("2/2  optim.lr=inf: failed, Diverged: the loss is nan at step 2")
    # It is not tried again.
    assert tried(search(recipe, space, tmp_path / "out", trials=2, sampler="grid", quiet=True)) == tried(actual)


@pytest.mark.slow
def test_a_full_disk_does_not_fail_a_trial(tmp_path, monkeypatch):
    from tlx.training.checkpoint import DiskFull

    def full_disk(*given, **how):
        raise DiskFull("the disk is full")

    monkeypatch.setattr("tlx.training.run_many.train", full_disk)
    with pytest.raises(DiskFull):
        search(RECIPE, SPACE, tmp_path / "out", trials=2, quiet=True)
    monkeypatch.undo()
    monkeypatch.setattr("tlx.report.available", lambda: False)
    actual = search(RECIPE, SPACE, tmp_path / "out", trials=2, quiet=True)
    assert [one.state for one in actual.trials] == ["done", "done"]


@pytest.mark.slow
def test_a_smaller_loss_is_better_by_default(tmp_path):
    assert check_settings(RECIPE, SPACE, 1, "tpe", "none", None, None, 0).direction == "maximize"
    assert check_settings(RECIPE, SPACE, 1, "tpe", "none", "validation/loss", None, 0).direction == "minimize"
    assert check_settings(RECIPE, SPACE, 1, "tpe", "none", "loss", "maximize", 0).direction == "maximize"
    regression = dataclasses.replace(RECIPE, task=tasks.Regression())
    assert check_settings(regression, SPACE, 1, "tpe", "none", None, None, 0).direction == "minimize"
    assert check_settings(regression, SPACE, 1, "tpe", "none", "r2", None, 0).direction == "maximize"
    actual = search(RECIPE, SPACE, tmp_path / "out", trials=3, sampler="random", metric="loss", quiet=True)
    assert actual.best.value == min(one.value for one in actual.trials)


@pytest.mark.parametrize(
    ("inputs", "kind", "message"),
    [
        ({"trials": 0}, ValueError, "trials is 0; expected "),
        ({"jobs": 0}, ValueError, "jobs is 0; expected "),
        (
            {"jobs": 2},
            ValueError,
            "jobs above 1 need worker=, ",
        ),
        ({"sampler": "tpa"}, ValueError, "sampler is 'tpa'; expected one of 'tpe', 'random', 'grid', 'cmaes'"),
        ({"pruner": "median"}, ValueError, "pruner is 'median'; expected one of 'none', 'hyperband'"),
        ({"direction": "up"}, ValueError, "direction is 'up'; expected one of 'maximize', 'minimize'"),
        (
            {"metric": "test/accuracy"},
            ValueError,
            "metric is 'test/accuracy'; ",
        ),
        (
            {"metric": "acuracy"},
            ValueError,
            "metric is 'acuracy', which Classification does not measure; close: 'accuracy'",
        ),
        (
            {"sampler": "grid"},
            ValueError,
            "name the values: one_of(0.0001, 0.00316, 0.1)",
        ),
        (
            {"sampler": "cmaes", "space": CHOICES},
            ValueError,
            "but the space has 1; use tpe",
        ),
        (
            {
                "pruner": "hyperband",
                "recipe": dataclasses.replace(RECIPE, train=Train(steps=4, batch=16, eval_every=3)),
            },
            ValueError,
            "a run of 4 steps has one validation every 3 steps: set train.eval_every",
        ),
    ],
)
def test_an_invalid_search_is_refused_before_anything_is_written(inputs, kind, message, tmp_path):
    inputs = {"recipe": RECIPE, "space": SPACE, "trials": 2} | inputs
    with pytest.raises(kind) as error:
        search(inputs.pop("recipe"), inputs.pop("space"), tmp_path / "out", **inputs, quiet=True)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_not_changed(tmp_path):
    out = tmp_path / "out"
    search(RECIPE, SPACE, out, trials=1, quiet=True)
    other = dataclasses.replace(RECIPE, seed=1)
    for recipe, space, how, message in (
        (
            other, SPACE, {},
            f"{out} contains a search with another recipe: {config.fingerprint(RECIPE)} there, "
            f"{config.fingerprint(other)} in this search; choose another folder with --out",
        ),
        (
            RECIPE, {"optim.lr": uniform(0.1, 0.2)}, {},
            f"{out} contains a search with another space: optim.lr: log_uniform(0.0001, 0.1), optim.weight_decay: "
            "uniform(0.0, 0.1) there, optim.lr: uniform(0.1, 0.2) in this search; choose another folder with --out",
        ),
        (
            RECIPE, SPACE, {"sampler": "random"},
            f"{out} contains a search with another sampler: tpe there, random in this search; ",
        ),
        (
            RECIPE, SPACE, {"seed": 5},
            f"{out} contains a search with another seed: 0 there, 5 in this search; choose another folder with --out",
        ),
    ):  # fmt: skip
        with pytest.raises(FileExistsError) as error:
            search(recipe, space, out, trials=2, quiet=True, **how)
        assert message in str(error.value)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError) as error:
        search(RECIPE, SPACE, tmp_path / "full", trials=1)
    assert (
        str(error.value) == f"{tmp_path / 'full'} is not empty and contains no search; choose another folder with --out"
    )
    with pytest.raises(FileExistsError) as error:
        search(RECIPE, SPACE, tmp_path / "full" / "letter.txt", trials=1)
    assert str(error.value) == f"{tmp_path / 'full' / 'letter.txt'} is a file; choose another folder with --out"


@pytest.mark.parametrize(("sampler", "missing"), [("tpe", ["optuna"]), ("cmaes", ["cmaes"])])
def test_a_missing_package_is_named_with_its_extra(sampler, missing, monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr("tlx.tune.journal.find_spec", lambda name: None if name in missing else real(name))
    with pytest.raises(ImportError) as error:
        search(RECIPE, SPACE, tmp_path / "out", trials=1, sampler=sampler)
    assert str(error.value) == f"a search by {sampler} needs {missing[0]}: pip install 'tlx[search]'"


def test_an_incomplete_line_of_the_journal_is_removed_before_the_next(tmp_path):
    path = tmp_path / JOURNAL
    path.write_bytes(b'{"a":1}\n{"b":')
    turn = JournalTurn(path)
    turn.acquire()
    turn.release()
    assert path.read_bytes() == b'{"a":1}\n'


CONFIG = """
from tlx import Data, Optim, Recipe, Train, models, tasks

def recipe():
    return Recipe(
        data=Data(target="digits", shots=4), task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)), optim=Optim(lr=0.01),
        train=Train(steps=60, batch=16, eval_every=2, eval_batch=256),
    )
"""
SPACE_FILE = """
from tlx.tune import log_uniform, uniform

def space():
    return {"optim.lr": log_uniform(1e-4, 0.1), "optim.weight_decay": uniform(0.0, 0.1)}
"""


@pytest.mark.slow
def test_killed_workers_lose_nothing_and_nothing_is_tried_twice(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)
    (tmp_path / "space.py").write_text(SPACE_FILE)
    command = [
        sys.executable, "-m", "tlx.cli", "tune", "tiny.py", "--space", "space.py", "--trials", "6", "--sampler",
        "random", "--together", "2", "--out", "out", "--quiet",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}

    def start():
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    first, second = start(), start()
    end = time.monotonic() + 120
    while len(list(tmp_path.glob("out/cells/*/result.json"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    for process in (first, second):
        process.send_signal(signal.SIGKILL)
        process.communicate()
    # As if a worker had died in the middle of a line.
    with (tmp_path / "out" / JOURNAL).open("ab") as stream:
        stream.write(b'{"op_code": 4, "wor')
    third, fourth = start(), start()
    for process in (third, fourth):
        recorded, _ = process.communicate(timeout=240)
        assert process.returncode == 0, recorded
    document = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert [trial["state"] for trial in document["trials"]] == ["done"] * 6
    assert len({trial["fingerprint"] for trial in document["trials"]}) == 6
    # A killed run resumed at its last step: every step is recorded once.
    for folder in (tmp_path / "out" / "cells").iterdir():
        steps = [line["step"] for line in read_metrics(folder) if line["name"] == "train/loss"]
        assert steps == list(range(1, 61))
    with contextlib.chdir(tmp_path):
        from tlx.cli import load_recipe

        _, recipe = load_recipe("tiny.py", ())
    undisturbed = search(recipe, SPACE, tmp_path / "alone", trials=6, sampler="random", quiet=True)
    assert [trial["fingerprint"] for trial in document["trials"]] == [one.fingerprint for one in undisturbed.trials]


def test_selection_by_hidden_labels_must_be_named_oracle(tmp_path):
    inputs = dataclasses.replace(RECIPE, data=dataclasses.replace(RECIPE.data, labels=2))
    with pytest.raises(ValueError) as error:
        search(inputs, SPACE, tmp_path / "search", trials=1, quiet=True)
    assert str(error.value) == (
        "a search chooses by the labels of the validation split, but data.labels does not grant them: declare this "
        "with train.select 'oracle'"
    )
    assert not (tmp_path / "search").exists()
