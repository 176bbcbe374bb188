"""Versions of recipe.json. The last tlx with schema 1 wrote the runs of schema 1."""

import json
import shutil
from pathlib import Path

import pytest

from tlx import config
from tlx.cli import load_recipe
from tlx.recipe import OWN
from tlx.records import migrations, run_directory
from tlx.training.reopen import recipe_of

SCHEMA_1 = Path(__file__).parent / "schema_1"


@pytest.fixture
def users(monkeypatch):
    """Return the recipe with a user-defined tuning, as its file returns it, imported under the module name of that
    time.
    """
    monkeypatch.syspath_prepend(SCHEMA_1)
    from own_classes import recipe

    return recipe()


def copied(name, folder, **changes):
    """Copy a run of schema 1 to another folder with other values in its recipe.json; None removes a value."""
    shutil.copytree(SCHEMA_1 / name, folder / "runs" / name)
    shutil.copy(SCHEMA_1 / "own_classes.py", folder / "runs")
    path = folder / "runs" / name / "recipe.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not None}))
    return path.parent


def test_a_run_of_schema_1_opens_with_its_fingerprint():
    document = run_directory.read(SCHEMA_1 / "several", run_directory.RECIPE)
    assert (document["schema"], document["classes"], migrations.rule_of(document)) == (2, {}, 1)
    recipe = recipe_of(SCHEMA_1 / "several")
    assert config.fingerprint(recipe) == "84f1063aad4dbca7"
    assert [type(part).__name__ for part in (*recipe.objective, recipe.update, *recipe.data.shift)] == [
        "Supervised", "Dann", "L2SP", "Sam", "Rotate"
    ]  # fmt: skip


def test_a_run_of_schema_1_is_resumed_and_not_written_again(tmp_path):
    folder = copied("several", tmp_path)
    recipe = recipe_of(folder)
    assert not run_directory.finished(folder, recipe, resume=True, overwrite=False)
    before = (folder / "recipe.json").read_bytes()
    run_directory.claim(folder, recipe, overwrite=False)
    assert (folder / "recipe.json").read_bytes() == before
    run_directory.claim(folder, recipe, overwrite=True)
    document = json.loads((folder / "recipe.json").read_text())
    assert (document["schema"], document["fingerprint"]) == (config.SCHEMA, "84f1063aad4dbca7")


def test_a_run_of_schema_1_with_a_users_class_opens_with_its_file(users, tmp_path):
    folder = copied("own_tuning", tmp_path)
    with pytest.raises(ValueError, match=r"schema 1; this tlx writes 2\): tlx has no class 'LastTwo'.*--config FILE"):
        recipe_of(folder)
    # Every field of the class counted at that time, and counts when that run is read.
    assert recipe_of(folder, users) == users
    assert config.fingerprint(users, schema=1) == "f8a1df3e9444d2cd" != config.fingerprint(users)
    with pytest.raises(
        FileExistsError, match="fingerprint of schema 1, but this tlx computes fingerprints of schema 2"
    ):
        run_directory.finished(folder, users, resume=True, overwrite=False)
    assert not run_directory.finished(folder, users, resume=False, overwrite=True)


def test_a_recipe_that_does_not_match_its_fingerprint_is_refused(tmp_path):
    folder = copied("several", tmp_path, fingerprint="84f1063aad4dbca8")
    with pytest.raises(ValueError, match="fingerprint 84f1063aad4dbca7, and the run has 84f1063aad4dbca8"):
        recipe_of(folder)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (3, r"recipe\.json has schema 3, but this tlx reads schemas 1 to 2: .* install a newer"),
        (0, r"schema is 0; expected a whole number from 1 to 2"),
        (True, "schema is True; expected a whole number"),
        ("2", "schema is '2'; expected a whole number"),
    ],
)
def test_a_version_that_this_tlx_does_not_read_is_refused(tmp_path, schema, message):
    folder = copied("several", tmp_path, schema=schema)
    recipe = recipe_of(SCHEMA_1 / "several")
    for ask in (
        lambda: recipe_of(folder),
        lambda: run_directory.finished(folder, recipe, resume=True, overwrite=False),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_fields_that_no_class_has_any_more_are_refused_with_the_version(tmp_path):
    recipe = json.loads((SCHEMA_1 / "several" / "recipe.json").read_text())["recipe"]
    folder = copied("several", tmp_path, recipe=recipe | {"train": recipe["train"] | {"warm": 1}})
    with pytest.raises(ValueError, match=r"recipe\.json \(schema 1; this tlx writes 2\): Train has no field 'warm'"):
        recipe_of(folder)


def test_a_users_class_is_written_with_its_module_and_file_and_opens_with_its_config_alone(tmp_path):
    (tmp_path / "code").mkdir()
    shutil.copy(SCHEMA_1 / "own_classes.py", tmp_path / "code" / "mine.py")
    _, recipe = load_recipe(str(tmp_path / "code" / "mine.py"), ("tuning=LastTwo(lr=0.25)",))
    folder = tmp_path / "runs" / "mine"
    run_directory.claim(folder, recipe, overwrite=False)
    document = json.loads((folder / "recipe.json").read_text())
    assert document["recipe"]["tuning"] == {"kind": "LastTwo", "class": "tlx_config_mine:LastTwo", "lr": 0.25}
    assert document["classes"] == {"tlx_config_mine:LastTwo": "../../code/mine.py"}
    with pytest.raises(
        ValueError, match=r"tlx_config_mine:LastTwo in .*code/mine\.py is a user's class, .*--config FILE"
    ):
        recipe_of(folder)
    inputs = load_recipe(str(tmp_path / "code" / "mine.py"), ("tuning=Probe()",))[1]
    second = recipe_of(folder, inputs)
    assert (config.source(second), config.fingerprint(second)) == (config.source(recipe), config.fingerprint(recipe))
    assert OWN.keys().isdisjoint({"LastTwo"})
