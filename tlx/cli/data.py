"""The command that describes data before anything is trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlx.cli.group import command_of, file_word, main, out_option, print_table, set_option, set_words
from tlx.cli.user_files import load_recipe

if TYPE_CHECKING:
    from tlx.data import Data
    from tlx.recipe import Recipe
    from tlx.trees import Json

# Classes, examples, unused columns and doubtful labels that the terminal shows.
CLASSES, EXAMPLES, UNUSED, DOUBTS, LETTERS = 20, 5, 12, 5, 70


@main.command(
    section="Data",
    examples=(
        "tlx data reviews.csv",
        "tlx data reviews.csv --set data.target.label=stars --out reviews-data",
        "tlx data configs/minilm_movies.py",
        "tlx data target.csv source.csv",
    ),
)
@click.argument("source", metavar="DATA|CONFIG")
@click.argument("others", metavar="[DATA]...", nargs=-1)
@set_option
@out_option("none, and nothing is written")
@click.option(
    "--examples", type=click.IntRange(min=0), default=12, show_default=True, help="Largest number of examples shown."
)
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
def data(
    source: str, others: tuple[str, ...], changes: tuple[str, ...], out: str | None, examples: int, as_json: bool
) -> None:
    """Show what a model will see of some data.

    DATA is a file, a folder, or the name of a data set; CONFIG names its data. The columns, labels by split, sizes
    and what truncation cuts, examples before and after processing, duplicates, labels in doubt, imbalance. Further
    DATA are compared with the first: their distance from it, and duplicates.
    """
    from tlx.analysis.data import measure, write

    data_settings, recipe = settings_of(source, changes)
    words = [file_word(source), *map(file_word, others), *set_words(changes)]
    command = command_of("data", *words, *(["--out", out] if out else []))
    say = (
        None
        if as_json or not sys.stderr.isatty()
        else lambda part: click.echo(f"\r\x1b[K{part} ...", nl=False, err=True)
    )
    document = measure(data_settings, recipe=recipe, others=others, examples=examples, command=command, say=say)
    if say is not None:
        click.echo("\r\x1b[K", nl=False, err=True)
    if as_json:
        click.echo(json.dumps(document))
    else:
        print_document(document)
    for path in write(document, out) if out else ():
        click.echo(path, err=as_json)


def settings_of(source: str, changes: tuple[str, ...]) -> tuple[Data, Recipe | None]:
    """Return the data of a config file with its recipe; or those of a data set, without one.

    The overrides `path=value` of a data set change its `data`, as in a recipe: `data.target.label=stars`.
    """
    if Path(source).suffix == ".py":
        _, recipe = load_recipe(source, changes)
        return recipe.data, recipe
    from tlx.data import Data

    return changed_data(source, changes) if changes else Data(target=source), None


def changed_data(source: str, changes: Sequence[str]) -> Data:
    """Return the data of the source that a text names, with the overrides `path=value`."""
    from tlx import config
    from tlx.analysis.data.card import Plain
    from tlx.data import Data
    from tlx.data.sources.named import source_named
    from tlx.recipe import classes

    # The source itself, so that its fields can be changed.
    plain = Plain(data=Data(target=source_named(source)))
    for change in changes:
        name, sign, value = change.partition("=")
        if not sign:
            raise ValueError(f"--set {change!r} is not of the form path=value, for example data.target.label=stars")
        plain = config.override(plain, name, value, classes(plain))
    return plain.data


def print_document(document: Json) -> None:
    """Print the description on the terminal."""
    from tlx.report.data_words import lead

    click.echo(f"{document['title']}: {lead(document)}")
    fields = [
        (field["name"], field["kind"], " + ".join(field["from"]) or "-", dashed(field["missing"]))
        for field in document["fields"]
    ]
    print_table("columns", ("column", "kind", "read from", "missing"), fields, ())
    if document["unused"]:
        unused = [(row["name"], row["type"], f"{row['different']:,}", row["example"]) for row in document["unused"]]
        print_table("not used", ("column", "type", "different", "example"), unused[:UNUSED], rest(unused, UNUSED))
    print_labels(document)
    sizes = [size_row(row) for row in document["sizes"] if row["at"]]
    if sizes:
        heads = ("measure", "split", "lowest", "25 %", "median", "75 %", "95 %", "highest", "cut", "lost")
        print_table("sizes", heads, sizes, ())
    shown = [(row.get("label", "-"), line_of(row), row["place"]) for row in document["shown"]]
    if shown:
        print_table("examples", ("label", "input", "place"), shown[:EXAMPLES], ())
    doubts = document["doubts"]
    listed = [(str(row["label"]), str(row["suggested"]), line_of(row), row["place"]) for row in doubts["listed"]]
    if listed:
        print_table("labels in doubt", ("label", "suggested", "input", "place"), listed[:DOUBTS], ())
    if document["distances"]:
        distances = [distance_row(row) for row in document["distances"]]
        names = ("source", "A-distance", "lowest", "highest", "squared MMD", "by chance", "p")
        print_table("distance to the target", names, distances, (f"by {document['distances'][0]['by']}",))
    for note in document["notes"]:
        click.echo(f"note: {note}")
    if doubts["why"]:
        click.echo(f"note: labels in doubt were not looked for: {doubts['why']}")


def print_labels(document: Json) -> None:
    """Print the labels by split."""
    counted = document["counts"]
    splits = [row["split"] for row in counted["rows"]]
    if counted["classes"]:
        from tlx.report.data_words import class_rows

        rows = [(row["name"], *(f"{count:,}" for count in row["counts"])) for row in class_rows(document)]
        print_table("labels", ("class", *splits), rows[:CLASSES], rest(rows, CLASSES))
    elif splits:
        heads = ("split", "lowest", "25 %", "median", "75 %", "highest", "mean", "deviation")
        rows = [
            (row["split"], *(f"{value:.4g}" for value in (*row["quantiles"], row["mean"], row["deviation"])))
            for row in counted["rows"]
        ]
        print_table("labels", heads, rows, ())


def size_row(row: Json) -> tuple[str, ...]:
    """Return a row of sizes in words."""
    cut = (f"{row['cut']:.1%}", f"{row['lost']:.1%}") if "cut" in row else ("-", "-")
    return (row["measure"], row["split"], *(f"{value:.4g}" for value in row["at"]), *cut)


def distance_row(row: Json) -> tuple[str, ...]:
    """Return a row of distances in words."""
    names = ("a", "a_low", "a_high", "mmd", "chance", "p")
    return (row["source"], *("-" if row[name] is None else f"{row[name]:.3g}" for name in names))


def line_of(row: Json) -> str:
    """Return the input of an example on one line."""
    text = " | ".join(" ".join(row[name].split()) for name in ("text", "text_pair") if name in row)
    text = text or row.get("size", "sound")
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def dashed(value: int | None) -> str:
    """Return a number, or a dash where it is not known."""
    return "-" if value is None else f"{value:,}"


def rest(rows: list[Any], shown: int) -> tuple[str, ...]:
    """Return a note on the rows that are not shown."""
    return (f"and {len(rows) - shown:,} more",) if len(rows) > shown else ()
