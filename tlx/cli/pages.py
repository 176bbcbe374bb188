"""The pages and the tables of runs and studies, drawn again from their records."""

import click

from tlx.cli.group import main


@main.command()
@click.argument("sources", metavar="DIR...", nargs=-1, required=True, type=click.Path(file_okay=False))
@click.option(
    "--metric", help="Metric that compares the arms of a study, e.g. test/loss [default: the metric of the study]."
)
@click.option("--latex", "form", flag_value="latex", help="Print only the table of a study, for LaTeX.")
@click.option("--markdown", "form", flag_value="markdown", help="Print only the table of a study, for Markdown.")
def report(sources: tuple[str, ...], metric: str | None, form: str | None) -> None:
    """Write the report of each DIR, the directory of a run or a study, from its records."""
    from tlx.report import table, write

    for number, source in enumerate(sources):
        if form:
            click.echo(("\n" if number else "") + table(source, form, metric))
        else:
            click.echo(write(source, metric))
