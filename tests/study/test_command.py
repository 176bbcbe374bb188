"""`tlx study`: its output, its exit codes, and one clear line for every mistake."""

import json

import pytest
from click.testing import CliRunner
from filelock import FileLock

from tlx.cli import main
from tlx.cli.studies import load_study

FILE = '''"""Two methods, of which one cannot be.   tlx study small.py"""
from tlx import Data, Recipe, Study, Train, choice, models, tasks

def study():
    base = Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=3, batch=8, eval_batch=64),
    )
    methods = choice("method", {"good": {}, "bad": {"task.classes": 3}})
    return Study(base=base, cells=methods, question="Does it?", baseline={"method": "good"})
'''
ERROR = "ValueError: labels outside the class range: the data have 10 classes, but the task has 3"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(FILE)
    return str(path)


def call(*arguments):
    return CliRunner().invoke(main, ["study", *arguments])


def error_line(*arguments):
    """Return the single line of an error."""
    outcome = call(*arguments)
    assert outcome.exit_code == 2, outcome.output
    assert outcome.output.startswith("tlx: ")
    assert outcome.output.count("\n") == 1
    return outcome.output.removeprefix("tlx: ").rstrip("\n")


def test_a_study_from_its_first_status_to_its_results(file, tmp_path):
    out = str(tmp_path / "out")
    status = call(file, "--out", out, "--status").output
    assert status == f"Does it?\n2 cells waiting; {out} does not contain a study yet\n"
    outcome = call(file, "--out", out)
    assert outcome.exit_code == 1
    last = outcome.output.splitlines()[-1]
    assert last == (
        f"tlx: 1 of 2 cells failed; the first is method=bad: {ERROR}; tracebacks in {out}/cells/*/failed.json; "
        f"run them again with: tlx study {file} --out {out}"
    )
    written = json.loads((tmp_path / "out" / "study.json").read_text())
    assert (written["name"], written["file"], written["command"]) == (
        "small", file, f"tlx study {file} --out {out}",
    )  # fmt: skip
    names = {cell["names"]["method"]: cell["fingerprint"] for cell in written["cells"]}
    status = call(file, "--out", out, "--status").output.splitlines()
    assert status[:2] == ["small: Does it?", f"2 cells in {out}: 1 done, 0 running, 1 failed, 0 waiting"]
    rows = [[part.strip() for part in line.strip("│").split("│")] for line in status if line.startswith("│")]
    assert [row[:2] for row in rows] == [["done", "good"], ["failed", "bad"]]
    assert rows[1][2:] == ["-", ERROR]
    with FileLock(tmp_path / "out" / "claims" / f"{names['bad']}.lock"):
        assert "1 done, 1 running, 0 failed, 0 waiting" in call(file, "--out", out, "--status").output
    lines = call(file, "--out", out, "--results").output.splitlines()
    assert lines[2].startswith("| good | 0.")
    assert len(lines) == 3


@pytest.mark.slow
def test_set_changes_the_base_of_every_cell(file, tmp_path):
    out = str(tmp_path / "out")
    call(file, "--out", out, "--quiet")
    before = {path.name for path in (tmp_path / "out" / "cells").iterdir()}
    status = call(file, "--out", out, "--set", "train.steps=2", "--status").output
    assert status.endswith(f"{out} does not contain 2 new cells of the study yet\n")
    call(file, "--out", out, "--set", "train.steps=2", "--quiet")
    written = json.loads((tmp_path / "out" / "study.json").read_text())
    assert written["command"] == f"tlx study {file} --set train.steps=2 --out {out}"
    assert not before & {cell["fingerprint"] for cell in written["cells"]}
    assert before < {path.name for path in (tmp_path / "out" / "cells").iterdir()}


def test_the_metric_follows_from_the_task_chosen_by_set(tmp_path):
    path = tmp_path / "rates.py"
    path.write_text(FILE.replace('task.classes": 3', 'optim.lr": 0.1'))
    assert load_study(str(path), []).metric == "test/accuracy"
    recorded = load_study(str(path), ["task=Regression()"])
    assert recorded.metric == f"test/{recorded.base.task.primary}" != "test/accuracy"


def test_quiet_prints_only_failures(file, tmp_path):
    outcome = call(file, "--out", str(tmp_path / "out"), "--quiet", "--jobs", "1")
    assert outcome.output.startswith("tlx: 1 of 2 cells failed")
    assert outcome.output.count("\n") == 1


def test_the_directory_has_the_name_of_the_file_by_default(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(file, "--status").output.endswith("runs/small does not contain a study yet\n")


def test_every_mistake_is_one_line(file, tmp_path):
    path = str(tmp_path / "none.py")
    assert error_line(path) == f"there is no study file {path}; expected a Python file with a function study()"
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert (
        error_line(str(tmp_path / "empty.py"))
        == f"{tmp_path / 'empty.py'} has no function study(); a study file must define this function, without arguments"
    )
    (tmp_path / "three.py").write_text("def study():\n    return 3\n")
    assert (
        error_line(str(tmp_path / "three.py"))
        == f"study() in {tmp_path / 'three.py'} returned int; expected a tlx.Study"
    )
    assert error_line(file, "--set", "optim.lrr=1", "--status") == (
        "the recipe has no field 'optim.lrr'; close: 'optim.lr', 'optim.clip', 'optim'"
    )
    assert error_line(file, "--out", str(tmp_path)) == (
        f"{tmp_path} is not empty and contains no study; choose another directory with --out"
    )
    line = error_line(file, "--out", str(tmp_path), "--results")
    assert line == f"{tmp_path} contains no study: there is no study.json"
    assert call(file, "--jobs", "0").exit_code == 2
