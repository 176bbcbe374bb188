"""Ctrl-C where it does no harm. Raised by Python wherever the signal strikes, KeyboardInterrupt can end a process from
within a callback of XLA, be swallowed by one of JAX's, or leave a checkpoint half begun."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Interruption:
    """Whether Ctrl-C was pressed."""

    asked: bool = False


@contextmanager
def noted() -> Iterator[Interruption]:
    """Within it the first Ctrl-C is only noted, for whoever looks between two steps, and so is every SIGTERM, by which
    schedulers and `tlx study --jobs` end a process; a second Ctrl-C has its usual effect at once. What was noted and
    not acted on is raised as KeyboardInterrupt at the end, whatever else has happened. A signal that is ignored, or
    another's, stays so, and elsewhere than in the main thread nothing changes."""
    found = Interruption()
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    ours = [number for number, handler in usual.items() if signal.getsignal(number) is handler]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def note(number: int, _: object) -> None:
        found.asked = True
        if number == signal.SIGINT:
            signal.signal(number, usual[signal.SIGINT])
            # No print: the signal may have struck within one.
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    for number in ours:
        signal.signal(number, note)
    failed: BaseException | None = None
    try:
        yield found
    except BaseException as error:
        failed = error
        raise
    finally:
        for number in ours:
            signal.signal(number, usual[number])
        if found.asked and not isinstance(failed, KeyboardInterrupt):
            raise KeyboardInterrupt from failed
