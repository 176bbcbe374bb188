"""When checkpoints are saved, and which of them stay: no setting changes a number of the run or its fingerprint."""

import json
import math
from dataclasses import replace

import jax.numpy as jnp
import pytest
from click.testing import CliRunner

import tlx
from tlx import Data, Recipe, Train, models, tasks
from tlx.cli import main
from tlx.records.log import read_metrics
from tlx.training.checkpoint import FORMAT, JUDGED, Checkpoints, NewerCheckpoint, Saved
from tlx.training.loop import How
from tlx.training.run_many import run_many

RECIPE = Recipe(
    data=Data(target="digits", shots=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    train=Train(steps=12, batch=8, eval_batch=64, eval_every=2, select="best-validation"),
)

pytestmark = pytest.mark.usefixtures("no_page")


def save(folder, judged, keep_last=1, keep_best=1):
    """Write a checkpoint for each step; `judged` are the measurements of its runs."""
    checkpoints = Checkpoints(folder, keep_last, keep_best)
    for step, values in judged.items():
        checkpoints.save(step, Saved({"x": jnp.int32(step)}, {}, {"best": False, JUDGED: values}))
    checkpoints.close()
    return sorted(checkpoints.folders())


def test_the_best_of_each_run_stay_beside_the_newest(tmp_path):
    def up(value):
        return [value, True]

    def down(value):
        return [value, False]

    assert save(tmp_path / "a", {1: [up(0.5)], 2: [up(0.9)], 3: [up(0.7)], 4: [up(0.8)]}) == [2, 4]
    assert save(tmp_path / "b", {1: [down(0.5)], 2: [down(0.9)], 3: [down(0.7)], 4: [down(0.8)]}) == [1, 4]
    # Equal ones: the first stays, as the run reports the first. One without a measurement is never the best.
    assert save(tmp_path / "c", {1: [up(0.5)], 2: [up(0.9)], 3: [up(0.9)], 4: [None], 5: [up(math.nan)]}) == [2, 5]
    pairs = {1: [up(0.9), up(0.1)], 2: [up(0.5), up(0.8)], 3: [up(0.1), up(0.1)], 4: [None, up(0.2)]}
    assert save(tmp_path / "d", pairs) == [1, 2, 4]
    assert save(tmp_path / "e", {n: [up(n % 3)] for n in range(1, 9)}, 2, 3) == [2, 5, 7, 8]
    assert save(tmp_path / "f", {n: [up(-n)] for n in range(1, 6)}, 3, 0) == [3, 4, 5]


def test_the_best_stays_for_a_run_that_resumes(tmp_path):
    assert save(tmp_path, {1: [[0.9, True]], 2: [[0.1, True]]}) == [1, 2]
    assert save(tmp_path, {3: [[0.5, True]], 4: [[0.2, True]]}) == [1, 4]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Runs with settings of checkpoints, by name."""
    folder = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        settings = {
            "plain": How(quiet=True),
            "best": How(quiet=True, keep_last=1, keep_best=2, checkpoint_seconds=3600),
            "seconds": How(quiet=True, keep_last=100, checkpoint_seconds=1e-6),
        }
        patch.setattr("tlx.training.batches.MOST", 1)
        return {name: tlx.run(RECIPE, folder / name, how=how) for name, how in settings.items()}


def accuracies(run, last=12):
    """The accuracy of each validation by its step."""
    lines = [line for line in read_metrics(run.folder) if line["name"] == "validation/accuracy"]
    return {line["step"]: line["value"] for line in lines if line["step"] <= last}


def steps_of(run):
    return sorted(Checkpoints(run.folder / "checkpoints").steps())


@pytest.mark.slow
def test_a_run_keeps_the_checkpoint_that_its_rule_chooses(saved):
    run = saved["best"]
    values = accuracies(run)
    # Only a measurement that is the best so far is saved before an hour is over.
    best, improved = -1.0, []
    for step in sorted(values):
        if values[step] > best:
            best = values[step]
            improved.append(step)
    assert steps_of(run) == sorted({*improved[-2:], 12}) and run.result["selected_step"] in steps_of(run)


@pytest.mark.slow
def test_a_checkpoint_by_seconds_comes_after_any_step(saved):
    assert steps_of(saved["seconds"]) == [*range(1, 13)]
    assert steps_of(saved["plain"]) == [10, 12]


@pytest.mark.slow
def test_no_setting_of_the_checkpoints_changes_the_run(saved):
    plain, *others = saved.values()
    for run in others:
        assert run.result["fingerprint"] == plain.result["fingerprint"]
        files = [outcome.folder / "model" / "model.safetensors" for outcome in (run, plain)]
        assert files[0].read_bytes() == files[1].read_bytes()
        lines = [[line | {"time": 0} for line in read_metrics(outcome.folder)] for outcome in (run, plain)]
        assert lines[0] == lines[1]


@pytest.mark.slow
def test_a_group_keeps_the_best_of_each_run(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    recipes = [replace(RECIPE, seed=seed) for seed in range(2)]
    how = How(quiet=True, leave="learned", keep_last=1, keep_best=1)
    runs = run_many(recipes, [tmp_path / "0", tmp_path / "1"], how=how)
    assert [run.result["pack"]["arms"] for run in runs] == [2, 2]
    [folder] = (tmp_path / "0" / "checkpoints").iterdir()
    # A cell has no checkpoint of its last step.
    values = [accuracies(run, 10) for run in runs]
    assert {*Checkpoints(folder).steps()} == {10, *(max(of_run, key=of_run.get) for of_run in values)}


def newer(folder):
    """Make a checkpoint one of a newer version, as this one would write it."""
    notes = json.loads((folder / "notes.json").read_text())
    assert notes["format"] == FORMAT and notes["tlx"]
    (folder / "files.sha256").unlink()
    (folder / "notes.json").write_text(json.dumps(notes | {"format": FORMAT + 1, "tlx": "9.1.0"}))
    tlx.files.durable.write_digests(folder)


def test_a_checkpoint_of_a_newer_version_is_an_error_and_not_skipped(tmp_path):
    save(tmp_path, {1: [None], 2: [None]}, keep_last=2)
    newer(tmp_path / "2")
    with pytest.raises(NewerCheckpoint) as error:
        Checkpoints(tmp_path).latest()
    ours = tlx.training.checkpoint.version("tlx")
    for words in (
        str(tmp_path / "2"),
        "tlx 9.1.0",
        f"this is tlx {ours}",
        "formats up to 1",
        "tlx run CONFIG --overwrite",
    ):
        assert words in str(error.value)
    # A damaged one is skipped, whatever it says of its version.
    (tmp_path / "2" / "notes.json").write_text("{")
    with pytest.warns(tlx.files.durable.DamagedWarning):
        assert Checkpoints(tmp_path).latest() == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--keep-last", "0"], "keep_last is 0; expected 1 or more checkpoints"),
        (["--keep-best", "-1"], "keep_best is -1; expected 0 or more checkpoints"),
        (["--checkpoint-seconds", "-1"], "checkpoint_seconds is -1.0; expected a number of seconds"),
        (["--checkpoint-seconds", "inf"], "checkpoint_seconds is inf; expected a number of seconds"),
        (["--keep-best", "1", "--set", "train.select=last"], "train.select 'last' compares no checkpoints"),
        (["--keep-best", "one"], "--keep-best"),
    ],
)
def test_an_impossible_setting_is_one_line(options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    outcome = CliRunner().invoke(main, ["run", "config.py", "--out", "run", "--quiet", *options])
    assert outcome.exit_code == 2 and words in outcome.output, outcome.output
    assert len(outcome.output.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_another_type_is_a_type_error():
    with pytest.raises(TypeError, match=r"keep_last is 1.5; expected a whole number"):
        How(keep_last=1.5)
    with pytest.raises(TypeError, match="checkpoint_seconds is '1'; expected a number"):
        How(checkpoint_seconds="1")


CONFIG = """
from tlx import Data, Recipe, Train, models, tasks
def recipe():
    return Recipe(
        data=Data(target="digits", shots=8),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=12, batch=8, eval_batch=64, eval_every=2, select="best-validation"),
    )
"""
