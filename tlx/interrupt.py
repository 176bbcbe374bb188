"""Ctrl-C where it does no harm. Raised by Python wherever the signal strikes, KeyboardInterrupt can end a process from
within a callback of XLA, be swallowed by one of JAX's, or leave a checkpoint half begun."""

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
    """Within it the first Ctrl-C is only noted, for whoever looks between two steps; a second one has its usual effect
    at once. One that nobody acted on is raised as KeyboardInterrupt at the end. Elsewhere than in the main thread, and
    where Ctrl-C is ignored or another's, nothing changes."""
    found, before = Interruption(), signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield found
        return

    def note(*_: object) -> None:
        found.asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield found
    finally:
        signal.signal(signal.SIGINT, before)
    if found.asked:
        raise KeyboardInterrupt
