"""Choose trackers by name, and start them for a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tlx import config
from tlx.files.documents import read_json
from tlx.files.documents.checks import Mapped, Text
from tlx.files.durable import write_whole
from tlx.files.run_files import TRACKERS
from tlx.records.trackers.base import Tolerant, TrackedRun, Tracker, Writer, warn
from tlx.records.trackers.mlflow import Mlflow
from tlx.records.trackers.trackio import Trackio
from tlx.records.trackers.wandb import Wandb
from tlx.trees import Json, near_miss

FORGET = "delete it to begin new runs in the trackers"
NAMES: Mapping[str, type[Tracker]] = {"mlflow": Mlflow, "trackio": Trackio, "wandb": Wandb}


def trackers_of(chosen: object) -> tuple[Tracker, ...]:
    """Return trackers given by name or as instances.

    Raises:
        TypeError: `chosen` is no tuple of names and trackers.
        ValueError: A name is unknown, or two are of one class.
        ImportError: The package of a tracker is not installed.
    """
    if not isinstance(chosen, tuple | list):
        raise TypeError(f"trackers is {chosen!r}; expected a tuple of names and trackers, such as ('wandb',)")
    trackers: dict[str, Tracker] = {}
    for item in chosen:
        if isinstance(item, str) and item not in NAMES:
            raise ValueError(f"there is no tracker {item!r}{near_miss(item, NAMES)}")
        tracker = NAMES[item]() if isinstance(item, str) else item
        if not isinstance(tracker, Tracker):
            raise TypeError(f"trackers contains {item!r}; expected a name ({', '.join(NAMES)}) or a Tracker")
        if name_of(tracker) in trackers:
            raise ValueError(f"trackers names {name_of(tracker)} twice; name it once")
        config.check(tracker, name_of(tracker))
        tracker.check()
        trackers[name_of(tracker)] = tracker
    return tuple(trackers.values())


def name_of(tracker: Tracker) -> str:
    """Return the name under which the identity of a run in this tracker is stored."""
    return type(tracker).__name__


def started(trackers: Sequence[Tracker], folder: Path, document: Json, step: int) -> list[Writer]:
    """Return the writers of a run, and store their identities in its folder, so that a resumed run continues them.

    Args:
        trackers: The trackers.
        folder: The folder of the run.
        document: The content of its `recipe.json`.
        step: The step after which it trains. Where a run continues, a tracker that cannot start is a warning.

    Raises:
        ValueError: A tracker cannot start for a new run.
    """
    path, writers = folder / TRACKERS, list[Writer]()
    before = read_json(path, Mapped(Text()), remedy=FORGET) if path.is_file() else {}
    identities = dict(before)
    for tracker in trackers:
        name = name_of(tracker)
        try:
            writer = tracker.start(TrackedRun(folder, document, step, identities.get(name, "")))
        except Exception as error:
            if step:
                warn(name, error, folder)
                continue
            for other in writers:
                other.finish(None)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(
                f"the tracker {name} cannot start: {reason}; nothing is trained yet: correct this, or leave it out"
            ) from error
        writers.append(Tolerant(name, writer, folder))
        identities[name] = str(writer.identity)
    if identities != before:
        write_whole(path, [(json.dumps(identities, indent=2) + "\n").encode()])
    return writers
