"""Open the model of a finished run once for all calls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tlx.predict.forward import Predictor
from tlx.predict.opening import check_finished, open_model
from tlx.records.run_directory import RESULT

if TYPE_CHECKING:
    from tlx.recipe import Recipe

# The model of the run that was opened last, by its folder and the time of its result in nanoseconds.
LAST: dict[tuple[Path, int], Predictor] = {}


class FinishedRun(Protocol):
    """A finished run, as `tlx.run` returns it: its folder, and its recipe with the classes of the user."""

    @property
    def folder(self) -> Path:
        """Return the folder of the run."""

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the run."""


def last_predictor(run: FinishedRun) -> Predictor:
    """Return the model of a run. The last one stays in memory, so that a second call opens and compiles nothing.

    Raises FileNotFoundError where the run is not finished.
    """
    check_finished(run.folder)
    key = run.folder.resolve(), (run.folder / RESULT).stat().st_mtime_ns
    if key not in LAST:
        recipe = run.recipe
        predictor = Predictor(open_model(run.folder, recipe.model, recipe.data.processor, recipe.task))
        LAST.clear()
        LAST[key] = predictor
    return LAST[key]
