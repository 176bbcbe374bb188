"""Files of a finished run have digests: a changed file is refused; files of the user are ignored."""

import json
import shutil

import pytest
from click.testing import CliRunner

import tlx
from tlx import Data, Recipe, Train, models, report, tasks
from tlx.cli import main
from tlx.files.documents import digests
from tlx.records import run_directory


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    recipe = Recipe(
        data=Data(target="digits", shots=2),
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
        train=Train(steps=2, batch=8, eval_batch=64),
    )
    return tlx.run(recipe, tmp_path_factory.mktemp("digests") / "run", quiet=True).folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_every_file_that_is_read_again_is_listed(run):
    listed = set(digests.read(run))
    value = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    rest = {name for name in value - listed if not name.startswith(("tensorboard/", "checkpoints/", "."))}
    assert rest <= {"files.json", "report.html"}
    for name in listed:
        digests.verify(run, name)


@pytest.mark.parametrize("name", ["model/model.safetensors", "model/config.json", "model/preprocessor_config.json"])
def test_a_changed_file_of_the_model_is_refused(run, name):
    content = bytearray((run / name).read_bytes())
    content[-3] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(ValueError) as error:
        tlx.load_pretrained(run)
    assert str(run / name) in str(error.value)
    assert "its sha256 is" in str(error.value)


def test_a_file_that_the_run_did_not_write_is_refused_if_it_would_be_read(run):
    (run / "model" / "notes.md").write_text("mine")
    tlx.load_pretrained(run)
    (run / "model" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(digests.Changed, match="the run did not write"):
        tlx.load_pretrained(run)


def test_a_missing_file_is_refused(run):
    (run / "model" / "preprocessor_config.json").unlink()
    with pytest.raises(digests.Changed, match=r"preprocessor_config\.json is missing"):
        tlx.load_pretrained(run)


@pytest.mark.parametrize("name", ["result.json", "recipe.json", "mistakes.json", "parameters.json", "environment.json"])
def test_a_changed_record_is_refused_by_the_report(run, name):
    (run / name).write_text((run / name).read_text().replace("1", "2", 1))
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.exit_code == 2
    assert result.output.startswith(f"tlx: {run / name} was changed after the run wrote it")
    assert len(result.output.splitlines()) == 1


def test_a_run_of_an_older_version_has_no_digests_and_is_read(run):
    (run / digests.FILES).unlink()
    document = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(document | {"notes": ["by hand"]}))
    assert run_directory.read(run)["notes"] == ["by hand"]
    report.write(run)


def test_without_digests_the_recipe_must_match_its_fingerprint(run):
    (run / digests.FILES).unlink()
    document = json.loads((run / "recipe.json").read_text())
    document["recipe"]["optim"]["lr"] = 0.5
    (run / "recipe.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"recipe\.json: its recipe has the fingerprint \w+, but the file records"):
        report.write(run)
