"""Traces of the profiler: the files open, hold the steps, and change no number."""

import gzip
import json

import pytest
from click.testing import CliRunner

import tlx
from tlx import Data, Recipe, Train, models, tasks
from tlx.cli import main
from tlx.files import run_files
from tlx.records.log import read_metrics
from tlx.training.loop import How
from tlx.training.profile import StepTrace

RECIPE = Recipe(
    data=Data(target="digits", shots=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    train=Train(steps=12, batch=8, eval_batch=64, eval_every=6),
)
PLACE = "profile/plugins/profile/steps"


@pytest.fixture(autouse=True)
def _without_page(no_page):
    pass


@pytest.mark.slow
def test_a_trace_is_a_file_for_both_viewers_and_changes_no_bit(tmp_path, capsys):
    plain = tlx.run(RECIPE, tmp_path / "plain", how=How(quiet=True)).folder
    traced = tlx.run(RECIPE, tmp_path / "traced", how=How(profile=3)).folder
    printed = capsys.readouterr().err
    assert f"--logdir {traced / 'profile'}" in printed and str(traced / PLACE / "perfetto_trace.json.gz") in printed
    # TensorBoard reads the xplane file, Perfetto the compressed JSON.
    [xplane] = (traced / PLACE).glob("*.xplane.pb")
    assert xplane.stat().st_size > 1000
    with gzip.open(traced / PLACE / "perfetto_trace.json.gz") as stream:
        events = json.load(stream)["traceEvents"]
    assert any(event.get("dur", 0) > 0 for event in events)
    assert {event["args"]["step_num"] for event in events if event.get("name") == "train"} <= {"3", "4", "5"}
    assert "train" in {event.get("name") for event in events}
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (plain, traced)]
    assert weights[0] == weights[1]
    lines = [[line | {"time": 0} for line in read_metrics(folder)] for folder in (plain, traced)]
    assert lines[0] == lines[1]
    # The files belong to the run: --overwrite deletes them.
    run_files.delete(traced)
    assert not (traced / "profile").exists()


@pytest.mark.parametrize("most", [1, 5, 100])
def test_the_trace_starts_and_ends_at_its_steps_however_many_are_dispatched_at_once(tmp_path, most, monkeypatch):
    events = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda *_, **__: events.append(("start", step)))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: events.append(("stop", step)))
    (tmp_path / "profile" / "plugins" / "profile").mkdir(parents=True)
    monkeypatch.setattr("tlx.training.profile.delete", lambda folder: None)
    (tmp_path / "profile" / "plugins" / "profile" / "time").mkdir()
    trace, step = StepTrace(7, 20, 40, tmp_path, lambda message: None), 20

    def settle():
        events.append(("settle", step))

    while step < 40:
        step = min(trace.begin(step, 40, settle), step + most)
        trace.end(step, settle)
    trace.close()
    assert events == [("settle", 22), ("start", 22), ("settle", 29), ("stop", 29)]
    assert (tmp_path / PLACE).is_dir()


@pytest.mark.parametrize(
    ("count", "words"),
    [
        ("0", "profile is 0; expected 1 or more steps"),
        ("-3", "profile is -3; expected 1 or more steps"),
        ("11", "profile is 11, but 10 steps remain after the 2 steps of warm-up; give 10 or fewer"),
        ("many", "--profile"),
    ],
)
def test_an_impossible_number_of_steps_is_one_line(count, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    outcome = CliRunner().invoke(main, ["run", "config.py", "--out", "run", "--quiet", "--profile", count])
    assert outcome.exit_code == 2 and words in outcome.output, outcome.output
    assert len(outcome.output.splitlines()) == 1


CONFIG = """
from tlx import Data, Recipe, Train, models, tasks
def recipe():
    return Recipe(
        data=Data(target="digits", shots=8),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=12, batch=8, eval_batch=64, eval_every=6),
    )
"""
