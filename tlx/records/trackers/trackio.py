"""Trackio, the tracker of Hugging Face that keeps runs on the machine."""

import secrets
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any

from tlx.records.trackers.base import TrackedRun, Tracker, Writer
from tlx.trees import Json


@dataclass(frozen=True, kw_only=True)
class Trackio(Tracker):
    """Log runs to Trackio (extra `tlx[trackio]`): into `TRACKIO_DIR` on this machine, or into the Hugging Face Space
    `space`, as its own documentation says."""

    package = "trackio"
    extra = "trackio"

    project: str = "tlx"
    group: str | None = None
    space: str | None = None

    def start(self, run: TrackedRun) -> Writer:
        import trackio

        # A run is continued by its name, which therefore exists once.
        name = run.identity or f"{run.folder.name}-{secrets.token_hex(3)}"
        begin = partial(
            trackio.init,
            self.project,
            name=name,
            group=self.group,
            space_id=self.space,
            config=run.settings,
            resume="must" if run.identity else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        with redirect_stdout(sys.stderr):
            # Trackio ends the current run of its context when another one begins; runs of a group train together.
            return TrackioWriter(Context().run(begin), name)


class TrackioWriter(Writer):
    """Write rows; Trackio sends them from a thread."""

    def __init__(self, session: Any, name: str):
        self.session, self.identity = session, name

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.session.log(dict(values), step=step)

    def finish(self, result: Json | None) -> None:
        with redirect_stdout(sys.stderr):
            self.session.finish()
