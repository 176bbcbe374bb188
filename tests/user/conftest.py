"""Run a recipe with a class defined in a file of the user, outside tlx, through all steps that tlx supports."""

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


class Artifacts(NamedTuple):
    """Files of `check_recipe`: `file` and `recipe` of the user, `folder` of the run, folder of the `study`."""

    file: Path
    recipe: Recipe
    folder: Path
    study: Path


def digit(folder: Path) -> list[str]:
    """Write an image of the size of a digit, as input for `predict`."""
    path = folder / "digit.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(path)
    return [str(path)]


@pytest.fixture
def check_recipe(
    tmp_path: Path, goes_on: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Artifacts]:
    """Return `check_recipe(text, path, values)`: it writes `text` to a file and runs its recipe() through all steps.

    The steps are training, resuming, reopening, prediction, vectorised runs and a study. `path` is a field of the
    recipe. `values` are its values in the vectorised runs and in the study; with `apart`, these runs train one by one.
    `examples(folder)` returns the inputs of `predict`.
    """

    def check(
        text: str,
        path: str,
        values: Sequence[Any],
        *,
        apart: bool = False,
        examples: Callable[..., Any] = digit,
        check_answers: Callable[[Any], None] = sums_to_one,
    ) -> Artifacts:
        file = tmp_path / "mine.py"
        file.write_text(text)
        _, recipe = load_recipe(str(file), ())
        config.check(recipe)
        # Train, save, stop and resume; a resumed run equals a run that was not stopped.
        goes_on(recipe, (3,))
        folder = tmp_path / "whole"
        check_reopening(folder, file)
        check_prediction(folder, file, examples(tmp_path), check_answers)
        check_shared_program(recipe, path, values, tmp_path, 1 if apart else len(values), monkeypatch)
        study = Study(base=recipe, cells=param(path, *values), question="Does it matter?")
        check_study(study, tmp_path / "study", file)
        return Artifacts(file, recipe, folder, tmp_path / "study")

    return check


def check_reopening(folder: Path, file: Path) -> None:
    """Check that the run opens with the file of the user, and that it does not open without it."""
    with pytest.raises(ValueError, match=rf"{file.name}.* is a user's class, .*--config FILE"):
        reopen(folder)
    opened = reopen(folder, load_recipe(str(file), ())[1])
    predictions = Meter(opened)(opened.after, "validation")
    stored = np.load(folder / "predictions" / "validation.npz")
    for name, array in predictions.scores.items():
        np.testing.assert_allclose(array, stored[name], **CLOSE, err_msg=name)


def sums_to_one(answers: Sequence[Any]) -> None:
    """Check that the answers are probabilities by class name."""
    assert all(sum(answer.values()) == pytest.approx(1.0, abs=1e-5) for answer in answers)


def check_prediction(folder: Path, file: Path, examples: Sequence[Any], check_answers: Callable[[Any], None]) -> None:
    """Check that `tlx predict` works with the file of the user."""
    command = ["predict", str(folder), *examples, "--json", "--config", str(file)]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("{")]
    assert len(lines) == len(examples)
    check_answers([json.loads(line)["answer"] for line in lines])


def check_shared_program(
    recipe: Recipe, path: str, values: Sequence[Any], folder: Path, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that runs that differ in the field train in one program, with the same results as alone."""
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


def check_study(study: Study, folder: Path, file: Path) -> None:
    """Check that a study over the field runs all its cells, and that the model of a cell can be rebuilt."""
    results = run_study(study, folder, quiet=True)
    assert [cell.state for cell in results.cells] == ["done"] * len(study.by_fingerprint)
    cell = results.cells[0].folder
    with pytest.raises(ValueError, match="--config FILE"):
        rebuild(cell)
    assert (rebuild(cell, load_recipe(str(file), ())[1]) / "model").is_dir()
