"""Search over recipes by the validation split alone; many workers may share one search.

DIR/search.json            the search space and the arguments
DIR/journal.log            Optuna's journal of the trials
DIR/cells/FINGERPRINT/     the run of a trial, without a test split
DIR/claims/                locks: of the choice of the next trial, and of every run
DIR/tune.json, report.html the results
"""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tlx import processes
from tlx.files.durable import guarded
from tlx.recipe import Recipe
from tlx.records.log import write_json
from tlx.sharding import Mesh
from tlx.study import hosts
from tlx.study.clusters.base import Cluster
from tlx.study.clusters.drive import drive
from tlx.training.loop import How
from tlx.training.run_many import CELLS
from tlx.training.saving import check_best
from tlx.tune.clustered import SearchWork, workers_of
from tlx.tune.crew import Crew
from tlx.tune.journal import Pruner, Sampler
from tlx.tune.reading import Found, read
from tlx.tune.settings import Direction, Settings, alone, check_settings, pruner_of, settle
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
    on: Cluster | None = None,
    once: bool = False,
    how: How = CELLS,
) -> Found:
    """Try `trials` points of the `space` in the folder `out`, and return the results.

    The metric is computed on the validation split; no trial opens the test split. Called again with the same `out`, the
    search continues up to `trials` trials in total, and continues the trials of a killed worker. Any number of
    processes may call this for one folder at once.

    Args:
        recipe: the recipe.
        space: path -> `uniform`, `log_uniform`, `integer` or `one_of`.
        out: the folder of the search.
        trials: the total number of trials.
        sampler: the sampler. The points of "random" and "grid" are known beforehand.
        pruner: the pruner. With a pruner every trial runs alone.
        metric, direction: by default the task's primary metric, and its better direction.
        seed: the seed of the sampler.
        jobs: if above 1, `jobs - 1` processes of the command `worker` are started.
        worker: a command that calls this function too.
        together: the largest group of trials that are known beforehand. One worker executes all of a group; later calls
            keep the recorded groups.
        share: the number of workers that share the search, by default `jobs`. A group has at most the share of one
            worker.
        command: the start of the command that runs the recipe, `tlx run CONFIG`, for the record.
        quiet: print nothing.
        mesh: how many devices share a batch of a trial.
        on: the cluster that executes the command `worker` for each trial, in place of this machine.
        once: execute only the next trials that train together, as a worker of a cluster.
        how: how the trials are carried out, apart from the mesh.

    Raises:
        TypeError, ValueError: The space does not fit the recipe, or a number is too small; raised before any run.
        ImportError: The extra `tlx[search]` is missing.
        FileExistsError: The folder contains other files.
    """
    settings = check_settings(recipe, space, trials, sampler, pruner, metric, direction, seed)
    check_best(how.keep_best, recipe)
    share = sharing_workers(jobs, share, together, worker)
    check_hosts(settings, trials, jobs, together, mesh)
    chosen = pruner_of(settings)
    folder = Path(out)
    with guarded(folder, "run the same command again"), on or nullcontext():
        share = workers_of(on, trials) if on else share
        processes.decided(lambda: settle(folder, settings))
        # The first of several processes opens the journal before the others read it.
        crew = processes.in_turn(lambda: Crew(folder, settings, chosen, trials, together, share, quiet, mesh, how))
        if on:
            drive(on, SearchWork(worker, crew, share))
        elif once:
            crew.work(once)
        else:
            work_with_helpers(crew, worker, jobs - 1)
        results = read(folder, settings, crew.study)
        if not once:
            processes.decided(lambda: conclude(results, command))
    return results


def check_hosts(settings: Settings, trials: int, jobs: int, together: int, mesh: Mesh) -> None:
    """Raise ValueError, in every process, where several processes have other searches, data, versions or options."""
    document = json.dumps({**settings.document, "trials": trials}, sort_keys=True).encode()
    name = "the search (by the hash of its settings)"
    hosts.check_start({name: hashlib.sha256(document).hexdigest()[:16]}, [settings.recipe.data], jobs, together, mesh)


def sharing_workers(jobs: int, share: int | None, together: int, worker: Sequence[str]) -> int:
    """Return the number of workers that share the search.

    Raises ValueError if a number is below 1, or if there are several jobs and no command that starts them.
    """
    share = jobs if share is None else share
    for name, value in {"jobs": jobs, "together": together, "share": share}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    if jobs > 1 and not worker:
        raise ValueError(
            "jobs above 1 need worker=, a command that calls tlx.tune as well; the command `tlx tune` passes it"
        )
    return share


def work_with_helpers(crew: Crew, worker: Sequence[str], count: int) -> None:
    """Execute all trials, together with `count` processes of the command `worker`."""
    helpers = [subprocess.Popen(worker, stdout=subprocess.DEVNULL) for _ in range(count)]
    try:
        crew.work()
        for helper in helpers:
            helper.wait()
        # Continue the trials that a dead helper left.
        crew.work()
    finally:
        for helper in helpers:
            helper.terminate()
            helper.wait()


def conclude(results: Found, command: str) -> None:
    """Write `tune.json`, and `report.html` if its extra is installed; write nothing while other workers are running."""
    if any(trial.state == "running" for trial in results.trials):
        return
    from tlx import report

    document = results.document(command)
    with alone(results.folder):
        write_json(results.folder / TUNE, document)
        if report.available():
            from tlx.report import search as page

            page.write(results.folder / PAGE, document)
