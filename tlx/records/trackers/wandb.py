"""Weights & Biases."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tlx.records.trackers.base import TrackedRun, Tracker, Writer
from tlx.trees import Json


@dataclass(frozen=True, kw_only=True)
class Wandb(Tracker):
    """Log runs to Weights & Biases (extra `tlx[wandb]`).

    `project` is by default `WANDB_PROJECT`, else "tlx"; `mode` None follows `WANDB_MODE`. With "offline" nothing is
    sent; `wandb sync` sends it later.
    """

    package = "wandb"
    extra = "wandb"

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    mode: Literal["online", "offline", "disabled"] | None = None

    def start(self, run: TrackedRun) -> Writer:
        import wandb

        session = wandb.init(
            project=self.project or os.environ.get("WANDB_PROJECT", "tlx"),
            entity=self.entity,
            group=self.group,
            tags=self.tags or None,
            mode=self.mode,
            name=run.folder.name,
            id=run.identity or None,
            resume="allow" if run.identity else None,
            config=run.settings,
            # Several runs may train together. Captured output would hold every redrawn line of a progress bar.
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )
        return WandbWriter(session)


class WandbWriter(Writer):
    """Write rows with the step as a metric.

    The step of wandb itself must grow: it drops what a resumed run repeats, and with it records that were never sent.
    """

    def __init__(self, session: Any):
        self.session, self.identity = session, session.id
        session.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.session.log({"step": step, **values})

    def finish(self, result: Json | None) -> None:
        if result is not None:
            self.session.summary.update(result["metrics"])
        self.session.finish(exit_code=0 if result is not None else 1)
