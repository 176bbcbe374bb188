"""A run with a callback and trackers: they change no number; an error of the callback ends it with a checkpoint."""

from dataclasses import dataclass

import pytest

from tlx import Data, Optim, Recipe, Train, models, run, tasks
from tlx.records.log import CallbackError, read_metrics
from tlx.records.trackers import Tracker, TrackerWarning, Writer
from tlx.training import run_many
from tlx.training.checkpoint import Checkpoints
from tlx.training.loop import How

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    optim=Optim(lr=0.01),
    train=Train(steps=6, batch=16, eval_every=2, eval_batch=512),
)
RESULTS = []


@dataclass(frozen=True, kw_only=True)
class Collecting(Tracker):
    """Keep the result; fail at the step `fails`."""

    fails: int = 0

    def start(self, run):
        return CollectingWriter(self.fails)


class CollectingWriter(Writer):
    def __init__(self, fails):
        self.fails = fails

    def write(self, step, values):
        if step == self.fails:
            raise ConnectionError("gone")

    def finish(self, result):
        RESULTS.append(result)


pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return run(RECIPE, tmp_path_factory.mktemp("plain") / "run", quiet=True)


def recorded(folder):
    return [(line["step"], line["name"], line["value"]) for line in read_metrics(folder)]


def same_end(actual, expected):
    assert recorded(actual.folder) == recorded(expected.folder)
    assert actual.metrics == expected.metrics
    files = [outcome.folder / "model" / "model.safetensors" for outcome in (actual, expected)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_a_callback_and_a_tracker_get_all_records_and_change_nothing(plain, tmp_path):
    seen = []
    how = How(quiet=True, callback=seen.append, trackers=(Collecting(),))
    followed = run(RECIPE, tmp_path / "run", how=how)
    same_end(followed, plain)
    assert RESULTS.pop() == followed.result
    pairs = [(record["step"], name, record[name]) for record in seen for name in record if "/" in name]
    assert pairs == recorded(followed.folder)
    assert {record["folder"] for record in seen} == {str(tmp_path / "run")}


def test_a_tracker_that_fails_in_the_middle_does_not_end_the_run(plain, tmp_path):
    with pytest.warns(TrackerWarning, match="gone") as warnings:
        followed = run(RECIPE, tmp_path / "run", how=How(quiet=True, trackers=(Collecting(fails=3),)))
    assert len(warnings) == 1
    same_end(followed, plain)


@pytest.mark.parametrize(
    "at", ["step 3", *(pytest.param(at, marks=pytest.mark.slow) for at in ("validation 4", "step 6", "test"))]
)
def test_an_error_of_the_callback_ends_the_run_with_a_checkpoint(plain, tmp_path, at):
    word, _, step = at.partition(" ")

    def plot(record):
        names = {"step": "train/loss", "validation": "validation/accuracy", "test": "test/accuracy"}
        if names[word] in record and record["step"] == int(step or 6):
            raise ZeroDivisionError("no pixels")

    with pytest.raises(CallbackError) as error:
        run(RECIPE, tmp_path / "run", how=How(quiet=True, callback=plot))
    for part in ("plot raised ZeroDivisionError: no pixels", f"step {step or 6}", "checkpoint", "resume"):
        assert part in str(error.value)
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    assert not (tmp_path / "run" / "result.json").exists()
    assert Checkpoints(tmp_path / "run" / "checkpoints").latest() >= int(step or 6)
    same_end(run(RECIPE, tmp_path / "run", resume=True, quiet=True), plain)


@pytest.mark.slow
def test_a_callback_is_told_which_run_of_a_group_it_follows(tmp_path, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(run_many, "GAIN", 1e9)
    seen = set()
    how = How(quiet=True, leave="learned", callback=lambda record: seen.add((record["folder"], record["step"])))
    folders = [tmp_path / str(seed) for seed in range(2)]
    run_many.run_many([replace(RECIPE, seed=seed) for seed in range(2)], folders, how=how)
    assert seen == {(str(folder), step) for folder in folders for step in range(1, 7)}


def test_settings_of_following_are_checked_at_once():
    with pytest.raises(TypeError, match="callback is 3"):
        How(callback=3)
    with pytest.raises(ValueError, match="close: 'wandb'"):
        How(trackers=("wandbb",))
