"""Write the records of a run while it trains: one JSON line per metric value; pass them to trackers and a callback."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tlx.files.documents import digests, read_lines
from tlx.files.documents.records import METRIC, RERUN
from tlx.files.durable import write_all_of, write_whole
from tlx.records.trackers import Writer
from tlx.trees import Json

METRICS = "metrics.jsonl"
# Lines that are kept in memory before they are written.
LINES = 256


def json_text(document: object) -> str:
    """Return the text of a JSON file, as `write_json` writes it."""
    return json.dumps(document, indent=2, default=plain) + "\n"


def plain(value: object) -> Any:
    """Return an array or a number of numpy as JSON knows it; TypeError for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}, which JSON cannot represent")


def write_json(path: Path, document: object, *, sync: bool = False) -> None:
    """Write a JSON file whole or not at all; with `sync` it is on the disk when this returns."""
    write_whole(path, [json_text(document).encode()], sync=sync)


def read_metrics(folder: Path) -> list[Json]:
    """Return the lines of `metrics.jsonl`, without a last line that a killed run left half written."""
    digests.verify(folder, METRICS)
    return read_lines(folder / METRICS, METRIC, remedy=RERUN)


class CallbackError(RuntimeError):
    """The user's function that receives the records raised an error."""


# A record: the step, the run's folder, and metrics by name.
Callback = Callable[[Mapping[str, Any]], object]


class Records:
    """Write the records of a run in `folder` from `step` on: into `metrics.jsonl`, and to `writers` and `callback`.

    Lines beyond `step` are removed, because the run repeats those steps, and so are those of metrics that begin with
    one of the names `once`, which are written at the end of the run. The calling thread writes everything, so a
    full disk raises an error here and no queue can block. `failure` is the error of the callback, which is not called
    again: the run ends with it at the next step that can be saved.
    """

    def __init__(
        self,
        folder: Path,
        step: int = 0,
        writers: Sequence[Writer] = (),
        callback: Callback | None = None,
        once: tuple[str, ...] = (),
    ):
        lines = [line for line in read_metrics(folder) if line["step"] <= step and not line["name"].startswith(once)]
        self.path = folder / METRICS
        write_whole(self.path, [(json.dumps(line) + "\n").encode() for line in lines])
        self.lines: list[str] = []
        self.stream = self.path.open("ab", buffering=0)
        self.writers, self.callback = writers, callback
        self.failure: CallbackError | None = None
        self.result: Json | None = None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one line for each metric: `{"step", "name", "value", "time"}` (time in seconds since the epoch).

        Raises:
            OSError: The lines cannot be written to the disk.
        """
        now = round(time.time(), 3)
        for name, value in values.items():
            self.lines.append(
                json.dumps({"step": step, "name": name, "value": value, "time": now}, default=plain) + "\n"
            )
        for writer in self.writers:
            writer.write(step, MappingProxyType(values))
        if self.callback is not None and values:
            self.call(step, values)
        if len(self.lines) >= LINES:
            self.flush()

    def call(self, step: int, values: Mapping[str, float]) -> None:
        """Call the callback with a record that it cannot change; store its error."""
        record = MappingProxyType({"step": step, "folder": str(self.path.parent), **values})
        try:
            assert self.callback is not None
            self.callback(record)
        except Exception as error:
            name = getattr(self.callback, "__qualname__", type(self.callback).__name__)
            reason = " ".join(str(error).split())
            self.failure = CallbackError(
                f"the callback {name} raised {type(error).__name__}{f': {reason}' if reason else ''} at step {step}; a "
                "checkpoint is written: correct the callback, and continue with resume=True"
            )
            self.failure.__cause__ = error
            self.callback = None

    def flush(self, sync: bool = False) -> None:
        """Write the buffered lines to the files; with `sync` the lines are on the disk when this returns."""
        lines, self.lines = self.lines, []
        write_all_of(self.stream.fileno(), "".join(lines).encode())
        if sync:
            os.fsync(self.stream.fileno())
        for writer in self.writers:
            writer.flush()

    def finish(self, result: Json) -> None:
        """Take the content of `result.json`, for the writers: the run is complete."""
        self.result = result

    def close(self) -> None:
        """Write the buffered lines, and close the files even if the disk is full."""
        if self.stream.closed:
            return
        with ExitStack() as stack:
            for writer in self.writers:
                stack.callback(writer.finish, self.result)
            stack.callback(self.stream.close)
            stack.callback(self.flush)


class NoRecords:
    """Records of a run that must not be written: each method does nothing."""

    failure: CallbackError | None = None

    def write(self, step: int, values: dict[str, float]) -> None: ...

    def flush(self, *, sync: bool = False) -> None: ...

    def finish(self, result: Json) -> None: ...

    def close(self) -> None: ...
