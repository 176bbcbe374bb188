"""A finished run is trained further: it equals a longer run where its rate is constant."""

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

from tlx import Data, Optim, Recipe, Train, config, models, run, tasks, tuning
from tlx.cli import main
from tlx.files.durable import write_digests
from tlx.records import run_directory
from tlx.records.log import read_metrics
from tlx.training.checkpoint import FORMAT, Checkpoints
from tlx.training.lengthen import lengthen
from tlx.training.loop import How
from tlx.training.reopen import reopen

QUIET = How(quiet=True)
RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,), dropout=0.2),
    optim=Optim(lr=0.01, schedule="constant", weight_decay=0.1),
    train=Train(steps=4, batch=16, eval_every=2, eval_batch=512, select="best-validation", ema=0.5),
)
LONGER = replace(RECIPE, train=replace(RECIPE.train, steps=8))


pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(RECIPE, tmp_path_factory.mktemp("finished") / "run", quiet=True)


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """The run of the new length from the start."""
    return run(LONGER, tmp_path_factory.mktemp("longer") / "run", quiet=True)


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "run")


def recorded(folder):
    return [(line["step"], line["name"], line["value"]) for line in read_metrics(folder)]


def same_end(actual, expected):
    assert recorded(actual.folder) == recorded(expected.folder)
    for name in ("metrics", "steps", "asked_steps", "selected_step", "flops", "fingerprint", "rules"):
        assert actual.result[name] == expected.result[name], name
    files = [outcome.folder / "model" / "model.safetensors" for outcome in (actual, expected)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_with_a_constant_rate_it_equals_the_longer_run_bit_for_bit(finished, longer, copy):
    outcome = lengthen(copy, steps=8, how=QUIET)
    same_end(outcome, longer)
    document = run_directory.read(copy, run_directory.RECIPE)
    assert document["recipe"] == config.dump(LONGER) and document["fingerprint"] == config.fingerprint(LONGER)
    (entry,) = document["lengthened"]
    assert (entry["steps"], entry["fingerprint"]) == (4, config.fingerprint(RECIPE))
    assert entry["metrics"] == finished.metrics
    assert outcome.result["lengthened"] == [entry]
    assert outcome.result["notes"] == [*longer.result["notes"], "the run was lengthened after 4 steps"]
    # It is a finished run like others: it is read, opened, and lengthened again.
    assert run(LONGER, copy, resume=True, quiet=True).result == outcome.result
    assert reopen(copy).result == outcome.result
    again = lengthen(copy, given=replace(RECIPE, train=replace(RECIPE.train, steps=10)), how=QUIET)
    assert again.result["steps"] == 10 and [entry["steps"] for entry in again.result["lengthened"]] == [4, 8]
    with pytest.raises(FileExistsError, match="lengthened since"):
        run(RECIPE, copy, resume=True, quiet=True)


@pytest.mark.slow
def test_patience_that_runs_out_at_the_last_step_is_refused(tmp_path):
    train = replace(RECIPE.train, steps=8, patience=3, ema=None)
    still = replace(RECIPE, optim=Optim("sgd", lr=1e-9, schedule="constant"), train=train)
    folder = run(still, tmp_path / "run", quiet=True).folder
    assert run_directory.read(folder)["stopped"] == "patience"
    with pytest.raises(ValueError, match=r"step 8 of 8.*train\.patience"):
        lengthen(folder, steps=20, how=QUIET)
    assert (folder / "result.json").is_file()


@pytest.mark.slow
def test_a_validation_that_a_longer_run_does_not_have_is_noted(tmp_path):
    folder = run(replace(RECIPE, train=replace(RECIPE.train, steps=3)), tmp_path / "run", quiet=True).folder
    notes = lengthen(folder, steps=6, how=QUIET).result["notes"]
    assert any("after step 3" in note and "train.eval_every is 2" in note for note in notes)


@pytest.mark.slow
def test_after_an_interruption_the_same_command_continues(longer, copy, monkeypatch):
    from tlx.records.progress import Progress

    def stop(self, step, loss, rate):
        if step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            lengthen(copy, steps=8, how=QUIET)
    assert not (copy / "result.json").exists() and Checkpoints(copy / "checkpoints").latest() == 6
    with pytest.raises(ValueError, match="unfinished") as refusal:
        lengthen(copy, steps=12, how=QUIET)
    with pytest.raises(FileExistsError, match="being lengthened") as resumed:
        run(RECIPE, copy, resume=True, quiet=True)
    # Every message names the command that finishes the run.
    for error in (refusal, resumed):
        assert f"tlx lengthen {copy} --steps 8" in str(error.value)
    same_end(lengthen(copy, steps=8, how=QUIET), longer)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["the result", "the recipe"])
def test_a_kill_while_the_folder_changes_hands_loses_nothing(finished, longer, copy, monkeypatch, place):
    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"tlx.training.lengthen.{'write_json' if place == 'the result' else 'run'}", killed)
        with pytest.raises(KeyboardInterrupt):
            lengthen(copy, steps=8, how=QUIET)
    if place == "the result":
        # The run of the old length is finished again, without a step.
        before = run(RECIPE, copy, resume=True, quiet=True)
        assert before.metrics == finished.metrics and recorded(copy) == recorded(finished.folder)
    same_end(lengthen(copy, steps=8, how=QUIET), longer)


@pytest.mark.slow
def test_a_schedule_is_that_of_the_new_length_from_there_on(tmp_path):
    recipe = replace(
        RECIPE, optim=Optim(lr=0.01, schedule="linear"), train=replace(RECIPE.train, select="last", ema=None)
    )
    run(recipe, tmp_path / "run", quiet=True)
    outcome = lengthen(tmp_path / "run", steps=8, how=QUIET)
    rates = {step: value for step, name, value in recorded(tmp_path / "run") if name == "train/rate"}
    expected = [0.01 * (1 - step / 4) for step in range(4)] + [0.01 * (1 - step / 8) for step in range(4, 8)]
    assert [*rates.values()] == [pytest.approx(rate, rel=1e-5) for rate in expected]
    (note,) = [note for note in outcome.result["notes"] if "lengthened" in note]
    for part in ("after 4 steps", "'linear'", "new length"):
        assert part in note


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ("neither", "--steps")),
        ({"steps": 8, "epochs": 2.0}, ("both", "steps=8", "epochs=2")),
        ({"steps": 4}, ("4 steps", "larger")),
        ({"epochs": 0.5}, ("4 steps", "larger")),
        ({"steps": 0}, ("steps is 0",)),
        ({"given": replace(LONGER, optim=Optim(lr=0.02))}, ("optim", "0.02", "0.01", "train.steps")),
        ({"given": replace(LONGER, seed=1)}, ("seed is 1", "0 in the run")),
    ],
)
def test_anything_but_a_larger_length_is_refused(finished, options, parts):
    def state():
        return {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*") if path.name != ".lock"}

    before = state()
    with pytest.raises(ValueError) as error:
        lengthen(finished.folder, how=QUIET, **options)
    for part in parts:
        assert part in str(error.value)
    assert state() == before


@pytest.mark.slow
def test_runs_without_a_last_state_and_with_phases_are_refused(copy, tmp_path):
    shutil.rmtree(copy / "checkpoints" / "4")
    with pytest.raises(ValueError, match="no checkpoint of its last step, 4"):
        lengthen(copy, steps=8, how=QUIET)
    phases = replace(RECIPE, tuning=tuning.LinearThenFull(), train=replace(RECIPE.train, ema=None))
    run(phases, tmp_path / "phases", quiet=True)
    with pytest.raises(ValueError, match="LinearThenFull has 2 phases"):
        lengthen(tmp_path / "phases", steps=8, how=QUIET)
    with pytest.raises(FileNotFoundError):
        lengthen(tmp_path / "nosuch", steps=8, how=QUIET)


def test_a_run_that_ended_early_is_refused(copy):
    document = json.loads((copy / "result.json").read_text())
    for stopped, part in (("patience", "train.patience"), ("judge", "stopped at step 2 of 4")):
        (copy / "result.json").write_text(json.dumps(document | {"stopped": stopped, "steps": 2}))
        (copy / "files.json").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=part):
            lengthen(copy, steps=8, how=QUIET)


def test_a_run_of_another_length_names_the_command(finished):
    with pytest.raises(FileExistsError) as error:
        run(LONGER, finished.folder, resume=True, quiet=True)
    assert f"tlx lengthen {finished.folder} --steps 8" in str(error.value)


def test_a_checkpoint_of_a_newer_version_advises_no_option_that_the_command_lacks(copy):
    folder = copy / "checkpoints" / "4"
    notes = json.loads((folder / "notes.json").read_text())
    (folder / "notes.json").write_text(json.dumps(notes | {"format": FORMAT + 1, "tlx": "9.1.0"}))
    (folder / "files.sha256").unlink()
    write_digests(folder)
    outcome = CliRunner().invoke(main, ["lengthen", str(copy), "--steps", "8"])
    assert outcome.exit_code == 2 and outcome.output.count("\n") == 1, outcome.output
    assert "continue with tlx 9.1.0 or newer" in outcome.output
    # Of `tlx lengthen` itself it is no option.
    assert "--overwrite" not in outcome.output.replace("tlx run CONFIG --overwrite", "")
