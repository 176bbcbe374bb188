"""The classes of all commands: help with sections and examples, and one clear line for every mistake."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from tlx.cli.user_files import kind_of, place_of
from tlx.files.durable import DamagedWarning
from tlx.files.mistakes import USER_ERRORS
from tlx.interrupt import stoppable

RUN_ERRORS = (ArithmeticError, OSError)
# The exit code of a program with a reader that ended first, such as `head`: 128 and the number of SIGPIPE.
READER_ENDED = 141
# The exit code of a program that Ctrl-C or SIGTERM has ended: 128 and the number of SIGINT.
STOPPED = 130
# The sections of `tlx --help`, in their order: what a researcher wants to do.
SECTIONS = ("Train", "Data", "Measure transfer", "Compare", "Models", "Tools")


class Command(click.Command):
    """A command of a section of `tlx --help`, with `examples`: command lines for the end of its help."""

    def __init__(self, *arguments: Any, section: str = "", examples: Sequence[str] = (), **settings: Any):
        super().__init__(*arguments, **settings)
        self.section, self.examples = section, tuple(examples)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples after the options."""
        super().format_epilog(context, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")

    def invoke(self, context: click.Context) -> Any:
        """Run the command. An error about a text of the user's file names the file and the line."""
        try:
            return super().invoke(context)
        except USER_ERRORS as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            names = {argument.name for argument in self.params if isinstance(argument, click.Argument)}
            values = [context.params.get(name) for name in ("config", "file") if name in names]
            files = [value for value in (*values, context.params.get("space")) if isinstance(value, str)]
            message = " ".join(str(error).split())
            if place := place_of(message, files, context.params.get("changes") or ()):
                raise kind_of(error)(f"{place}: {message}") from error
            raise


class Commands(click.Group):
    """A group that prints a user's mistake as one clear line and exits with code 2, or 1 if the run itself failed.

    An unexpected error is also one line, which asks the user to report it; the exit code is 1. A reader of the output
    that ends first, such as `head`, is no error. After Ctrl-C and SIGTERM the exit code is 130.
    """

    command_class = Command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by section, each with its whole first sentence."""
        commands = [(name, self.commands[name]) for name in self.list_commands(context)]
        visible = [(name, command) for name, command in commands if not command.hidden]
        longest = max(len(name) for name, _ in visible)
        for section in SECTIONS:
            rows = [(f"{name:{longest}}", first_sentence(command)) for name, command in visible
                    if getattr(command, "section", "") == section]  # fmt: skip
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)

    def invoke(self, context: click.Context) -> Any:
        try:
            with warnings.catch_warnings(), stoppable():
                # JAX's cache of compiled programs only saves time, and a full disk would make it warn at every one.
                warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
                show = warnings.showwarning
                warnings.showwarning = lambda message, kind, *place: (
                    click.echo(f"tlx: warning: {message}", err=True) if is_news(kind) else show(message, kind, *place)
                )
                return super().invoke(context)
        except BrokenPipeError:
            # Python writes the rest of its buffer at the exit, and would report the pipe again.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(READER_ENDED)
        except (click.exceptions.NoArgsIsHelpError, click.Abort, click.exceptions.Exit):
            raise
        except (KeyboardInterrupt, SystemExit) as ending:
            if isinstance(ending, SystemExit) and ending.code != STOPPED:
                raise
            if isinstance(ending, KeyboardInterrupt):
                click.echo("\nstopped", err=True)
            end_with_others(STOPPED)
            sys.exit(STOPPED)
        except click.ClickException as error:
            help_of = getattr(error, "ctx", None) or context
            message = " ".join(error.format_message().split()).rstrip(".")
            click.echo(f"tlx: {message}; see {help_of.command_path} --help", err=True)
            sys.exit(error.exit_code)
        except Exception as error:
            if os.environ.get("TLX_TRACEBACK"):
                raise
            click.echo(f"tlx: {line_of(error)}", err=True)
            code = 2 if isinstance(error, USER_ERRORS) else 1
            if getattr(error, "ends_program", False):
                os._exit(code)
            end_with_others(code)
            sys.exit(code)


def end_with_others(code: int) -> None:
    """End the program with a code where it is one of several processes and the others do not end too."""
    # Without JAX there is one process; to import it here would take a second.
    if (processes := sys.modules.get("tlx.processes")) is not None:
        processes.end_together(code)


def is_news(kind: type[Warning]) -> bool:
    """Return whether warnings of this kind are for the user of a command."""
    from tlx.records.trackers import TrackerWarning

    return issubclass(kind, (DamagedWarning, TrackerWarning))


def first_sentence(command: click.Command) -> str:
    """Return the first sentence of the help of a command, without its full stop."""
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".")


def line_of(error: Exception) -> str:
    """Return one line that says what went wrong.

    >>> line_of(ValueError("width is 3;\\n  expected 4"))
    'width is 3; expected 4'
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        reason = (error.strerror or type(error).__name__).lower()
        return f"{error.filename}: {reason}; expected a file or a folder that this user can use: check the path"
    if text and (isinstance(error, (*USER_ERRORS, *RUN_ERRORS)) or getattr(error, "is_plain", False)):
        return text
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"not enough memory{f' ({text})' if text else ''}: use smaller batches, or a smaller model"
    return (
        f"internal error, {type(error).__name__}{f': {text}' if text else ''}; please report it, together with the "
        "output of the same command with TLX_TRACEBACK=1, which shows the place of the error"
    )


class Option(click.Option):
    """An option with `old` names, which work too but are not in the help."""

    def __init__(self, names: Sequence[str], *, old: Sequence[str] = (), **settings: Any):
        super().__init__([*names, *old], **settings)
        self.old = tuple(old)

    def get_help_record(self, context: click.Context) -> tuple[str, str] | None:
        """Return the names and the help text, without the old names."""
        visible = copy.copy(self)
        visible.opts = [name for name in self.opts if name not in self.old]
        return click.Option.get_help_record(visible, context)
