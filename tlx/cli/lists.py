"""The command that lists what a recipe can contain, and the older commands for some of these lists."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable

import click

from tlx.cli.catalogue import SUBJECTS, ListItem
from tlx.cli.group import main
from tlx.cli.user_files import optional_recipe
from tlx.trees import near_miss


@main.command(
    "list",
    section="Tools",
    examples=(
        "tlx list",
        "tlx list tunings",
        "tlx list terms Dann",
        "tlx list tasks --config my_config.py",
    ),
)
@click.argument(
    "subject",
    required=False,
    shell_complete=lambda context, parameter, text: [n for n in SUBJECTS if n.startswith(text)],
)
@click.argument("name", required=False)
@click.option("--config", help="The config or study file with your classes; they are listed too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_subject(subject: str | None, name: str | None, config: str | None, as_json: bool) -> None:
    """List tunings, terms, tasks, models, data sets and more.

    Each item has its first sentence, its paper, and its fields with their defaults. NAME prints the whole text of one
    item. Without SUBJECT the command lists the subjects.
    """
    if subject is None:
        print_subjects(as_json)
        return
    if subject not in SUBJECTS:
        # `tlx list Lora` means the item of that name.
        subject, name = subject_of(subject, config), name or subject
    entries = entries_of(subject, config)
    if name is not None:
        entries = [entry_named(name, subject, entries)]
    if as_json:
        click.echo(json.dumps([entry.document for entry in entries], indent=2))
        return
    for entry in entries:
        print_whole(entry, subject) if name is not None else print_short(entry)
    if name is None:
        click.echo(f"the whole text of an item: tlx list {subject} NAME", err=True)


def entries_of(subject: str, config: str | None) -> list[ListItem]:
    """Return the items of a subject, with the classes of a config file."""
    from tlx.recipe import classes

    return list(SUBJECTS[subject].entries(classes(optional_recipe(config))))


def entry_named(name: str, subject: str, entries: Iterable[ListItem]) -> ListItem:
    """Return the item of that name; raise ValueError with the closest names."""
    by_name = {entry.name: entry for entry in entries}
    by_case = {other.lower(): other for other in by_name}
    if name.lower() not in by_case:
        raise ValueError(f"there is no {name!r} in {subject}{near_miss(name, by_name)}; see tlx list {subject}")
    return by_name[by_case[name.lower()]]


def subject_of(name: str, config: str | None) -> str:
    """Return the subject that has an item of that name; raise ValueError with the closest names of all."""
    names: dict[str, str] = {}
    for subject in SUBJECTS:
        names |= {entry.name: subject for entry in entries_of(subject, config) if entry.name not in names}
    by_case = {other.lower(): subject for other, subject in names.items()}
    if name.lower() not in by_case:
        near = near_miss(name, [*SUBJECTS, *names])
        raise ValueError(f"there is no subject {name!r}{near}; the subjects are {', '.join(SUBJECTS)}")
    return by_case[name.lower()]


def print_subjects(as_json: bool) -> None:
    """Print the subjects, with what each holds."""
    if as_json:
        click.echo(json.dumps({name: subject.about for name, subject in SUBJECTS.items()}, indent=2))
        return
    width = max(map(len, SUBJECTS))
    for name, subject in SUBJECTS.items():
        click.echo(f"{click.style(f'{name:{width}}', bold=True)}  {subject.about}")


def print_short(entry: ListItem) -> None:
    """Print the name, the first sentence, the papers and the fields of an item."""
    own = entry.place.startswith("tlx.") or not entry.place
    click.echo(click.style(entry.name, bold=True) + ("" if own else f"  ({entry.place})"))
    papers = [paper for paper in entry.papers if paper not in entry.about]
    click.echo(wrapped(entry.about + (f" ({'; '.join(papers)})" if papers else "")))
    if entry.fields:
        click.echo(wrapped(", ".join(field.text for field in entry.fields)))


def print_whole(entry: ListItem, subject: str) -> None:
    """Print the whole text of an item, its fields with types, and how to write it."""
    click.echo(click.style(entry.name, bold=True) + (f"  ({entry.place})" if entry.place else ""))
    click.echo(f"\n{entry.text or entry.about}\n")
    if entry.papers:
        click.echo(f"papers: {'; '.join(entry.papers)}")
    for field in entry.fields:
        default = "required" if field.default is None else f"default {field.default}"
        click.echo(f"  {field.name}: {field.type}; {default}")
    needed = ", ".join(field.text for field in entry.fields if field.default is None)
    call = f"{entry.name}({needed})" if entry.name[:1].isupper() else entry.name
    use = SUBJECTS[subject].use.format(call)
    click.echo(f"use: {use}" if use.startswith("tlx ") else f"use: --set '{use}'")


def wrapped(text: str) -> str:
    """Return a text in lines of the terminal's width, indented."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    return textwrap.fill(text, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


@main.command(hidden=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List the models and the named weights: the older form of "tlx list models" and "tlx list weights"."""
    context.invoke(list_subject, subject="models")
    context.invoke(list_subject, subject="weights")


@main.command(hidden=True)
@click.pass_context
def datasets(context: click.Context) -> None:
    """List the data sets: the older form of "tlx list datasets"."""
    context.invoke(list_subject, subject="datasets")


@main.group(hidden=True)
def assets() -> None:
    """List and download pinned packages: the older form of "tlx list assets" and "tlx fetch"."""


@assets.command("list")
@click.pass_context
def assets_list(context: click.Context) -> None:
    """List the assets."""
    context.invoke(list_subject, subject="assets")
