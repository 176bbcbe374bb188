"""A worker executes an order only where it sees the same directory, with the same version."""

import os
import signal
from importlib.metadata import version

import pytest

from tlx import Study, param
from tlx.study.base import document, settle
from tlx.study.clusters.base import Ending, TaskOrder
from tlx.study.clusters.entry import enter, identity, stoppable


@pytest.fixture
def order(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "out"
    settle(directory, document(small, "small"))
    command = ("python", "-Pm", "tlx.cli", "study", "none.py")
    return TaskOrder(command, str(tmp_path), str(directory), identity(directory), version("tlx"))


def test_the_outcome_is_the_exit_code_and_the_line_of_the_command(order):
    ending = enter(order)
    assert ending.code == 2 and ending.line.startswith("there is no study file none.py")
    assert enter(order._replace(command=("python", "-Pm", "tlx.cli", "--version"))) == Ending(0)


def test_another_study_and_no_study_are_refused(order, base, tmp_path):
    other = tmp_path / "other"
    ending = enter(order._replace(directory=str(other)))
    assert ending.code == 2 and f"sees no study in {other}" in ending.line and "all machines" in ending.line
    settle(other, document(Study(base=base, cells=param("seed", 7, 8), question="Does it?"), "small"))
    assert "sees another study" in enter(order._replace(directory=str(other))).line


def test_another_version_and_a_missing_folder_are_refused(order, tmp_path):
    ending = enter(order._replace(version="0.0.9"))
    assert ending.code == 2 and "tlx 0.0.9" in ending.line and version("tlx") in ending.line
    assert (
        f"does not see the working directory {tmp_path / 'gone'}"
        in enter(order._replace(folder=str(tmp_path / "gone"))).line
    )


def test_the_command_of_a_study_does_not_change_its_identity(small, tmp_path):
    names = []
    for command in ("tlx study small.py", "tlx study small.py --jobs 2"):
        settle(tmp_path / "out", document(small, "small", command))
        names.append(identity(tmp_path / "out"))
    assert names[0] == names[1] != ""


def test_the_signal_before_the_limit_of_a_job_saves_as_sigterm_does():
    from tlx.interrupt import noted

    handler = signal.getsignal(signal.SIGUSR2)
    with pytest.raises(KeyboardInterrupt), stoppable(), noted():
        os.kill(os.getpid(), signal.SIGUSR2)
    assert signal.getsignal(signal.SIGUSR2) is handler
