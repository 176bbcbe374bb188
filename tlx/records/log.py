"""Write the records of a run while it trains: one JSON line per metric value, and TensorBoard events."""

import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tlx.files.documents import digests, read_lines
from tlx.files.documents.records import METRIC, RERUN
from tlx.files.durable import write_all_of, write_whole
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


class Records:
    """Write the records of a run in `folder` from `step` on.

    Lines beyond `step` are removed, because the run repeats those steps. Without `events`, no TensorBoard files are
    written. The calling thread writes everything, so a full disk raises an error here and no queue can block.
    """

    def __init__(self, folder: Path, step: int = 0, events: bool = True):
        lines = [line for line in read_metrics(folder) if line["step"] <= step]
        self.path = folder / METRICS
        write_whole(self.path, [(json.dumps(line) + "\n").encode() for line in lines])
        self.lines: list[str] = []
        self.stream = self.path.open("ab", buffering=0)
        self.events = Events(folder / "tensorboard", step) if events else None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one line for each metric: `{"step", "name", "value", "time"}` (time in seconds since the epoch).

        Raises:
            OSError: The lines cannot be written to the disk.
        """
        now = round(time.time(), 3)
        for name, value in values.items():
            self.lines.append(
                json.dumps({"step": step, "name": name, "value": value, "time": now}, default=plain) + "\n"
            )
            if self.events is not None:
                self.events.add(name, value, step)
        if len(self.lines) >= LINES:
            self.flush()

    def flush(self, sync: bool = False) -> None:
        """Write the buffered lines to the files; with `sync` the lines are on the disk when this returns."""
        lines, self.lines = self.lines, []
        write_all_of(self.stream.fileno(), "".join(lines).encode())
        if sync:
            os.fsync(self.stream.fileno())
        if self.events is not None:
            self.events.flush()

    def close(self) -> None:
        """Write the buffered lines, and close the files even if the disk is full."""
        if self.stream.closed:
            return
        try:
            self.flush()
        finally:
            self.stream.close()
            if self.events is not None:
                self.events.close()


class Events:
    """Write scalars for TensorBoard.

    The `SummaryWriter` of tensorboardX has a thread that dies on a full disk, and then a queue that blocks forever.
    This class encodes with tensorboardX and writes in the calling thread.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        count = sum(path.name.startswith(name) for path in folder.iterdir())
        self.waiting: list[bytes] = []
        self.stream = (folder / (f"{name}.{count}" if count else name)).open("xb", buffering=0)
        self._note(Event(wall_time=time.time(), file_version="brain.Event:2"))
        # TensorBoard drops the events of an earlier attempt beyond the step from which this one continues.
        start = SessionLog(status=SessionLog.START)
        self._note(Event(wall_time=time.time(), session_log=start, step=step + 1))

    def add(self, name: str, value: float, step: int) -> None:
        """Add one scalar."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        self._note(Event(wall_time=time.time(), summary=scalar(name, value), step=step))

    def _note(self, event: Any) -> None:
        """Encode an event as a TFRecord: length, masked checksum of the length, content, masked checksum of the
        content."""
        from tensorboardX.record_writer import masked_crc32c

        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        checksums = [struct.pack("<I", masked_crc32c(piece)) for piece in (length, content)]
        self.waiting += [length, checksums[0], content, checksums[1]]

    def flush(self) -> None:
        """Write the buffered events to the file."""
        waiting, self.waiting = self.waiting, []
        write_all_of(self.stream.fileno(), b"".join(waiting))

    def close(self) -> None:
        """Close the file; call `flush` before."""
        self.stream.close()


class NoRecords:
    """Records of a run that must not be written: each method does nothing."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def flush(self, *, sync: bool = False) -> None: ...

    def close(self) -> None: ...
