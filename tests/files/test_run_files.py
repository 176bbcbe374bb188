"""Which files belong to a run: files of another run are never read as its files, and other files are not deleted."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import tlx
from tlx import Data, Recipe, Train, models, tasks
from tlx.cli import main
from tlx.files import run_files
from tlx.files.documents import digests
from tlx.predict import predict
from tlx.records import run_directory, studies
from tlx.records.progress import Progress
from tlx.training.loop import How
from tlx.training.reopen import rebuild, reopen
from tlx.weights import load_pretrained

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    train=Train(steps=4, batch=8, eval_batch=64, eval_every=2),
)
OTHER = dataclasses.replace(RECIPE, seed=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs, and the same two runs as cells of a study."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        for name, recipe in (("one", RECIPE), ("two", OTHER)):
            tlx.run(recipe, place / name, quiet=True)
            tlx.run(recipe, place / f"{name}-cell", how=How(quiet=True, leave="learned"))
    return place


@pytest.fixture
def mixed(runs, tmp_path):
    """Return `mixed(name, cell)`: the first run with one file or directory of the second run."""

    def mix(name, end=""):
        shutil.copytree(runs / f"one{end}", tmp_path / "run")
        place = tmp_path / "run" / name
        if place.is_dir():
            shutil.rmtree(place)
            shutil.copytree(runs / f"two{end}" / name, place)
        else:
            shutil.copyfile(runs / f"two{end}" / name, place)
        return tmp_path / "run"

    return mix


def refuses(read, path, name):
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        read()
    assert name in str(error.value)
    assert "--overwrite" in str(error.value)


@pytest.mark.parametrize("name", ["result.json", "recipe.json"])
def test_a_result_of_another_recipe_is_never_read(name, mixed):
    path = mixed(name)
    recipe = OTHER if name == "recipe.json" else RECIPE
    # The file list of the run detects it first; without the list the fingerprints do.
    refuses(lambda: run_directory.read(path), path, f"{name} was changed after the run wrote it")
    (path / "files.json").unlink()
    prints = [tlx.config.fingerprint(one) for one in (RECIPE, OTHER)]
    for read in (
        lambda: tlx.run(recipe, path, resume=True, quiet=True),
        lambda: run_directory.read(path),
        lambda: reopen(path),
        lambda: rebuild(path),
        lambda: load_pretrained(path),
        lambda: tlx.report.write(path),
    ):
        refuses(read, path, "two runs")
    with pytest.raises(ValueError) as error:
        run_directory.read(path)
    assert all(one in str(error.value) for one in prints)
    result = CliRunner().invoke(main, ["report", str(path)])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)


@pytest.mark.parametrize("name", ["model", "model/model.safetensors"])
def test_a_model_of_another_run_gives_no_predictions(name, mixed, tmp_path):
    path = mixed(name)
    for read in (lambda: load_pretrained(path), lambda: predict(path, []), lambda: reopen(path)):
        refuses(read, path, "model/model.safetensors")
    result = CliRunner().invoke(main, ["export", str(path), str(tmp_path / "out")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()
    # The directory of the model belongs to the run too if it is given alone.
    refuses(lambda: load_pretrained(path / "model"), path, "model/model.safetensors")


@pytest.mark.parametrize("name", ["predictions", "metrics.jsonl", "parameters.json"])
def test_a_report_has_the_records_of_one_run(name, mixed):
    path = mixed(name)
    if name == "parameters.json":
        (path / name).write_text((path / name).read_text() + " ")
    refuses(lambda: tlx.report.write(path), path, name)


def test_the_trained_parameters_of_a_cell_belong_to_it(mixed):
    path = mixed("learned.safetensors", "-cell")
    refuses(lambda: rebuild(path), path, "learned.safetensors")
    assert not (path / "model").exists()


def test_the_predictions_of_a_cell_belong_to_it(mixed):
    path = mixed("predictions", "-cell")
    refuses(lambda: run_directory.read_predictions(path, "test"), path, "predictions/test.npz")


def test_the_changes_of_weights_belong_to_this_run(runs, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "run")
    document = {"fingerprint": tlx.config.fingerprint(OTHER)}
    (tmp_path / "run" / "moved.json").write_text(json.dumps(document))
    refuses(lambda: tlx.report.write(tmp_path / "run"), tmp_path / "run", "moved.json")


def test_a_checkpoint_of_another_recipe_is_not_resumed(tmp_path, monkeypatch):
    def stop(self, step, loss, rate):
        if step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", stop)
        for name, recipe in (("one", RECIPE), ("two", OTHER)):
            with pytest.raises(KeyboardInterrupt):
                tlx.run(recipe, tmp_path / name, quiet=True)
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "two" / "checkpoints", tmp_path / "one" / "checkpoints")
    refuses(lambda: tlx.run(RECIPE, tmp_path / "one", resume=True, quiet=True), tmp_path / "one", "checkpoints")


def test_a_study_names_the_cell_with_the_result_of_another_recipe(runs, tmp_path):
    prints = [tlx.config.fingerprint(one) for one in (RECIPE, OTHER)]
    shutil.copytree(runs / "two-cell", tmp_path / "cells" / prints[0])
    listed = [{"fingerprint": prints[0], "names": {"seed": 0}}]
    (tmp_path / "study.json").write_text(json.dumps({"cells": listed}))
    with pytest.raises(ValueError, match=f"{prints[0]} contains the result of another recipe .fingerprint {prints[1]}"):
        studies.read(tmp_path)


def test_runs_of_earlier_versions_are_read_as_before(runs, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (tmp_path / "run" / "files.json").unlink()
    assert tlx.run(RECIPE, tmp_path / "run", resume=True, quiet=True).result == result
    assert reopen(tmp_path / "run").result == result


def test_a_rebuilt_cell_lists_its_model(runs, tmp_path):
    shutil.copytree(runs / "one-cell", tmp_path / "cell")
    rebuild(tmp_path / "cell")
    files = digests.read(tmp_path / "cell")
    assert {"learned.safetensors", "predictions/test.npz", "model/config.json", "parameters.json"} <= files.keys()
    load_pretrained(tmp_path / "cell")
    # A model that was killed half-way is rebuilt.
    listed = {name: digest for name, digest in files.items() if not name.startswith("model")}
    (tmp_path / "cell" / "files.json").write_text(json.dumps({"version": 1, "sha256": listed}))
    (tmp_path / "cell" / "model" / "config.json").unlink()
    rebuild(tmp_path / "cell")
    assert (tmp_path / "cell" / "model" / "config.json").is_file()


@pytest.mark.slow
def test_overwriting_deletes_the_files_of_the_run_and_keeps_those_of_the_user(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    run = tmp_path / "run"
    shutil.copytree(runs / "one", run)
    custom = [
        "notes.md",
        "model/README.md",
        "predictions/mine.npz",
        "tensorboard/x.txt",
        "checkpoints/keep.txt",
        "a/b.txt",
    ]
    for name in custom:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("mine")
    before = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    (run / "checkpoints" / "12").mkdir()
    (run / "checkpoints" / "12" / "array").write_text("0")
    (run / ".result.json.partial").write_text("{")
    run_files.delete(run)
    left = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert left == {*custom, ".lock"} < before
    shutil.copyfile(runs / "one" / "recipe.json", run / "recipe.json")
    tlx.run(OTHER, run, overwrite=True, quiet=True)
    assert run_directory.read(run)["seed"] == 1
    assert all((run / name).read_text() == "mine" for name in custom)
    # Files of the user do not stop a second run in this folder.
    tlx.run(RECIPE, run, overwrite=True, quiet=True)
    assert all((run / name).read_text() == "mine" for name in custom)


def test_every_file_of_a_run_is_known(runs):
    for name in ("one", "one-cell"):
        files = {path.relative_to(runs / name) for path in (runs / name).rglob("*") if path.is_file()}
        known = set(run_files.written(runs / name))
        assert {path for path in files - known if path.parts[0] != "checkpoints"} == {run_files.Path(".lock")}


@pytest.mark.parametrize("place", ["model", "checkpoints", "predictions", "model/adapter", "report.html"])
def test_a_link_is_removed_and_its_target_stays(place, tmp_path):
    far, run = tmp_path / "far", tmp_path / "run"
    for name in ("config.json", "12/array", "test.npz", "adapter/adapter_config.json"):
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / name).write_text("precious")
    (run / place).parent.mkdir(parents=True)
    (run / place).symlink_to(far / "config.json" if place == "report.html" else far)
    (run / "recipe.json").write_text("{}")
    before = sorted(far.rglob("*"))
    run_files.delete(run)
    assert sorted(far.rglob("*")) == before
    assert not (run / place).is_symlink()


def test_a_directory_that_is_a_link_is_overwritten_in_place(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "mine.txt").write_text("mine")
    run_directory.claim(tmp_path / "disk", RECIPE, overwrite=False)
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    run_directory.claim(tmp_path / "run", OTHER, overwrite=True)
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"mine.txt", "recipe.json"}
    assert run_directory.read(tmp_path / "disk", "recipe.json")["recipe"]["seed"] == 1


def test_a_damaged_file_is_not_read(runs, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "run")
    file = tmp_path / "run" / "predictions" / "test.npz"
    with np.load(file) as arrays:
        stored = dict(arrays)
    stored["logits"] = stored["logits"] + 1
    np.savez(file, **stored)
    refuses(lambda: run_directory.read_predictions(tmp_path / "run", "test"), tmp_path / "run", "predictions/test.npz")
