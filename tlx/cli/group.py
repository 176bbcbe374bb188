"""The group of all commands, and the functions and options that commands share.

A file of commands decorates its functions with `@main.command(section=..., examples=...)`, and `tlx/cli/__init__.py`
lists it. Slow imports are inside the commands that need them.
"""

from __future__ import annotations

import copy
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tlx.cli.commands import Commands, Option
from tlx.cli.places import RunPlace

if TYPE_CHECKING:
    from tlx.records.trackers import Tracker
    from tlx.sharding import Mesh
    from tlx.study import Study

T = TypeVar("T")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tlx")
def main() -> None:
    """Transfer-learning research in JAX.

    "tlx COMMAND --help" explains a command, with examples. TLX_CACHE sets the cache directory; TLX_OFFLINE=1 forbids
    the network; TLX_TRACEBACK=1 prints the traceback of an error.
    """


def alias(command: click.Command, name: str) -> None:
    """Register an old name of a command of `main`, which does the same; the help does not list it."""
    old = copy.copy(command)
    old.name, old.hidden = name, True
    main.add_command(old)


def command_of(name: str, *words: str) -> str:
    """Return the command `tlx NAME ...` as a shell reads it, for the user to paste."""
    return shlex.join(["tlx", name, *words])


def worker_of(name: str, *words: str) -> list[str]:
    """Return the command of a worker process.

    Without `-P`, `python -m` makes the working directory importable, where a data set or a foreign run may have code.
    """
    return [sys.executable, "-Pm", "tlx.cli", name, *words]


def file_word(path: str) -> str:
    """Return the path of a file as a word of a command that cannot be read as an option."""
    return f".{os.sep}{path}" if path.startswith("-") else path


def set_words(changes: Sequence[str], option: str = "--set") -> list[str]:
    """Return the words of a command that repeat the overrides `path=value`."""
    return [word for change in changes for word in (option, change)]


def run_and_measure(
    name: str,
    study: Study,
    again: Sequence[str],
    worker: float | None,
    measure: Callable[..., Any],
    *,
    out: str,
    jobs: int,
    quiet: bool,
    file: str,
    mesh: str | None = None,
    place: RunPlace = RunPlace(),
) -> Any:
    """Return the result of `measure` for a study that the command `name` runs with the words `again`.

    A `worker` that the command has started runs cells, and exits. Ctrl-C prints the command that continues the study,
    and exits with 130.
    """
    again = [*again, *mesh_words(mesh)]
    command = command_of(name, *again, *(["--jobs", str(jobs)] if jobs > 1 else []), *place.words)
    shared = mesh_of(mesh)
    try:
        if worker is not None:
            place.work(study, out, worker, jobs=jobs, mesh=shared)
            sys.exit(0)
        # A worker knows the number of workers, so that the first one does not claim the cells of the others.
        started = worker_of(name, *again, "--jobs", str(jobs))
        document = measure(
            study, out, jobs=jobs, quiet=quiet, command=command, file=file, worker=started, mesh=shared,
            on=place.cluster(),
        )  # fmt: skip
        if not leads():
            sys.exit(0)
        return document
    except KeyboardInterrupt:
        if worker is None:
            click.echo(f"\nstopped; continue with: {command}{' --quiet' if quiet else ''}", err=True)
        sys.exit(130)


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    """Print a table on the terminal, and one line for each note."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
    for note in notes:
        click.echo(f"- {note}")


def print_files(folder: Path, *names: str) -> None:
    """Print the paths of the files that exist."""
    for name in names:
        if (folder / name).is_file():
            click.echo(folder / name)


config_argument = click.argument("config")
set_option = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a field of the recipe, e.g. tuning.decay=0.9 or 'tuning=Probe()'.",
)
config_option = click.option(
    "--config", help="The config or study file of the run; needed if the run uses your classes."
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    default=1,
    show_default=True,
    help="Number of processes; on a cluster of tasks at once, without this option as many as it has room for.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Print results and errors only.")


def out_option(default: str, url: bool = False) -> Callable[[Any], Any]:
    """Return the option `--out`, the output directory; `default` says in words which one is used without it, `url`
    whether it may be a URL."""
    return click.option(
        "--out",
        type=click.Path(file_okay=False),
        callback=None if url else local_directory,
        help=f"Output directory [default: {default}].",
    )


def local_directory(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return the output directory. Raise click.UsageError for a URL, which only `tlx run` can write to."""
    from tlx.records.remote import url_meant

    if value is not None and ("://" in value or url_meant(value)):
        raise click.UsageError(f"--out is {value}; expected a directory: only tlx run writes to a URL", context)
    return value


def new_directory(function: Any) -> Any:
    """Add the parameter `directory` of a command that writes a new directory: `--out`, or its older form, an argument
    that the help does not show."""
    older = click.argument(
        "older", required=False, expose_value=False, is_eager=True, cls=HiddenArgument, callback=remember,
        type=click.Path(file_okay=False),
    )  # fmt: skip
    option = click.option(
        "--out", "directory", type=click.Path(file_okay=False), callback=directory_of, help="Output directory."
    )
    return older(option(function))


class HiddenArgument(click.Argument):
    """An argument that works and is not in the help."""

    def get_usage_pieces(self, context: click.Context) -> list[str]:
        """Return nothing for the line that says how to use the command."""
        return []


def remember(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Keep the value of an older argument for the option that replaces it."""
    context.meta["tlx.cli.older"] = value
    return value


def directory_of(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    """Return the directory of `--out`, or of the older argument.

    Raises:
        click.UsageError: Neither or both are given, or it is a URL.
    """
    older = context.meta["tlx.cli.older"]
    if value is None and older is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    if value is not None and older is not None:
        raise click.UsageError(f"the output directory is given twice, {value!r} and {older!r}; keep --out", context)
    return str(local_directory(context, parameter, older if value is None else value))


def together_option(default: int, *old: str) -> Callable[[Any], Any]:
    """Return the option `--together`, the largest size of a group of runs; `old` are its earlier names."""
    return click.option(
        "--together",
        type=click.IntRange(min=1),
        metavar="N",
        default=default,
        show_default=True,
        help="Largest number of runs that train together in one program. Recorded groups do not change.",
        cls=Option,
        old=old,
    )


mesh_option = click.option(
    "--mesh",
    metavar="data=N[,fsdp=N][,tensor=N]",
    help="Number of devices that share a batch (data), a batch and the parameters (fsdp), or the work on each example "
    "(tensor) [default: data=-1, all devices].",
)


def mesh_of(text: str | None) -> Mesh:
    """Return the mesh of `--mesh data=N,fsdp=N,tensor=N`."""
    from tlx.sharding import Mesh
    from tlx.trees import near_miss

    sizes: dict[str, int] = {}
    names = [*Mesh().sizes]
    for part in [] if text is None else text.split(","):
        axis, sign, size = (word.strip() for word in part.partition("="))
        if not sign:
            raise ValueError(f"--mesh {text!r} is not of the form data=N,fsdp=N, for example data=4 for four devices")
        if axis not in names:
            raise ValueError(f"--mesh {text!r} names the axis {axis!r}{near_miss(axis, names)}")
        if axis in sizes:
            raise ValueError(f"--mesh {text!r} names the axis {axis!r} twice; name it once")
        try:
            sizes[axis] = int(size)
        except ValueError:
            raise ValueError(
                f"--mesh {text!r}: {size!r} is not a whole number of devices; give {axis}=4 for four devices, or "
                f"{axis}=-1 for all that remain"
            ) from None
    try:
        return Mesh(**sizes)
    except ValueError as error:
        raise ValueError(f"--mesh {text!r}: {error}") from None


def saving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say when checkpoints are saved and which of them stay."""
    for option in reversed(
        [
            click.option(
                "--checkpoint-seconds",
                type=float,
                metavar="N",
                help="Save a checkpoint every N seconds [default: after each validation].",
            ),
            click.option("--keep-last", type=int, metavar="N", help="Number of newest checkpoints to keep."),
            click.option("--keep-best", type=int, metavar="N", help="Number of best checkpoints to keep as well."),
        ]
    ):
        command = option(command)
    return command


def saving_of(checkpoint_seconds: float | None, keep_last: int | None, keep_best: int | None) -> dict[str, Any]:
    """Return the fields of `How` that the options of `saving_options` set."""
    values = {"checkpoint_seconds": checkpoint_seconds, "keep_last": keep_last, "keep_best": keep_best}
    return {name: value for name, value in values.items() if value is not None}


def saving_words(saving: Mapping[str, Any]) -> list[str]:
    """Return the words of a command that repeat the options of `saving_options`."""
    return [word for name, value in saving.items() for word in (f"--{name.replace('_', '-')}", f"{value:g}")]


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options by which a process joins others, where no cluster tells it its place."""
    for option in reversed(
        [
            click.option(
                "--coordinator",
                metavar="HOST:PORT",
                help="Address of the first of several processes, unless a cluster tells it; on Kubernetes this needs "
                "pip install kubernetes.",
            ),
            click.option("--processes", type=int, metavar="N", help="Number of processes that train together."),
            click.option("--process", type=int, metavar="I", help="Number of this process, from 0."),
        ]
    ):
        command = option(command)
    return command


def join_processes(worker: object, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the processes that train together, if there are several, before JAX does anything. A `worker` that another
    process has started (not None) joins none."""
    if worker is None:
        from tlx.processes import join

        join(coordinator, processes, process)


def in_all(work: Callable[[], T]) -> T:
    """Return what `work` returns, once it has succeeded in all processes that train together."""
    from tlx import processes

    return processes.together(work)


def leads() -> bool:
    """Return whether this process is the first of those that train together, which prints."""
    from tlx import processes

    return processes.leads()


layers_option = click.option(
    "--layers",
    type=click.Choice(("auto", "loop", "unrolled")),
    default="auto",
    show_default=True,
    help="Compile repeated layers once and run them in a loop, or compile each; auto takes the loop where it pays.",
)


def layers_words(layers: str) -> list[str]:
    """Return the words of a command that repeat `--layers`."""
    return ["--layers", layers] if layers != "auto" else []


def mesh_words(text: str | None) -> list[str]:
    """Return the words of a command that repeat `--mesh`."""
    return ["--mesh", text] if text is not None else []


track_option = click.option(
    "--track",
    "trackers",
    multiple=True,
    metavar="TRACKER",
    help="Log the run to a tracker too: wandb, mlflow, trackio, or with settings, e.g. 'Wandb(project=\"mine\")'.",
)


def trackers_named(texts: Sequence[str]) -> tuple[str | Tracker, ...]:
    """Return the trackers of `--track`: names, and calls of their classes."""
    from tlx import config
    from tlx.records import trackers

    classes = {kind.__name__: kind for kind in trackers.NAMES.values()}
    return tuple(config.parse(text, classes) for text in texts)
