"""The commands that list runs and studies, and compare runs."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING

import click

from tlx.cli.group import main, out_option, print_files, print_table
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.report.listing import ListRow

STATES = ("done", "running", "failed", "unfinished", "damaged")
KINDS = ("run", "study", "search")
SORTS = ("date", "metric", "path", "seconds")


@main.command(
    section="Compare",
    examples=(
        "tlx runs",
        "tlx runs runs/labels --cells --sort metric",
        "tlx runs --where tuning=Lora --where data.target=sentiment/movies",
        "tlx runs --state done --json > runs.json",
    ),
)
@click.argument("folder", metavar="[DIR]", default="runs", type=click.Path(file_okay=False))
@click.option("--state", type=click.Choice(STATES), multiple=True, help="Only runs and studies in this state.")
@click.option("--kind", type=click.Choice(KINDS), multiple=True, help="Only runs, studies or searches.")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    metavar="PATH=VALUE",
    help="Only runs with this value in the recipe; a record equals the name of its class.",
)
@click.option("--cells", is_flag=True, help="List the cells of studies and searches too, as runs.")
@click.option("--metric", help="Metric in the table, e.g. test/loss [default: the primary metric of each run].")
@click.option("--sort", type=click.Choice(SORTS), default="date", show_default=True, help="Order of the rows.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(
    folder: str, state: tuple[str, ...], kind: tuple[str, ...], conditions: tuple[str, ...], cells: bool,
    metric: str | None, sort: str, as_json: bool,
) -> None:  # fmt: skip
    """List the runs and studies below a directory.

    Each row has the state, the recipe in a few words, the primary metric with its 95 % interval over the examples of
    the split, the date and the fingerprint. DIR is "runs" by default. The order is: newest first, best metric first,
    path, or longest time first.
    """
    from tlx.records import listing as records
    from tlx.report import listing
    from tlx.trees import near_miss

    entries = list(records.find(folder, cells=cells))
    chosen = [entry for entry in entries if (not state or entry.state in state) and (not kind or entry.kind in kind)]
    rows = [listing.row(entry, metric) for entry in listing.where(chosen, conditions)]
    if metric is not None and rows and all(row.value is None for row in rows):
        names = {name for row in rows if row.entry.result for name in row.entry.result["metrics"]}
        raise ValueError(f"no run here has the metric {metric!r}{near_miss(metric, names)}")
    rows = listing.order(rows, sort)
    if as_json:
        click.echo(json.dumps([row.document for row in rows], indent=2))
        return
    if not rows:
        click.echo(f"no run, study or search in {folder}" + (f" of {len(entries)} matches" if entries else ""))
        return
    print_rows(rows, folder)


HEADS = ("PATH", "STATE", "RECIPE OR QUESTION", "METRIC", "DATE", "FINGERPRINT")


def print_rows(rows: list[ListRow], folder: str) -> None:
    """Print one line for each row, in columns, and one line with the number of rows in each state."""
    lines = [HEADS, *(cells_of(row, folder) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, cells in enumerate(lines):
        line = "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
        click.echo(line if number else click.style(line, bold=True))
    counts = Counter(row.entry.state for row in rows)
    click.echo(f"{len(rows)} in {folder}: {', '.join(f'{count} {name}' for name, count in counts.items())}", err=True)


def cells_of(row: ListRow, folder: str) -> tuple[str, ...]:
    """Return the cells of a row as text."""
    from tlx.report import listing

    entry = row.entry
    path = os.path.relpath(entry.folder, folder)
    path = str(entry.folder) if path == "." else path
    cells = f" ({', '.join(f'{count} {name}' for name, count in entry.cells.items())})" if entry.cells else ""
    state = entry.state if entry.kind == "run" else f"{entry.kind}: {entry.state}{cells}"
    return (path, state, listing.summary(entry), metric_text(row), listing.date(entry), entry.fingerprint)


def metric_text(row: ListRow) -> str:
    """Return the name, the value and the interval of a row's metric."""
    from tlx.report.listing import interval_text

    if row.value is None:
        return row.name or "-"
    low, high = (None, None) if row.interval is None else (row.interval.low, row.interval.high)
    return f"{row.name} {interval_text(row.value, low, high)}"


@main.command(
    section="Compare",
    examples=(
        "tlx compare runs/full runs/lora",
        "tlx compare runs/full runs/lora runs/probe --metric test/f1 --smallest 0.01",
    ),
)
@click.argument("sources", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(file_okay=False))
@click.option("--metric", help="Metric to compare, with its split [default: the primary metric of the first run].")
@click.option("--smallest", default=0.0, show_default=True, help="Smallest difference worth reporting.")
@out_option("runs/compare- and the names of the runs")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(sources: tuple[str, ...], metric: str | None, smallest: float, out: str | None, as_json: bool) -> None:
    """Compare runs: recipes, metrics with intervals, tests.

    The first RUN is the baseline. Runs that were measured on the same test examples are compared example by example;
    with other examples of the same data as independent samples; with other data not at all. Runs that differ only in
    their seeds are one arm, and arms are compared over their seeds. Writes compare.json and compare.html.
    """
    from pathlib import Path

    from tlx import report
    from tlx.analysis.compare_runs import DOCUMENT, PAGE, compare_runs
    from tlx.records.log import write_json

    document = compare_runs(sources, metric, smallest)
    folder = Path(out or f"runs/compare-{'-'.join(run['name'].replace('/', '-') for run in document['runs'])[:120]}")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / DOCUMENT, document)
    if report.available():
        from tlx.report import comparison

        comparison.write(folder / PAGE, document)
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    print_comparison(document)
    print_files(folder, DOCUMENT, PAGE)


def print_comparison(document: Json) -> None:
    """Print the differences of the recipes, the metrics, the comparisons and the arms."""
    from tlx.functional.significance import p_text
    from tlx.report.listing import interval_text

    names = [run["name"] for run in document["runs"]]
    if document["differences"]:
        rows = [[row["path"], *("-" if value is None else value for value in row["values"])]
                for row in document["differences"]]  # fmt: skip
        print_table("differences of the recipes", ["field", *names], rows, ())
    else:
        click.echo("the recipes are equal")
    rows = [[row["name"], *("-" if value is None else interval_text(**value) for value in row["values"])]
            for row in document["metrics"]]  # fmt: skip
    print_table("metrics, with 95 % intervals over the examples", ["metric", *names], rows, ())
    heads = ("run", f"difference of {document['metric']}", "95 % interval", "p, Holm", "verdict", "how")
    rows = []
    for name, item in zip(names[1:], document["comparisons"], strict=True):
        how = f"{item['examples']:,} paired examples, {item['test'] or item['method']}" if item["paired"] else ""
        gap = "-" if item["difference"] is None else f"{item['difference']:+.4f}"
        rows.append([name, gap, span(item["low"], item["high"]), p_text(item["holm"]), item["verdict"],
                     "; ".join(filter(None, (how, item["reason"])))])  # fmt: skip
    print_table(f"against {names[0]}", heads, rows, document["notes"])
    if document["arms"]:
        arm_heads = ("arm", "seeds", "mean", "95 % interval", "difference", "95 % interval ", "p, Holm", "verdict")
        print_table("over seeds", arm_heads, [arm_row(row) for row in document["arms"]["rows"]], ())


def arm_row(row: Json) -> list[str]:
    """Return an arm as the cells of a table."""
    from tlx.functional.significance import p_text

    start = [row["name"], str(row["seeds"]), f"{row['mean']:.4f}", span(row["low"], row["high"], sign="")]
    if row["difference"] is None:
        return [*start, "-", "-", "-", "baseline"]
    gap = span(row["difference_low"], row["difference_high"])
    return [*start, f"{row['difference']:+.4f}", gap, p_text(row["holm"]), row["verdict"]]


def span(low: float | None, high: float | None, sign: str = "+") -> str:
    """Return an interval as text."""
    return "-" if low is None or high is None else f"[{low:{sign}.4f}, {high:{sign}.4f}]"
