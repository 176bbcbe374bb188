"""Execute an order in the process of a worker."""

import hashlib
import io
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tlx.files.documents import read_json, records
from tlx.records.studies import STUDY
from tlx.study.clusters.base import INTERRUPTED, Ending, TaskOrder, last_line


def enter(order: TaskOrder) -> Ending:
    """Execute the command of an order in this process, as the local runner's workers do in theirs."""
    if line := refused(order):
        return Ending(2, line)
    _, _, module, *words = order.command
    errors, arguments, code = io.StringIO(), sys.argv, 0
    sys.argv = ["tlx", *words]
    try:
        with redirect_stderr(errors), redirect_stdout(io.StringIO()), stoppable():
            runpy.run_module(module, run_name="__main__")
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    finally:
        sys.argv = arguments
    return Ending(code, last_line(errors.getvalue()).removeprefix("tlx: "))


def refused(order: TaskOrder) -> str:
    """Return why this machine cannot execute an order; an empty text if it can. Change to its working directory."""
    host = socket.gethostname()
    if (installed := version("tlx")) != order.version:
        return (
            f"{host} has tlx {installed}, but the command runs tlx {order.version}; install the same version on all "
            "machines"
        )
    with suppress(OSError):
        os.chdir(order.folder)
    if not Path(order.folder).is_dir() or not Path.cwd().samefile(order.folder):
        return f"{host} does not see the working directory {order.folder}; run the command on a disk that all share"
    here = identity(Path(order.directory)) if order.identity else ""
    if here != order.identity:
        state = "another study" if here else "no study"
        return (
            f"{host} sees {state} in {order.directory}; set --out to a directory on a disk that all machines of the "
            "cluster share"
        )
    return ""


def identity(directory: Path) -> str:
    """Return the fingerprint of the cells that a study's directory lists; an empty text if there is no study."""
    try:
        document = read_json(directory / STUDY, records.STUDY, remedy="run the study again", finite=False)
    except (OSError, ValueError):
        return ""
    names = sorted(cell["fingerprint"] for cell in document["cells"])
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]


@contextmanager
def stoppable() -> Iterator[None]:
    """Let the signals by which a cluster ends a task have their usual effect, so that training saves its state.

    Ray and submitit handle SIGTERM in other ways. Slurm sends SIGUSR2 some time before it ends a job.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    handlers: dict[int, Any] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
        signal.SIGUSR2: end,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
