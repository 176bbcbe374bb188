"""tlx on systems that lack parts of the standard library, and in directories with code of other people."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tlx.cli.group import worker_of
from tlx.training import results

PACKAGE = Path(results.__file__).parents[1]
# Modules of the standard library that Windows lacks.
MISSING = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "nis", "crypt", "spwd")
IMPORT_ALL = f"""
import importlib, pkgutil, signal, sys
import jax, numpy, flax, optax, orbax.checkpoint, grain, transformers, tensorflow_datasets, click, rich, tensorboardX
import flax.linen, flax.nnx, altair, jinja2, scipy.stats, sklearn, optuna, pandas, filelock, os
for name in {MISSING!r}:
    sys.modules[name] = None
for name in ("sysconf", "getppid", "sched_getaffinity", "fork", "getloadavg", "uname", "geteuid"):
    if hasattr(os, name):
        delattr(os, name)
import tlx
names = [module.name for module in pkgutil.walk_packages(tlx.__path__, "tlx.") if not module.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
assert len(names) > 150, len(names)
from tlx.training import results
from tlx.training import run_many
assert results.peak_of_process() == 0
assert run_many.memory_bytes() > 2**30
"""


@pytest.mark.slow
def test_every_module_can_be_imported_without_unix_modules():
    """The libraries are imported first; their handling of missing modules is not tested here."""
    process = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=False, timeout=200
    )
    assert process.returncode == 0, process.stderr[-2000:]


def test_no_module_needs_modules_that_windows_lacks():
    """The quick half of the test above: such imports must be within a function or a `try`."""
    for path in PACKAGE.rglob("*.py"):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Import):
                assert not {name.name for name in statement.names} & {*MISSING}, path


def test_the_peak_of_a_process_is_bytes():
    assert 2**24 < results.peak_of_process() < 2**40


TRAP = "from pathlib import Path\nPath({path!r}).touch()\n"
CONFIG = '''"""A config that imports the module beside it."""
from beside import WIDTH
from tlx import Data, Recipe, Study, Train, models, param, tasks
from tlx.tune import uniform

def recipe():
    from later import CLASSES
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(classes=CLASSES),
        model=models.Mlp(inputs=(8, 8, 1), widths=(WIDTH,)),
        train=Train(steps=2, batch=8, eval_batch=64),
    )

def study():
    return Study(base=recipe(), cells=param("seed", 0, 1), question="Does a seed matter?")
'''
# The code of the worker: it records whether it can import from the working directory.
PROBE = """
import sys
from tlx.cli.user_files import function_of
recipe = function_of(sys.argv[1], "recipe", "config")()
try:
    import trap
except ModuleNotFoundError:
    print(recipe.model.widths)
"""


def place(folder):
    """A config with its modules in one directory, and a trap in another, which is the working directory."""
    (folder / "configs").mkdir()
    (folder / "work").mkdir()
    (folder / "configs" / "config.py").write_text(CONFIG)
    (folder / "configs" / "beside.py").write_text("WIDTH = 8\n")
    (folder / "configs" / "later.py").write_text("CLASSES = 10\n")
    (folder / "work" / "trap.py").write_text(TRAP.format(path=str(folder / "sprung")))
    return folder


@pytest.mark.slow
def test_a_worker_cannot_import_from_the_working_directory(tmp_path):
    place(tmp_path)
    assert worker_of("study", "x.py")[1:] == ["-Pm", "tlx.cli", "study", "x.py"]
    command = [sys.executable, "-Pc", PROBE, "../configs/config.py"]
    process = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path / "work")
    assert process.stdout == "(8,)\n"
    assert not (tmp_path / "sprung").exists()
    # If the config is in the working directory, modules next to it can be imported while it runs, and not later.
    (tmp_path / "configs" / "trap.py").write_text(TRAP.format(path=str(tmp_path / "sprung")))
    process = subprocess.run(
        [*command[:-1], "config.py"], capture_output=True, text=True, check=True, cwd=tmp_path / "configs"
    )
    assert process.stdout == "(8,)\n"
    assert not (tmp_path / "sprung").exists()


# The modules that start a Python process.
STARTERS = ("group.py", "assets.py", "package_indexes.py", "ray_tasks.py")


def test_every_command_starts_its_workers_in_this_way():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("sys.executable") == text.count('sys.executable, "-P'), path
        assert "sys.executable" not in text or path.name in STARTERS, path


@pytest.mark.slow
def test_workers_of_a_study_import_the_modules_of_the_config(tmp_path):
    place(tmp_path)
    # JAX imports every module of this package, from anywhere on the path.
    (tmp_path / "work" / "jax_plugins" / "mine").mkdir(parents=True)
    (tmp_path / "work" / "jax_plugins" / "mine" / "__init__.py").write_text(TRAP.format(path=str(tmp_path / "sprung")))
    command = [sys.executable, "-P", "-m", "tlx.cli", "study", "../configs/config.py", "--jobs", "2", "--quiet"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path / "work", env=variables, timeout=280
    )
    assert process.returncode == 0, process.stderr
    assert len(list((tmp_path / "work" / "runs" / "config" / "cells").glob("*/result.json"))) == 2
    assert not (tmp_path / "sprung").exists()
