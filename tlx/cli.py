"""The command line. Everything heavy is imported inside the command that needs it."""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

USER_ERRORS = (ValueError, TypeError, FileNotFoundError, FileExistsError, NotADirectoryError, ImportError)
RUN_ERRORS = (ArithmeticError, OSError)


class Commands(click.Group):
    """A group whose commands end a user's mistake in one clear line and exit code 2 (1 where the run itself failed)."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.ClickException:
            raise
        except (*USER_ERRORS, *RUN_ERRORS) as error:
            if os.environ.get("TLX_TRACEBACK"):
                raise
            click.echo(f"tlx: {error}", err=True)
            sys.exit(2 if isinstance(error, USER_ERRORS) else 1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tlx")
def main() -> None:
    """Transfer learning as a research subject, in JAX.

    TLX_CACHE moves the cache; TLX_OFFLINE=1 forbids the network; TLX_TRACEBACK=1 shows where an error came from.
    """


def load_recipe(path: str, changes: Sequence[str]) -> tuple[Any, Any]:
    """The recipe of a config file, before and after the overrides `path=value`."""
    from tlx import config
    from tlx.recipe import KINDS, Recipe

    file = Path(path)
    spec = importlib.util.spec_from_file_location(f"tlx_config_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise FileNotFoundError(f"no config file {path}; it is a Python file with a function recipe()")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if not callable(getattr(module, "recipe", None)):
        raise ValueError(f"{path} has no function recipe()")
    base = module.recipe()
    if not isinstance(base, Recipe):
        raise TypeError(f"recipe() in {path} returned {type(base).__name__}, not a tlx.Recipe")
    recipe = base
    for change in changes:
        name, sign, value = change.partition("=")
        if not sign:
            raise ValueError(f"--set {change!r} is not of the form path=value")
        recipe = config.override(recipe, name, value, KINDS)
    return base, recipe


config_argument = click.argument("config", type=click.Path(dir_okay=False))
set_option = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a field, e.g. tuning.decay=0.9 or 'tuning=Probe()'.",
)

config_option = click.option("--config", help="The run's config file, where the model is a module of your own.")


def given_recipe(config: str | None) -> Any:
    """The recipe of the config file, where one is given."""
    return load_recipe(config, ())[1] if config else None


@main.command()
@config_argument
@set_option
@click.option(
    "--out", type=click.Path(file_okay=False), help="The run's folder [default: runs/ and the config's name]."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint.")
@click.option("--overwrite", is_flag=True, help="Delete an earlier run in the folder first.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def run(config: str, changes: tuple[str, ...], out: str | None, resume: bool, overwrite: bool, quiet: bool) -> None:
    """Train as CONFIG (a Python file with a function recipe()) says, measure, and draw the run's page."""
    from tlx import config as records
    from tlx.train import run as train

    base, recipe = load_recipe(config, changes)
    if not quiet:
        for path, before, after in records.diff(base, recipe):
            click.echo(f"{path}: {before} -> {after}", err=True)
    if out is None:
        name = Path(config).stem
        out = f"runs/{name}" if recipe == base else f"runs/{name}-{records.fingerprint(recipe)}"
    try:
        train(recipe, out, resume=resume, overwrite=overwrite, base=base, quiet=quiet)
    except KeyboardInterrupt:
        click.echo(f"\nstopped; go on with: tlx run {config} --out {out} --resume", err=True)
        sys.exit(130)


@main.command()
@config_argument
@set_option
def show(config: str, changes: tuple[str, ...]) -> None:
    """Print what would learn: path, shape, group, rate, decay, trainable; totals and bytes."""
    from rich.console import Console
    from rich.table import Table

    from tlx import describe
    from tlx.prepare import open_data, prepare

    _, recipe = load_recipe(config, changes)
    ready = prepare(recipe, open_data(recipe) if recipe.task.outputs is None else None)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for number, phase in enumerate(ready.phases):
        table = Table(
            "path", "shape", "group", "rate", "decay", "trainable", title=f"phase {number + 1}: {phase.share:.0%}"
        )
        for row in describe.rows(ready, number):
            shape = "x".join(map(str, row.shape))
            told = (f"{row.rate:.3g}", f"{row.decay:g}", "yes") if row.trainable else ("-", "-", "no")
            table.add_row(row.path, shape, row.group, *told)
        console.print(table)
        totals = describe.totals(ready, number)
        console.print(
            f"{totals['trainable']:,} of {totals['total']:,} parameters learn\n"
            f"bytes: parameters {totals['bytes']:,}, gradients {totals['gradient_bytes']:,}, "
            f"optimiser state {totals['optimiser_bytes']:,}"
        )
    console.print(f"weights {ready.manifest}" if ready.manifest.entries else "weights from scratch")


@main.command("lr-find")
@config_argument
@set_option
@click.option("--out", type=click.Path(file_okay=False), help="Where to write [default: runs/lr-find- and the name].")
@click.option("--steps", default=100, show_default=True, help="How many steps at most.")
@click.option("--start", default=1e-7, show_default=True, help="The first rate.")
@click.option("--end", default=10.0, show_default=True, help="The last rate.")
@click.option("--per-group", is_flag=True, help="One test a stage, in which that stage alone learns.")
@click.option("--quiet", is_flag=True, help="Print nothing but the table and errors.")
def lr_find(
    config: str, changes: tuple[str, ...], out: str | None, steps: int, start: float, end: float, per_group: bool,
    quiet: bool,
) -> None:  # fmt: skip
    """Find a rate for CONFIG: train from its start at a rate that grows, and print what the losses suggest."""
    from rich.console import Console
    from rich.table import Table

    from tlx.find import LINES, PAGE, find

    _, recipe = load_recipe(config, changes)
    out = out or f"runs/lr-find-{Path(config).stem}"
    curves = find(recipe, out, steps=steps, start=start, end=end, per_group=per_group, quiet=quiet)
    table = Table("group", "steps", *curves[0].suggestions)
    for curve in curves:
        told = (f"{rate:.2e}" if rate is not None else "-" for rate in curve.suggestions.values())
        table.add_row(curve.group, str(len(curve.rates)), *told)
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)
    for name in (LINES, PAGE):
        if (Path(out) / name).is_file():
            click.echo(Path(out) / name)


@main.command()
@click.argument("source", metavar="RUN")
@click.argument("examples", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON line an example.")
@config_option
def predict(source: str, examples: tuple[str, ...], as_json: bool, config: str | None) -> None:
    """Answer with labels and probabilities. EXAMPLES are texts, image files, or files with a text a line."""
    from tlx.predict import predict as answer
    from tlx.predict import read_examples

    given = read_examples(examples)
    recipe = given_recipe(config)
    model = recipe.model if recipe else None
    for example, told in zip(given, answer(source, given, model), strict=True):
        if as_json:
            click.echo(json.dumps({"example": example, "answer": told}))
        else:
            click.echo("  ".join(f"{name} {p:.4f}" for name, p in list(told.items())[:5]) + f"  | {example}")


@main.command()
def models() -> None:
    """List architectures, the checkpoints each reads, and the named weights."""
    from rich.console import Console
    from rich.table import Table

    from tlx.assets import ASSETS
    from tlx.models import ARCHITECTURES
    from tlx.weights.source import MODEL_ASSETS

    table = Table("architecture", "reads model_type", "about")
    for kind, module in ARCHITECTURES.items():
        reads = ", ".join(getattr(module, "FAMILIES", ())) or "-"
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
    """List the data sets that come with tlx, and those prepared on disk."""
    from rich.console import Console
    from rich.table import Table

    from tlx.data import DATASETS
    from tlx.data.examples import prepared

    table = Table("data set", "task", "classes", "about", "made from")
    for name, shipped in DATASETS.items():
        table.add_row(name, shipped.task, str(len(shipped.classes)), shipped.about, shipped.asset or "scikit-learn")
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(table)
    others = [name for name in prepared() if name.partition(":")[0] not in DATASETS]
    if others:
        console.print("also on disk: " + ", ".join(others))


@main.group()
def assets() -> None:
    """The pinned packages that carry weights and data."""


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
    """Fetch assets by name into the cache (those of the demo by default), each held to its sha256."""
    from tlx.assets import fetch

    for name in names or ("minilm-l6", "vader"):
        click.echo(f"{name}: {fetch(name, progress=lambda told: click.echo(told, err=True))}")


@main.command()
@click.argument("source", metavar="RUN")
@click.argument("directory", type=click.Path(file_okay=False))
def export(source: str, directory: str) -> None:
    """Write RUN's model to DIRECTORY in the Hugging Face layout, for transformers' AutoModel to open."""
    from tlx.weights import load_pretrained, save_pretrained

    if Path(directory).is_dir() and any(Path(directory).iterdir()):
        raise FileExistsError(f"{directory} is not empty; choose another directory")
    click.echo(save_pretrained(load_pretrained(source), directory))


@main.command()
@click.argument("source", metavar="RUN", type=click.Path(file_okay=False))
def report(source: str) -> None:
    """Draw RUN's page again from its records."""
    from tlx.report import write_run

    click.echo(write_run(Path(source)))


@main.command()
@click.argument("source", metavar="RUN", type=click.Path(file_okay=False))
@click.option("--examples", default=512, show_default=True, help="How many of each split to look at, at most.")
@config_option
def moved(source: str, examples: int, config: str | None) -> None:
    """Measure what moved in RUN: weights, spectra, features, probes, and the loss between before and after.

    Writes moved.json, and the section "What moved" of the run's page. The test split is not looked at.
    """
    from rich.console import Console
    from rich.table import Table

    from tlx.movement import moved as measure
    from tlx.movement.table import tables

    document = measure(source, examples=examples, recipe=given_recipe(config), say=told_part())
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for title, names, rows in tables(document):
        table = Table(*names, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for note in document["notes"]:
        click.echo(f"note: {note}")
    page = Path(source) / "report.html"
    click.echo("\n".join(str(path) for path in (Path(source) / "moved.json", page) if path.is_file()))


def told_part() -> Any:
    """A function that tells the progress of a long work: a line that rewrites itself, off a terminal one a part."""
    terminal = sys.stderr.isatty()

    def say(part: str, done: int, total: int) -> None:
        if terminal:
            click.echo(f"\r\x1b[K{part} {done}/{total}", nl=done == total, err=True)
        elif done == total:
            click.echo(part, err=True)

    return say


@main.command()
@click.argument("sources", metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="The new model's directory.")
@click.option("--greedy", is_flag=True, help="Keep a run where the first run's validation split does not fall.")
@config_option
def soup(sources: tuple[str, ...], out: str, greedy: bool, config: str | None) -> None:
    """Average the final weights of RUNs of one model (Wortsman et al., 2022)."""
    from tlx.soups import soup as cook

    found = cook(sources, out, greedy=greedy, recipe=given_recipe(config))
    name = found["primary"]
    for item in found["ingredients"]:
        kept = "in" if item["chosen"] else "left out"
        click.echo(f"{item['run']}: validation {name} {item['validation']:.4f}, {kept}")
    blended(found, out)


@main.command()
@click.argument("source", metavar="RUN", type=click.Path(file_okay=False))
@click.option("--share", default=0.5, show_default=True, help="0 is what the run was brought, 1 what it found.")
@click.option("--out", required=True, type=click.Path(file_okay=False), help="The new model's directory.")
@config_option
def wise(source: str, share: float, out: str, config: str | None) -> None:
    """Take the point between what RUN was brought and what it found (WiSE-FT, Wortsman et al., 2022)."""
    from tlx.soups import wise as interpolate

    found = interpolate(source, share, out, recipe=given_recipe(config))
    for end, measured in found["ends"].items():
        click.echo(f"{end}: validation {found['primary']} {measured:.4f}")
    blended(found, out)


def blended(found: dict[str, Any], out: str) -> None:
    """What a blend scores, by which rule it was chosen, what stands against it, where it is."""
    for note in found["notes"]:
        click.echo(f"note: {note}", err=True)
    for split in ("validation", "test"):
        value = found["metrics"][f"{split}/{found['primary']}"]
        click.echo(f"{split} {found['primary']} {value:.4f} (selection: {found['selection']})")
    click.echo(out)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script: eval "$(tlx completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "tlx", "_TLX_COMPLETE").source())


if __name__ == "__main__":
    main()
