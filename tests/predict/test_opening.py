"""The inputs of a model: those that the run records, or names in its recipe, else those of its processor."""

import json
import shutil

import pytest

from tlx import tasks
from tlx.data import Csv, Where
from tlx.predict import open_model
from tlx.predict.opening import ModelInputs
from tlx.types import Column
from tlx.weights import save_pretrained


def test_a_run_records_the_columns_of_its_inputs(reviewed):
    model = open_model(reviewed.folder)
    assert model.inputs == ModelInputs({"text": Column("text")}, {"text": ("body",)}, True, ("stars",))
    # The buckets and the tokens of the recipe.
    assert model.lengths == (8, 12)
    assert model.task == tasks.Classification(classes=3, names=("bad", "good", "mixed"))


TEXT = Column("text")


@pytest.mark.parametrize(
    ("target", "inputs"),
    [
        ("reviews.csv", ModelInputs({"text": TEXT})),
        (
            Csv("a.csv", text="body", label="stars"),
            ModelInputs({"text": TEXT}, {"text": ("body",)}, True, ("stars",)),
        ),
        (
            Where(Csv("a.csv", text=("title", "body")), column="x", values=("1",)),
            ModelInputs({"text": TEXT}, {"text": ("title", "body")}, True),
        ),
        (
            Csv("a.csv", text="a", text_pair="b"),
            ModelInputs({"text": TEXT, "text_pair": TEXT}, {"text": ("a",), "text_pair": ("b",)}, True),
        ),
    ],
)
def test_a_run_of_an_earlier_version_has_the_columns_of_its_recipe(target, inputs, reviewed, tmp_path):
    from tlx import config

    folder = tmp_path / "run"
    shutil.copytree(reviewed.folder, folder)
    # Early runs list no digests of their files.
    (folder / "files.json").unlink()
    result = json.loads((folder / "result.json").read_text())
    del result["columns"]
    (folder / "result.json").write_text(json.dumps(result))
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["recipe"]["data"]["target"] = config.dump(target)
    (folder / "recipe.json").write_text(json.dumps(recipe))
    assert open_model(folder).inputs == inputs


def test_other_models_read_what_their_processor_and_their_head_read(reviews, tmp_path):
    for task, kind in (
        (tasks.Classification(classes=2, names=("a", "b")), "text"),
        (tasks.TokenClassification(names=("O", "PER")), "words"),
    ):
        folder = save_pretrained(reviews.pretrained(task), tmp_path / kind, untrained=True)
        assert open_model(folder).inputs == ModelInputs({kind: Column(kind)})


def test_a_folder_without_a_finished_run_is_named(reviewed, tmp_path):
    shutil.copytree(reviewed.folder, tmp_path / "run", ignore=shutil.ignore_patterns("model", "result.json"))
    with pytest.raises(FileNotFoundError, match=r"unfinished run.*result.json.*--resume"):
        open_model(tmp_path / "run")
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="a study"):
        open_model(tmp_path)
