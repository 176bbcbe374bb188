"""Full and failing disks: every command ends with one clear line, keeps existing files, and resumes afterwards."""

import ctypes
import os
import shutil
import subprocess
import sys
import time

import pytest

import tlx
from tlx import Data, Recipe, Train, models, tasks
from tlx.files.durable import DiskFull
from tlx.records.run_directory import read_predictions
from tlx.training.checkpoint import Checkpoints
from tlx.weights.source import locate

CONFIG = """
from tlx import Data, Optim, Recipe, Train, models, tasks


def recipe():
    return Recipe(
        data=Data(target="digits", shots=8),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        optim=Optim(lr=1e-2),
        train=Train(steps=60, batch=16, eval_every=10, eval_batch=128, select="best-validation"),
    )
"""
STUDY = (
    CONFIG
    + """

def study():
    from tlx import Study, param

    return Study(base=recipe(), cells=param("optim.lr", 0.01, 0.02), question="Which?")
"""
)
# A shell that starts the tests in the background makes every child ignore Ctrl-C.
PROGRAM = """
import faulthandler, resource, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
runpy.run_module("tlx.cli", run_name="__main__", alter_sys=True)
"""


def start(*words, limit=0, **environment):
    command = [sys.executable, "-c", PROGRAM, str(limit), *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


def call(*words, limit=0, timeout=60, **environment):
    process = start(*words, limit=limit, **environment)
    try:
        _, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, errors.splitlines()


def kinds(folder):
    """Return every file of a run that its recipe determines, by content; metric lines without their time."""
    results = {}
    for name in ("model/model.safetensors", "predictions/test.npz", "predictions/validation.npz"):
        results[name] = (folder / name).read_bytes()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return results | {"metrics": [line.rpartition(', "time"')[0] for line in lines]}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("storage") / "small.py"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def complete_run(config):
    """A run with enough space, and its seconds."""
    began = time.monotonic()
    code, errors = call("run", config, "--out", config.parent / "whole", "--quiet", timeout=200)
    assert (code, errors) == (0, [])
    return kinds(config.parent / "whole"), time.monotonic() - began


class Small:
    """A file system of a few KiB, if this process may mount one; else a limit on the file size."""

    def __init__(self, folder, kib, may_mount=True):
        self.folder, self.kib, self.limit = folder, kib, 0
        folder.mkdir()
        libc = ctypes.CDLL(None, use_errno=True)
        self.mounted = (
            may_mount and libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={kib}k".encode()) == 0
        )
        self.libc = libc
        if not self.mounted:
            # The largest files of a run are about a third of everything it writes before its report.
            self.limit = kib * 1024 // 3

    def grow(self):
        if self.mounted:
            remount = 32
            assert self.libc.mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", remount, b"size=64m") == 0
        self.limit = 0

    def close(self):
        if self.mounted:
            assert self.libc.umount2(os.fsencode(self.folder), 2) == 0


SIZES = [4, 12, 24, 48, 64, 100, 120, 160, 220, 280, 480, 800]


@pytest.mark.slow
@pytest.mark.parametrize(("kib", "may_mount"), [*((kib, True) for kib in SIZES), (3, False), (40, False), (600, False)])
def test_a_disk_of_any_size_ends_a_run_with_one_line_and_loses_nothing(config, complete_run, tmp_path, kib, may_mount):
    expected, seconds = complete_run
    disk = Small(tmp_path / "disk", kib, may_mount)
    out = disk.folder / "run"
    try:
        code, errors = call("run", config, "--out", out, "--quiet", limit=disk.limit, timeout=seconds + 10)
        assert code == 1 and len(errors) == 1, errors
        assert errors[0].startswith("tlx: the disk is full: ") and str(out) in errors[0] and "--resume" in errors[0]
        assert not list(out.rglob("*.partial"))
        # Every existing checkpoint is intact.
        before = Checkpoints(out / "checkpoints").steps()
        if kib in (4, 64, 800):
            # A second attempt on the full disk deletes nothing.
            second = call("run", config, "--out", out, "--quiet", "--resume", limit=disk.limit, timeout=seconds + 10)
            assert second[0] == 1 and len(second[1]) == 1, second
            assert Checkpoints(out / "checkpoints").steps() >= before
        if kib >= 480:
            # The run is finished; only its report is missing.
            assert (out / "result.json").is_file() and not (out / "report.html").exists()
        disk.grow()
        code, errors = call("run", config, "--out", out, "--quiet", "--resume", timeout=seconds + 60)
        assert (code, errors) == (0, [])
        assert kinds(out) == expected
        assert (out / "report.html").is_file()
    finally:
        disk.close()


def recipe_of():
    return Recipe(
        data=Data(target="digits", shots=2),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=4, batch=8, eval_batch=256),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        return tlx.run(recipe_of(), tmp_path_factory.mktemp("finished") / "run", quiet=True)


def test_a_missing_report_is_written_on_resume_without_training(finished, tmp_path, monkeypatch):
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    (copy / "report.html").unlink(missing_ok=True)
    drawn = []
    monkeypatch.setattr("tlx.report.available", lambda: True)
    monkeypatch.setattr("tlx.report.write_run", lambda path, task: drawn.append(path) or path / "report.html")
    monkeypatch.setattr("tlx.training.loop.opened", None)
    assert tlx.run(recipe_of(), copy, resume=True, quiet=True).result == finished.result
    assert drawn == [copy]

    def full_disk(path, task):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tlx.report.write_run", full_disk)
    with pytest.raises(DiskFull, match=r"free some space and draw the page with --resume; the run itself is finished$"):
        tlx.run(recipe_of(), copy, resume=True, quiet=True)
    assert (copy / "result.json").is_file()


@pytest.mark.parametrize("name", ["predictions/test.npz", "model/model.safetensors"])
def test_changed_numbers_of_a_finished_run_are_refused(finished, tmp_path, name):
    copy = tmp_path / "run"
    shutil.copytree(finished.folder, copy)
    read = {
        "predictions/test.npz": lambda: read_predictions(copy, "test"),
        "model/model.safetensors": lambda: locate(copy),
    }
    read[name]()
    content = bytearray((copy / name).read_bytes())
    content[-9] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match="was changed after the run wrote it"):
        read[name]()


@pytest.mark.slow
@pytest.mark.parametrize("words", [("study", "--jobs", "1"), ("study", "--jobs", "2"), ("tune",)])
@pytest.mark.parametrize("kib", [12, 40, 90])
def test_a_full_disk_ends_a_study_and_a_search_and_fails_no_cell(config, tmp_path, words, kib):
    disk = Small(tmp_path / "disk", kib)
    out = disk.folder / "all"
    space = tmp_path / "space.py"
    space.write_text(
        "from tlx.tune import log_uniform\n\n\ndef space():\n    return {'optim.lr': log_uniform(1e-3, 1e-1)}\n"
    )
    name, *more = words
    if name == "tune":
        more = ["--space", space, "--trials", "2", "--sampler", "random"]
    command = [name, config, "--out", out, *more, "--quiet"]
    try:
        code, errors = call(*command, limit=disk.limit, timeout=90)
        assert code == 1 and len(errors) == 1, errors
        assert str(out) in errors[0] and "same command again" in errors[0], errors
        assert not list(out.rglob("failed.json"))
        disk.grow()
        code, errors = call(*command, timeout=200)
        assert code == 0, errors
        assert not list(out.rglob("failed.json"))
        assert len(list(out.glob("cells/*/result.json"))) == 2
    finally:
        disk.close()
