"""The group of all commands, and the functions that commands share: options, and values from a user's files.

A file of commands decorates its functions with `@main.command()`, and `tlx/cli/__init__.py` lists it. Slow imports are
inside the commands that need them.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.machinery
import importlib.util
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

import click

from tlx.files.durable import DamagedWarning

if TYPE_CHECKING:
    from tlx.recipe import Recipe
    from tlx.records.trackers import Tracker
    from tlx.sharding import Mesh
    from tlx.study import Study

USER_ERRORS = (
    ValueError,
    TypeError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    ImportError,
)
RUN_ERRORS = (ArithmeticError, OSError)


class Commands(click.Group):
    """A group that prints a user's mistake as one clear line and exits with code 2, or 1 if the run itself failed.

    An unexpected error is also one line, which asks the user to report it; the exit code is 1.
    """

    def invoke(self, context: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                # JAX's cache of compiled programs only saves time, and a full disk would make it warn at every one.
                warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
                show = warnings.showwarning
                warnings.showwarning = lambda message, kind, *place: (
                    click.echo(f"tlx: warning: {message}", err=True) if is_news(kind) else show(message, kind, *place)
                )
                return super().invoke(context)
        except (click.exceptions.NoArgsIsHelpError, click.Abort, click.exceptions.Exit):
            raise
        except click.ClickException as error:
            help_of = getattr(error, "ctx", None) or context
            message = " ".join(error.format_message().split()).rstrip(".")
            click.echo(f"tlx: {message}; see {help_of.command_path} --help", err=True)
            sys.exit(error.exit_code)
        except Exception as error:
            if os.environ.get("TLX_TRACEBACK"):
                raise
            click.echo(f"tlx: {line_of(error)}", err=True)
            sys.exit(2 if isinstance(error, USER_ERRORS) else 1)


def is_news(kind: type[Warning]) -> bool:
    """Return whether warnings of this kind are for the user of a command."""
    from tlx.records.trackers import TrackerWarning

    return issubclass(kind, (DamagedWarning, TrackerWarning))


def line_of(error: Exception) -> str:
    """Return one line that says what went wrong.

    >>> line_of(ValueError("width is 3;\\n  expected 4"))
    'width is 3; expected 4'
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        reason = (error.strerror or type(error).__name__).lower()
        return f"{error.filename}: {reason}; expected a file or a folder that this user can use: check the path"
    if isinstance(error, (*USER_ERRORS, *RUN_ERRORS)) and text:
        return text
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"not enough memory{f' ({text})' if text else ''}: use smaller batches, or a smaller model"
    return (
        f"internal error, {type(error).__name__}{f': {text}' if text else ''}; please report it, together with the "
        "output of the same command with TLX_TRACEBACK=1, which shows the place of the error"
    )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tlx")
def main() -> None:
    """Transfer-learning research in JAX.

    TLX_CACHE sets the cache directory; TLX_OFFLINE=1 forbids the network; TLX_TRACEBACK=1 prints the traceback of an
    error.
    """


class NoFunction(ValueError):
    """A user's file lacks the function that a command needs."""


def alias(command: click.Command, name: str) -> None:
    """Register an old name of a command of `main`, which does the same; the help does not list it."""
    old = copy.copy(command)
    old.name, old.hidden = name, True
    main.add_command(old)


def function_of(path: str, name: str, what: str) -> Callable[[], Any]:
    """Return the function `name()` of a user's Python file; error messages call the file a `what` file."""
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(
            f"{path} is a directory; expected a {what} file: a Python file with a function {name}()"
        )
    if not file.is_file():
        raise FileNotFoundError(f"there is no {what} file {path}; expected a Python file with a function {name}()")
    loader = importlib.machinery.SourceFileLoader(f"tlx_{what}_{file.stem}", str(file))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # Named again, it is the newest (see `class_names.users_classes`).
    sys.modules.pop(loader.name, None)
    sys.modules[loader.name] = module
    with beside(file), located(file, what):
        loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        from tlx.trees import near_miss

        functions = [attribute for attribute, value in vars(module).items() if isinstance(value, FunctionType)]
        near = near_miss(name, functions) if functions else ""
        raise NoFunction(
            f"{path} has no function {name}(){near}; a {what} file must define this function, without arguments"
        )

    def call() -> Any:
        with beside(file), located(file, what):
            return function()

    return call


@contextlib.contextmanager
def beside(file: Path) -> Iterator[None]:
    """Let a user's file import the modules of its folder, in the command and in its workers.

    The import works only while that file runs, and installed packages come first: a data set that is read later cannot
    import from the folder.
    """
    place = str(file.resolve().parent)
    present = place in sys.path
    if not present:
        sys.path.append(place)
    try:
        yield
    finally:
        if not present and place in sys.path:
            sys.path.remove(place)


@contextlib.contextmanager
def located(file: Path, what: str) -> Iterator[None]:
    """Add the line of the user's file to the message of an error."""
    try:
        yield
    except SyntaxError as error:
        where = error.filename if error.filename and Path(error.filename) != file else file
        raise ValueError(
            f"{where} line {error.lineno or 1}: {error.msg}; expected a Python file: correct it"
        ) from error
    except SystemExit as error:
        raise ValueError(
            f"{file}{line_in(file, error)} exits the program; a {what} file must only return a value"
        ) from error
    except Exception as error:
        text = " ".join(str(error).split())
        message = text if isinstance(error, USER_ERRORS) and text else f"{type(error).__name__}: {text}"
        kind = type(error) if type(error) in (FileNotFoundError, FileExistsError, TypeError) else ValueError
        raise kind(f"{file}{line_in(file, error)}: {message}") from error


def line_in(file: Path, error: BaseException) -> str:
    """` line N`, the innermost line of the file in the traceback of `error`; nothing where it is in none."""
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return f" line {numbers[-1]}" if numbers else ""


def load_recipe(path: str, changes: Sequence[str]) -> tuple[Recipe, Recipe]:
    """Return the recipe of a config file, before and after the overrides `path=value`."""
    from tlx.recipe import Recipe

    base = function_of(path, "recipe", "config")()
    if not isinstance(base, Recipe):
        raise TypeError(f"recipe() in {path} returned {type(base).__name__}; expected a tlx.Recipe")
    return base, changed(base, changes)


def changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Return the recipe with the overrides `path=value` of the command line."""
    from tlx import config
    from tlx.recipe import classes

    for change in changes:
        name, sign, value = change.partition("=")
        if not sign:
            raise ValueError(f"--set {change!r} is not of the form path=value, for example optim.lr=0.01")
        recipe = config.override(recipe, name, value, classes(recipe))
    return recipe


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
) -> Any:
    """Return the result of `measure` for a study that the command `name` runs with the words `again`.

    A `worker` that the command has started runs cells, and exits. Ctrl-C prints the command that continues the study,
    and exits with 130.
    """
    again = [*again, *mesh_words(mesh)]
    command = command_of(name, *again, *(["--jobs", str(jobs)] if jobs > 1 else []))
    shared = mesh_of(mesh)
    try:
        if worker is not None:
            from tlx.study.work import work

            work(study, Path(out), worker, share=jobs, employed=True, mesh=shared)
            sys.exit(0)
        # A worker knows the number of workers, so that the first one does not claim the cells of the others.
        started = worker_of(name, *again, "--jobs", str(jobs))
        return measure(study, out, jobs=jobs, quiet=quiet, command=command, file=file, worker=started, mesh=shared)
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

mesh_option = click.option(
    "--mesh",
    metavar="data=N",
    help="Number of devices that share a batch [default: data=-1, all devices].",
)


def mesh_of(text: str | None) -> Mesh:
    """Return the mesh of `--mesh data=N`."""
    from tlx.sharding import Mesh
    from tlx.trees import near_miss

    axis, sign, size = ("data=-1" if text is None else text).partition("=")
    if not sign:
        raise ValueError(f"--mesh {text!r} is not of the form data=N, for example data=4 for four devices")
    if axis != "data":
        raise ValueError(f"--mesh {text!r} names the axis {axis!r}{near_miss(axis, ['data'])}; give data=N")
    try:
        return Mesh(data=int(size))
    except ValueError as error:
        reason = str(error) if "mesh" in str(error) else f"{size!r} is not a whole number of devices"
        raise ValueError(
            f"--mesh {text!r}: {reason}; give data=4 for four devices, or data=-1 for all devices"
        ) from None


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


config_option = click.option(
    "--config", help="The config or study file of the run; needed if the run uses classes of your own."
)


def optional_recipe(config: str | None) -> Recipe | None:
    """Return the recipe of a config file, or the base of a study file; None where no file is given."""
    if not config:
        return None
    try:
        return load_recipe(config, ())[1]
    except NoFunction:
        with contextlib.suppress(NoFunction):
            return function_of(config, "study", "study")().base
        raise


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the shell completion script; use it by eval "$(tlx completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "tlx", "_TLX_COMPLETE").source())
