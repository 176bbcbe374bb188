"""The group that every command registers on, and what commands share: options, files of the user's that give a value.

A file of commands decorates its functions with `@main.command()` and stands in the list of `tlx/cli/__init__.py`.
Everything heavy is imported inside the command that needs it.
"""

import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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


def function_of(path: str, name: str, what: str) -> Callable[[], Any]:
    """The function `name()` of a Python file of the user's; errors call the file a `what` file."""
    file = Path(path)
    spec = importlib.util.spec_from_file_location(f"tlx_{what}_{file.stem}", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise FileNotFoundError(f"no {what} file {path}; it is a Python file with a function {name}()")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with beside(file):
        spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"{path} has no function {name}()")

    def value() -> Any:
        with beside(file):
            return found()

    return value


@contextmanager
def beside(file: Path) -> Iterator[None]:
    """Let a file of the user's import the modules beside it, in the command and in its workers alike.

    Only while that file runs, and after everything that is installed: a data set that is read later finds nothing.
    """
    place = str(file.resolve().parent)
    known = place in sys.path
    if not known:
        sys.path.append(place)
    try:
        yield
    finally:
        if not known and place in sys.path:
            sys.path.remove(place)


def load_recipe(path: str, changes: Sequence[str]) -> tuple[Any, Any]:
    """The recipe of a config file, before and after the overrides `path=value`."""
    from tlx.recipe import Recipe

    base = function_of(path, "recipe", "config")()
    if not isinstance(base, Recipe):
        raise TypeError(f"recipe() in {path} returned {type(base).__name__}, not a tlx.Recipe")
    return base, changed(base, changes)


def changed(recipe: Any, changes: Sequence[str]) -> Any:
    """The recipe after the overrides `path=value` of the command line."""
    from tlx import config
    from tlx.recipe import KINDS

    for change in changes:
        name, sign, value = change.partition("=")
        if not sign:
            raise ValueError(f"--set {change!r} is not of the form path=value")
        recipe = config.override(recipe, name, value, KINDS)
    return recipe


def command_of(name: str, *words: str) -> str:
    """Return the command `tlx NAME ...` as a shell reads it, for the user to paste."""
    return shlex.join(["tlx", name, *words])


def worker_of(name: str, *words: str) -> list[str]:
    """Return the command of a worker process.

    Without `-P`, `python -m` makes the working directory importable, where a data set or a foreign run may bring code.
    """
    return [sys.executable, "-Pm", "tlx.cli", name, *words]


def file_word(path: str) -> str:
    """Return the path of a file as a word of a command, which no option can be taken for."""
    return f".{os.sep}{path}" if path.startswith("-") else path


def set_words(changes: Sequence[str], option: str = "--set") -> list[str]:
    """Return the words of a command that repeat the overrides `path=value`."""
    return [word for change in changes for word in (option, change)]


def run_and_measure(
    name: str,
    study: Any,
    again: Sequence[str],
    worker: float | None,
    measure: Callable[..., Any],
    *,
    out: str,
    jobs: int,
    quiet: bool,
    file: str,
) -> Any:
    """What `measure` gives of a study that the command `name` runs, of which `again` are the words; a `worker` that the
    command has started works, and ends. Ctrl-C says how to go on, and exits with 130."""
    command = command_of(name, *again, *(["--jobs", str(jobs)] if jobs > 1 else []))
    try:
        if worker is not None:
            from tlx.study.work import work

            work(study, Path(out), worker, share=jobs, employed=True)
            sys.exit(0)
        # A worker is told how many there are, lest the first take what the others could do.
        started = worker_of(name, *again, "--jobs", str(jobs))
        return measure(study, out, jobs=jobs, quiet=quiet, command=command, file=file, worker=started)
    except KeyboardInterrupt:
        if worker is None:
            click.echo(f"\nstopped; go on with: {command}{' --quiet' if quiet else ''}", err=True)
        sys.exit(130)


def tell_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    """A table on the terminal, and a line a note."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(table)
    for note in notes:
        click.echo(f"- {note}")


def tell_files(folder: Path, *names: str) -> None:
    """Where what was written lies."""
    for name in names:
        if (folder / name).is_file():
            click.echo(folder / name)


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
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script: eval "$(tlx completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "tlx", "_TLX_COMPLETE").source())
