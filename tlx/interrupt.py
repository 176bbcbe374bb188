"""Handle Ctrl-C and SIGTERM only where stopping does no harm.

Python raises KeyboardInterrupt wherever the signal arrives: it can end a process from within a callback of XLA, be
swallowed by a callback of JAX, or leave a file half written.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

# Seconds after which another SIGTERM is a new request, not the same one sent to the process and to its group.
PATIENCE = 2.0
# Seconds between two looks at a signal while waiting.
LOOK = 0.1
STEP = b"\nstopping after this step; Ctrl-C again stops at once\n"


@dataclass
class Interruption:
    """Whether Ctrl-C was pressed or SIGTERM arrived, and the time of the first signal (monotonic seconds)."""

    requested: bool = False
    since: float = 0.0


# The blocks of `noted` that the main thread is in, the innermost last.
_BLOCKS: list[Interruption] = []
# The signals of a `stoppable` command that raised KeyboardInterrupt. A callback of JAX may have swallowed it.
_RAISED: list[int] = []


def stop(number: int, _: object) -> None:
    """Raise KeyboardInterrupt, as Python does after Ctrl-C, and keep in mind that it was raised."""
    _RAISED.append(number)
    raise KeyboardInterrupt


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM stop the program as Ctrl-C does within the block, unless other code handles it.

    Where the KeyboardInterrupt of a signal was swallowed, the next `look` and the next step of a training raise it
    again, and at the latest the end of the block.
    """
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    main = threading.current_thread() is threading.main_thread()
    handled = [number for number, handler in usual.items() if main and signal.getsignal(number) is handler]
    if main:
        _RAISED.clear()
    for number in handled:
        signal.signal(number, stop)
    try:
        yield
        if main and _RAISED:
            raise KeyboardInterrupt
    finally:
        for number in handled:
            signal.signal(number, usual[number])
        if main:
            _RAISED.clear()


@contextmanager
def noted() -> Iterator[Interruption]:
    """Only note the first Ctrl-C and SIGTERM within the block; the caller checks between two steps.

    A second Ctrl-C, and a SIGTERM more than `PATIENCE` seconds after the first signal, have their usual effect at once.
    A SIGTERM soon after the first is the same request: schedulers and `tlx study --jobs` both send one. A signal that
    was noted and not acted on is raised as KeyboardInterrupt at the end, whatever else has happened. A signal that is
    ignored, or handled by other code, stays so, and in other threads than the main one nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    # A signal that was swallowed before the block counts as one within it.
    interruption = Interruption(True, time.monotonic()) if main and _RAISED else Interruption()
    usual = {signal.SIGINT: (signal.default_int_handler, stop), signal.SIGTERM: (signal.SIG_DFL, stop)}
    before = {number: signal.getsignal(number) for number in usual if main}
    handled: dict[int, Any] = {number: handler for number, handler in before.items() if handler in usual[number]}

    def note(number: int, _: object) -> None:
        now = time.monotonic()
        if interruption.requested and number == signal.SIGTERM and now - interruption.since > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not interruption.requested:
            interruption.requested, interruption.since = True, now
        if number == signal.SIGINT:
            signal.signal(number, handled[signal.SIGINT])
            # No print: the signal may have struck within one. The terminal may be gone.
            with suppress(OSError):
                os.write(2, STEP)

    for number in handled:
        signal.signal(number, note)
    if main:
        _BLOCKS.append(interruption)
    failed: BaseException | None = None
    try:
        yield interruption
    except BaseException as error:
        failed = error
        raise
    finally:
        if main:
            _BLOCKS.remove(interruption)
        for number, handler in handled.items():
            signal.signal(number, handler)
        if interruption.requested and not isinstance(failed, KeyboardInterrupt):
            raise KeyboardInterrupt from failed


def look() -> None:
    """Raise KeyboardInterrupt where a signal was noted. Call it wherever stopping does no harm."""
    requested = bool(_RAISED) or any(block.requested for block in _BLOCKS)
    if requested and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


@contextmanager
def locked(lock: Any) -> Iterator[None]:
    """Hold a `filelock` lock within the block; while it waits for another process, a signal ends the wait.

    Raises:
      KeyboardInterrupt: a signal was noted before the lock was free.
    """
    from filelock import Timeout

    while True:
        look()
        try:
            lock.acquire(timeout=LOOK)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()
