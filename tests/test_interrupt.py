"""Ctrl-C: the current step is finished and saved, and a resumed run equals an unstopped run."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import tlx
from tlx import Data, Recipe, Train, models, tasks
from tlx.files.durable import DamagedWarning
from tlx.interrupt import locked, look, noted
from tlx.records.log import read_metrics
from tlx.records.progress import Progress
from tlx.training.checkpoint import Checkpoints
from tlx.training.loop import How
from tlx.training.run_many import run_many

HOW = How(quiet=True, checkpoint_seconds=3600)


@pytest.fixture(autouse=True)
def hearing():
    """A shell that starts the tests in the background makes them ignore Ctrl-C; undo this."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


def recipe_of(seed=0, select="last"):
    return Recipe(
        data=Data(target="digits", shots=8),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=23, batch=8, eval_batch=64, eval_every=6, select=select),
        seed=seed,
    )


@pytest.fixture
def pressed(monkeypatch):
    """Return `pressed(call, at)`: press Ctrl-C when the metrics of step `at` arrive."""
    settle = Progress.step

    def begin(call, at):
        def stop(self, step, loss, rate):
            if step == at:
                press()
            settle(self, step, loss, rate)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "step", stop)
            with pytest.raises(KeyboardInterrupt):
                call()

    return begin


def same_end(actual, expected):
    files = [run.folder / "model" / "model.safetensors" for run in (actual, expected)]
    assert files[0].read_bytes() == files[1].read_bytes()
    lines = [[line | {"time": 0} for line in read_metrics(run.folder)] for run in (actual, expected)]
    assert lines[0] == lines[1]
    assert actual.metrics == expected.metrics and actual.result["selected_step"] == expected.result["selected_step"]


@pytest.mark.slow
@pytest.mark.parametrize("select", [pytest.param("last", marks=pytest.mark.slow), "best-validation"])
def test_a_stopped_run_has_a_checkpoint_and_resumes_from_it(pressed, tmp_path, select, monkeypatch):
    # One step per program, so the signal can come anywhere between two validations.
    monkeypatch.setattr("tlx.training.batches.MOST", 1)
    recipe, stopped = recipe_of(select=select), tmp_path / "stopped"
    for at, resume in ((2, False), (6, True), (15, True)):
        pressed(lambda resume=resume: tlx.run(recipe, stopped, how=HOW, resume=resume), at)
        assert at <= Checkpoints(stopped / "checkpoints").latest() <= at + 2
    resumed = tlx.run(recipe, stopped, how=HOW, resume=True)
    same_end(resumed, tlx.run(recipe, tmp_path / "whole", how=HOW))


@pytest.mark.slow
def test_runs_that_share_a_program_stop_and_resume_together(pressed, tmp_path):
    recipes = [recipe_of(seed) for seed in range(3)]
    folders = [tmp_path / f"{seed}" for seed in range(3)]
    pressed(lambda: run_many(recipes, folders, how=HOW), 7)
    # One checkpoint for all three runs, in the folder of the first.
    (group,) = tmp_path.glob("*/checkpoints/group-3-*")
    assert group.parent.parent == folders[0] and Checkpoints(group).latest()
    full = [tmp_path / f"whole-{seed}" for seed in range(3)]
    for actual, expected in zip(run_many(recipes, folders, how=HOW), run_many(recipes, full, how=HOW), strict=True):
        same_end(actual, expected)


@pytest.mark.slow
def test_a_run_stopped_at_its_last_step_is_complete(pressed, tmp_path):
    pressed(lambda: tlx.run(recipe_of(), tmp_path / "run", how=HOW), 23)
    assert tlx.run(recipe_of(), tmp_path / "run", how=HOW, resume=True).result["steps"] == 23


def test_a_second_ctrl_c_stops_at_once():
    with noted() as stop:
        press()
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            press()
        stop.requested = False
    with pytest.raises(KeyboardInterrupt):
        press()


def test_an_unhandled_signal_is_raised_at_the_end_with_the_error_in_between():
    with pytest.raises(KeyboardInterrupt), noted():
        press()

    def fail():
        with noted():
            press()
            raise ValueError("wrong")

    with pytest.raises(KeyboardInterrupt) as interruption:
        fail()
    assert str(interruption.value.__cause__) == "wrong"


def test_a_signal_from_a_scheduler_is_handled_too():
    before = signal.getsignal(signal.SIGTERM)
    with noted() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        stop.requested = False
    assert signal.getsignal(signal.SIGTERM) is before


def test_ignored_signals_and_other_threads_are_unchanged():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with noted() as stop:
        press()
        assert not stop.requested and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        # In the background of a shell Ctrl-C is ignored, but the signal of a scheduler is still handled.
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        stop.requested = False

    def elsewhere():
        with noted():
            calls.append(signal.getsignal(signal.SIGINT))

    calls = []
    signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert calls == [signal.default_int_handler]


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_resumes_from_the_previous_one_to_the_same_bits(pressed, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.batches.MOST", 1)
    recipe, stopped = recipe_of(select="best-validation"), tmp_path / "stopped"
    for at, resume in ((4, False), (15, True)):
        pressed(lambda resume=resume: tlx.run(recipe, stopped, how=HOW, resume=resume), at)
    older, newest = Checkpoints(stopped / "checkpoints").steps()
    file = max((stopped / "checkpoints" / str(newest) / "arrays").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.warns(DamagedWarning, match=rf"checkpoints/{newest} is damaged"):
        resumed = tlx.run(recipe, stopped, how=HOW, resume=True)
    assert older < newest
    same_end(resumed, tlx.run(recipe, tmp_path / "whole", how=HOW))


def test_a_process_that_waits_for_a_lock_reacts_to_a_signal(tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / "lock", is_singleton=False):
        for number in (signal.SIGINT, signal.SIGTERM):
            timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
            timer.start()
            begin = time.monotonic()
            with pytest.raises(KeyboardInterrupt), noted(), locked(FileLock(tmp_path / "lock", is_singleton=False)):
                raise AssertionError("the lock is another's")
            timer.join()
            assert time.monotonic() - begin < 5
    with noted(), locked(FileLock(tmp_path / "lock")):
        look()


def test_a_signal_of_an_outer_block_is_visible_inside():
    def wait():
        with noted():
            press()
            with noted():
                look()
                reached.append("after it")

    reached = []
    with pytest.raises(KeyboardInterrupt):
        wait()
    assert not reached


LATER = """
import os, signal, time
from tlx import interrupt
interrupt.PATIENCE = 0.2
with interrupt.noted():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.4)
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached", flush=True)
"""


def test_a_second_signal_from_a_scheduler_ends_the_process_at_once():
    process = subprocess.run([sys.executable, "-c", LATER], capture_output=True, text=True, timeout=60, check=False)
    assert (process.returncode, process.stdout) == (-signal.SIGTERM, "still here\n")
