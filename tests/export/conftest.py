"""A small finished run with awkward class names, and a process that has jax and nothing of tlx."""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

import tlx
from tlx import Data, Recipe, Train, models, tasks

# Class names with the signs of Markdown, HTML, YAML and mathematics.
NAMES = (
    "a|b",
    "`code`",
    "*bold* _it_",
    "<script>alert(1)</script>",
    "---",
    "key: value # comment",
    "[text](https://example.org)",
    "$x$ &amp; \\",
    "two\nlines",
    "- item",
)
ONLY_JAX = ("jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "scipy", "flatbuffers")


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run of a small network on digits."""
    recipe = Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(names=NAMES),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=3, batch=8, eval_batch=512, select="best-validation"),
    )
    return tlx.run(recipe, tmp_path_factory.mktemp("export") / "digits", quiet=True)


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Return `alone(code, directory, *packages)`: the output of a process that can import jax, its requirements, and
    `packages`, and nothing else that is installed."""
    site = tmp_path_factory.mktemp("site")

    def add(package):
        tops = {Path(file.parts[0]) for file in distribution(package).files or () if file.parts[0] not in ("..", ".")}
        for top in tops - {Path("__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution(package).locate_file(top))

    def call(code, directory, *packages):
        for package in (*ONLY_JAX, *packages):
            add(package)
        start = f"import sys; sys.path[:0] = ['.', {str(site)!r}]\n"
        words = [sys.executable, "-S", "-c", start + code]
        process = subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        return process.stdout

    return call
