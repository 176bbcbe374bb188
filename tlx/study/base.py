"""What a study is, and what its directory says of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tlx import config
from tlx.data import DATASETS, Data, has_test
from tlx.recipe import Recipe
from tlx.records.log import write_json
from tlx.records.studies import CELLS, CLAIMS, GROUPS, STUDY, is_study
from tlx.study.sweeps import Cell, Given, shown, sweep
from tlx.trees import near_miss

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
    `metric` is what is compared (by default the primary one of the task on the test split), `smallest` the difference
    below which nothing is of interest, `name` by default that of the study's file.
    """

    base: Recipe
    cells: Iterable[Given]
    question: str
    baseline: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    smallest: float = 0.0
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.base, Recipe):
            raise TypeError(f"base is {type(self.base).__name__}, not a tlx.Recipe")
        cells = tuple(sweep(self.base, self.cells))
        columns = dict.fromkeys(cells[0].names)
        if taken := [column for column in columns if column in OWN]:
            raise ValueError(f"{taken[0]!r} is a column of the table's own; give that label another name")
        baseline = {column: shown(value) for column, value in self.baseline.items()}
        for column, value in baseline.items():
            if column not in columns:
                raise ValueError(
                    f"the baseline names a column {column!r}, which no cell has{near_miss(column, columns)}"
                )
            values = list(dict.fromkeys(cell.names[column] for cell in cells))
            if value not in values:
                raise ValueError(
                    f"no cell has the baseline's {column}={value}{near_miss(str(value), map(str, values))}"
                )
        metric = self.metric or f"test/{self.base.task.primary}"
        if metric.partition("/")[0] not in ("test", "validation"):
            raise ValueError(f"metric is {metric!r}; it begins with 'test/' or 'validation/'")
        if self.smallest < 0:
            raise ValueError(f"smallest is {self.smallest:g}; it is a difference, 0 or more")
        for name, value in {"cells": cells, "baseline": baseline, "metric": metric}.items():
            object.__setattr__(self, name, value)

    @cached_property
    def by_fingerprint(self) -> dict[str, Cell]:
        """The cells in their order, as `sweep` has made them."""
        return {cell.fingerprint: cell for cell in cast("tuple[Cell, ...]", self.cells)}


def check_tested(study: Study) -> None:
    """ValueError where the metric is of the test split and the data of a cell have none with labels.

    What else is wrong with the data is left to the cell, which says so when it is run.
    """
    if not str(study.metric).startswith("test/"):
        return
    every = (cell.recipe.data for cell in study.by_fingerprint.values())
    for target in dict.fromkeys(data.target for data in every if data.test_on == "test"):
        try:
            tested = target in DATASETS or has_test(Data(target=target))
        except (OSError, ValueError):
            continue
        if not tested:
            raise ValueError(
                f"metric is {study.metric!r}, and data set {target!r} has no test split with labels: compare by "
                f"metric='validation/{study.base.task.primary}', or test on its validation split, with "
                "data.test_on='validation'"
            )


def document(study: Study, name: str, command: str = "", file: str = "") -> dict[str, Any]:
    """`study.json`."""
    cells = []
    for fingerprint, cell in study.by_fingerprint.items():
        held = [(path, config.at(cell.recipe, path)) for path in cell.changes]
        changes = [[path, before(study.base, path), str(shown(value))] for path, value in held]
        cells.append(
            {"fingerprint": fingerprint, "names": cell.names, "changes": [one for one in changes if one[1] != one[2]]}
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
    """What the base has at a path; `-` where the override before it has made the path."""
    try:
        return str(shown(config.at(base, path)))
    except ValueError:
        return "-"


def settle(directory: Path, written: Mapping[str, Any]) -> None:
    """Makes the directory the study's own, whatever study it held before: cells of another stay on disk, unlisted.

    FileExistsError for a directory that holds something else.
    """
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file; choose another directory with --out")
    # Another process may have just begun: claims are there before the file is, and are looked for last.
    # The groups of another directory may have been copied, to repeat its study.
    others = directory.is_dir() and any(path.name != GROUPS for path in directory.iterdir())
    if others and not (is_study(directory) or (directory / CLAIMS).is_dir()):
        raise FileExistsError(f"{directory} is not empty and holds no study; choose another directory with --out")
    for name in (CLAIMS, CELLS):
        (directory / name).mkdir(parents=True, exist_ok=True)
    with alone(directory):
        write_json(directory / STUDY, written)


def alone(directory: Path) -> Any:
    """The lock under which the study's own files are written, by whichever process."""
    from filelock import FileLock

    return FileLock(directory / CLAIMS / "study.lock")
