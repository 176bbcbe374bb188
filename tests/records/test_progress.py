"""What a run shows while it works: on a terminal, in a log file, in a notebook, and nothing where it is quiet."""

import io
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tlx.records import progress as module
from tlx.records.progress import Activity, Clock, Evaluations, Progress


@pytest.fixture
def clock_of(monkeypatch):
    """Return a list of one number, the time in seconds that the module reads."""
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


def test_an_inner_activity_interrupts_the_outer_one(clock_of):
    clock = Clock()
    with clock("eval"):
        clock_of[0] += 2
        with clock("compile"):
            clock_of[0] += 5
        clock_of[0] += 1
    clock_of[0] += 50
    with suppress(ValueError), clock("train"):
        clock_of[0] += 4
        raise ValueError
    assert clock.seconds == {"setup": 0.0, "compile": 5.0, "train": 4.0, "eval": 3.0}


def test_the_speed_counts_training_time_only_and_the_remaining_time_counts_evaluations(clock_of):
    clock = Clock()
    progress = Progress(100, 0, 8, True, clock, Evaluations(every=10, examples=30, test=60))
    with clock("compile"):
        clock_of[0] += 1000
    with clock("train"):
        clock_of[0] += 5
        clock.steps = 10
        progress.step(10, 0.5, 0.1)
    assert progress.speed() == 2.0
    assert "16 examples/s" in progress.text() and "loss 0.5000" in progress.text()
    # An evaluation takes a third of the time of a step for each example, until one was measured.
    assert progress.seconds_left(10, 2.0) == pytest.approx(45 + (9 * 30 + 60) / (3 * 16))
    with clock("eval"), progress.doing("validating", 30):
        with clock("compile"):
            clock_of[0] += 1000
        clock_of[0] += 3
        progress.advance(30)
        assert progress.rows()[-1].counted() == "validating 30/30"
    assert progress.seconds_left(10, 2.0) == pytest.approx(45 + (9 * 30 + 60) * 3 / 30)
    assert progress.seconds_left(100, 2.0) == pytest.approx(60 * 3 / 30)
    # The steps of the next phase are slower.
    progress.begin_phase()
    assert progress.speed() == 0 and "examples/s" not in progress.text()
    with clock("train"):
        clock_of[0] += 5
        clock.steps += 1
    assert progress.speed() == 0.2


@pytest.mark.parametrize(("step", "left"), [(0, 3), (3, 3), (4, 2), (8, 1), (9, 1), (10, 0)])
def test_a_validation_also_follows_the_last_step(step, left):
    assert Evaluations(every=4, examples=1).left(step, 10) == left


def test_a_quiet_run_prints_nothing(capsys):
    with Progress(3, 0, 8, True) as progress, progress.compiling("training step", None):
        progress.step(1, 0.5, 0.1)
        progress.say("step 3/3")
    assert capsys.readouterr() == ("", "")


def test_a_log_file_has_few_plain_lines(capsys, clock_of):
    with Progress(1000, 0, 8, False, Clock()) as progress:
        progress.say("the start")
        for seconds in (None, 1.0, 90.0, 90.0):
            with progress.compiling("training step", seconds):
                clock_of[0] += 10
        for step in range(1, 1000):
            clock_of[0] += 0.13
            progress.step(step, 0.25, 0.1)
        with progress.doing("validating", 10):
            clock_of[0] += 61
            progress.advance(4)
        progress.measured("step 999/1000  validation loss 1")
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert lines[:2] == ["the start", "compiling the training step"]
    assert lines[-2:] == ["validating 4/10  0:01:01", "step 999/1000  validation loss 1"]
    # 130 seconds of steps.
    assert [re.sub(r"\d+/", "N/", line) for line in lines[2:-2]] == ["step N/1000  loss 0.2500  rate 1.00e-01"] * 2


def test_a_terminal_shows_the_activity_below_the_steps(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    with Progress(12, 3, 8, False) as progress:
        progress.say("the start")
        with progress.compiling("training step", 41.3):
            progress.display.live.refresh()
        before = screen.tell()
        with progress.doing("validating", 10):
            progress.advance(4)
            progress.display.live.refresh()
    text = screen.getvalue()
    assert "the start" in text
    assert "step 3/12" in text[:before] and "compiling the training step (last time 0:00:41)" in text[:before]
    assert "validating 4/10" in text[before:] and "compiling" not in text[before:]
    # The bar is complete at the end, and no remaining time is shown where none is known.
    assert "step 12/12" in text[before:] and "-:--" not in text and "left" not in text


def test_an_activity_shows_its_time_from_one_second_on(clock_of):
    activity = Activity("testing", 20)
    assert activity.line() == "testing 0/20"
    clock_of[0] += 75
    assert activity.line() == "testing 0/20  0:01:15"


NOTEBOOK = """
from tlx.records.progress import Clock, Progress
with Progress(500, 0, 8, False, Clock()) as progress:
    progress.say("the start")
    with progress.compiling("training step", 41.3):
        pass
    for step in range(500):
        progress.step(step + 1, 0.5, 0.1)
        if step % 10 == 9:
            with progress.doing("validating", 10):
                progress.advance(10)
            progress.measured(f"step {step + 1}/500  validation loss 1")
"""


@pytest.mark.slow
def test_a_notebook_has_one_output_that_is_redrawn():
    import nbformat
    from nbclient import NotebookClient

    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    updates = []
    client = NotebookClient(document, timeout=120, resources={"metadata": {"path": str(Path(__file__).parents[2])}})
    receive = client.process_message
    client.process_message = lambda message, *rest: updates.append(message["msg_type"]) or receive(message, *rest)
    client.execute()
    (output,) = document.cells[0].outputs
    assert output.output_type == "display_data"
    lines = re.sub(r"\x1b\[[\d;]*m", "", output.data["text/plain"]).splitlines()
    assert [line.split("  ")[0].strip() for line in lines[:2]] == ["the start", "step 500/500"]
    assert "step 500/500" in output.data["text/html"] and "compiling" not in output.data["text/html"]
    # Fewer messages than one per measurement and one per step.
    assert 3 < updates.count("update_display_data") < 150
