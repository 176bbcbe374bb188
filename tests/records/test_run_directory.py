"""Which folders belong to a run."""

import dataclasses
import json

import pytest

from tlx import Data, Recipe, config, models, tasks
from tlx.recipe import OWN
from tlx.records import run_directory

RECIPE = Recipe(data=Data(target="digits"), task=tasks.Classification(), model=models.Mlp())
OTHER = dataclasses.replace(RECIPE, seed=1)
NEITHER = {"resume": False, "overwrite": False}


def test_a_free_folder_is_claimed_and_has_the_recipe(tmp_path):
    for path in (tmp_path / "new" / "run", tmp_path):
        assert run_directory.finished(path, OTHER, **NEITHER) is False
    path = tmp_path / "new" / "run"
    run_directory.claim(path, OTHER, overwrite=False, base=RECIPE, command="tlx run x")
    written = run_directory.read(path, run_directory.RECIPE)
    assert config.load(written["recipe"], OWN) == OTHER
    assert written["fingerprint"] == config.fingerprint(OTHER)
    assert written["changes"] == [["seed", "0", "1"]]
    assert written["command"] == "tlx run x"


def refused(path, recipe, **how):
    with pytest.raises(FileExistsError) as error:
        run_directory.finished(path, recipe, **(NEITHER | how))
    return str(error.value)


def test_a_run_of_another_recipe_is_not_changed(tmp_path):
    path = tmp_path / "run"
    run_directory.claim(path, RECIPE, overwrite=False)
    for resume in (False, True):
        message = refused(path, OTHER, resume=resume)
        for part in (str(path), config.fingerprint(RECIPE), config.fingerprint(OTHER), "--out", "--overwrite"):
            assert part in message


def test_a_run_of_this_recipe_needs_resume_or_overwrite(tmp_path):
    path = tmp_path / "run"
    run_directory.claim(path, RECIPE, overwrite=False)
    for part in (str(path), "unfinished", "--resume", "--overwrite"):
        assert part in refused(path, RECIPE)
    assert run_directory.finished(path, RECIPE, resume=True, overwrite=False) is False
    (path / run_directory.RESULT).write_text("{}")
    assert refused(path, RECIPE).startswith(f"{path} contains the run of this recipe, finished; ")
    assert run_directory.finished(path, RECIPE, resume=True, overwrite=False) is True
    assert run_directory.finished(path, OTHER, resume=False, overwrite=True) is False


def test_a_folder_that_is_not_a_run_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("three years")
    for how in ({"overwrite": True}, {"resume": True}, {}):
        assert refused(tmp_path, RECIPE, **how) == (
            f"{tmp_path} is not empty and contains no run; choose another folder with --out"
        )
        assert refused(tmp_path / "thesis.tex", RECIPE, **how) == (
            f"{tmp_path / 'thesis.tex'} is a file; choose another folder with --out"
        )


def test_overwriting_starts_from_nothing_and_resuming_keeps_everything(tmp_path):
    path = tmp_path / "run"
    run_directory.claim(path, RECIPE, overwrite=False, command="first")
    (path / run_directory.RESULT).write_text("{}")
    run_directory.claim(path, RECIPE, overwrite=False, command="second")
    assert (path / run_directory.RESULT).exists()
    assert run_directory.read(path, run_directory.RECIPE)["command"] == "first"
    run_directory.claim(path, OTHER, overwrite=True, command="third")
    assert [file.name for file in path.iterdir()] == [run_directory.RECIPE]
    assert run_directory.read(path, run_directory.RECIPE)["fingerprint"] == config.fingerprint(OTHER)


def test_reading_a_missing_run_names_the_existing_ones(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        run_directory.read(tmp_path)
    assert str(error.value) == f"{tmp_path} contains no run: there is no result.json"
    run_directory.claim(tmp_path / "run", RECIPE, overwrite=False)
    with pytest.raises(FileNotFoundError) as error:
        run_directory.read(tmp_path / "run")
    assert str(error.value) == (
        f"{tmp_path / 'run'} contains an unfinished run: there is no result.json; finish it: tlx run CONFIG --out "
        f"{tmp_path / 'run'} --resume"
    )


def test_the_environment_is_written_in_json():
    recorded = run_directory.environment()
    assert json.loads(json.dumps(recorded)) == recorded
    assert len(recorded["devices"]) == 8
    assert recorded["packages"]["jax"] != "not installed as a package"
