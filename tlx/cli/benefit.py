"""The command that measures what transfer buys."""

import shlex
import sys
from pathlib import Path

import click

from tlx.cli.group import config_argument, load_recipe, main, set_option


class Counts(click.ParamType):
    """Whole numbers with commas between."""

    name = "N,N,..."

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 8,16,32", param, context)


@main.command()
@config_argument
@set_option
@click.option(
    "--scratch", multiple=True, metavar="PATH=VALUE",
    help="Change the arm from scratch alone, e.g. optim.lr=1e-3: a rate for fine-tuning may not suit it.",
)  # fmt: skip
@click.option("--seeds", default=5, show_default=True, help="How many seeds each arm has.")
@click.option(
    "--shots",
    type=Counts(),
    help="Examples of a class, for the learning curve [default: those of 8,16,32,64 there are].",
)
@click.option(
    "--out", type=click.Path(file_okay=False), help="The study's directory [default: runs/benefit- and the name]."
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="How many processes work.")
@click.option("--quiet", is_flag=True, help="Print the card alone.")
@click.option("--worker", type=float, hidden=True)
def benefit(
    config: str, changes: tuple[str, ...], scratch: tuple[str, ...], seeds: int, shots: tuple[int, ...] | None,
    out: str | None, jobs: int, quiet: bool, worker: float | None,
) -> None:  # fmt: skip
    """Measure what transfer buys CONFIG: as it is against the same network from scratch, on the same data and budget.

    The same command again goes on where this one was stopped; a run that is done is not run again.
    """
    from tlx.benefit import benefit_study

    _, recipe = load_recipe(config, changes)
    out = out or f"runs/benefit-{Path(config).stem}"
    study = benefit_study(recipe, seeds=seeds, shots=shots, scratch=scratch)
    again = [config, *(word for change in changes for word in ("--set", change))]
    again += [word for change in scratch for word in ("--scratch", change)]
    again += ["--seeds", str(seeds), *(("--shots", ",".join(map(str, shots))) if shots else ()), "--out", out]
    try:
        if worker is not None:
            from tlx.study.work import work

            work(study, Path(out), worker, employed=True)
            return
        from tlx.benefit import measure

        command = shlex.join(["tlx", "benefit", *again, *(["--jobs", str(jobs)] if jobs > 1 else [])])
        card = measure(
            study, out, jobs=jobs, quiet=quiet, command=command, file=config,
            worker=[sys.executable, "-m", "tlx.cli", "benefit", *again],
        )  # fmt: skip
    except KeyboardInterrupt:
        if worker is None:
            click.echo(f"\nstopped; go on with: {command}", err=True)
        sys.exit(130)
    tell(card, Path(out))


def tell(card: dict, out: Path) -> None:
    """The card on a terminal, and where it lies."""
    from rich.console import Console
    from rich.table import Table

    from tlx.benefit import words

    table = Table(*words.HEADS, title=card["question"])
    for row in words.rows(card):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
    for note in words.notes(card):
        click.echo(f"- {note}")
    for name in ("benefit.json", "benefit.html"):
        if (out / name).is_file():
            click.echo(out / name)
