"""The whole life of a recipe that names a user's own class, in a file outside tlx, registered nowhere."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import tlx
from tlx import Study, config, param
from tlx.cli import load_recipe, main
from tlx.recipe import Recipe
from tlx.study import run_study
from tlx.training.loop import How
from tlx.training.reopen import Meter, rebuild, reopen

EXACT, CLOSE = {"rtol": 0, "atol": 0}, {"rtol": 1e-4, "atol": 1e-5}


class Life(NamedTuple):
    """What a life left: the user's `file` and `recipe`, the `folder` of its run, the folder of a `study`."""

    file: Path
    recipe: Recipe
    folder: Path
    study: Path


def digit(folder: Path) -> list[str]:
    """A picture of a digit's size, for `predict`."""
    path = folder / "digit.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(path)
    return [str(path)]


@pytest.fixture
def live(tmp_path: Path, goes_on: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Life]:
    """`live(text, path, values)`: the recipe() of a file of this text, through everything that a recipe goes through.

    `path` is a field of the recipe and `values` what it is set to in runs that share a program and in a study; with
    `apart`, runs of these values train one by one. `examples(folder)` are inputs for `predict`.
    """

    def check(
        text: str,
        path: str,
        values: Sequence[Any],
        *,
        apart: bool = False,
        examples: Callable[..., Any] = digit,
        check_answers: Callable[[Any], None] = sums_to_one,
    ) -> Life:
        file = tmp_path / "mine.py"
        file.write_text(text)
        _, recipe = load_recipe(str(file), ())
        config.check(recipe)
        # Trained and saved; stopped and resumed, it is as if it had not been stopped.
        goes_on(recipe, (3,))
        folder = tmp_path / "whole"
        reopened(folder, file)
        predicted(folder, file, examples(tmp_path), check_answers)
        shared(recipe, path, values, tmp_path, 1 if apart else len(values), monkeypatch)
        study = Study(base=recipe, cells=param(path, *values), question="Does it matter?")
        swept(study, tmp_path / "study", file)
        return Life(file, recipe, folder, tmp_path / "study")

    return check


def reopened(folder: Path, file: Path) -> None:
    """The run opens when its file is given, as another process loads it, and never by itself."""
    with pytest.raises(ValueError, match=rf"{file.name}.* is a user's class, .*--config FILE"):
        reopen(folder)
    opened = reopen(folder, load_recipe(str(file), ())[1])
    predictions = Meter(opened)(opened.after, "validation")
    stored = np.load(folder / "predictions" / "validation.npz")
    for name, array in predictions.scores.items():
        np.testing.assert_allclose(array, stored[name], **CLOSE, err_msg=name)


def sums_to_one(answers: Sequence[Any]) -> None:
    """Probabilities by class name."""
    assert all(sum(answer.values()) == pytest.approx(1.0, abs=1e-5) for answer in answers)


def predicted(folder: Path, file: Path, examples: Sequence[Any], check_answers: Callable[[Any], None]) -> None:
    """The command answers when the file is given."""
    command = ["predict", str(folder), *examples, "--json", "--config", str(file)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("{")]
    assert len(lines) == len(examples)
    check_answers([json.loads(line)["answer"] for line in lines])


def shared(
    recipe: Recipe, path: str, values: Sequence[Any], folder: Path, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that differ in the field share a program, and each gives what it gives alone."""
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    recipes = [config.assign(recipe, path, value) for value in values]
    alone = [tlx.run(one, folder / f"alone-{n}", how=How(quiet=True, leave="learned")) for n, one in enumerate(recipes)]
    grouped = tlx.run_many(recipes, [folder / f"grouped-{n}" for n in range(len(recipes))])
    for one, other in zip(alone, grouped, strict=True):
        assert not isinstance(other, Exception), other
        assert other.result["pack"]["arms"] == together
        scores = [np.load(run.folder / "predictions" / "validation.npz") for run in (one, other)]
        for name in scores[0]:
            np.testing.assert_allclose(*(arrays[name] for arrays in scores), **CLOSE, err_msg=name)


def swept(study: Study, folder: Path, file: Path) -> None:
    """A study over the field runs all its cells, and a cell's model is rebuilt when the file is given."""
    results = run_study(study, folder, quiet=True)
    assert [cell.state for cell in results.cells] == ["done"] * len(study.by_fingerprint)
    cell = results.cells[0].folder
    with pytest.raises(ValueError, match="--config FILE"):
        rebuild(cell)
    assert (rebuild(cell, load_recipe(str(file), ())[1]) / "model").is_dir()
