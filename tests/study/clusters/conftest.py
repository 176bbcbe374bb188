"""Commands in processes that tests start and end."""

import subprocess
import sys

import pytest

# A shell that starts the tests in the background makes children ignore Ctrl-C; this child must react to it.
HEARING = """
import signal, runpy
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("tlx.cli", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def start():
    """Return a function that starts a command; a command that a failed test leaves is killed."""
    calls = []

    def begin(command, path, *words):
        line = [sys.executable, "-c", HEARING, command, str(path), *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        calls.append(subprocess.Popen(line, text=True, cwd=path.parent, **pipes))
        return calls[-1]

    yield begin
    for call in calls:
        call.kill()


@pytest.fixture
def ended():
    """Return a function that waits for a command, and returns what it printed on standard error."""

    def end(call, code=0):
        output, errors = call.communicate(timeout=400)
        assert call.returncode == code, errors
        assert "raylet" not in output + errors
        return errors

    return end
