"""A scheduler's SIGTERM ends every command as Ctrl-C does: one line, the exit code 130."""

import os
import signal
from contextlib import suppress

import click
import pytest
from click.testing import CliRunner

from tlx.cli.commands import Commands
from tlx.interrupt import look, noted


@click.group(cls=Commands)
def group():
    pass


@group.command()
@click.argument("number", type=int)
def wait(number):
    os.kill(os.getpid(), number)
    click.echo("not reached")


@group.command()
def step():
    with noted() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        click.echo(f"noted: {stop.requested}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_ends_with_130(number):
    before = signal.getsignal(signal.SIGTERM)
    # A program in the background of a shell ignores SIGINT.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = CliRunner().invoke(group, ["wait", str(int(number))])
    finally:
        signal.signal(signal.SIGINT, interrupt)
    assert (result.exit_code, result.output) == (130, "\nstopped\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_step_is_finished_before_the_command_ends():
    result = CliRunner().invoke(group, ["step"])
    assert (result.exit_code, result.output) == (130, "noted: True\n\nstopped\n")


@group.command()
def swallowed():
    class Callback:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    # Python prints an exception of a finaliser and continues; a callback of JAX does the same.
    Callback()
    click.echo("continues")
    with noted() as stop:
        click.echo(f"noted: {stop.requested}")
        look()
        click.echo("not reached")


@group.command()
def swallowed_last():
    with suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_callback_swallows_ends_the_command_at_the_next_look():
    result = CliRunner().invoke(group, ["swallowed"])
    assert (result.exit_code, result.output) == (130, "continues\nnoted: True\n\nstopped\n")
    assert CliRunner().invoke(group, ["swallowed-last"]).output == "\nstopped\n"
    assert CliRunner().invoke(group, ["step"]).output == "noted: True\n\nstopped\n"


def test_a_handler_of_other_code_stays():
    calls = []
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append(1))
    try:
        assert CliRunner().invoke(group, ["wait", str(int(signal.SIGTERM))]).output == "not reached\n"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert calls == [1]
