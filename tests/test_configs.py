"""Every file in configs/ has its results in the docstring, and runs."""

import ast
from pathlib import Path

import pytest

import tlx
from tlx import config
from tlx.cli import load_recipe
from tlx.recipe import OWN

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
SMALL = ("train.steps=2", "train.batch=8", "data.shots=4")
TEXT = ("data.tokens=16", "data.buckets=(16,)")
each = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder in which the recipes that others start from have run for two steps."""
    folder = tmp_path_factory.mktemp("configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("tlx.report.available", lambda: False)
        outcome = set()
        for path in CONFIGS:
            weights = load_recipe(str(path), ())[1].weights
            if weights is not None and weights.source.startswith("runs/") and weights.source not in outcome:
                first = path.with_name(f"{Path(weights.source).name}.py")
                tlx.run(load_recipe(str(first), SMALL)[1], weights.source, quiet=True)
                outcome.add(weights.source)
        yield folder


def small(path):
    recipe = load_recipe(str(path), SMALL)[1]
    text = recipe.data.target.startswith("sentiment/")
    return load_recipe(str(path), (*SMALL, *TEXT))[1] if text else recipe


@each
def test_the_docstring_says_what_it_is_and_how_to_run_it(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert f"tlx run configs/{path.name}" in docstring
    assert docstring.splitlines()[0].strip().endswith(".") or "tlx run" in docstring.splitlines()[0]


@each
def test_it_has_a_function_that_returns_a_recipe_and_nothing_else(path):
    names = [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    assert names == ["recipe"]
    base, recipe = load_recipe(str(path), ())
    assert base == recipe
    config.check(recipe)
    assert config.fingerprint(recipe) == config.fingerprint(load_recipe(str(path), ())[1])
    assert config.load(config.dump(recipe), OWN, recipe) == recipe


# The fingerprints of the first release of each config; additions to a class must not change them.
FINGERPRINTS = {
    "cnn_digits_from_mnist": "9e0ed5dd77079b13",
    "cnn_mnist": "7ce25b457a3e5dcb",
    "digits_probe": "3a50f161d412623d",
    "emoji_styles": "183f8fec598541a2",
    "linen_digits": "85092ee817b6e65c",
    "lite0_fashion": "e796cd35f15c92e8",
    "minilm_dann": "9ac7aa80c9c842fb",
    "minilm_movies": "68086cf433632ca4",
    "minilm_movies_frozen": "c8c8c49f18acd933",
    "minilm_movies_scratch": "324d68cf46e6aa8e",
    "solar_cells": "62b1d05094caf5d7",
    "vit_digits": "aa100e948e81f525",
}


@each
def test_its_fingerprint_stays(path):
    recipe = load_recipe(str(path), ())[1]
    assert config.fingerprint(recipe) == FINGERPRINTS[path.stem] == config.fingerprint(recipe, schema=1)


# A config that starts from another run; the slow tests have the others, and `make demo` runs minilm_movies.py.
NEAR = ("cnn_digits_from_mnist",)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[] if path.stem in NEAR else [pytest.mark.slow]) for path in CONFIGS],
)
def test_it_takes_two_steps(path, workplace, two_steps):
    two_steps(small(path))
