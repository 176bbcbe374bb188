"""Searches: each way of choosing, one journal for many workers, no test label, failures outlived, mistakes named."""

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
from tlx.tune.asked import check_asked
from tlx.tune.journal import JOURNAL, Turn

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


def tried(found):
    return [(one.number, one.state, one.value, one.point) for one in found.trials]


@pytest.mark.parametrize(
    "sampler",
    ["tpe", pytest.param("random", marks=pytest.mark.slow), pytest.param("cmaes", marks=pytest.mark.slow)],
)
def test_a_search_that_goes_on_finds_what_one_that_never_stopped_does(sampler, tmp_path):
    whole = search(RECIPE, SPACE, tmp_path / "whole", trials=4, sampler=sampler, seed=3, quiet=True)
    assert [one.state for one in whole.trials] == ["done"] * 4
    search(RECIPE, SPACE, tmp_path / "parts", trials=2, sampler=sampler, seed=3, quiet=True)
    parts = search(RECIPE, SPACE, tmp_path / "parts", trials=4, sampler=sampler, seed=3, quiet=True)
    assert tried(parts) == tried(whole)
    assert parts.best == max(parts.trials, key=lambda one: one.value)
    # All have been tried, and more.
    for trials in (4, 1):
        again = search(RECIPE, SPACE, tmp_path / "parts", trials=trials, sampler=sampler, seed=3, quiet=True)
        assert tried(again) == tried(whole)


def test_random_points_do_not_depend_on_how_many_are_asked_for(tmp_path):
    few = search(RECIPE, SPACE, tmp_path / "few", trials=2, sampler="random", quiet=True)
    many = search(RECIPE, SPACE, tmp_path / "many", trials=3, sampler="random", together=1, quiet=True)
    assert [one.point for one in many.trials][:2] == [one.point for one in few.trials]
    # Side by side in one program or one after another, to rounding.
    assert [one.value for one in many.trials][:2] == pytest.approx([one.value for one in few.trials], abs=0.01)
    other = search(RECIPE, SPACE, tmp_path / "other", trials=2, sampler="random", seed=1, quiet=True)
    assert tried(other) != tried(few)


def test_points_that_are_known_beforehand_are_executed_together(tmp_path, monkeypatch):
    given = []

    def execute(trials, tell, *more):
        given.append([trial.number for trial in trials])
        attempt.execute(trials, tell, *more)

    monkeypatch.setattr(crew, "execute", execute)
    search(RECIPE, SPACE, tmp_path / "random", trials=3, sampler="random", together=2, quiet=True)
    assert given == [[0, 1], [2]]
    given.clear()
    # What comes next depends on what came before.
    search(RECIPE, SPACE, tmp_path / "tpe", trials=2, sampler="tpe", together=3, quiet=True)
    assert given == [[0], [1]]


def test_a_grid_is_tried_once_and_no_more(tmp_path):
    found = search(RECIPE, CHOICES, tmp_path / "out", trials=99, sampler="grid", quiet=True)
    assert [one.point for one in found.trials] == [
        {"tuning": how, "train.batch": batch} for how in (tuning.Full(), tuning.Probe()) for batch in (8, 16)
    ]
    assert len(list((tmp_path / "out" / "cells").iterdir())) == 4


@pytest.mark.parametrize(("name", "value"), [("seconds", "12"), ("seconds", float("nan")), ("value", []), ("error", 1)])
def test_a_damaged_line_of_the_journal_is_named_with_its_trial(name, value, tmp_path):
    trial = SimpleNamespace(params={}, system_attrs={}, user_attrs={name: value}, state=SimpleNamespace(name="FAIL"),
                            number=3, intermediate_values={}, value=None)  # fmt: skip
    asked = SimpleNamespace(space={"seed": None}, recipe=RECIPE)
    with pytest.raises(DocumentError) as error:
        reading.record(tmp_path, asked, trial)
    assert str(error.value).startswith(f"{tmp_path / 'journal.log'}, trial 3: {name} is ")


def test_a_recipe_that_comes_twice_is_run_once(tmp_path):
    found = search(RECIPE, CHOICES, tmp_path / "out", trials=6, quiet=True)
    assert [one.state for one in found.trials] == ["done"] * 6
    points = {config.source(tuple(one.point.values())): one.value for one in found.trials}
    assert len(points) == len(list((tmp_path / "out" / "cells").iterdir())) <= 4
    assert all(one.value == points[config.source(tuple(one.point.values()))] for one in found.trials)


def test_what_is_found_is_a_recipe_and_its_command(tmp_path):
    found = search(
        RECIPE, SPACE | CHOICES, tmp_path / "out", trials=3, sampler="random", command="tlx run x.py", quiet=True
    )
    recipe = RECIPE
    for change in found.changes:
        path, _, text = change.partition("=")
        recipe = config.override(recipe, path, text, OWN)
    assert recipe == found.recipe
    assert config.fingerprint(recipe) == found.best.fingerprint
    folder = tmp_path / "out" / "cells" / found.best.fingerprint
    assert json.loads((folder / "result.json").read_text())["metrics"]["validation/accuracy"] == found.best.value
    # What would fill a disk is gone, what a table needs is there.
    assert not {path.name for path in folder.iterdir()} & {"model", "checkpoints", "adapter"}
    document = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert document["best"] == found.best.number and document["before"]["optim.lr"] == 0.01
    assert document["command"].startswith("tlx run x.py --set optim.lr=0.0")
    assert document["command"].endswith(f"--set train.batch={found.best.point['train.batch']}")
    assert [one["value"] for one in document["trials"]] == [one.value for one in found.trials]


def test_no_trial_reads_a_test_example(tmp_path, monkeypatch):
    class Unreadable(tuple):
        def __getitem__(self, row):
            raise AssertionError(f"record {row} of the test split was read")

    dataset = examples.open_dataset("digits")
    held = dataset.splits["test"]
    hidden = examples.Examples(held.name, held.split, Unreadable(range(len(held))), held.columns, rows=held.rows)
    monkeypatch.setattr(
        examples, "open_dataset", lambda name: dataclasses.replace(dataset, splits=dataset.splits | {"test": hidden})
    )
    found = search(RECIPE, SPACE, tmp_path / "out", trials=3, pruner="hyperband", quiet=True)
    assert [one.error for one in found.trials] == [None] * 3
    assert not list((tmp_path / "out").rglob("test.npz"))
    for folder in (tmp_path / "out" / "cells").iterdir():
        assert not [line for line in read_metrics(folder) if line["name"].startswith("test/")]
        assert not [name for name in json.loads((folder / "result.json").read_text())["metrics"] if "test" in name]


@pytest.mark.slow
def test_hyperband_stops_what_is_behind_and_counts_what_it_was_worth(tmp_path):
    recipe = dataclasses.replace(RECIPE, train=dataclasses.replace(RECIPE.train, steps=18))
    space = {"optim.lr": log_uniform(1e-6, 0.1)}
    found = search(recipe, space, tmp_path / "out", trials=8, sampler="random", pruner="hyperband", quiet=True)
    stopped = [one for one in found.trials if one.state == "stopped"]
    assert stopped and found.best is not None and {one.state for one in found.trials} == {"done", "stopped"}
    for one in stopped:
        result = json.loads((tmp_path / "out" / "cells" / one.fingerprint / "result.json").read_text())
        assert result["steps"] == max(one.curve) < 18 == result["asked_steps"]
        assert one.value == one.curve[result["steps"]]


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tmp_path, capsys):
    space = {"optim.lr": one_of(0.01, float("inf"))}
    recipe = dataclasses.replace(RECIPE, optim=Optim("sgd", lr=0.01))
    found = search(recipe, space, tmp_path / "out", trials=2, sampler="grid")
    good, bad = found.trials
    assert (good.state, bad.state, bad.value) == ("done", "failed", None) and found.best == good
    assert bad.error.startswith("Diverged: the loss is nan at step 2")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"1/2  optim.lr=0.01: validation/accuracy {good.value:.4f}"
    assert told[1].startswith("2/2  optim.lr=inf: failed, Diverged: the loss is nan at step 2")
    # It is not tried again.
    assert tried(search(recipe, space, tmp_path / "out", trials=2, sampler="grid", quiet=True)) == tried(found)


def test_a_full_disk_is_no_trials_failure(tmp_path, monkeypatch):
    from tlx.training.checkpoint import DiskFull

    def full(*given, **how):
        raise DiskFull("the disk is full")

    monkeypatch.setattr("tlx.training.run_many.train", full)
    with pytest.raises(DiskFull):
        search(RECIPE, SPACE, tmp_path / "out", trials=2, quiet=True)
    monkeypatch.undo()
    monkeypatch.setattr("tlx.report.available", lambda: False)
    found = search(RECIPE, SPACE, tmp_path / "out", trials=2, quiet=True)
    assert [one.state for one in found.trials] == ["done", "done"]


def test_a_smaller_loss_is_better_unless_somebody_says_otherwise(tmp_path):
    assert check_asked(RECIPE, SPACE, 1, "tpe", "none", None, None, 0).direction == "maximize"
    assert check_asked(RECIPE, SPACE, 1, "tpe", "none", "validation/loss", None, 0).direction == "minimize"
    assert check_asked(RECIPE, SPACE, 1, "tpe", "none", "loss", "maximize", 0).direction == "maximize"
    regression = dataclasses.replace(RECIPE, task=tasks.Regression())
    assert check_asked(regression, SPACE, 1, "tpe", "none", None, None, 0).direction == "minimize"
    assert check_asked(regression, SPACE, 1, "tpe", "none", "r2", None, 0).direction == "maximize"
    found = search(RECIPE, SPACE, tmp_path / "out", trials=3, sampler="random", metric="loss", quiet=True)
    assert found.best.value == min(one.value for one in found.trials)


@pytest.mark.parametrize(
    ("given", "kind", "message"),
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
def test_a_search_that_cannot_be_is_refused_before_anything_is_written(given, kind, message, tmp_path):
    given = {"recipe": RECIPE, "space": SPACE, "trials": 2} | given
    with pytest.raises(kind) as error:
        search(given.pop("recipe"), given.pop("space"), tmp_path / "out", **given, quiet=True)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
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
def test_what_is_lacking_is_named_with_its_extra(sampler, missing, monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr("tlx.tune.journal.find_spec", lambda name: None if name in missing else real(name))
    with pytest.raises(ImportError) as error:
        search(RECIPE, SPACE, tmp_path / "out", trials=1, sampler=sampler)
    assert str(error.value) == f"a search by {sampler} needs {missing[0]}: pip install 'tlx[search]'"


def test_a_half_written_line_of_the_journal_goes_before_the_next(tmp_path):
    path = tmp_path / JOURNAL
    path.write_bytes(b'{"a":1}\n{"b":')
    turn = Turn(path)
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
def test_workers_that_are_killed_lose_nothing_and_nothing_is_tried_twice(tmp_path):
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
    # As if one had died in the middle of a line.
    with (tmp_path / "out" / JOURNAL).open("ab") as stream:
        stream.write(b'{"op_code": 4, "wor')
    third, fourth = start(), start()
    for process in (third, fourth):
        told, _ = process.communicate(timeout=240)
        assert process.returncode == 0, told
    document = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert [trial["state"] for trial in document["trials"]] == ["done"] * 6
    assert len({trial["fingerprint"] for trial in document["trials"]}) == 6
    # A killed run has gone on where it stood: every step is there once.
    for folder in (tmp_path / "out" / "cells").iterdir():
        steps = [line["step"] for line in read_metrics(folder) if line["name"] == "train/loss"]
        assert steps == list(range(1, 61))
    with contextlib.chdir(tmp_path):
        from tlx.cli import load_recipe

        _, recipe = load_recipe("tiny.py", ())
    undisturbed = search(recipe, SPACE, tmp_path / "alone", trials=6, sampler="random", quiet=True)
    assert [trial["fingerprint"] for trial in document["trials"]] == [one.fingerprint for one in undisturbed.trials]


def test_a_choice_by_labels_that_are_not_granted_has_to_be_called_so(tmp_path):
    given = dataclasses.replace(RECIPE, data=dataclasses.replace(RECIPE.data, labels=2))
    with pytest.raises(ValueError) as error:
        search(given, SPACE, tmp_path / "search", trials=1, quiet=True)
    assert str(error.value) == (
        "a search chooses by the labels of the validation split, but data.labels does not grant them: declare this "
        "with train.select 'oracle'"
    )
    assert not (tmp_path / "search").exists()
