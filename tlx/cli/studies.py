"""Commands for studies: many runs that answer one question."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlx.cli.group import (
    cluster_options,
    command_of,
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
from tlx.cli.user_files import changed, function_of

if TYPE_CHECKING:
    from tlx.study import Study


def load_study(path: str, changes: Sequence[str]) -> Study:
    """Return the study of a file, with the overrides `path=value` of its base recipe."""
    from tlx.study import Study

    study = function_of(path, "study", "study")()
    if not isinstance(study, Study):
        raise TypeError(f"study() in {path} returned {type(study).__name__}; expected a tlx.Study")
    if not changes:
        return study
    # A metric that follows from the task is derived again, because the override may change the task.
    metric = None if study.metric == f"test/{study.base.task.primary}" else study.metric
    return dataclasses.replace(study, base=changed(study.base, changes), metric=metric)


@main.command(
    section="Train",
    examples=(
        "tlx study experiments/labels.py --jobs 2",
        "tlx study experiments/labels.py --set train.steps=100 --out runs/short",
        "tlx study experiments/labels.py --status",
    ),
)
@click.argument("file")
@set_option
@out_option("runs/ and the name of the file")
@jobs_option
@place_options
@together_option(64, "--most")
@saving_options
@mesh_option
@cluster_options
@click.option("--status", is_flag=True, help="Print the state of every cell; run nothing.")
@click.option("--results", is_flag=True, help="Print the finished cells as a Markdown table; run nothing.")
@quiet_option
@click.option("--worker", type=float, hidden=True)
def study(
    file: str, changes: tuple[str, ...], out: str | None, jobs: int, together: int,
    checkpoint_seconds: float | None, keep_last: int | None, keep_best: int | None, mesh: str | None,
    coordinator: str | None, processes: int | None, process: int | None, status: bool, results: bool, quiet: bool,
    worker: float | None, place: RunPlace,
) -> None:  # fmt: skip
    """Run the unfinished cells of a study.

    FILE is a Python file with a function study(); --set changes its base recipe.

    Run the same command again to continue a stopped study and to retry failed cells. Several processes may run it at
    the same time, also on several machines that share the directory: no cell runs twice. Processes that a cluster has
    started together, or that --coordinator, --processes and --process join, train every cell together.
    """
    out = out or f"runs/{Path(file).stem}"
    if results:
        from tlx.study.table import markdown

        click.echo(markdown(out))
        return
    from tlx.training.run_many import CELLS

    if status:
        print_status(load_study(file, changes), out)
        return
    join_processes(worker, coordinator, processes, process)
    plan = in_all(lambda: load_study(file, changes))
    again = [file_word(file), *set_words(changes), "--out", out]
    again += ["--together", str(together)] if together != 64 else []
    saving = saving_of(checkpoint_seconds, keep_last, keep_best)
    again += [*saving_words(saving), *mesh_words(mesh)]
    shared, how = mesh_of(mesh), dataclasses.replace(CELLS, **saving)
    try:
        if worker is not None:
            place.work(plan, out, worker, jobs=jobs, most=together, mesh=shared, how=how)
            return
        from tlx.study import run_study

        command = command_of("study", *again, *(["--jobs", str(jobs)] if jobs > 1 else []), *place.words)
        records = run_study(
            plan, out, jobs=jobs, most=together, quiet=quiet, command=command, file=file,
            worker=worker_of("study", *again, "--jobs", str(jobs)), mesh=shared, on=place.cluster(), how=how,
        )  # fmt: skip
    except KeyboardInterrupt:
        if worker is None:
            click.echo(f"\nstopped; continue with: {command}{' --quiet' if quiet else ''}", err=True)
        sys.exit(130)
    if leads():
        print_end(records, command, quiet)
    sys.exit(int(any(cell.state == "failed" for cell in records.cells)))


def print_end(records: Any, command: str, quiet: bool) -> None:
    """Print how the study ended."""
    from tlx.study.table import RESULTS, lacking

    if not quiet:
        written = f"results.csv and results.parquet in {records.folder}"
        missing = f"no {RESULTS}.csv and {RESULTS}.parquet, because {lacking()} is missing: pip install 'tlx[study]'"
        stale = f" (stale: {', '.join(records.changed)} changed since)" if records.changed else ""
        counted = f"{records.counts['done']} of {len(records.cells)} cells done{stale}"
        click.echo(f"{counted}; {missing if lacking() else written}")
        if (page := records.folder / "report.html").is_file():
            click.echo(page)
    if failed := [cell for cell in records.cells if cell.state == "failed"]:
        from tlx.study.sweeps import names_text

        click.echo(
            f"tlx: {len(failed)} of {len(records.cells)} cells failed; the first is {names_text(failed[0].names)}: "
            f"{failed[0].failed['error']}; tracebacks in {records.folder}/cells/*/failed.json; run them again with: "
            f"{command}",
            err=True,
        )


def print_status(study: Study, out: str) -> None:
    """Print the number of cells in each state, and one line for each cell."""
    from rich.console import Console
    from rich.table import Table

    from tlx.records import studies
    from tlx.study.table import spent

    if not studies.is_study(out):
        click.echo(f"{study.question}\n{len(study.by_fingerprint)} cells waiting; {out} does not contain a study yet")
        return
    records = studies.read(out)
    click.echo(f"{records.name}: {records.question}")
    click.echo(
        f"{len(records.cells)} cells in {out}: " + ", ".join(f"{n} {state}" for state, n in records.counts.items())
    )
    table = Table("state", *records.columns, "seconds", records.metric)
    for cell in records.cells:
        names = ["-" if cell.names[column] is None else str(cell.names[column]) for column in records.columns]
        seconds = f"{spent(cell.result):.1f}" if cell.result else "-"
        value = cell.metrics.get(records.metric)
        outcome = cell.failed["error"] if cell.failed else "-" if value is None else f"{value:.4f}"
        table.add_row(cell.state_text, *names, seconds, outcome)
    Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False).print(table)
    listed = {cell.fingerprint for cell in records.cells}
    if new := study.by_fingerprint.keys() - listed:
        click.echo(f"{out} does not contain {len(new)} new cells of the study yet")
