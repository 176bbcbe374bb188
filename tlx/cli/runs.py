"""Commands of one run: train it, look at it before, ask it, look at it after."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tlx.cli.group import (
    command_of,
    config_argument,
    config_option,
    file_word,
    given_recipe,
    load_recipe,
    main,
    mesh_of,
    mesh_option,
    mesh_words,
    set_option,
    set_words,
)


@main.command()
@config_argument
@set_option
@click.option(
    "--out", type=click.Path(file_okay=False), help="The run's folder [default: runs/ and the config's name]."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint.")
@click.option(
    "--overwrite", is_flag=True, help="Delete what an earlier run wrote into the folder first; other files stay."
)
@click.option("--no-prefix", is_flag=True, help="Compute what lies below all that learns at every step again.")
@mesh_option
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def run(
    config: str, changes: tuple[str, ...], out: str | None, resume: bool, overwrite: bool, no_prefix: bool,
    mesh: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Train as CONFIG (a Python file with a function recipe()) says, measure, and draw the run's page."""
    from tlx import config as records
    from tlx.training.loop import How
    from tlx.training.loop import run as train

    base, recipe = load_recipe(config, changes)
    if not quiet:
        for path, before, after in records.diff(base, recipe):
            click.echo(f"{path}: {before} -> {after}", err=True)
    if out is None:
        name = Path(config).stem
        out = f"runs/{name}" if recipe == base else f"runs/{name}-{records.fingerprint(recipe)}"
    try:
        how = How(quiet=quiet, prefix=not no_prefix, mesh=mesh_of(mesh))
        train(recipe, out, resume=resume, overwrite=overwrite, base=base, how=how)
    except KeyboardInterrupt:
        ending = [
            *(["--no-prefix"] if no_prefix else []),
            *mesh_words(mesh),
            *(["--quiet"] if quiet else []),
            "--resume",
        ]
        command = command_of("run", file_word(config), *set_words(changes), "--out", out, *ending)
        click.echo(f"\nstopped; go on with: {command}", err=True)
        sys.exit(130)


@main.command()
@config_argument
@set_option
def show(config: str, changes: tuple[str, ...]) -> None:
    """Print what would learn: path, shape, group, rate, decay, trainable; totals and bytes."""
    from rich.console import Console
    from rich.table import Table

    from tlx.training import describe
    from tlx.training.prepare import open_data, prepare

    _, recipe = load_recipe(config, changes)
    ready = prepare(recipe, open_data(recipe) if recipe.task.outputs is None else None)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for number, phase in enumerate(ready.phases):
        table = Table(
            "path", "shape", "group", "rate", "decay", "trainable", title=f"phase {number + 1}: {phase.share:.0%}"
        )
        for row in describe.rows(ready, number):
            shape = "x".join(map(str, row.shape))
            told = (f"{row.rate:.3g}", f"{row.decay:g}", "yes") if row.trainable else ("-", "-", "no")
            table.add_row(row.path, shape, row.group, *told)
        console.print(table)
        totals = describe.totals(ready, number)
        console.print(
            f"{totals['trainable']:,} of {totals['total']:,} parameters learn\n"
            f"bytes: parameters {totals['bytes']:,}, gradients {totals['gradient_bytes']:,}, "
            f"optimiser state {totals['optimiser_bytes']:,}"
        )
    console.print(f"weights {ready.manifest}" if ready.manifest.entries else "weights from scratch")
    for note in ready.notes:
        console.print(f"note: {note}", markup=False)


@main.command("lr-find")
@config_argument
@set_option
@click.option("--out", type=click.Path(file_okay=False), help="Where to write [default: runs/lr-find- and the name].")
@click.option("--steps", default=100, show_default=True, help="How many steps at most.")
@click.option("--start", default=1e-7, show_default=True, help="The first rate.")
@click.option("--end", default=10.0, show_default=True, help="The last rate.")
@click.option("--per-group", is_flag=True, help="One test a stage, in which that stage alone learns.")
@mesh_option
@click.option("--quiet", is_flag=True, help="Print nothing but the table and errors.")
def lr_find(
    config: str, changes: tuple[str, ...], out: str | None, steps: int, start: float, end: float, per_group: bool,
    mesh: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Find a rate for CONFIG: train from its start at a rate that grows, and print what the losses suggest."""
    from rich.console import Console
    from rich.table import Table

    from tlx.training.lr_find import LINES, PAGE, find

    _, recipe = load_recipe(config, changes)
    out = out or f"runs/lr-find-{Path(config).stem}"
    try:
        curves = find(
            recipe, out, steps=steps, start=start, end=end, per_group=per_group, quiet=quiet, mesh=mesh_of(mesh)
        )
    except KeyboardInterrupt:
        words = ["--steps", str(steps), "--start", repr(start), "--end", repr(end), "--out", out]
        words += [*(["--per-group"] if per_group else []), *mesh_words(mesh), *(["--quiet"] if quiet else [])]
        command = command_of("lr-find", file_word(config), *set_words(changes), *words)
        click.echo(f"\nstopped before anything was written; start again with: {command}", err=True)
        sys.exit(130)
    table = Table("group", "recommended", *curves[0].suggestions, "steps")
    for curve in curves:
        rates = (curve.recommended, *curve.suggestions.values())
        told = (f"{rate:.2e}" if rate is not None else "-" for rate in rates)
        table.add_row(curve.group, *told, str(len(curve.rates)))
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)
    for curve in curves:
        rate, where = curve.recommended, "" if len(curves) == 1 else f"{curve.group}: "
        click.echo(where + (curve.reason if rate is None else f"recommended rate {rate:.2e} ({curve.reason})"))
    for name in (LINES, PAGE):
        if (Path(out) / name).is_file():
            click.echo(Path(out) / name)


@main.command()
@click.argument("source", metavar="RUN")
@click.argument("examples", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON line an example.")
@config_option
def predict(source: str, examples: tuple[str, ...], as_json: bool, config: str | None) -> None:
    """Answer with labels and probabilities. EXAMPLES are texts, image files, or files with a text a line."""
    from tlx.predict import predict as answer
    from tlx.predict import read_examples

    given = read_examples(examples)
    recipe = given_recipe(config)
    model = recipe.model if recipe else None
    task, processor = (recipe.task, recipe.data.processor) if recipe else (None, None)
    for example, told in zip(given, answer(source, given, model, processor, task), strict=True):
        if as_json:
            click.echo(json.dumps({"example": example, "answer": told}))
        else:
            click.echo(f"{answer_words(told)}  | {example}")


def answer_words(answer: Any) -> str:
    """An answer of `predict` on one line: the five largest numbers by name, or words."""
    if isinstance(answer, Mapping):
        return "  ".join(f"{name} {number:.4f}" for name, number in list(answer.items())[:5])
    return " ".join(map(str, answer))


@main.command()
@click.argument("source", metavar="RUN", type=click.Path(file_okay=False))
@click.option("--examples", default=512, show_default=True, help="How many of each split to look at, at most.")
@config_option
def moved(source: str, examples: int, config: str | None) -> None:
    """Measure what moved in RUN: weights, spectra, features, probes, and the loss between before and after.

    Writes moved.json, and the section "What moved" of the run's page. The test split is not looked at.
    """
    from rich.console import Console
    from rich.table import Table

    from tlx.analysis.changes import moved as measure
    from tlx.analysis.changes.table import tables

    document = measure(source, examples=examples, recipe=given_recipe(config), say=told_part())
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for title, names, rows in tables(document):
        table = Table(*names, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in document["notes"]:
        click.echo(f"note: {note}")
    page = Path(source) / "report.html"
    click.echo("\n".join(str(path) for path in (Path(source) / "moved.json", page) if path.is_file()))


def told_part() -> Any:
    """A function that tells the progress of a long work: a line that rewrites itself, off a terminal one a part."""
    terminal = sys.stderr.isatty()

    def say(part: str, done: int, total: int) -> None:
        if terminal:
            click.echo(f"\r\x1b[K{part} {done}/{total}", nl=done == total, err=True)
        elif done == total:
            click.echo(part, err=True)

    return say
