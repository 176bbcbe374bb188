"""The pages and the tables of runs and studies, drawn again from their records."""

import click

from tlx.cli.group import main


@main.command(
    section="Compare",
    examples=(
        "tlx report runs/demo",
        "tlx report runs/labels --metric test/loss",
        "tlx report runs/labels --latex > table.tex",
    ),
)
@click.argument("sources", metavar="DIR...", nargs=-1, required=True, type=click.Path(file_okay=False))
@click.option(
    "--metric", help="Metric that compares the arms of a study, e.g. test/loss [default: the metric of the study]."
)
@click.option("--latex", "form", flag_value="latex", help="Print only the table of a study, for LaTeX.")
@click.option("--markdown", "form", flag_value="markdown", help="Print only the table of a study, for Markdown.")
def report(sources: tuple[str, ...], metric: str | None, form: str | None) -> None:
    """Write the report of a run or a study again.

    The report follows from the records in DIR. The two table options print a table and write nothing.
    """
    from tlx.report import table, write

    for number, source in enumerate(sources):
        if form:
            click.echo(("\n" if number else "") + table(source, form, metric))
        else:
            click.echo(write(source, metric))
