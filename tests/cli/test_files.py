"""Python files of the user on the command line: errors name file and line; unexpected errors are one line."""

import pytest
from click.testing import CliRunner

from tlx.cli import commands, main

GOOD = """from tlx import Data, Recipe, Train, models, tasks

def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=3, batch=8, eval_batch=64),
    )
"""


def error_line(*arguments, code=2):
    """Return the one line in which a command ends."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert len(result.output.splitlines()) == 1, result.output
    assert result.output.startswith("tlx: ")
    return result.output.removeprefix("tlx: ").rstrip("\n")


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("Recipe(\n", "Recipe((\n", 4, "'(' was never closed"),
        ("def recipe():", "def recipe()", 3, "expected ':'"),
        ("import Data", "import Dataa", 1, "Dataa"),
        ("from tlx", "import nothing_there\nfrom tlx", 1, "No module named 'nothing_there'"),
        ("    return", "    1 / 0\n    return", 4, "ZeroDivisionError"),
        ("    return", "    {}['x']\n    return", 4, "KeyError: 'x'"),
        ("    return", "    exit(0)\n    return", 4, "exits the program"),
        ("widths=(8,)", "widths=(0,)", 7, "widths=(0,); expected a number above 0"),
        ("widths=(8,)", "widths=8", 7, "widths ... 8 ... tuple[int, ...]"),
        ("batch=8,", "bach=8,", 8, "Train has no field 'bach'; close: 'batch'"),
        ("batch=8,", "batch='8',", 8, "batch is '8'; expected int; write batch=8"),
        ("batch=8,", "dtype='bf16',", 8, "dtype is 'bf16'; expected one of ... close: 'bfloat16'"),
        ("batch=8,", "batch=8, dtype=\n'bf16',", 9, "dtype is 'bf16'"),
        ("steps=3,", "steps=0,", 8, "steps is 0; expected 1 or more"),
        ("    )\n", "        seed=1.5,\n    )\n", 9, "seed is 1.5; expected int"),
        ("    )\n", "        tuning='Lora',\n    )\n", 9, "tuning is 'Lora'; expected Tuning; write tuning=Lora()"),
        ("models.Mlp(", "models.Mpl(", 7, "no attribute 'Mpl'; close: 'Mlp'"),
        ("tasks.Class", "task.Class", 6, "NameError: name 'task' is not defined; close: 'tasks'"),
        ("import Data", "import Dat", 1, "cannot import name 'Dat' from 'tlx'; close: 'Data'"),
        ('Data(target="digits", ', "Data(", 5, "Data needs the field 'target'"),
        ("Data(target=", "Data(5, 6, target=", 5, "Data accepts its fields by name only"),
        ('"digits", shots=4', '"digits", shots=4, tokens="many"', 5, "tokens is 'many'; expected int"),
    ],
)
def test_an_error_in_a_config_names_the_file_and_the_line(tmp_path, old, new, line, words):
    path = tmp_path / "config.py"
    path.write_text(GOOD.replace(old, new, 1))
    message = error_line("show", path)
    assert message.startswith(f"{path} line {line}")
    for part in words.split(" ... "):
        assert part in message


STUDY = (
    GOOD.replace("from tlx import Data", "from tlx import Study, param, Data")
    + """

def study():
    return Study(
        base=recipe(),
        cells=param(
            "optim.lr", 0.1, 0.2,
        ),
        question="Which rate?",
    )
"""
)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ('"optim.lr", 0.1', '"optim.lrr", 0.1', 16, "no field 'optim.lrr'; close: 'optim.lr'"),
        ("0.1, 0.2", '0.1, "fast"', 16, "optim.lr is 'fast'; expected float"),
        ("batch=8,", "batch=2.5,", 8, "batch is 2.5; expected int"),
        ("batch=8,", "bach=8,", 8, "no field 'bach'; close: 'batch'"),
        ("question=", "qestion=", 13, "Study has no field 'qestion'; close: 'question'"),
    ],
)
def test_an_error_in_a_study_names_the_file_and_the_line(tmp_path, old, new, line, words):
    path = tmp_path / "study.py"
    path.write_text(STUDY.replace(old, new, 1))
    message = error_line("study", path, "--out", tmp_path / "out")
    assert message.startswith(f"{path} line {line}: ")
    assert words in message


@pytest.mark.parametrize("command", ["run", "show", "lr-find", "tune", "benefit", "negative-transfer", "classical"])
def test_every_command_with_a_config_names_its_file_and_line(tmp_path, command):
    path, out = tmp_path / "config.py", tmp_path / "out"
    space = tmp_path / "space.py"
    space.write_text("from tlx.tune import uniform\n\ndef space():\n    return {'optim.lr': uniform(0.1, 0.2)}\n")
    more = {"show": (), "tune": ("--space", space, "--trials", "1", "--out", out)}.get(command, ("--out", out))
    path.write_text(GOOD.replace("batch=8,", "batch=2.5,"))
    assert error_line(command, path, *more).startswith(f"{path} line 8: batch is 2.5; expected int")
    assert not out.exists()


def test_an_error_after_the_config_has_run_names_the_line_of_its_text(tmp_path):
    """The file is right by itself; its values do not fit the model or the data."""
    path = tmp_path / "config.py"
    text = GOOD.replace("    )\n", "        tuning=tuning.Freeze(\n            through='stam')\n    )\n")
    path.write_text(text.replace("import Data", "import tuning, Data"))
    assert error_line("show", path).startswith(f"{path} line 10: Freeze(through='stam')")
    # A text of the command line is not one of the file.
    assert error_line("show", path, "--set", "tuning=Freeze(through='stam')").startswith("Freeze(through='stam')")


def test_an_error_in_a_search_space_names_its_file_and_line(tmp_path):
    path, space = tmp_path / "config.py", tmp_path / "space.py"
    path.write_text(GOOD)
    space.write_text("from tlx.tune import uniform\n\ndef space():\n    return {\n'optim.lrr': uniform(0.1, 0.2)}\n")
    message = error_line("tune", path, "--space", space, "--trials", "1", "--out", tmp_path / "out")
    assert message.startswith(f"{space} line 5: the recipe has no field 'optim.lrr'; close: 'optim.lr'")


def test_bytes_that_are_not_python_are_one_line(tmp_path):
    path = tmp_path / "config.py"
    for content in (b"\xff\xfe\x00", GOOD.encode("utf-16"), b"x = '\xff'\n", b"\x00\x00"):
        path.write_bytes(content)
        assert error_line("show", path).startswith(str(path))


def test_a_config_without_the_usual_suffix_is_read(tmp_path):
    path = tmp_path / "config.txt"
    path.write_text(GOOD)
    assert CliRunner().invoke(main, ["show", str(path)]).exit_code == 0


def test_a_directory_instead_of_a_config_is_one_line(tmp_path):
    assert error_line("show", tmp_path) == (
        f"{tmp_path} is a directory; expected a config file: a Python file with a function recipe()"
    )


def test_a_wrong_option_is_one_line():
    assert error_line("study", "x.py", "--jobs", "0") == (
        "Invalid value for '--jobs': 0 is not in the range x>=1; see main study --help"
    )
    assert error_line("reprot", "x").startswith("No such command 'reprot'")
    assert error_line("predict") == "Missing argument 'RUN'; see main predict --help"


def test_an_unexpected_error_is_one_line_that_asks_for_a_report(monkeypatch, tmp_path):
    def fail(*arguments):
        raise RuntimeError("something\ndeep")

    monkeypatch.setattr("tlx.report.write", fail)
    message = error_line("report", tmp_path, code=1)
    assert message.startswith("internal error, RuntimeError: something deep; please report it")
    assert "TLX_TRACEBACK=1" in message


def test_an_error_of_the_system_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        (tmp_path / "x" / "y").read_bytes()
    assert commands.line_of(error.value).startswith(f"{tmp_path / 'x' / 'y'}: no such file or directory; expected")
    assert commands.line_of(MemoryError()).startswith("not enough memory: ")


@pytest.mark.parametrize("rule", ["(a+)+$", "(.*)*(.*)*x", r"(\w+/?)+x", "(b|l|bl)*q"])
def test_a_rule_with_an_endless_pattern_is_answered(tmp_path, rule):
    path = tmp_path / "config.py"
    path.write_text(GOOD)
    change = f"tuning=Rules(({rule!r}, None), ('.*', Learn()))"
    assert f"rule {rule!r} matches no parameter" in error_line("show", path, "--set", change)
