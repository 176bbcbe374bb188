"""A search over recipes, which many workers may share, by the validation split alone.

DIR/search.json            what is searched and how
DIR/journal.log            Optuna's journal of the trials
DIR/cells/FINGERPRINT/     the run of a trial, without a test split
DIR/claims/                locks: of the choice of the next trial, and of every run
DIR/tune.json, report.html what came of it
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tlx.files.durable import guarded
from tlx.recipe import Recipe
from tlx.records.log import write_json
from tlx.sharding import Mesh
from tlx.tune.asked import Direction, alone, check_asked, pruner_of, settle
from tlx.tune.crew import Crew
from tlx.tune.journal import Pruner, Sampler
from tlx.tune.reading import Found, read
from tlx.tune.space import Space

TUNE, PAGE = "tune.json", "report.html"


def search(
    recipe: Recipe,
    space: Space,
    out: str | Path,
    *,
    trials: int,
    sampler: Sampler = "tpe",
    pruner: Pruner = "none",
    metric: str | None = None,
    direction: Direction | None = None,
    seed: int = 0,
    jobs: int = 1,
    worker: Sequence[str] = (),
    together: int = 16,
    share: int | None = None,
    command: str = "",
    quiet: bool = False,
    mesh: Mesh = Mesh(),
) -> Found:
    """Tries `trials` points of the `space` (path -> `uniform`, `log_uniform`, `integer` or `one_of`), in the folder
    `out`, and gives what came of it.

    The metric is of the validation split, by default the task's primary one; the test split is sealed in every trial.
    Called again with the same `out`, the search continues to so many trials in all; what a killed worker left is taken
    up where it stood. Any number of processes may call this for one folder at once. `jobs` above 1 starts as many less
    one of the command `worker`, which is to call this too. Points of "random" and "grid" are known beforehand: when
    they are added they are cut into groups of at most `together`, and of no more than the share of one of `share`
    workers (by default `jobs`). One worker executes all of a group; later calls keep the recorded groups. With a pruner
    every trial runs by itself. `command` is what a run of the recipe begins with, `tlx run CONFIG`, for the record.
    `mesh` says how many devices share a batch of a trial.

    Raises TypeError or ValueError for a space that does not fit the recipe, before anything is run, ImportError where
    the extra `tlx[search]` is missing, FileExistsError for a folder that holds something else.
    """
    asked = check_asked(recipe, space, trials, sampler, pruner, metric, direction, seed)
    share = jobs if share is None else share
    for name, value in {"jobs": jobs, "together": together, "share": share}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; a search wants 1 or more")
    if jobs > 1 and not worker:
        raise ValueError("jobs above 1 need worker=, a command that calls this too; `tlx tune` has one")
    chosen = pruner_of(asked)
    folder = Path(out)
    with guarded(folder, "run the same command again"):
        settle(folder, asked)
        crew = Crew(folder, asked, chosen, trials, together, share, quiet, mesh)
        helpers = [subprocess.Popen(worker, stdout=subprocess.DEVNULL) for _ in range(jobs - 1)]
        try:
            crew.work()
            for helper in helpers:
                helper.wait()
            # What a helper that died has left.
            crew.work()
        finally:
            for helper in helpers:
                helper.terminate()
                helper.wait()
        found = read(folder, asked, crew.study)
        conclude(found, command)
    return found


def conclude(found: Found, command: str) -> None:
    """`tune.json`, and `report.html` where the extra that draws it is installed; nothing where others are at work."""
    if any(one.state == "running" for one in found.trials):
        return
    from tlx import report

    document = found.document(command)
    with alone(found.folder):
        write_json(found.folder / TUNE, document)
        if report.available():
            from tlx.report import search as page

            page.write(found.folder / PAGE, document)
