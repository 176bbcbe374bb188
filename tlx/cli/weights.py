"""Commands for the weights of runs: export, rebuild, average, interpolate."""

import click

from tlx.cli.group import config_option, local_directory, main, new_directory
from tlx.cli.user_files import optional_recipe
from tlx.trees import Json


@main.command(section="Models", examples=("tlx export runs/demo --out my_model",))
@click.argument("source", metavar="RUN")
@new_directory
@click.option(
    "--to",
    metavar="FORM",
    default="huggingface",
    show_default=True,
    help="Form: huggingface (transformers), timm, torchvision, or stablehlo (jax).",
)
@config_option
def export(source: str, directory: str, to: str, config: str | None) -> None:
    """Write a model for use elsewhere, with a model card.

    The written files are opened again and compared with RUN. A model that would give other outputs is refused.
    """
    from tlx.export import export_run

    exported = export_run(source, directory, to=to, recipe=optional_recipe(config))
    for line in exported.notes:
        click.echo(f"note: {line}", err=True)
    click.echo(exported.directory)


@main.command(section="Models", examples=("tlx rebuild runs/labels/cells/0123456789abcdef",))
@click.argument("source", metavar="CELL", type=click.Path(file_okay=False))
@config_option
def rebuild(source: str, config: str | None) -> None:
    """Write the model and the report of a cell of a study.

    CELL is a directory in the folder "cells" of a study. It stores only the trained parameters.
    """
    from tlx.training.reopen import rebuild as again
    from tlx.training.results import write_page

    path = again(source, optional_recipe(config))
    click.echo(write_page(path) or path)


@main.command(section="Models", examples=("tlx soup runs/a runs/b runs/c --greedy --out runs/soup",))
@click.argument("sources", metavar="RUN RUN...", nargs=-1, required=True)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False), callback=local_directory, help="Output directory."
)
@click.option(
    "--greedy", is_flag=True, help="Keep a run only if the validation score of the first run's recipe does not fall."
)
@config_option
def soup(sources: tuple[str, ...], out: str, greedy: bool, config: str | None) -> None:
    """Average the final weights of several runs of one model.

    Model soups (Wortsman et al., 2022). Commands accept the new directory wherever they accept a model.
    """
    from tlx.analysis.soups import soup as cook

    document = cook(sources, out, greedy=greedy, recipe=optional_recipe(config))
    name = document["primary"]
    for item in document["ingredients"]:
        status = "in" if item["chosen"] else "left out"
        click.echo(f"{item['run']}: validation {name} {item['validation']:.4f}, {status}")
    blended(document, out)


@main.command(section="Models", examples=("tlx wise runs/demo --share 0.5 --out runs/wise",))
@click.argument("source", metavar="RUN", type=click.Path(file_okay=False))
@click.option(
    "--share",
    default=0.5,
    show_default=True,
    help="Interpolation weight: 0 = initial (pretrained) weights, 1 = fine-tuned weights.",
)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False), callback=local_directory, help="Output directory."
)
@config_option
def wise(source: str, share: float, out: str, config: str | None) -> None:
    """Interpolate between initial and fine-tuned weights.

    WiSE-FT (Wortsman et al., 2022), for the two weights of RUN.
    """
    from tlx.analysis.soups import wise as interpolate

    document = interpolate(source, share, out, recipe=optional_recipe(config))
    for end, value in document["ends"].items():
        click.echo(f"{end}: validation {document['primary']} {value:.4f}")
    blended(document, out)


def blended(document: Json, out: str) -> None:
    """Print the scores of a blend, its selection rule, its notes and its directory."""
    for note in document["notes"]:
        click.echo(f"note: {note}", err=True)
    for split in ("validation", "test"):
        if f"{split}/{document['primary']}" not in document["metrics"]:
            continue
        value = document["metrics"][f"{split}/{document['primary']}"]
        click.echo(f"{split} {document['primary']} {value:.4f} (selection: {document['selection']})")
    click.echo(out)
