"""The command that lists the families of models."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from tlx.cli.group import main
from tlx.cli.user_files import optional_recipe

if TYPE_CHECKING:
    from tlx.models import Architecture


@main.command(
    "models",
    section="Tools",
    examples=("tlx models", "tlx models ResNet", "tlx models --config my_config.py --json"),
)
@click.argument("family", required=False)
@click.option("--config", help="The config or study file with your classes; they are listed too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(family: str | None, config: str | None, as_json: bool) -> None:
    """List the families of models, with what each costs and reads.

    For each family: the checkpoints that it reads, and at the default sizes the parameters without a head, the
    operations of a forward pass over one example, and the stages that a recipe can freeze. Nothing is computed for
    that. FAMILY lists one family; tlx list models FAMILY prints its fields.
    """
    entries = families(config, family)
    if as_json:
        click.echo(json.dumps(list(entries), indent=2))
        return
    for entry in entries:
        click.echo(click.style(entry["name"], bold=True))
        for line in lines_of(entry):
            click.echo(f"  {line}")


def families(config: str | None, family: str | None) -> Iterator[dict[str, Any]]:
    """Yield a document for each family of models, or for one: name, text, checkpoints, parameters, operations, stages.

    Raises ValueError, with near names, for an unknown family.
    """
    from tlx.cli.catalogue import SUBJECTS
    from tlx.models.costs import cost_of
    from tlx.recipe import classes
    from tlx.trees import near_miss

    kinds = classes(optional_recipe(config))
    items = list(SUBJECTS["models"].entries(kinds))
    if family is not None:
        close = near_miss(family, [item.name for item in items])
        items = [item for item in items if item.name.lower() == family.lower()]
        if not items:
            raise ValueError(f"there is no family of models {family!r}{close}; see tlx models")
    for item in items:
        about, _, reads = item.about.partition("; reads ")
        entry = {"name": item.name, "about": about, "checkpoints": reads or None}
        config_of_defaults = default_of(kinds[item.name])
        if config_of_defaults is None:
            yield entry | {"parameters": None, "flops": None, "stages": None}
        else:
            yield entry | cost_of(config_of_defaults)._asdict()


def default_of(kind: type[Architecture]) -> Architecture | None:
    """Return the architecture with its default sizes; None if a field has no default."""
    try:
        return kind()
    except TypeError:
        return None


def lines_of(entry: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a family."""
    yield entry["about"]
    if entry["checkpoints"]:
        yield f"reads {entry['checkpoints']}"
    if entry["parameters"] is None:
        yield "parameters and operations depend on your module"
        return
    yield f"{entry['parameters'] / 1e6:,.2f} M parameters, {entry['flops'] / 1e9:,.3g} GFLOP an example"
    yield f"stages: {', '.join(spans(entry['stages']))}"


def spans(names: Iterable[str]) -> Iterator[str]:
    """Yield the names of stages, where stages that differ in their number only are the first and the last of them."""
    for _, group in itertools.groupby(names, lambda name: name.rpartition("/")[0] or name):
        members = list(group)
        yield members[0] if len(members) == 1 else f"{members[0]} to {members[-1]}"
