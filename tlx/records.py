"""What a run writes down as it goes: one JSON line a metric, TensorBoard events, a progress bar."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

METRICS = "metrics.jsonl"


def write_json(path: Path, document: Any) -> None:
    """Writes a JSON file whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a line that a killed run left half written is left out."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


class Records:
    """The records of a run in `folder`, from `step` on: what an interrupted run wrote after its last checkpoint is
    written again, so those lines go. Without `events` there are none for TensorBoard."""

    def __init__(self, folder: Path, step: int = 0, events: bool = True):
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        self.path = folder / METRICS
        partial = folder / f".{METRICS}.partial"
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, self.path)
        self.stream = self.path.open("a", encoding="utf-8")
        self.events = self._events(folder / "tensorboard", step) if events else None

    @staticmethod
    def _events(folder: Path, step: int) -> Any:
        from tensorboardX import SummaryWriter

        # TensorBoard drops the events of an earlier try that lie beyond the step from which this one goes on.
        return SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line a metric: `{"step", "name", "value", "time"}` (time in seconds since the epoch)."""
        now = round(time.time(), 3)
        for name, value in values.items():
            self.stream.write(json.dumps({"step": step, "name": name, "value": value, "time": now}) + "\n")
            if self.events is not None:
                self.events.add_scalar(name, value, step)

    def flush(self) -> None:
        self.stream.flush()
        if self.events is not None:
            self.events.flush()

    def close(self) -> None:
        self.stream.close()
        if self.events is not None:
            self.events.close()


class NoRecords:
    """The records of a run that must not be written to: each method does nothing."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


class Bar:
    """A bar on a terminal, told lines alone elsewhere: `word` is what it counts, `remaining` shows rich's own guess."""

    def __init__(self, word: str, total: int, done: int, quiet: bool, remaining: bool = False):
        self.quiet, self.bar = quiet, None
        if quiet or not sys.stderr.isatty():
            return
        from rich import progress
        from rich.console import Console

        self.bar = progress.Progress(
            progress.TextColumn(word + " {task.completed}/{task.total}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[told]}"),
            *((progress.TimeRemainingColumn(),) if remaining else ()),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self.task = self.bar.add_task(word, total=total, completed=done, told="")
        self.bar.start()

    def move(self, done: int, told: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, told=told)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            if kind is None:
                self.bar.update(self.task, completed=self.bar.tasks[0].total)
            self.bar.stop()


class Progress(Bar):
    """The steps of a run, with loss, rate, examples a second and time left; off a terminal a line an evaluation."""

    def __init__(self, total: int, done: int, batch: int, quiet: bool):
        super().__init__("step", total, done, quiet, remaining=True)
        self.batch = batch
        self.first, self.start, self.drawn = done, time.perf_counter(), 0.0

    def step(self, step: int, loss: float, rate: float) -> None:
        now = time.perf_counter()
        if self.bar is None or now - self.drawn < 0.1:
            return
        self.drawn = now
        speed = (step - self.first) * self.batch / max(now - self.start, 1e-9)
        self.move(step, f"loss {loss:.4f}  rate {rate:.2e}  {speed:.0f} examples/s")
