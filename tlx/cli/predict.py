"""The commands that use a finished run: predict, and evaluate on other data."""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlx.cli.group import command_of, config_option, local_directory, main, print_table
from tlx.cli.user_files import optional_recipe
from tlx.trees import finite

if TYPE_CHECKING:
    from tlx.predict import InputRows, Predictor
    from tlx.recipe import Recipe

# Seconds between two lines of progress where the output is no terminal.
QUIET = 30.0


def column_options(command: click.decorators.FC) -> click.decorators.FC:
    """Add the options that name the columns of a table."""
    texts = {
        "text": "Column of the texts; several are joined [default: that of the run, else by name].",
        "text-pair": "Column of the second text of a pair.",
        "words": "Column of the words.",
        "image": "Column of the images.",
        "audio": "Column of the sounds.",
    }
    for name, about in reversed(texts.items()):
        command = click.option(f"--{name}", multiple=True, metavar="COLUMN", help=about)(command)
    return command


@main.command(
    section="Models",
    examples=(
        'tlx predict runs/demo "a film to see twice"',
        "tlx predict runs/demo reviews.csv --out answers.csv",
    ),
)
@click.argument("source", metavar="RUN")
@click.argument("examples", nargs=-1)
@click.option("--pair", "pairs", nargs=2, multiple=True, metavar="TEXT TEXT", help="A pair of texts; may be repeated.")
@column_options
@click.option("--literal", is_flag=True, help="Take every argument as a text, even if it looks like a path.")
@click.option(
    "--format", "form", type=click.Choice(["lines", "csv", "jsonl"]),
    help="How to read standard input (-), and files without a known ending [default: lines].",
)  # fmt: skip
@click.option("--split", metavar="NAME", help="Split of a data set that has several.")
@click.option("--out", metavar="FILE", help="Output file: rows and answers, as .csv, .tsv, .jsonl or .parquet.")
@click.option("--resume", is_flag=True, help="Continue an interrupted job of --out.")
@click.option("--overwrite", is_flag=True, help="Replace the file of --out once all answers are computed.")
@click.option("--skip-broken", is_flag=True, help="Leave rows that cannot be read without an answer, and count them.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Rows computed together.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line per example.")
@click.option("--quiet", is_flag=True, help="Print answers and errors only.")
@config_option
def predict(
    source: str, examples: tuple[str, ...], pairs: tuple[tuple[str, str], ...], text: tuple[str, ...],
    text_pair: tuple[str, ...], words: tuple[str, ...], image: tuple[str, ...], audio: tuple[str, ...], literal: bool,
    form: str | None, split: str | None, out: str | None, resume: bool, overwrite: bool, skip_broken: bool, batch: int,
    as_json: bool, quiet: bool, config: str | None,
) -> None:  # fmt: skip
    """Predict labels with probabilities. EXAMPLES are texts, image files, sound files, tables (CSV, JSON Lines,
    Parquet), folders, files with one text per line, - for standard input, or sources as in a recipe, such as
    'Where("a.csv", column="language", values=("en",))'. With --split, a name is that of a data set.

    An argument that looks like a path must be one; --literal takes it as a text. With --out, a table gets the columns
    of the answers; the rows keep their order.
    """
    from tlx.predict import Predictor, understood
    from tlx.predict.opening import open_model
    from tlx.predict.rows import pair_rows
    from tlx.training.loop import remember_compilations

    if not examples and not pairs:
        raise click.UsageError("no example; name texts, files, a table, - for standard input, or --pair TEXT TEXT")
    if (resume or overwrite) and out in (None, "-"):
        raise click.UsageError(f"--{'resume' if resume else 'overwrite'} is for a file; name it: --out FILE")
    remember_compilations()
    recipe = optional_recipe(config)
    model = open_model(source, *parts_of(recipe))
    columns = {"text": text, "text_pair": text_pair, "words": words, "image": image, "audio": audio}
    reading: dict[str, Any] = {"form": form, "columns": columns, "split": split, "recipe": recipe}
    rows = understood(examples, model, literal=literal, **reading)
    if pairs:
        rows.append(("", pair_rows(pairs, model.inputs)))
    for name, part in rows if not quiet else ():
        if name:
            click.echo(f"{name}: {part.what}", err=True)
    predictor = Predictor(model, batch)
    if out is None or out == "-":
        print_answers(predictor, rows, as_json, skip_broken, quiet)
        return
    if len(rows) > 1:
        names = " and ".join(name or "the other arguments" for name, _ in rows)
        raise ValueError(f"--out {out} takes the rows of one table; {names} are {len(rows)}: name one at a time")
    words_of = [
        word for name, values in columns.items() for value in values for word in (f"--{name.replace('_', '-')}", value)
    ]
    words_of += [word for pair in pairs for word in ("--pair", *pair)]
    words_of += [*(["--literal"] if literal else []), *(["--format", form] if form else [])]
    words_of += [*(["--split", split] if split else []), *(["--config", config] if config else [])]
    words_of += [*(["--skip-broken"] if skip_broken else []), "--batch", str(batch), "--out", out]
    # A text may begin as an option does.
    command = partial(continuing, ("predict", *words_of), ("--", source, *examples), Path(out))
    write_file(predictor, rows[0][1], out, resume, overwrite, skip_broken, quiet, command)


def parts_of(recipe: "Recipe | None") -> tuple:
    """Return the model, the processor and the task of a user's recipe; None for each without one."""
    return (None, None, None) if recipe is None else (recipe.model, recipe.data.processor, recipe.task)


def print_answers(
    predictor: "Predictor", parts: Sequence[tuple[str, "InputRows"]], as_json: bool, skip_broken: bool, quiet: bool
) -> None:
    """Print a line for each row as soon as its batch is computed."""
    from tlx.predict.jobs import stream

    broken: list[str] = []
    for _, rows in parts:
        for answered in stream(predictor, rows, skip_broken=skip_broken, chunk=predictor.batch):
            broken += answered.broken.values()
            for row, answer in enumerate(answered.answers, answered.start):
                if as_json:
                    click.echo(json.dumps(finite({"example": rows.example(row), "answer": answer})))
                else:
                    click.echo(f"{'-' if answer is None else answer_words(answer)}  | {rows.words(row)}")
    of_rows = [note for _, rows in parts for note in rows.notes()]
    for note in (*predictor.notes(), *of_rows, *broken_notes(broken)) if not quiet else ():
        click.echo(f"note: {note}", err=True)


def answer_words(answer: Mapping[str, float] | Sequence[object]) -> str:
    """Return an answer of `predict` as one line: the five largest numbers by name, or words."""
    if isinstance(answer, Mapping):
        return "  ".join(f"{name or '(no answer)'} {number:.4f}" for name, number in list(answer.items())[:5])
    return " ".join(map(str, answer))


def broken_notes(broken: Sequence[str]) -> list[str]:
    """Return a note on the rows that could not be read."""
    if not broken:
        return []
    rows = "1 row has" if len(broken) == 1 else f"{len(broken):,} rows have"
    return [f"{rows} no answer, because {'it' if len(broken) == 1 else 'they'} cannot be read; the first: {broken[0]}"]


def continuing(words: Sequence[str], rest: Sequence[str], out: Path) -> str:
    """Return the command that continues a stopped job; without any chunk of it, it replaces an older file again."""
    from tlx.predict.jobs import chunk_folder

    is_stopped_early = out.exists() and not chunk_folder(out).is_dir()
    return command_of(*words, "--overwrite" if is_stopped_early else "--resume", *rest)


def write_file(
    predictor: "Predictor", rows: "InputRows", out: str, resume: bool, overwrite: bool, skip_broken: bool, quiet: bool,
    command: Callable[[], str],
) -> None:  # fmt: skip
    """Write the rows with their answers, with progress. Ctrl-C prints the command that continues."""
    from tlx.predict import write_answers

    progress = RowProgress(quiet)
    try:
        written = write_answers(
            predictor, rows, out, resume=resume, overwrite=overwrite, skip_broken=skip_broken, say=progress
        )
    except KeyboardInterrupt:
        click.echo(f"\nstopped after {progress.done:,} of {len(rows):,} rows; continue with: {command()}", err=True)
        sys.exit(130)
    if not written.fresh:
        click.echo(f"{out} is complete, nothing was computed; pass --overwrite to predict again", err=True)
        return
    if not quiet:
        left_out = [f"{out} has no column {', '.join(map(repr, written.left_out))}: it holds bytes; Parquet has them"]
        notes = [*written.notes, *broken_notes(list(written.broken.values())), *(left_out if written.left_out else [])]
        for note in notes:
            click.echo(f"note: {note}", err=True)
    click.echo(out)


@main.command("eval", section="Models", examples=("tlx eval runs/demo --data other.csv --by language",))
@click.argument("source", metavar="RUN", type=click.Path(file_okay=False))
@click.option("--data", metavar="SOURCE", help="Data set, table or folder with labels [default: the data of the run].")
@click.option("--split", metavar="NAME", help="Split [default: test, else validation, else all rows].")
@click.option("--by", multiple=True, metavar="COLUMN", help="Measure each value of a column; may be repeated.")
@click.option("--mistakes", type=click.IntRange(min=0), default=10, show_default=True, help="Mistakes to list.")
@column_options
@click.option("--label", multiple=True, metavar="COLUMN", help="Column of the label [default: as for --text].")
@click.option(
    "--missing", type=click.Choice(["error", "drop"]), help="Treat rows without a label [default: as the run]."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    callback=local_directory,
    help="Output directory [default: runs/eval- and both names].",
)
@click.option("--overwrite", is_flag=True, help="Replace an evaluation of other data in the directory.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--quiet", is_flag=True, help="Print the numbers and errors only.")
@config_option
def evaluate(
    source: str, data: str | None, split: str | None, by: tuple[str, ...], mistakes: int, text: tuple[str, ...],
    text_pair: tuple[str, ...], words: tuple[str, ...], image: tuple[str, ...], audio: tuple[str, ...],
    label: tuple[str, ...], missing: str | None, out: str | None, overwrite: bool, as_json: bool, quiet: bool,
    config: str | None,
) -> None:  # fmt: skip
    """Evaluate RUN on labelled data, by class and by slices.

    Classes are matched by name. Without --data, the test split of the run is measured. The numbers, the scores of every
    example and a page are written.
    """
    from tlx.analysis.evaluation import evaluate as measure
    from tlx.analysis.evaluation import words as in_words
    from tlx.training.loop import remember_compilations

    remember_compilations()
    columns = {"text": text, "text_pair": text_pair, "words": words, "image": image, "audio": audio, "label": label}
    stated = {role: names[0] if len(names) == 1 else names for role, names in columns.items() if names}
    recipe = optional_recipe(config)
    evaluation = measure(
        source, source_in(data, recipe), split=split, by=by, mistakes=mistakes, missing=missing, recipe=recipe,
        say=RowProgress(quiet or as_json, "examples"), **stated,  # type: ignore[arg-type]
    )  # fmt: skip
    folder = Path(out or f"runs/eval-{Path(source).resolve().name}-{in_words.short_name(evaluation.document)}")
    files = evaluation.write(folder, overwrite)
    if as_json:
        click.echo(json.dumps({**finite(evaluation.document), "files": list(map(str, files))}))
        return
    for title, heads, rows in in_words.tables(evaluation.document):
        print_table(title, heads, rows, ())
    for line in (*in_words.mistakes(evaluation.document), *in_words.notes(evaluation.document)):
        click.echo(line)
    click.echo("\n".join(map(str, files)))


def source_in(text: str | None, recipe: "Recipe | None") -> object:
    """Return the source that `--data` names: a name or a path, or a source as in a recipe, such as `Csv("a.csv")`."""
    from tlx import config
    from tlx.recipe import classes

    if text is None or not re.fullmatch(r"[A-Za-z_]\w*\(.*\)", text.strip(), re.DOTALL):
        return text
    return config.parse(text, classes(recipe))


class RowProgress:
    """Print how many rows are done: on a terminal one rewritten line, otherwise a line now and then."""

    def __init__(self, quiet: bool, noun: str = "rows"):
        self.quiet, self.terminal, self.noun = quiet, sys.stderr.isatty(), noun
        self.begin, self.first, self.done, self.printed = time.monotonic(), 0, 0, time.monotonic()
        self.started = False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self.started:
            self.started, self.begin, self.first = True, now, done
        self.done = done
        rate = (done - self.first) / max(now - self.begin, 1e-9)
        if self.quiet or not rate:
            return
        left = (total - done) / rate
        line = f"{done:,} of {total:,} {self.noun}, {rate:,.0f} {self.noun}/s"
        line += f", {duration(left)} left" if done < total else f", {duration(now - self.begin)}"
        if self.terminal:
            click.echo(f"\r\x1b[K{line}", nl=done == total, err=True)
        elif done == total or now - self.printed >= QUIET:
            self.printed = now
            click.echo(line, err=True)


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(4.2), duration(90), duration(7300)
    ('4 s', '1 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
