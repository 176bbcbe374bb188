"""The base class of trackers, and the protection of a run from their failures."""

import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tlx.trees import Json


class TrackerWarning(UserWarning):
    """A tracker failed, and the run continues without it."""


class TrackedRun(NamedTuple):
    """A run that begins or continues.

    `document` is the content of `recipe.json`, `step` the number of steps whose records were written before, and
    `identity` the one that the tracker's writer had at the first start; empty at the first start.
    """

    folder: Path
    document: Json
    step: int = 0
    identity: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Return the recipe's fields by their dotted path, and its fingerprint."""
        return {"fingerprint": self.document.get("fingerprint"), **dict(flat(self.document.get("recipe", {})))}


def flat(document: object, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values of a JSON document with their dotted paths.

    >>> dict(flat({"optim": {"lr": 0.1}, "objective": [{"weight": 1.0}]}))
    {'optim.lr': 0.1, 'objective.0.weight': 1.0}
    """
    if isinstance(document, list):
        document = {str(n): value for n, value in enumerate(document)}
    if not isinstance(document, dict):
        yield path, document
        return
    for name, value in document.items():
        yield from flat(value, f"{path}.{name}" if path else name)


class Writer:
    """Write the records of one run, in the order of their steps. Every method may be left out.

    `identity` names the run in the tracker; it is stored in the run's directory, so that a resumed run continues it.
    """

    identity: str = ""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of a step by name, such as `train/loss`."""

    def flush(self) -> None:
        """Send or store what was taken: it is called at every checkpoint and validation."""

    def finish(self, result: Json | None) -> None:
        """End with the content of `result.json`, None where the run was stopped or failed; called once."""


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """A place that receives the records of runs while they train: the settings of a writer.

    For another tracker, write a frozen subclass with `start` and pass an instance: `How(trackers=(Mine(),))`. An error
    in `start` of a new run is reported before it trains. Later errors never end a run: they are one warning, and the
    run continues without this tracker.
    """

    # The package that the tracker needs, and the extra of tlx that installs it.
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def start(self, run: TrackedRun) -> Writer:
        """Return the writer of a run; it continues the tracker's run `run.identity` where this is not empty."""
        raise TypeError(f"{type(self).__name__} does not define start(run), which returns the writer of a run")

    def check(self) -> None:
        """Raise ImportError where the package of the tracker is not installed."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        # A folder of that name, which wandb makes beside the user's script, is a package without an origin.
        if self.package and (spec is None or spec.origin is None):
            raise ImportError(
                f"the tracker {type(self).__name__} needs the package {self.package}: pip install 'tlx[{self.extra}]'"
            )


class Tolerant(Writer):
    """A writer that warns once where the tracker's writer fails, and does nothing from then on."""

    def __init__(self, name: str, writer: Writer, folder: Path):
        self.name, self.writer, self.folder = name, writer, folder
        self.identity = writer.identity

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.attempt("write", step, values)

    def flush(self) -> None:
        self.attempt("flush")

    def finish(self, result: Json | None) -> None:
        self.attempt("finish", result)

    def attempt(self, method: str, *arguments: Any) -> None:
        """Call a method of the tracker's writer."""
        try:
            getattr(self.writer, method)(*arguments)
        except Exception as error:
            self.writer = Writer()
            warn(self.name, error, self.folder)


def warn(name: str, error: Exception, folder: Path) -> None:
    """Warn that a tracker failed."""
    reason = " ".join(str(error).split()) or type(error).__name__
    message = (
        f"the tracker {name} failed and gets no further records ({reason}); the run continues, and all records are in "
        f"{folder}"
    )
    warnings.warn(TrackerWarning(message), stacklevel=2)
