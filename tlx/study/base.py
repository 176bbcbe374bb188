"""Define a study, and write its directory's `study.json`."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tlx import config
from tlx.data import DATASETS, Data, has_test
from tlx.notebooks import html_of
from tlx.recipe import Recipe
from tlx.records.log import write_json
from tlx.records.studies import CELLS, CLAIMS, GROUPS, STUDY, is_study
from tlx.study.sweeps import Cell, Given, sweep, table_value
from tlx.trees import Json, near_miss

# The columns of `tlx.study.results` that are not the user's.
OWN = (
    "fingerprint",
    "state",
    "split",
    "metric",
    "value",
    "selection",
    "selected_step",
    "steps",
    "seconds",
    "trainable",
)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A `question`, and the `cells` whose runs answer it: overrides of `base` (see `tlx.study.sweep`).

    `baseline` names the cells that others are compared with, by their values in some columns: `{"method": "full"}`.
    `metric` is the compared metric (by default the task's primary metric on the test split), `smallest` the smallest
    difference of interest, `name` by default the name of the study's file.
    """

    base: Recipe
    cells: Iterable[Given]
    question: str
    baseline: Json = field(default_factory=dict)
    metric: str | None = None
    smallest: float = 0.0
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.base, Recipe):
            raise TypeError(f"base is {type(self.base).__name__}, not a tlx.Recipe")
        cells = tuple(sweep(self.base, self.cells))
        columns = dict.fromkeys(cells[0].names)
        if reserved := [column for column in columns if column in OWN]:
            raise ValueError(f"{reserved[0]!r} is a column that tlx adds to the table; give that label another name")
        baseline = {column: table_value(value) for column, value in self.baseline.items()}
        for column, value in baseline.items():
            if column not in columns:
                raise ValueError(
                    f"the baseline names the column {column!r}, which no cell has{near_miss(column, columns)}"
                )
            values = list(dict.fromkeys(cell.names[column] for cell in cells))
            if value not in values:
                raise ValueError(
                    f"the baseline is {column}={value}, but no cell has this "
                    f"value{near_miss(str(value), map(str, values))}"
                )
        metric = self.metric or f"test/{self.base.task.primary}"
        if metric.partition("/")[0] not in ("test", "validation"):
            raise ValueError(f"metric is {metric!r}; expected a name that begins with 'test/' or 'validation/'")
        if self.smallest < 0:
            raise ValueError(f"smallest is {self.smallest:g}; expected a difference of 0 or more")
        for name, value in {"cells": cells, "baseline": baseline, "metric": metric}.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """Return the question, the number of cells and the columns that name them."""
        cells = cast("tuple[Cell, ...]", self.cells)
        columns = ", ".join(cells[0].names) or "no column"
        baseline = "".join(f", {name}={value!r}" for name, value in self.baseline.items())
        return (
            f"Study({self.question!r}, {len(cells)} cells by {columns}, metric {self.metric!r}"
            f"{f', baseline{baseline[1:]}' if baseline else ''})"
        )

    @cached_property
    def by_fingerprint(self) -> dict[str, Cell]:
        """The cells by fingerprint, in the order of `sweep`."""
        return {cell.fingerprint: cell for cell in cast("tuple[Cell, ...]", self.cells)}

    def _repr_html_(self) -> str | None:
        return html_of("tlx.report.notebook:study_html", self)


def check_tested(study: Study) -> None:
    """Raise ValueError if the metric is measured on the test split and a cell's data have no test split with labels.

    Other errors in the data are left to the cell, which reports them when it runs.
    """
    if not str(study.metric).startswith("test/"):
        return
    data_of_cells = (cell.recipe.data for cell in study.by_fingerprint.values())
    for target in dict.fromkeys(data.target for data in data_of_cells if data.test_on == "test" and not data.folds):
        try:
            tested = target in DATASETS or has_test(Data(target=target))
        except (OSError, ValueError):
            continue
        if not tested:
            raise ValueError(
                f"metric is {study.metric!r}, but data set {target!r} has no test split with labels: compare by "
                f"metric='validation/{study.base.task.primary}', or test on its validation split with "
                "data.test_on='validation'"
            )


def document(study: Study, name: str, command: str = "", file: str = "") -> Json:
    """Return the content of `study.json`."""
    cells = []
    for fingerprint, cell in study.by_fingerprint.items():
        values = [(path, config.at(cell.recipe, path)) for path in cell.changes]
        changes = [[path, before(study.base, path), str(table_value(value))] for path, value in values]
        cells.append(
            {
                "fingerprint": fingerprint,
                "names": cell.names,
                "changes": [change for change in changes if change[1] != change[2]],
            }
        )
    return {
        "name": study.name or name,
        "question": study.question,
        "baseline": dict(study.baseline),
        "metric": study.metric,
        "smallest": study.smallest,
        "command": command,
        "file": file,
        "cells": cells,
    }


def before(base: Recipe, path: str) -> str:
    """Return the base's value at a path, as text; `-` if an earlier override creates the path."""
    try:
        return str(table_value(config.at(base, path)))
    except ValueError:
        return "-"


def settle(directory: Path, written: Json) -> None:
    """Assign the directory to the study, also if it contained another study before. Cells of the other study stay on
    disk, unlisted.

    Raises:
        FileExistsError: The directory contains other files.
    """
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file; choose another directory with --out")
    # Another process may have just begun. It creates the claims before the file, so the claims are checked last.
    # The groups of another directory may have been copied, to repeat its study.
    others = directory.is_dir() and any(path.name != GROUPS for path in directory.iterdir())
    if others and not (is_study(directory) or (directory / CLAIMS).is_dir()):
        raise FileExistsError(f"{directory} is not empty and contains no study; choose another directory with --out")
    for name in (CLAIMS, CELLS):
        (directory / name).mkdir(parents=True, exist_ok=True)
    with alone(directory):
        write_json(directory / STUDY, written)


def alone(directory: Path) -> Any:
    """Return the lock that protects the study's own files while any process writes them."""
    from filelock import FileLock

    return FileLock(directory / CLAIMS / "study.lock")
