"""Commands for one run: train, show, find a learning rate, compare the weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from tlx.cli.commands import Option
from tlx.cli.group import (
    alias,
    cluster_options,
    command_of,
    config_argument,
    config_option,
    file_word,
    in_all,
    layers_option,
    layers_words,
    leads,
    main,
    mesh_of,
    mesh_option,
    mesh_words,
    out_option,
    quiet_option,
    saving_of,
    saving_options,
    saving_words,
    set_option,
    set_words,
    track_option,
    trackers_named,
)
from tlx.cli.user_files import load_recipe, optional_recipe

if TYPE_CHECKING:
    from rich.console import Console

    from tlx.sharding import Mesh
    from tlx.training.prepare import Prepared


@main.command(
    section="Train",
    examples=(
        "tlx run configs/minilm_movies.py",
        "tlx run configs/minilm_movies.py --set optim.lr=1e-4 --set seed=1",
        "tlx run configs/minilm_movies.py --set 'tuning=Lora(rank=8)' --out runs/lora",
        "tlx run configs/minilm_movies.py --out s3://bucket/lora --keep-best 1",
        "tlx run configs/minilm_movies.py --out runs/lora --resume",
        "tlx run configs/cnn_mnist.py --coordinator host:8476 --processes 2 --process 0",
    ),
)
@config_argument
@set_option
@out_option("runs/ and the name of the config", url=True)
@click.option("--resume", is_flag=True, help="Continue from the newest checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace the files of an earlier run; other files stay.")
@click.option(
    "--no-feature-cache",
    "recompute",
    is_flag=True,
    help="Do not cache features of the frozen layers; recompute them at every step.",
    cls=Option,
    old=("--no-prefix",),
)
@track_option
@saving_options
@click.option(
    "--profile", type=int, metavar="N", help="Trace N steps, after the first two, for TensorBoard and Perfetto."
)
@mesh_option
@layers_option
@cluster_options
@quiet_option
def run(
    config: str, changes: tuple[str, ...], out: str | None, resume: bool, overwrite: bool, recompute: bool,
    trackers: tuple[str, ...], checkpoint_seconds: float | None, keep_last: int | None, keep_best: int | None,
    profile: int | None, mesh: str | None, layers: Literal["auto", "loop", "unrolled"],
    coordinator: str | None, processes: int | None, process: int | None, quiet: bool,
) -> None:  # fmt: skip
    """Train a recipe, evaluate it, and write the report.

    CONFIG is a Python file with a function recipe(). --out may be a URL, such as gs://bucket/run. On several machines
    start the same command on each: a cluster (Slurm, Open MPI, Cloud TPU; Kubernetes, if the package kubernetes is
    installed) tells each process its place, or --coordinator, --processes and --process do.
    """
    from tlx import config as records
    from tlx.processes import join
    from tlx.records.remote import is_url
    from tlx.training.loop import How
    from tlx.training.loop import run as train

    join(coordinator, processes, process)
    base, recipe = in_all(lambda: load_recipe(config, changes))
    if leads() and not quiet:
        for path, before, after in records.diff(base, recipe):
            click.echo(f"{path}: {before} -> {after}", err=True)
    if out is None:
        name = Path(config).stem
        out = f"runs/{name}" if recipe == base else f"runs/{name}-{records.fingerprint(recipe)}"
    saving = saving_of(checkpoint_seconds, keep_last, keep_best)
    how = in_all(
        lambda: How(
            quiet=quiet, feature_cache=not recompute, mesh=mesh_of(mesh), layers=layers,
            trackers=trackers_named(trackers), profile=profile, **saving,
        )
    )  # fmt: skip
    try:
        train(recipe, out, resume=resume, overwrite=overwrite, base=base, how=how, file=config)
        if is_url(out) and leads() and not quiet:
            click.echo(f"a copy is at {out}", err=True)
    except KeyboardInterrupt:
        ending = [
            *(["--no-feature-cache"] if recompute else []),
            *set_words(trackers, "--track"),
            *saving_words(saving),
            *mesh_words(mesh),
            *layers_words(layers),
            *(["--quiet"] if quiet else []),
            "--resume",
        ]
        command = command_of("run", file_word(config), *set_words(changes), "--out", out, *ending)
        if leads():
            click.echo(f"\nstopped; continue {where(coordinator)}with: {command}", err=True)
        sys.exit(130)


def where(coordinator: str | None) -> str:
    """Return the words that say on which machines a command continues a run."""
    return "" if coordinator is None else "on each machine, with --coordinator, --processes and --process as before, "


@main.command(
    section="Train",
    examples=("tlx lengthen runs/lora --steps 2000", "tlx lengthen runs/lora --epochs 10 --track mlflow"),
)
@click.argument("source", metavar="RUN", type=click.Path(file_okay=False))
@click.option("--steps", type=int, help="Largest number of steps, counted from the start of the run.")
@click.option("--epochs", type=float, help="New number of passes over the first stream, in place of --steps.")
@track_option
@mesh_option
@config_option
@quiet_option
def lengthen(
    source: str, steps: int | None, epochs: float | None, trackers: tuple[str, ...], mesh: str | None,
    config: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Train a finished run for more steps.

    RUN continues from the state in which it ended, that of its optimiser included. From there on the schedule is that
    of the new length. The recipe changes in its length only; the directory keeps both lengths. After an interruption
    the same command continues.
    """
    from tlx.training.lengthen import lengthen as train_further
    from tlx.training.loop import How

    how = How(quiet=quiet, mesh=mesh_of(mesh), trackers=trackers_named(trackers))
    try:
        train_further(source, steps=steps, epochs=epochs, given=optional_recipe(config), how=how)
    except KeyboardInterrupt:
        length = [*(["--steps", str(steps)] if steps else []), *(["--epochs", repr(epochs)] if epochs else [])]
        ending = [*set_words(trackers, "--track"), *mesh_words(mesh), *(["--config", config] if config else [])]
        command = command_of("lengthen", file_word(source), *length, *ending, *(["--quiet"] if quiet else []))
        click.echo(f"\nstopped; continue with: {command}", err=True)
        sys.exit(130)


@main.command(
    section="Train",
    examples=(
        "tlx show configs/minilm_movies_frozen.py",
        "tlx show configs/minilm_movies_frozen.py --set 'tuning=Probe()'",
        "tlx show configs/minilm_movies.py --sharding --mesh data=2,fsdp=4",
    ),
)
@config_argument
@set_option
@click.option("--sharding", is_flag=True, help="List how the mesh cuts each parameter.")
@mesh_option
def show(config: str, changes: tuple[str, ...], sharding: bool, mesh: str | None) -> None:
    """List each parameter: shape, learning rate, trainable.

    Nothing is trained. The table also has the group and the weight decay of each parameter; totals follow. With
    --sharding it has the logical axes of each parameter, the axis of the mesh that cuts each dimension, and the bytes
    on each device; the mesh may have more devices than this machine.
    """
    from rich.console import Console
    from rich.table import Table

    from tlx.training import describe
    from tlx.training.prepare import open_data, prepare

    _, recipe = load_recipe(config, changes)
    ready = prepare(recipe, open_data(recipe) if recipe.task.outputs is None else None)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    if sharding or mesh is not None:
        show_sharding(console, ready, mesh_of(mesh))
        return
    for number, phase in enumerate(ready.phases):
        table = Table(
            "path", "shape", "group", "rate", "decay", "trainable", title=f"phase {number + 1}: {phase.share:.0%}"
        )
        for row in describe.rows(ready, number):
            shape = "x".join(map(str, row.shape))
            texts = (f"{row.rate:.3g}", f"{row.decay:g}", "yes") if row.trainable else ("-", "-", "no")
            table.add_row(row.path, shape, row.group, *texts)
        console.print(table)
        totals = describe.totals(ready, number)
        console.print(
            f"{totals['trainable']:,} of {totals['total']:,} parameters are trainable\n"
            f"bytes: parameters {totals['bytes']:,}, gradients {totals['gradient_bytes']:,}, "
            f"optimiser state {totals['optimiser_bytes']:,}"
        )
    console.print(f"weights {ready.manifest}" if ready.manifest.entries else "weights from scratch")
    for note in ready.notes:
        console.print(f"note: {note}", markup=False)


def show_sharding(console: Console, ready: Prepared, mesh: Mesh) -> None:
    """Print how a mesh cuts each parameter of a prepared recipe."""
    import math

    import jax
    from rich.table import Table

    from tlx.training import describe

    named = math.prod(count for count in mesh.sizes.values() if count > 0)
    sizes = mesh.fitted(max(named, len(jax.devices())))
    rows = describe.sharded_rows(ready, sizes)
    words = ", ".join(f"{axis} {count}" for axis, count in sizes.items())
    table = Table("path", "shape", "axes", "cut by", "bytes per device", title=f"mesh: {words}")
    for row in rows:
        axes, cuts = (", ".join(name or "-" for name in names) for names in (row.axes, row.cuts))
        table.add_row(row.path, "x".join(map(str, row.shape)), axes, cuts if any(row.cuts) else "", f"{row.bytes:,}")
    console.print(table)
    whole = sum(4 * math.prod(row.shape) for row in rows)
    console.print(f"parameters: {sum(row.bytes for row in rows):,} of {whole:,} bytes on each device")


@main.command(
    "lr-find",
    section="Train",
    examples=("tlx lr-find configs/minilm_movies.py", "tlx lr-find configs/cnn_mnist.py --steps 200 --per-group"),
)
@config_argument
@set_option
@out_option("runs/lr-find- and the name of the config")
@click.option("--steps", default=100, show_default=True, help="Largest number of steps.")
@click.option("--start", default=1e-7, show_default=True, help="First learning rate.")
@click.option("--end", default=10.0, show_default=True, help="Last learning rate.")
@click.option("--per-group", is_flag=True, help="Test each stage separately; only this stage is trainable.")
@mesh_option
@quiet_option
def lr_find(
    config: str, changes: tuple[str, ...], out: str | None, steps: int, start: float, end: float, per_group: bool,
    mesh: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Find a learning rate: train while the rate grows.

    Prints the rates that the losses suggest for the recipe of CONFIG, and writes the curve.
    """
    from rich.console import Console
    from rich.table import Table

    from tlx.training.lr_find import LINES, PAGE, find

    _, recipe = load_recipe(config, changes)
    out = out or f"runs/lr-find-{Path(config).stem}"
    try:
        curves = find(
            recipe, out, steps=steps, start=start, end=end, per_group=per_group, quiet=quiet, mesh=mesh_of(mesh)
        )
    except KeyboardInterrupt:
        words = ["--steps", str(steps), "--start", repr(start), "--end", repr(end), "--out", out]
        words += [*(["--per-group"] if per_group else []), *mesh_words(mesh), *(["--quiet"] if quiet else [])]
        command = command_of("lr-find", file_word(config), *set_words(changes), *words)
        click.echo(f"\nstopped before any file was written; start again with: {command}", err=True)
        sys.exit(130)
    table = Table("group", "recommended", *curves[0].suggestions, "steps")
    for curve in curves:
        rates = (curve.recommended, *curve.suggestions.values())
        texts = (f"{rate:.2e}" if rate is not None else "-" for rate in rates)
        table.add_row(curve.group, *texts, str(len(curve.rates)))
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)
    for curve in curves:
        rate, where = curve.recommended, "" if len(curves) == 1 else f"{curve.group}: "
        click.echo(where + (curve.reason if rate is None else f"recommended rate {rate:.2e} ({curve.reason})"))
    for name in (LINES, PAGE):
        if (Path(out) / name).is_file():
            click.echo(Path(out) / name)


@main.command(section="Measure transfer", examples=("tlx changes runs/demo", "tlx changes runs/demo --examples 2000"))
@click.argument("source", metavar="RUN", type=click.Path(file_okay=False))
@click.option("--examples", default=512, show_default=True, help="Largest number of examples of each split.")
@config_option
def changes(source: str, examples: int, config: str | None) -> None:
    """Compare the weights of a run before and after training.

    Measures the size and the rank of the changes, the features, probes on them, and the loss between the two weights.
    Writes moved.json and the section "Changes" of the report. The test split is not read.
    """
    from rich.console import Console
    from rich.table import Table

    from tlx.analysis.changes import moved as measure
    from tlx.analysis.changes.table import tables

    document = measure(source, examples=examples, recipe=optional_recipe(config), say=progress_printer())
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


alias(changes, "moved")


def progress_printer() -> Callable[[str, int, int], None]:
    """Return a function that prints progress: on a terminal one rewritten line, otherwise one line for each part."""
    terminal = sys.stderr.isatty()

    def say(part: str, done: int, total: int) -> None:
        if terminal:
            click.echo(f"\r\x1b[K{part} {done}/{total}", nl=done == total, err=True)
        elif done == total:
            click.echo(part, err=True)

    return say
