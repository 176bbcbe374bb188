"""The command that searches for hyperparameters."""

import dataclasses
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from tlx.cli.group import (
    cluster_options,
    command_of,
    config_argument,
    file_word,
    in_all,
    jobs_option,
    join_processes,
    leads,
    main,
    mesh_of,
    mesh_option,
    mesh_words,
    out_option,
    quiet_option,
    saving_of,
    saving_options,
    saving_words,
    set_option,
    set_words,
    together_option,
    worker_of,
)
from tlx.cli.places import RunPlace, place_options
from tlx.cli.user_files import function_of, load_recipe

SAMPLERS, PRUNERS = ("tpe", "random", "grid", "cmaes"), ("none", "hyperband")


def space_of(path: str) -> Any:
    """Return the search space of a user's file."""
    return function_of(path, "space", "space")()


@main.command(
    section="Train",
    examples=(
        "tlx tune configs/minilm_movies.py --space space.py --trials 40",
        "tlx tune configs/cnn_mnist.py --space space.py --trials 20 --sampler random",
    ),
)
@config_argument
@set_option
@click.option(
    "--space", required=True, metavar="FILE",
    help="Python file with a function space() that returns {path: range}, with the ranges of tlx.tune: uniform, "
    "log_uniform, integer, one_of.",
)  # fmt: skip
@click.option("--trials", required=True, type=int, help="Total number of trials.")
@click.option("--sampler", type=click.Choice(SAMPLERS), default="tpe", show_default=True, help="Search method.")
@click.option(
    "--pruner", type=click.Choice(PRUNERS), default="none", show_default=True,
    help="How trials end early: hyperband stops those with worse validation metrics, and trains each trial alone.",
)  # fmt: skip
@click.option("--metric", help="Metric of the validation split [default: the task's primary metric].")
@click.option(
    "--direction",
    type=click.Choice(("maximize", "minimize")),
    help="Whether a larger or a smaller metric is better [default: as the task declares].",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the search; the runs use the recipe's seed.")
@out_option("runs/tune- and the name of the config")
@jobs_option
@place_options
@together_option(16)
@saving_options
@mesh_option
@cluster_options
@click.option("--share", type=int, hidden=True)
@quiet_option
def tune(
    config: str, changes: tuple[str, ...], space: str, trials: int, sampler: str, pruner: str, metric: str | None,
    direction: str | None, seed: int, out: str | None, jobs: int, together: int, checkpoint_seconds: float | None,
    keep_last: int | None, keep_best: int | None, mesh: str | None, coordinator: str | None, processes: int | None,
    process: int | None, share: int | None, quiet: bool, place: RunPlace,
) -> None:  # fmt: skip
    """Search for hyperparameters on the validation split.

    CONFIG is a Python file with a function recipe(). No trial reads a test label. Random and grid trials train in
    groups. Run the same command again to continue a stopped search. Several shells that run it share the search.
    """
    from tlx.training.run_many import CELLS
    from tlx.tune import search

    join_processes(share, coordinator, processes, process)
    _, recipe = in_all(lambda: load_recipe(config, changes))
    ranges = in_all(partial(space_of, space))
    out = out or f"runs/tune-{Path(config).stem}"
    base = ["tlx", "run", file_word(config), *set_words(changes)]
    options: dict[str, Any] = {
        "sampler": sampler, "pruner": pruner, "metric": metric, "direction": direction, "seed": seed,
        "together": together,
    }  # fmt: skip
    saving = saving_of(checkpoint_seconds, keep_last, keep_best)
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    words += [*saving_words(saving), *mesh_words(mesh)]
    again = [*base[2:], "--space", space, "--trials", str(trials), *words, "--out", out]
    worker = worker_of("tune", *again, "--share", str(jobs), "--quiet")
    ending = [*(["--jobs", str(jobs)] if jobs > 1 else []), *place.words, *(["--quiet"] if quiet else [])]
    try:
        results = search(
            recipe, ranges, out, trials=trials, jobs=jobs, share=share, worker=worker, command=shlex.join(base),
            quiet=quiet, mesh=mesh_of(mesh), on=place.cluster(), once=bool(place.part),
            how=dataclasses.replace(CELLS, **saving), **options,
        )  # fmt: skip
    except KeyboardInterrupt:
        if share is None:
            click.echo(f"\nstopped; continue with: {command_of('tune', *again, *ending)}", err=True)
        sys.exit(130)
    if place.part:
        return
    if results.best is None:
        reason = next((trial.error for trial in results.trials if trial.error), "no trial has run to its end")
        raise ArithmeticError(f"no trial of {out} is done: {reason}")
    if not leads():
        return
    summary = (
        f"{results.settings.document['metric']} {results.best.value:.4f} "
        f"(selection: best of {len(results.trials)} trials)"
    )
    click.echo(f"{summary}\n{results.command(shlex.join(base))}")
    for name in ("tune.json", "report.html"):
        if (Path(out) / name).is_file():
            click.echo(Path(out) / name)
