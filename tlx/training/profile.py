"""A trace of some steps of a run, by JAX's profiler, for TensorBoard and Perfetto."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax

from tlx import processes
from tlx.files import run_files
from tlx.files.durable import delete

# Steps before the trace, in which programs are compiled and the first batches are read.
WARM = 2
# JAX names the folder of a trace after the time.
STEPS, PERFETTO = "steps", "perfetto_trace.json.gz"


class StepTrace:
    """The trace of `count` steps from the step `begin` on, after `WARM` others; None traces nothing.

    The leader writes it into `profile/` of the run's folder. No number of the run depends on it.

    Args:
        count: The number of steps.
        begin: The step from which the run trains.
        steps: The last step of the run.
        folder: The run's folder.
        say: Prints a message.

    Raises:
        ValueError: Not enough steps remain.
    """

    def __init__(self, count: int | None, begin: int, steps: int, folder: Path, say: Callable[[str], None]):
        self.count, self.first, self.folder, self.say = count or 0, begin + WARM, folder / run_files.PROFILE, say
        self.waits, self.runs = count is not None, False
        check_remaining(self.count, steps - begin)

    def begin(self, step: int, end: int, settle: Callable[[], None]) -> int:
        """Start the trace where `step` is the first one that is traced.

        Args:
            step: The step before the next one.
            end: The last step that may be dispatched now.
            settle: Waits for the devices.

        Returns:
            The last step that may be dispatched now, so that the trace can start or end after it.
        """
        if self.waits and step < self.first:
            return min(end, self.first)
        if self.waits:
            settle()
            self.waits, self.runs = False, True
            if processes.leads():
                delete(self.folder)
                options = jax.profiler.ProfileOptions()
                # A call of Python is an event: a compilation within the trace would have a million.
                options.python_tracer_level = 0
                jax.profiler.start_trace(os.fspath(self.folder), create_perfetto_trace=True, profiler_options=options)
        return min(end, self.first + self.count) if self.runs else end

    def named(self, step: int) -> AbstractContextManager[Any]:
        """Return a block whose part of the trace is the step after `step`, as TensorBoard counts them."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step + 1) if self.runs else nullcontext()

    def end(self, step: int, settle: Callable[[], None]) -> None:
        """Write the trace where `step` is the last one that is traced."""
        if self.runs and step >= self.first + self.count:
            settle()
            self.close()

    def close(self) -> None:
        """Write the trace, also where the run ends before its last step."""
        if not self.runs:
            return
        self.runs = False
        if not processes.leads():
            return
        jax.profiler.stop_trace()
        traces = self.folder / "plugins" / "profile"
        [written] = traces.iterdir()
        written.rename(traces / STEPS)
        self.say(
            f"a trace of the steps from {self.first + 1} on is in {self.folder}: tensorboard --logdir {self.folder}, "
            f"or open {traces / STEPS / PERFETTO} in https://ui.perfetto.dev"
        )


def check_profile(count: int | None) -> None:
    """Raise ValueError or TypeError where a number of traced steps is impossible."""
    if count is None:
        return
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"profile is {count!r}; expected a whole number of steps")
    if count < 1:
        raise ValueError(f"profile is {count}; expected 1 or more steps")


def check_remaining(count: int | None, steps: int) -> None:
    """Raise ValueError where `count` steps cannot be traced in the `steps` that a run still takes."""
    if (count or 0) > (remaining := max(0, steps - WARM)):
        advice = f"give {remaining} or fewer" if remaining else "leave it out, or train more steps"
        raise ValueError(
            f"profile is {count}, but {remaining} steps remain after the {WARM} steps of warm-up; {advice}"
        )
