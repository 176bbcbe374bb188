"""Several processes that train one run together: how they meet, what the first one decides, and how all of them end.

Every process runs the same program on its own devices (JAX's multi-controller model). The first process, the leader,
writes files and prints; the others take the same steps. A cluster that JAX knows (Slurm, Open MPI, Kubernetes, Cloud
TPU) tells each process its place; elsewhere the user gives it.
"""

import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

from tlx.files.mistakes import USER_ERRORS
from tlx.place import check_place, in_cluster, sign_of_cluster, warn_without_kubernetes

T = TypeVar("T")
# Seconds until a process that does not answer counts as lost, and until all processes have met.
LOST, MEETING = 20, 300
# Seconds until a process says that it waits for others.
HINT = 10
# Seconds for which a process that ends by an error waits for the same of the others.
PARTING = 5


class OtherProcessFailed(RuntimeError):
    """Another process of the run has failed; the message says which one, and why."""

    is_plain = True


class OtherProcessRefused(OtherProcessFailed, ValueError):
    """Another process has refused what the user wishes, for example a missing file."""


class ProcessLost(RuntimeError):
    """Another process no longer answers. Nothing that needs all processes can follow, not even an orderly exit."""

    ends_program = is_plain = True


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Join the processes that train together, if there are several. Call it before anything else of JAX.

    Without arguments the place of this process is that which the cluster gives it, and a single process elsewhere.

    Args:
        coordinator: The address `HOST:PORT` of the leader.
        processes: The number of processes.
        process: The number of this one, from 0.

    Raises:
        ValueError: The arguments do not fit together.
        ConnectionError: The leader does not answer. Where another process does not come, the program ends with a line
            that says so.
    """
    check_place(coordinator, processes, process)
    if coordinator is None:
        warn_without_kubernetes(os.environ)
    if jax.distributed.is_initialized() or (coordinator is None and not in_cluster(os.environ)):
        return
    hint = timer(HINT, lambda: print(f"tlx: waiting up to {MEETING} seconds for other processes", file=sys.stderr))
    try:
        if coordinator is not None and process:
            wait_for(coordinator)
        meet(coordinator, processes, process)
    finally:
        hint.cancel()
    if jax.process_count() > 1 and os.name == "posix":
        end_with_line()


def timer(seconds: float, act: Callable[[], None]) -> threading.Timer:
    """Start a timer that does not keep the program alive."""
    started = threading.Timer(seconds, act)
    started.daemon = True
    started.start()
    return started


def meet(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Let JAX connect the processes. Raise ConnectionError where it cannot."""
    # JAX ends the program with a trace of C++ where a process does not come: this line comes before.
    last = timer(MEETING, give_up)
    try:
        jax.distributed.initialize(
            coordinator, processes, process, initialization_timeout=2 * MEETING, heartbeat_timeout_seconds=LOST,
            shutdown_timeout_seconds=LOST,
        )  # fmt: skip
    except (RuntimeError, ValueError, LookupError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].removesuffix(".")
        reason += " is not set" if isinstance(error, KeyError) else ""
        if coordinator is None and (sign := sign_of_cluster(os.environ)):
            reason += (
                f"; tlx joins a cluster because {sign}: give --coordinator, --processes and --process, or unset it"
            )
        raise ConnectionError(f"the processes did not meet at {coordinator or 'their cluster'}: {reason}") from None
    finally:
        last.cancel()


def end_with_line() -> None:
    """Let a line be the last words of a process that JAX ends because the leader is lost.

    JAX ends it from a thread of C++, by SIGABRT, where no exception and no handler of Python comes in time.
    """
    import ctypes

    line = (
        b"tlx: JAX has ended this process, because process 0 or another one has ended or cannot be reached; start the "
        b"same command again on all machines\n"
    )

    def leave(number: int) -> None:
        os.write(2, line)
        os._exit(1)

    # The library of C calls the handler as long as the program lives.
    HANDLERS.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(leave))
    ctypes.CDLL(None).signal(int(signal.SIGABRT), HANDLERS[-1])


HANDLERS: list[Any] = []


def wait_for(coordinator: str) -> None:
    """Wait until the leader listens at its address. Raise ConnectionError where it does not in time."""
    host, _, port = coordinator.rpartition(":")
    begin = time.monotonic()
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=LOST):
                return
        except OSError as error:
            if time.monotonic() - begin > MEETING:
                raise ConnectionError(
                    f"process 0 does not answer at {coordinator} ({error}); start it there, and give all processes the "
                    "same --coordinator"
                ) from None
            time.sleep(0.5)


def give_up() -> None:
    """End the program, because not all processes came."""
    end(f"not all processes came within {MEETING} seconds; start as many as --processes says")


def in_order(results: T) -> T:
    """Return the results of a program after the wait that CPU devices need.

    They run programs that do not wait for each other at the same time, in another order in each process, and gloo would
    take the message of one for that of the other. GPUs and TPUs run one program after the other.
    """
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
        jax.block_until_ready(results)
    return results


def leads() -> bool:
    """Return whether this process is the leader, which writes and prints."""
    return jax.process_index() == 0


def decided(decision: Callable[[], T]) -> T:
    """Return the leader's decision, a JSON value, in every process.

    Raises:
        Exception: What the decision raised, in the leader; `OtherProcessFailed` elsewhere.
    """
    if jax.process_count() == 1:
        return decision()
    failure: Exception | None = None
    answer: dict[str, Any] = {}
    if leads():
        try:
            answer = {"value": decision()}
        except Exception as error:
            failure, answer = error, {"error": said(error), "refused": isinstance(error, USER_ERRORS)}
    answer = broadcast(answer)
    if failure is not None:
        raise failure
    if "error" in answer:
        raise of_another(0, answer["error"], answer["refused"])
    return answer["value"]


def together(work: Callable[[], T]) -> T:
    """Return what `work` returns in this process, once it has succeeded in all.

    Raises:
        Exception: What it raised in this process; `OtherProcessFailed` where it failed in another.
    """
    if jax.process_count() == 1:
        return work()
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    answers = gathered(None if failure is None else (said(failure), isinstance(failure, USER_ERRORS)))
    if failure is not None:
        raise failure
    for process, answer in enumerate(answers):
        if answer:
            raise of_another(process, *answer)
    return result


def of_another(process: int, words: str, refused: bool) -> OtherProcessFailed:
    """Return the error of a process, in the others."""
    kind = OtherProcessRefused if refused else OtherProcessFailed
    return kind(f"process {process} failed: {words}")


def attempt(work: Callable[[], T]) -> T | Exception:
    """Return what `work`, which needs all processes, returns; or in every process the error by which it failed in one.

    A process that fails alone may leave the others within a step, where they wait for it. So the processes meet through
    the leader, not through their devices, and a meeting to which one does not come ends the program.
    """
    result: T | Exception
    try:
        result = work()
    except Exception as error:
        result = error
    if jax.process_count() == 1:
        return result
    failed = isinstance(result, Exception)
    if isinstance(result, Exception) and is_lost(result):
        end(lost(result))
    for process, words in enumerate(met(said(result) if isinstance(result, Exception) else "")):
        if words and not failed:
            return OtherProcessFailed(f"process {process} failed: {words}")
    return result


def met(words: str) -> list[str]:
    """Return the words of all processes, in their order. End the program where one does not come."""
    from jax._src.distributed import global_state  # JAX has no public door to its key-value store.

    client: Any = global_state.client
    number = next(MEETINGS)
    place = f"tlx/meeting/{number}"
    # A process that has failed waits less: the others may be within a step that it does not take.
    try:
        client.key_value_set(f"{place}/{jax.process_index()}", words)
        client.wait_at_barrier(place, 1000 * (LOST if words else MEETING))
        answers = [client.blocking_key_value_get(f"{place}/{n}", 1000 * LOST) for n in range(jax.process_count())]
        if number > 1:
            # All processes came to the meeting before this one, so all have read the one before that.
            client.key_value_delete(f"tlx/meeting/{number - 2}/{jax.process_index()}")
    except Exception as error:
        end(f"process {jax.process_index()} failed: {words}; the other processes wait for it" if words else lost(error))
    return answers


# The numbers of the meetings, equal in all processes.
MEETINGS = itertools.count()


def is_lost(error: Exception) -> bool:
    """Return whether an error says that a process no longer answers.

    >>> is_lost(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")), is_lost(ValueError("no file"))
    (True, False)
    """
    return isinstance(error, ProcessLost) or any(part in str(error) for part in BROKEN)


# Words of the libraries that connect the processes, in the errors by which they report a broken connection.
BROKEN = ("Gloo", "/gloo/", "coordination service", "CoordinationService")


def lost(error: Exception) -> str:
    """Return the line that says that another process no longer answers."""
    if isinstance(error, ProcessLost):
        return str(error)
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return (
        f"another process has ended or cannot be reached, so process {jax.process_index()} ends too; start the same "
        f"command again on all machines ({reason})"
    )


def end_together(code: int) -> None:
    """Wait until all processes end by an error. Where one does not, end the program with `code` at once: at an orderly
    exit JAX would wait for it, and print a trace."""
    from jax._src.distributed import global_state

    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    client: Any = global_state.client
    try:
        client.wait_at_barrier("tlx/end", 1000 * PARTING)
    except Exception:
        sys.stdout.flush()
        os._exit(code)


def end(line: str) -> NoReturn:
    """Print a line and end the program at once: at an orderly exit JAX would wait for the processes that are lost."""
    print(f"tlx: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def in_turn(work: Callable[[], T]) -> T:
    """Return what `work` returns in this process; the others begin when the leader has done it.

    Raises:
        Exception: As in `together`.
    """
    results = together(lambda: [work()] if leads() else [])
    return together(lambda: results or [work()])[0]


def check_equal(values: Mapping[str, str]) -> None:
    """Raise ValueError, in every process, where a value differs between the processes; its name begins the message."""
    everywhere = gathered(dict(values))
    for name, value in everywhere[0].items():
        for process, others in enumerate(everywhere):
            if (other := others.get(name, "nothing")) != value:
                raise ValueError(
                    f"{name} differs between the processes: {value} in process 0, {other} in process {process}; start "
                    "all of them with the same files and the same versions"
                )


def said(error: Exception) -> str:
    """Return the kind and the message of an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def broadcast(value: Any) -> Any:
    """Return the leader's JSON value in every process."""
    return gathered(value if leads() else None)[0]


def gathered(value: Any) -> list[Any]:
    """Return the JSON values of all processes, in their order."""
    from jax.experimental.multihost_utils import process_allgather

    if jax.process_count() == 1:
        return [value]
    text = json.dumps(value).encode()
    try:
        longest = int(np.max(process_allgather(np.int32(len(text)))))
        row = np.zeros(longest, np.uint8)
        row[: len(text)] = np.frombuffer(text, np.uint8)
        rows = np.asarray(process_allgather(row))
    except Exception as error:
        if is_lost(error):
            raise ProcessLost(lost(error)) from None
        raise
    # JSON never contains the byte 0, which fills up the shorter texts.
    return [json.loads(bytes(line).rstrip(b"\0")) for line in rows]
