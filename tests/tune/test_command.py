"""`tlx tune`: its output, its files, its workers, and one line for every mistake."""

import json
import shlex

import pytest
from click.testing import CliRunner

from tlx.cli import main

CONFIG = '''"""A tiny run."""
from tlx import Data, Optim, Recipe, Train, models, tasks

def recipe():
    return Recipe(
        data=Data(target="digits", shots=4), task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)), optim=Optim("sgd", lr=0.01),
        train=Train(steps=4, batch=16, eval_every=2, eval_batch=256),
    )
'''
SPACE = """from tlx import tuning
from tlx.tune import log_uniform, one_of

def space():
    return {"optim.lr": log_uniform(1e-4, 0.1), "tuning": one_of(tuning.Full(), tuning.Probe())}
"""


@pytest.fixture(autouse=True)
def room(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tlx.report.available", lambda: False)
    (tmp_path / "tiny.py").write_text(CONFIG)
    (tmp_path / "space.py").write_text(SPACE)
    return tmp_path


def tune(*words):
    return CliRunner().invoke(main, ["tune", "tiny.py", *words])


@pytest.mark.slow
def test_the_printed_command_runs_the_chosen_recipe(room):
    outcome = tune("--set", "optim.momentum=0.5", "--space", "space.py", "--trials", "3", "--quiet")
    assert outcome.exit_code == 0, outcome.output
    first, command, where = outcome.output.splitlines()
    document = json.loads((room / "runs/tune-tiny/tune.json").read_text())
    best = document["trials"][document["best"]]
    assert first == f"validation/accuracy {best['value']:.4f} (selection: best of 3 trials)"
    assert command == document["command"] and where == "runs/tune-tiny/tune.json"
    assert command.startswith("tlx run tiny.py --set optim.momentum=0.5 --set optim.lr=0.")
    ran = CliRunner().invoke(main, [*shlex.split(command)[1:], "--out", "chosen", "--quiet"])
    assert ran.exit_code == 0, ran.output
    result = json.loads((room / "chosen/result.json").read_text())
    assert result["fingerprint"] == best["fingerprint"]
    assert result["metrics"]["validation/accuracy"] == best["value"] and "test/accuracy" in result["metrics"]


@pytest.mark.slow
def test_several_processes_share_a_search(room, monkeypatch):
    from pathlib import Path

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    outcome = tune("--space", "space.py", "--trials", "6", "--jobs", "2", "--out", "out", "--quiet")
    assert outcome.exit_code == 0, outcome.output
    document = json.loads((room / "out/tune.json").read_text())
    assert [trial["state"] for trial in document["trials"]] == ["done"] * 6


def test_a_search_in_which_all_trials_fail_says_why_and_exits_with_one():
    outcome = tune("--space", "space.py", "--trials", "1", "--set", "train.batch=12", "--quiet")
    assert (outcome.exit_code, outcome.output) == (
        1,
        "tlx: no trial of runs/tune-tiny is done: ValueError: train.batch is 12, which 8 devices cannot share evenly; "
        "use 8 or 16, or a mesh of data=6\n",
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--space", "none.py", "--trials", "2"],
            "there is no space file none.py; expected a Python file with a function space()",
        ),
        (
            ["--space", "tiny.py", "--trials", "2"],
            "tiny.py has no function space(); there is 'recipe'; a space file must define this function",
        ),
        (["--space", "space.py", "--trials", "0"], "trials is 0; "),
        (
            ["--space", "space.py", "--trials", "2", "--metric", "test/accuracy"],
            "metric is 'test/accuracy'; ",
        ),
        (
            ["--space", "space.py", "--trials", "2", "--sampler", "grid"],
            "a grid needs a list of values, but 'optim.lr' ",
        ),
        (
            ["--space", "space.py", "--trials", "2", "--set", "model.widths=8"],
            "model.widths ... 8 ... tuple[int, ...]",
        ),
    ],
)
def test_a_mistake_is_one_line(words, message, room):
    outcome = tune(*words)
    assert outcome.exit_code == 2 and outcome.output.startswith("tlx: ") and outcome.output.count("\n") == 1
    for part in message.split(" ... "):
        assert part in outcome.output
    assert not (room / "runs").exists()


def test_a_journal_of_another_config_is_not_changed(room):
    assert tune("--space", "space.py", "--trials", "1", "--out", "out", "--quiet").exit_code == 0
    outcome = tune("--set", "seed=1", "--space", "space.py", "--trials", "2", "--out", "out")
    assert outcome.exit_code == 2
    assert outcome.output.startswith("tlx: out contains a search with another recipe: ")
    assert outcome.output.endswith(" in this search; choose another folder with --out\n")
