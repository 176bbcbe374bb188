"""Show what a run does: on a terminal and in a notebook in place, elsewhere as a few plain lines; and count its time.

The training thread only stores numbers here. A terminal is redrawn by a thread of rich, four times per second, so the
time of a compilation moves on; a notebook is redrawn in one output cell, at most twice per second.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

# Seconds between two drawings of a notebook, and between two plain lines of a log file that say how far a run is.
NOTEBOOK, LOG = 0.5, 60.0
# Before the first validation: the time of an example relative to that of training. A step has three times the
# operations of a forward pass.
FORWARD = 1 / 3
# A program that took less time to compile last time is not announced in a log file.
SHORT = 2.0


class Clock:
    """Count the seconds of a run by activity: setup, compile, train, eval.

    An activity within another one interrupts it, so no second counts twice: a program that is compiled during a
    validation counts as compile. `steps` are the training steps whose time is in `seconds["train"]`.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("setup", "compile", "train", "eval"), 0.0)
        self.steps = 0
        self.activities: list[str] = []
        self.moment = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.update()
        self.activities.append(name)
        try:
            yield
        finally:
            self.update()
            self.activities.pop()

    @property
    def speed(self) -> float:
        """Return the steps per second of training time; 0 before the first."""
        return self.steps / self.seconds["train"] if self.seconds["train"] > 0 else 0.0

    def update(self) -> None:
        """Add the time since the last change of activity to the current activity."""
        now = time.perf_counter()
        if self.activities:
            self.seconds[self.activities[-1]] += now - self.moment
        self.moment = now


class Activity:
    """One row of a display: the words, how many units of how many are done, and a further text."""

    def __init__(self, words: str, total: int | None = None, text: Callable[[], str] | None = None):
        self.words, self.total, self.done = words, total, 0
        self.start = time.perf_counter()
        self.text = text or self.elapsed

    def elapsed(self) -> str:
        """Return the time since the activity began, from one second on."""
        seconds = time.perf_counter() - self.start
        return clock_time(seconds) if seconds >= 1 else ""

    def counted(self) -> str:
        """Return the words, with the units that are done."""
        return self.words if self.total is None else f"{self.words} {self.done}/{self.total}"

    def line(self) -> str:
        """Return the row as a plain line."""
        return "  ".join(part for part in (self.counted(), self.text()) if part)


Rows = Callable[[], Sequence[Activity]]


class Display:
    """Show nothing: the display of a quiet run, and the base of the other displays.

    `say` shows a message that stays, `measured` the newest measurement, `begin` an activity of that name that may
    take long, and `draw` the rows as they are now.
    """

    def say(self, text: str) -> None: ...

    def measured(self, text: str) -> None:
        self.say(text)

    def begin(self, name: str, activity: Activity) -> None: ...

    def draw(self) -> None: ...

    def close(self) -> None: ...


class LogFile(Display):
    """Print lines to stderr: messages, the first compilation of each program, and how far the run is once a minute."""

    def __init__(self, rows: Rows):
        self.rows, self.last, self.begun = rows, time.perf_counter(), set[str]()

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        self.last = time.perf_counter()

    def begin(self, name: str, activity: Activity) -> None:
        if name not in self.begun:
            self.begun.add(name)
            self.say(activity.line())

    def draw(self) -> None:
        if time.perf_counter() - self.last >= LOG:
            self.say(self.rows()[-1].line())


class Terminal(Display):
    """Redraw the rows at the bottom of a terminal; messages scroll above them."""

    def __init__(self, rows: Rows):
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        self.live = Live(get_renderable=lambda: table_of(rows()), console=console, refresh_per_second=4)
        self.live.start()

    def say(self, text: str) -> None:
        self.live.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self.live.stop()


class Notebook(Display):
    """Redraw one output of a notebook: the messages, the newest measurement and the rows.

    The widget of rich needs a further package, and is empty in a notebook that is opened again.
    """

    def __init__(self, rows: Rows):
        from IPython.display import display

        self.rows, self.messages, self.measurement, self.last = rows, list[str](), "", 0.0
        self.output = display(self.page(), display_id=True)

    def page(self) -> Any:
        """Return everything as a table of rich, which a notebook shows as HTML."""
        from rich.table import Table
        from rich.text import Text

        page = Table.grid()
        for line in (*self.messages, self.measurement):
            if line:
                page.add_row(Text(line))
        page.add_row(table_of(self.rows()))
        return page

    def say(self, text: str) -> None:
        self.messages.append(text)
        self.redraw()

    def measured(self, text: str) -> None:
        self.measurement = text
        self.redraw()

    def begin(self, name: str, activity: Activity) -> None:
        self.redraw()

    def draw(self) -> None:
        if time.perf_counter() - self.last >= NOTEBOOK:
            self.redraw()

    def redraw(self) -> None:
        """Replace the output."""
        self.last = time.perf_counter()
        self.output.update(self.page())

    def close(self) -> None:
        self.redraw()


def display_for(rows: Rows, quiet: bool) -> Display:
    """Return the display for the place to which stderr leads."""
    if quiet:
        return Display()
    if sys.stderr.isatty():
        return Terminal(rows)
    return Notebook(rows) if in_notebook() else LogFile(rows)


def in_notebook() -> bool:
    """Return whether the program runs in a notebook."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console(stderr=True).is_jupyter


def table_of(rows: Sequence[Activity]) -> Any:
    """Return rows as a table of rich: words, a bar, and the text."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    # On a narrow terminal the bar shrinks first, then the text is cut.
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=max(len(row.counted()) for row in rows))
    table.add_column(min_width=4, max_width=30)
    table.add_column(no_wrap=True)
    for row in rows:
        bar = ProgressBar(row.total, row.done, pulse=row.total is None)
        table.add_row(Text(row.counted()), bar, Text(row.text()))
    return table


def clock_time(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds.

    >>> clock_time(3725.4)
    '1:02:05'
    """
    return str(timedelta(seconds=round(seconds)))


class Bar:
    """Show how many units of `total` are done; `word` names the unit."""

    def __init__(self, word: str, total: int, done: int, quiet: bool):
        self.message = ""
        self.row = Activity(word, total, lambda: self.message)
        self.row.done = done
        self.activities: list[Activity] = []
        self.display = display_for(self.rows, quiet)

    def rows(self) -> list[Activity]:
        """Return the row of the units, and the current activity in it."""
        return [self.row, *self.activities[-1:]]

    def move(self, done: int, text: str) -> None:
        """Show that `done` units are done, with a text."""
        self.row.done, self.message = done, text
        self.display.draw()

    def say(self, text: str) -> None:
        """Print a message that stays above the bar."""
        self.display.say(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.row.done = self.row.total or 0
        self.display.close()


class Evaluations(NamedTuple):
    """The evaluations of a run, for the remaining time: a validation of `examples` every `every` steps and after the
    last step, and `test` examples at the end."""

    every: int = 0
    examples: int = 0
    test: int = 0

    def left(self, step: int, steps: int) -> int:
        """Return the number of examples to evaluate after the step.

        >>> Evaluations(every=4, examples=10, test=5).left(4, steps=10)
        25
        """
        validations = -(-steps // self.every) - step // self.every if self.every and step < steps else 0
        return validations * self.examples + self.test


class Progress(Bar):
    """Show the steps of a run, with loss, rate, examples per second and the remaining time, and what the run does
    between them.

    `batch` is the number of examples of a step. The speed is that of the steps that `clock` counts.
    """

    def __init__(
        self,
        total: int,
        done: int,
        batch: int,
        quiet: bool,
        clock: Clock | None = None,
        evaluations: Evaluations = Evaluations(),
    ):
        self.batch, self.clock, self.evaluations = batch, clock or Clock(), evaluations
        # The seconds and steps of the clock at the start of the phase, and the examples of all evaluations.
        self.origin, self.evaluated = (0.0, 0), 0
        self.loss = self.rate = math.nan
        super().__init__("step", total, done, quiet)
        self.row.text = self.text

    def begin_phase(self) -> None:
        """Measure the speed from here on: the steps of another phase take another time."""
        self.clock.update()
        self.origin = (self.clock.seconds["train"], self.clock.steps)

    def step(self, step: int, loss: float, rate: float) -> None:
        """Show a step, when its numbers are known."""
        self.clock.update()
        self.loss, self.rate, self.row.done = loss, rate, step
        self.display.draw()

    def text(self) -> str:
        """Return the numbers of the newest step; before it, nothing."""
        if math.isnan(self.rate):
            return ""
        parts, speed = [f"loss {self.loss:.4f}", f"rate {self.rate:.2e}"], self.speed()
        if speed:
            parts.append(f"{speed * self.batch:.0f} examples/s")
            if left := self.seconds_left(self.row.done, speed):
                parts.append(f"{clock_time(left)} left")
        return "  ".join(parts)

    def speed(self) -> float:
        """Return the steps per second of training time; 0 before they are known."""
        seconds, steps = self.clock.seconds["train"] - self.origin[0], self.clock.steps - self.origin[1]
        return steps / seconds if seconds > 0 else 0.0

    def seconds_left(self, step: int, speed: float) -> float:
        """Return the expected seconds for the other steps and evaluations, without compilation."""
        per_example = self.clock.seconds["eval"] / self.evaluated if self.evaluated else FORWARD / (speed * self.batch)
        steps = self.row.total or 0
        return (steps - step) / speed + self.evaluations.left(step, steps) * per_example

    @contextmanager
    def doing(self, words: str, total: int | None = None) -> Iterator[None]:
        """Show an activity within the block, with the number of its units, if it is known."""
        self.activities.append(Activity(words, total))
        self.display.draw()
        try:
            yield
        finally:
            self.activities.pop()

    def advance(self, examples: int) -> None:
        """Show that the current activity has evaluated these examples."""
        self.activities[-1].done += examples
        self.evaluated += examples
        self.display.draw()

    @contextmanager
    def compiling(self, program: str, last: float | None) -> Iterator[None]:
        """Show within the block that a program is compiled, and the seconds that this took last time."""
        took = "" if last is None else f" (last time {clock_time(last)})"
        with self.doing(f"compiling the {program}{took}"):
            if last is None or last >= SHORT:
                self.display.begin(program, self.activities[-1])
            yield

    def measured(self, text: str) -> None:
        """Show the newest measurement."""
        self.display.measured(text)
