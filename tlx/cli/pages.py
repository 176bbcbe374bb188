"""The pages and the tables of runs and studies, drawn again from their records."""

import click

from tlx.cli.group import main


@main.command()
@click.argument("sources", metavar="DIR...", nargs=-1, required=True, type=click.Path(file_okay=False))
@click.option("--metric", help="Compare the arms of a study by this, e.g. test/loss [default: the study's own].")
@click.option("--latex", "form", flag_value="latex", help="Print a study's table for LaTeX instead.")
@click.option("--markdown", "form", flag_value="markdown", help="Print a study's table for Markdown instead.")
def report(sources: tuple[str, ...], metric: str | None, form: str | None) -> None:
    """Draw the page of each DIR, a run's folder or a study's directory, from the records there."""
    from tlx.report import table, write

    for number, source in enumerate(sources):
        if form:
            click.echo(("\n" if number else "") + table(source, form, metric))
        else:
            click.echo(write(source, metric))
