"""`tlx export` on the command line: what it writes, and one clear line for every mistake."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import tlx
from tlx.cli import main
from tlx.export import load as loader

CONFIG = '''"""A run with a network of the user's own.   tlx run mine.py"""
from dataclasses import dataclass

from tlx import Data, Recipe, Train, models, tasks


@dataclass(frozen=True, kw_only=True)
class Mine(models.Mlp):
    """A network of my own."""


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(),
        model=Mine(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=3, batch=8, eval_batch=512),
    )
'''


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def error_line(*words):
    """Return the single line of an error."""
    outcome = call(*words)
    assert outcome.exit_code == 2, outcome.output
    assert len(outcome.output.splitlines()) == 1 and outcome.output.startswith("tlx: "), outcome.output
    return outcome.output


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The config file of a user with a new class, and the folder of its run."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(CONFIG)
    outcome = call("run", folder / "mine.py", "--out", folder / "run", "--quiet")
    assert outcome.exit_code == 0, outcome.output
    return folder


@pytest.mark.parametrize("form", ["huggingface", "stablehlo"])
def test_a_model_of_a_users_class_is_exported_with_its_config_and_refused_without(mine, tmp_path, form):
    out = tmp_path / "out"
    assert "--config FILE" in error_line("export", mine / "run", out, "--to", form)
    assert not list(tmp_path.iterdir())
    outcome = call("export", mine / "run", out, "--to", form, "--config", mine / "mine.py")
    assert outcome.exit_code == 0, outcome.output
    assert outcome.output.splitlines()[-1] == str(out)
    card = (out / "README.md").read_text()
    assert "model=Mine(" in card
    if form == "huggingface":
        assert "--config FILE" in card and "from config import recipe" in card
    else:
        images = np.zeros((2, 8, 8, 1), np.float32)
        assert loader.load(out)(image=images)["logits"].shape == (2, 10)


def test_mistakes_are_one_line(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(mine)
    assert "not empty" in error_line("export", "run", ".") and "choose another" in error_line("export", "run", ".")
    assert "is a file" in error_line("export", "run", "mine.py")
    assert "'run'" in error_line("export", "runn", tmp_path / "out")
    line = error_line("export", "run", tmp_path / "out", "--to", "stable")
    assert "'stablehlo'" in line and "'stable'" in line
    line = error_line("export", "run", tmp_path / "out", "--to", "onnx")
    assert "--to stablehlo" in line and "jax2onnx" in line
    for command in (("predict", "runs/nosuch", "text"), ("changes", "runs/nosuch"), ("rebuild", "runs/nosuch")):
        assert "there is no directory" in error_line(*command) and "runs/nosuch" in error_line(*command)
    change = "weights=Weights('runs/nosuch')"
    assert "'runs/nosuch'" in error_line("show", "mine.py", "--set", change, "--set", "model=None")


def test_a_run_without_its_model_says_how_to_get_it(mine, tmp_path):
    cell = tmp_path / "cell"
    cell.mkdir()
    for name in ("recipe.json", "result.json"):
        (cell / name).write_bytes((mine / "run" / name).read_bytes())
    assert "model/config.json" in error_line("export", cell, tmp_path / "out")
    (cell / "learned.safetensors").write_bytes(b"")
    assert "tlx rebuild" in error_line("export", cell, tmp_path / "out")


def test_an_exported_program_is_no_source(mine, tmp_path):
    exported = tmp_path / "program"
    assert call("export", mine / "run", exported, "--to", "stablehlo", "--config", mine / "mine.py").exit_code == 0
    line = error_line("export", exported, tmp_path / "out")
    assert "load.py" in line and str(exported) in line
    assert json.loads((exported / "program.json").read_text())["tlx"]
    with pytest.raises(FileNotFoundError, match=r"load\.py"):
        tlx.load_pretrained(exported)
