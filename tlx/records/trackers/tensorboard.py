"""TensorBoard events in the directory of a run."""

import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tlx.files.durable import write_all_of
from tlx.records.trackers.base import TrackedRun, Tracker, Writer
from tlx.trees import Json


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Tracker):
    """Write events into `tensorboard/` of the run's directory. Runs have them without being asked.

    As for every file of the directory, an error of the disk ends the run.
    """

    def start(self, run: TrackedRun) -> Writer:
        return Events(run.folder / "tensorboard", run.step)


class Events(Writer):
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

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in values.items():
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
        waiting, self.waiting = self.waiting, []
        write_all_of(self.stream.fileno(), b"".join(waiting))

    def finish(self, result: Json | None) -> None:
        try:
            self.flush()
        finally:
            self.stream.close()
