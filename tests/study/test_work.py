"""Running a study: each cell once, with failures, interruptions and several workers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from tlx import Study, Weights, choice, param, prod, run
from tlx.records import studies
from tlx.study import results, run_study
from tlx.study.work import EXECUTIONS
from tlx.training.checkpoint import Checkpoints

FILE = '''"""Small cells.   tlx study small.py"""
from tlx import Data, Recipe, Study, Train, models, param, prod, tasks
from tlx.tuning import Full, Probe

def study():
    base = Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps={steps}, batch=8, eval_batch=64, eval_every={every}),
    )
    return Study(base=base, cells={cells}, question="Does it?")
'''
KILLS = 4
TWO = 'param("seed", 0, 1)'
FORTY = 'prod(param("optim.lr", 1e-2, 3e-3, 1e-3, 3e-4), param("seed", range(10)))'


def write_file(folder, cells=TWO, steps=3, every=3):
    path = folder / "small.py"
    path.write_text(FILE.format(cells=cells, steps=steps, every=every))
    return path


# A shell that starts the tests in the background makes children ignore Ctrl-C; this child must react to it.
HEARING = """
import signal, runpy
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("tlx.cli", run_name="__main__", alter_sys=True)
"""


def start(path, out, *more, **options):
    command = [sys.executable, "-c", HEARING, "study", str(path), "--out", str(out), *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


def executions(directory):
    path = directory / EXECUTIONS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def finished(directory):
    """Return the time at which every finished cell was written, by its fingerprint."""
    return {path.parent.name: path.stat().st_mtime_ns for path in directory.glob("cells/*/result.json")}


def test_a_finished_cell_is_never_repeated(small, tmp_path, capsys):
    out = tmp_path / "study"
    outcome = run_study(small, out, most=1)
    assert outcome.counts == {"done": 2, "running": 0, "failed": 0, "waiting": 0}
    output = capsys.readouterr().err.splitlines()
    assert output[:2] == ["study: Does a seed matter?", f"2 cells in {out}: 2 waiting"]
    assert output[2].startswith("1/2  seed=0: test/accuracy 0.")
    assert " remain" in output[2]
    assert output[3].startswith("2/2  seed=1: test/accuracy 0.")
    assert " remain" not in output[3]
    before = finished(out)
    run_study(small, out)
    assert capsys.readouterr().err.splitlines() == ["study: Does a seed matter?", f"2 cells in {out}: 2 done"]
    assert finished(out) == before
    assert [line["state"] for line in executions(out)] == ["done", "done"]


@pytest.mark.slow
def test_a_changed_recipe_is_a_new_cell_and_the_old_one_stays_unlisted(small, base, tmp_path):
    run_study(small, tmp_path / "study", quiet=True)
    before = finished(tmp_path / "study")
    other = replace(small, base=replace(base, train=replace(base.train, steps=2)))
    outcome = run_study(replace(small, cells=param("seed", 1, 2)), tmp_path / "study", quiet=True)
    assert [cell.seed for cell in outcome.cells] == [1, 2]
    assert len(executions(tmp_path / "study")) == 3
    outcome = run_study(other, tmp_path / "study", quiet=True)
    assert [cell.result["steps"] for cell in outcome.cells] == [2, 2]
    assert finished(tmp_path / "study").items() > before.items()
    assert len(finished(tmp_path / "study")) == 5


@pytest.mark.slow
def test_a_failed_cell_keeps_its_traceback_and_is_tried_again_by_the_next_call(base, tmp_path, capsys):
    model = tmp_path / "model"
    bring = choice("start", {"brought": {"weights": Weights(str(model))}, "fresh": {}})
    study = Study(base=base, cells=prod(bring, param("seed", 0, 1)), question="Does it?")
    out = tmp_path / "study"
    outcome = run_study(study, out)
    assert [cell.state for cell in outcome.cells] == ["failed", "failed", "done", "done"]
    failed = outcome.cells[0].failed
    assert failed["error"].startswith("FileNotFoundError: ")
    assert str(model) in failed["error"]
    assert failed["traceback"].startswith("Traceback (most recent call last):\n")
    assert failed["traceback"].endswith(failed["error"] + "\n")
    assert f"1/4  start=brought seed=0: failed, {failed['error']}" in capsys.readouterr().err
    assert Counter(line["state"] for line in executions(out)) == {"failed": 2, "done": 2}
    # The file is still missing: each cell is tried once more, and no more often.
    outcome = run_study(study, out)
    assert "2 done, 2 failed; failed cells run again" in capsys.readouterr().err
    assert outcome.cells[0].failed["time"] > failed["time"]
    assert len(executions(out)) == 6
    run(base, model, quiet=True)
    outcome = run_study(study, out, quiet=True)
    assert outcome.counts["done"] == 4
    assert not list(out.glob("cells/*/failed.json"))


@pytest.mark.slow
def test_a_full_disk_does_not_fail_a_cell(small, tmp_path, monkeypatch):
    from tlx.training.checkpoint import DiskFull

    def full_disk(*given, **how):
        raise DiskFull("the disk is full")

    monkeypatch.setattr("tlx.training.run_many.train", full_disk)
    with pytest.raises(DiskFull):
        run_study(small, tmp_path / "study", quiet=True)
    assert not list(tmp_path.glob("study/cells/*/failed.json"))
    monkeypatch.undo()
    assert run_study(small, tmp_path / "study", quiet=True).counts["done"] == 2


@pytest.mark.slow
def test_files_of_an_attempt_that_died_early_do_not_disturb(small, tmp_path):
    folder = tmp_path / "study" / "cells" / next(iter(small.by_fingerprint))
    run_study(replace(small, cells=param("seed", 1)), tmp_path / "study", quiet=True)
    folder.mkdir()
    (folder / ".recipe.json.partial").write_text("{")
    assert run_study(small, tmp_path / "study", quiet=True).counts["done"] == 2


def test_more_than_one_job_needs_a_command_to_start(small, tmp_path):
    with pytest.raises(ValueError, match=r"^jobs is 0; expected 1 or more$"):
        run_study(small, tmp_path / "study", jobs=0)
    with pytest.raises(ValueError, match=r"^jobs above 1 need worker=, a command that calls tlx.study.work.work; "):
        run_study(small, tmp_path / "study", jobs=2)
    assert not (tmp_path / "study").exists()


def test_workers_that_die_leave_the_rest_for_the_next_call(small, tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit(3)"]
    with pytest.raises(ChildProcessError, match=r"^the workers ended \(exit codes 3, 3\) before 2 cells"):
        run_study(small, tmp_path / "study", jobs=2, worker=command, quiet=True)
    assert run_study(small, tmp_path / "study", quiet=True).counts["done"] == 2


@pytest.mark.slow
def test_parallel_processes_share_the_cells_and_repeat_none(tmp_path):
    """Two calls on one directory, one of them with two workers."""
    path, out = write_file(tmp_path, 'param("seed", range(6))'), tmp_path / "out"
    calls = [start(path, out), start(path, out, "--jobs", "2")]
    for call in calls:
        _, errors = call.communicate(timeout=300)
        assert call.returncode == 0, errors
    assert Counter(line["cell"] for line in executions(out)) == Counter(finished(out).keys())
    # Each call returned when all cells were done, not only its share.
    assert studies.read(out).counts["done"] == 6


@pytest.mark.slow
def test_an_interrupted_study_prints_how_to_resume_and_resumes(tmp_path):
    # Enough steps that it cannot end before the signal arrives on any machine.
    path, out = write_file(tmp_path, 'param("seed", 0)', steps=5_000_000, every=100), tmp_path / "out"
    call = start(path, out)
    until(call, lambda: any(path.stat().st_size for path in out.glob("cells/*/metrics.jsonl")))
    assert studies.read(out).counts["running"] == 1
    call.send_signal(signal.SIGINT)
    errors = call.communicate(timeout=120)[1]
    assert call.returncode == 130, errors
    assert errors.endswith(f"stopped; continue with: tlx study {path} --out {out}\n")
    assert studies.read(out).counts == {"done": 0, "running": 0, "failed": 0, "waiting": 1}
    call = start(path, out)
    until(call, lambda: studies.read(out).counts["running"])
    call.kill()
    call.communicate()
    assert studies.read(out).counts["waiting"] == 1


@pytest.mark.slow
def test_the_workers_of_an_interrupted_study_finish_and_save_their_step(tmp_path):
    path, out = write_file(tmp_path, TWO, steps=5_000_000, every=100), tmp_path / "out"
    call = start(path, out, "--jobs", "2", "--together", "1")
    until(call, lambda: sum(file.stat().st_size > 0 for file in out.glob("cells/*/metrics.jsonl")) == 2)
    call.send_signal(signal.SIGINT)
    errors = call.communicate(timeout=120)[1]
    assert call.returncode == 130, errors
    assert studies.read(out).counts == {"done": 0, "running": 0, "failed": 0, "waiting": 2}
    for folder in out.glob("cells/*"):
        assert Checkpoints(folder / "checkpoints").latest() >= 100


def until(call, happened, seconds=120.0):
    """Wait for a condition in another process."""
    begun = time.monotonic()
    while not happened():
        assert call.poll() is None, call.communicate()
        assert time.monotonic() - begun < seconds
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("most", "steps"), [(1, 60), (3, 600)], ids=["one by one", "in threes"])
def test_kills_of_three_workers_give_every_cell_once_and_the_same_table(most, steps, tmp_path):
    path, out = write_file(tmp_path, FORTY, steps=steps, every=20), tmp_path / "killed"
    together = ("--quiet", "--together", str(most))
    dice, remaining = random.Random(0), {}
    for _ in range(KILLS):
        wanted = len(executions(out)) + dice.randint(1, 4)
        call = start(path, out, *together, "--jobs", "3", start_new_session=True)
        until(call, lambda wanted=wanted: len(executions(out)) >= wanted, 300.0)
        # The kill may come during data, compilation, a step, a checkpoint or the result.
        time.sleep(dice.uniform(0.0, 1.0))
        assert call.poll() is None, "the study was over before its last kill; make it longer"
        os.killpg(call.pid, signal.SIGKILL)
        call.communicate()
        assert finished(out).items() >= remaining.items()
        remaining = finished(out)
    call = start(path, out, *together, "--jobs", "3")
    _, errors = call.communicate(timeout=900)
    assert call.returncode == 0, errors
    assert finished(out).items() >= remaining.items()
    counted = Counter(line["cell"] for line in executions(out))
    assert set(counted.values()) == {1}
    # A worker that was killed between its results and their lines has written none of the lines.
    assert 40 - 3 * most * KILLS <= len(counted) <= 40
    call = start(path, tmp_path / "whole", *together)
    _, errors = call.communicate(timeout=900)
    assert call.returncode == 0, errors
    complete, killed = (results(folder).drop(columns="seconds") for folder in (tmp_path / "whole", out))
    assert len(complete) == 40 * len(complete[["split", "metric"]].drop_duplicates())
    assert (complete.state == "done").all()
    # The cells that share a program follow from the study, not from the workers.
    assert complete.equals(killed)
