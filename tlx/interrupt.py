"""Ctrl-C where it does no harm. Raised by Python wherever the signal strikes, KeyboardInterrupt can end a process from
within a callback of XLA, be swallowed by one of JAX's, or leave a checkpoint half begun."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Interruption:
    """Whether Ctrl-C was pressed."""

    asked: bool = False


@contextmanager
def noted() -> Iterator[Interruption]:
    """Within it the first Ctrl-C is only noted, for whoever looks between two steps, and so is every SIGTERM, by which
    schedulers and `tlx study --jobs` end a process; a second Ctrl-C has its usual effect at once. What was noted and
    not acted on is raised as KeyboardInterrupt at the end, whatever else has happened. Elsewhere than in the main
    thread, and where Ctrl-C is ignored or another's, nothing changes."""
    found, before = Interruption(), signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield found
        return

    def note(number: int, _: object) -> None:
        found.asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before)
            # No print: the signal may have struck within one.
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    ended = signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    failed: BaseException | None = None
    try:
        yield found
    except BaseException as error:
        failed = error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, ended)
        if found.asked and not isinstance(failed, KeyboardInterrupt):
            raise KeyboardInterrupt from failed
