"""Help: every command has its section, whole sentences, options with texts, and examples that work at 80 columns."""

import re
import shlex

import click
import pytest
from click.testing import CliRunner

from tlx.cli import main
from tlx.cli.commands import SECTIONS, first_sentence
from tlx.cli.group import HiddenArgument

VISIBLE = {name: command for name, command in main.commands.items() if not command.hidden}


def help_of(*words):
    outcome = CliRunner().invoke(main, [*words, "--help"], terminal_width=80, prog_name="tlx")
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def options(command):
    """The visible options of a command."""
    return [item for item in command.params if isinstance(item, click.Option) and not item.hidden]


def flags(option):
    return [name for name in option.opts if name not in getattr(option, "old", ())]


def test_the_help_has_every_command_in_a_section_with_its_whole_first_sentence():
    printed = help_of()
    sections = re.split(r"^(\w[\w ]+):$", printed, flags=re.MULTILINE)
    by_section = dict(zip(sections[1::2], sections[2::2], strict=True))
    for name, command in VISIBLE.items():
        assert command.section in SECTIONS, f"{name}: give main.command(section=...), one of {SECTIONS}"
        line = re.search(rf"^  {name} +(.*)$", by_section[command.section], re.MULTILINE)
        assert line, name
        assert line[1] == first_sentence(command), f"{name}: shorten the first sentence, so that it fits on one line"
    texts = [text for section, text in by_section.items() if section in SECTIONS]
    assert sum(len(re.findall(r"^  [\w-]+  ", text, re.MULTILINE)) for text in texts) == len(VISIBLE)


@pytest.mark.parametrize("name", VISIBLE)
def test_a_command_explains_itself(name):
    command, printed = VISIBLE[name], help_of(name)
    assert all(len(line) <= 80 for line in printed.splitlines())
    # Usage lines have `[NAME]...`, and a required field has `...` for its value; a text that is cut ends so too.
    assert not re.search(r"\w\.\.\.$", printed.partition("Options:")[2], re.MULTILINE)
    words = " ".join(printed.split())
    assert first_sentence(command) in words
    for option in options(command):
        assert option.help, f"{name} {option.opts}"
        assert option.help[0].isupper(), option.help
        assert option.help.endswith((".", "].")), option.help
        assert " ".join(option.help.split()) in words
    assert printed.rstrip().splitlines()[-1].strip() == command.examples[-1]
    for argument in (item for item in command.params if isinstance(item, click.Argument)):
        if isinstance(argument, HiddenArgument):
            continue
        place = argument.make_metavar(click.Context(command)).strip("[].").split("]")[0]
        assert place.split()[0] in words.partition("Options:")[0].partition("[OPTIONS]")[2], place


@pytest.mark.parametrize("name", VISIBLE)
def test_the_examples_are_commands_that_the_parser_accepts(name):
    assert VISIBLE[name].examples
    for example in VISIBLE[name].examples:
        command = re.search(r"\btlx ([^|>)]*)", example)
        first, *rest = shlex.split(command[1]) if "(" in example and "'" not in example else shlex.split(example)[1:]
        rest = [word for word in rest if word not in ("|", ">")]
        assert first == name, example
        if "|" not in example and ">" not in example:
            VISIBLE[name].make_context(name, rest)


def test_a_flag_has_one_meaning_and_a_meaning_one_flag():
    by_flag, by_text = {}, {}
    for name, command in VISIBLE.items():
        for option in options(command):
            text = option.help.partition(" [default")[0].rstrip(".")
            for flag in flags(option):
                by_flag.setdefault(flag, {})[name] = (text.split()[0], option.is_flag)
            by_text.setdefault(text, set()).add(tuple(flags(option)))
    assert {flag: uses for flag, uses in by_flag.items() if len({*uses.values()}) > 1} == {}
    assert {text: names for text, names in by_text.items() if len(names) > 1} == {}
    # Commands that take a recipe, or write a directory, call these alike.
    for name, command in VISIBLE.items():
        known = {flag for option in options(command) for flag in flags(option)}
        takes = {item.name for item in command.params if isinstance(item, click.Argument)}
        assert "config" not in takes or "--set" in known, name
        # `tlx lengthen` writes into the run that it trains further; `tlx show` writes nothing.
        assert "--mesh" not in known or "--out" in known or name in ("lengthen", "show"), name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("moved", "no_run"), ("changes", "no_run")),
        (("prefixes",), ("feature-cache",)),
        (("datasets",), ("list", "datasets")),
        (("assets", "list"), ("list", "assets")),
        (("assets", "fetch", "no_asset"), ("fetch", "no_asset")),
        (("study", "no.py", "--most", "3"), ("study", "no.py", "--together", "3")),
        (("run", "no.py", "--no-prefix"), ("run", "no.py", "--no-feature-cache")),
        (("export", "./no_run", "folder"), ("export", "./no_run", "--out", "folder")),
    ],
)
def test_old_names_work_and_are_not_listed(old, new):
    before, after = (CliRunner().invoke(main, list(words)) for words in (old, new))
    assert before.output == after.output
    assert before.exit_code == after.exit_code
    for word in old:
        if word.startswith("--") and word not in new:
            assert word not in help_of(old[0])
    assert "older" not in help_of("export").lower()
    assert old[0] in VISIBLE or old[0] not in re.findall(r"^  ([\w-]+)  ", help_of(), re.MULTILINE)


def test_a_directory_is_given_once():
    for words, part in ((("a",), "Missing option '--out'"), (("a", "b", "--out", "c"), "twice, 'c' and 'b'")):
        outcome = CliRunner().invoke(main, ["export", *words])
        assert (outcome.exit_code, len(outcome.output.splitlines())) == (2, 1)
        assert part in outcome.output


def test_the_target_of_negative_transfer_is_a_field_like_any_other(monkeypatch, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from tlx import Data, Recipe, models, tasks, terms\n\ndef recipe():\n    return Recipe(\n"
        "        data=Data(target='digits', source='mnist5k', labels=0, size=16),\n"
        "        task=tasks.Classification(classes=10), model=models.Cnn(size=16, channels=1, widths=(8,)),\n"
        "        objective=(terms.Supervised(on='source'),),\n    )\n"
    )
    recipes = []

    def stop(recipe, **settings):
        recipes.append((recipe, settings["sources"]))
        raise ValueError("stopped here")

    monkeypatch.setattr("tlx.analysis.negative.negative_study", stop)
    # The new target is the source of the config.
    for words in (("--target", "mnist5k"), ("--set", "data.target=mnist5k")):
        arguments = ["negative-transfer", str(config), *words, "--sources", "digits", "--out", str(tmp_path / "out")]
        assert "stopped here" in CliRunner().invoke(main, arguments).output
    assert recipes[0] == recipes[1]
    assert (recipes[0][0].data.target, recipes[0][0].data.source) == ("mnist5k", "digits")
