"""Trackers: places that receive the records of a run while it trains.

`base` has the protocol: a `Tracker` is the settings, its `start` returns the `Writer` of a run. Each tracker is one
file, which imports its package when a run starts.
"""

from tlx.records.trackers.base import TrackedRun, Tracker, TrackerWarning, Writer
from tlx.records.trackers.choosing import NAMES, started, trackers_of
from tlx.records.trackers.mlflow import Mlflow
from tlx.records.trackers.tensorboard import TensorBoard
from tlx.records.trackers.trackio import Trackio
from tlx.records.trackers.wandb import Wandb

__all__ = [
    "NAMES", "Mlflow", "TensorBoard", "TrackedRun", "Tracker", "TrackerWarning", "Trackio", "Wandb", "Writer",
    "started", "trackers_of",
]  # fmt: skip
