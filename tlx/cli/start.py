"""The command that writes a config for data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlx.cli.data import changed_data
from tlx.cli.group import command_of, file_word, main, set_words

if TYPE_CHECKING:
    from tlx.finetuning.first_config import Draft


@main.command(
    section="Data",
    examples=("tlx start reviews.csv", "tlx start reviews.csv --text body --label stars", "tlx start pictures/"),
)
@click.argument("source", metavar="[DATA]", required=False)
@click.option("--text", metavar="COLUMN", help="Column of the texts.")
@click.option("--label", metavar="COLUMN", help="Column of the labels.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a field of DATA, e.g. data.target.missing=drop.",
)
@click.option("--out", type=click.Path(dir_okay=False), help="Output file [default: the name of DATA and .py].")
def start(
    source: str | None, text: str | None, label: str | None, changes: tuple[str, ...], out: str | None
) -> None:  # fmt: skip
    """Look at data and write a config for them.

    DATA is a file or a folder. The config has comments, and the next three commands are printed. Without DATA, and
    where a column is not clear, the command asks: on a terminal, or line by line from a pipe.
    """
    asks = source is None or sys.stdin.isatty()
    if source is None:
        source = asked("Which data? A file (.csv, .jsonl, .parquet) or a folder of images or sounds")
    columns = {"text": text, "label": label}
    words = [file_word(source), *set_words(changes)]
    words += [word for role, name in columns.items() if name is not None for word in (f"--{role}", name)]
    found = looked_at(source_of(source, columns, changes), asks, command_of("start", *words))
    path = Path(out or f"{found.name}.py")
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(found.text)
    except FileExistsError:
        raise FileExistsError(
            f"{path} exists, and tlx start overwrites nothing; name another file: --out FILE"
        ) from None
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}; create it, or set --out") from None
    config, run = file_word(str(path)), f"runs/{path.stem}"
    click.echo(f"{found.summary}\nwrote {path}; next:", err=True)
    click.echo(command_of("data", config, "--out", f"{run}-data"))
    click.echo(command_of("run", config))
    example = found.example or "FILE"
    if found.pair:
        click.echo(command_of("predict", run, "--pair", example, found.pair))
        return
    # A text that begins with a dash would be read as an option.
    click.echo(command_of("predict", run, *(["--"] if example.startswith("-") else []), example))


def source_of(source: str, columns: Mapping[str, str | None], changes: Sequence[str]) -> Any:
    """Return the source that a text names, with the named columns and the overrides of `data.target`."""
    from tlx.data import Data
    from tlx.data.sources.named import source_named

    data = changed_data(source, changes)
    if data != Data(target=data.target):
        raise ValueError(f"tlx start changes data.target only, not {', '.join(changes)}; change the rest in the config")
    named: Any = source_named(data.target) if isinstance(data.target, str) else data.target
    chosen = {role: name for role, name in columns.items() if name is not None}
    if unknown := [role for role in chosen if not hasattr(named, role)]:
        raise ValueError(f"--{unknown[0]} names a column, but {source} is no table")
    return replace(named, **chosen)


# What can be asked about a table: a part of the error, the field, and the question.
QUESTIONS = (
    ("column of the label is not clear", "label", "Which column is the label?"),
    ("column of the text is not clear", "text", "Which column is the text?"),
    ("are these classes?", "label_kind", "Are the labels classes or numbers? (class, number)"),
    ("missing='drop'", "missing", "Leave these rows out? (drop, or error to stop here)"),
)


def looked_at(named: Any, asks: bool, command: str) -> Draft:
    """Return the config for data; ask what is not clear, where there is somebody to ask."""
    from tlx.finetuning.first_config import draft

    for part, field, question in (*QUESTIONS, *QUESTIONS):
        try:
            return draft(named, command)
        except ValueError as error:
            if not asks or all(part not in str(error) for part, *_ in QUESTIONS):
                raise
            if part in str(error):
                click.echo(f"tlx: {error}", err=True)
                named = replace(named, **{field: asked(question)})
    return draft(named, command)


def asked(question: str) -> str:
    """Return the answer to a question. Raises ValueError where there is none."""
    try:
        answer = click.prompt(question, err=True).strip()
    except click.Abort:
        raise ValueError(
            f"no answer to: {question}; name it on the command line, such as tlx start reviews.csv"
        ) from None
    return str(answer)
