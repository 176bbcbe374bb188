"""`tlx list`: every class with its first sentence, its papers and its fields, from the classes themselves."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tlx import objectives, tuning, updates
from tlx.assets import ASSETS
from tlx.cli import main
from tlx.cli.catalogue import SUBJECTS, first_sentence, papers_of
from tlx.data import DATASETS
from tlx.optim import OPTIMISERS
from tlx.recipe import OWN, classes

METHODS = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def call(*words):
    outcome = CliRunner().invoke(main, ["list", *words])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def listed(*words):
    outcome = CliRunner().invoke(main, ["list", *words, "--json"])
    assert outcome.exit_code == 0, outcome.output
    return {item["name"]: item for item in json.loads(outcome.output)}


def error_line(*words):
    outcome = CliRunner().invoke(main, ["list", *words])
    assert outcome.exit_code == 2, outcome.output
    assert len(outcome.output.splitlines()) == 1
    return outcome.output


@pytest.mark.parametrize(
    ("subject", "base"), [("tunings", tuning.Tuning), ("terms", objectives.Term), ("updates", updates.Update)]
)
def test_a_list_has_every_class_and_its_fields(subject, base):
    items = listed(subject)
    kinds = {name: OWN[name] for name in OWN if issubclass(OWN[name], base) and OWN[name] is not base}
    assert items.keys() == kinds.keys()
    for name, item in items.items():
        assert item["about"], name
        assert item["about"] == first_sentence(item["text"])
        assert [field["name"] for field in item["fields"]] == [field.name for field in dataclasses.fields(kinds[name])]
        defaults = {field["name"]: field["default"] for field in item["fields"] if field["default"] is not None}
        required = {field["name"] for field in item["fields"] if field["default"] is None}
        for field in dataclasses.fields(kinds[name]):
            has_default = {field.default, field.default_factory} != {dataclasses.MISSING}
            assert (field.name in defaults) == has_default
            assert (field.name in required) != has_default


def test_a_class_names_the_papers_of_the_gallery():
    """The papers in docs/methods.md are those in the docstrings of the classes."""
    items = listed("tunings") | listed("terms") | listed("updates")
    compared = 0
    for name, papers in re.findall(r"^\| `(\w+)` \| ([^|]*) \|", METHODS, re.MULTILINE):
        if name in items and (expected := papers_of(papers)):
            assert set(expected) <= {*items[name]["papers"]}, name
            compared += 1
    assert compared > 45


def test_other_subjects_are_complete():
    assert {*OPTIMISERS, "Optim"} == listed("optimisers").keys()
    assert all(item["about"] for item in listed("optimisers").values())
    assert listed("assets").keys() == ASSETS.keys()
    assert listed("datasets").keys() >= DATASETS.keys()
    assert {"Csv", "Tfds"} <= listed("sources").keys()
    assert {"Rotate", "Typos", "Codec"} <= listed("shifts").keys()
    assert listed("shifts").keys().isdisjoint(listed("augmentations"))
    assert {"Flip", "Crop", "Noise"} <= listed("augmentations").keys()
    assert {"Bert", "Vit", "Cnn", "Mlp", "Linen", "Nnx"} <= listed("models").keys()
    assert "roberta" in listed("models")["Bert"]["about"]
    assert {"Classification", "Regression", "MultiLabel", "TokenClassification"} <= listed("tasks").keys()
    assert listed("weights").keys() == {"minilm-l6", "efficientnet-lite0"}
    assert all(subject.about in call() for subject in SUBJECTS.values())


def test_one_item_is_printed_whole_with_how_to_write_it():
    printed = call("tunings", "lora")
    for part in ("Hu et al., 2022", "rank: int; default 8", "use: --set 'tuning=Lora()'", "tlx.tuning.lora"):
        assert part in printed
    assert call("Lora") == printed
    assert "use: --set 'tuning=Freeze(through=...)'" in call("Freeze")
    assert "use: tlx fetch vader" in call("assets", "vader")
    assert "through: str; required" in call("tunings", "Freeze")


def test_what_is_written_for_an_item_can_be_parsed():
    from tlx import config

    for subject in ("tunings", "terms", "updates", "tasks", "shifts"):
        for name, item in listed(subject).items():
            if all(field["default"] is not None for field in item["fields"]):
                _, _, text = SUBJECTS[subject].use.format(f"{name}()").partition("=")
                value = config.parse(text, classes())
                assert type(value[0] if isinstance(value, tuple) else value).__name__ == name


OWN_CLASSES = """from dataclasses import dataclass
from tlx import Data, Recipe, models, tasks
from tlx.tuning import Tuning

@dataclass(frozen=True, kw_only=True)
class Bottom(Tuning):
    '''Train the bottom (Own and Author, 2026).'''
    count: int = 2

@dataclass(frozen=True)
class Bare(Tuning):
    rate: float = 1.0

def recipe():
    task = tasks.Classification()
    return Recipe(data=Data(target="digits"), model=models.Mlp(), task=task, tuning=Bottom())
"""


def test_the_classes_of_a_config_are_listed(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_CLASSES)
    item = listed("tunings", "--config", str(path))["Bottom"]
    assert (item["about"], item["papers"]) == ("Train the bottom (Own and Author, 2026)", ["Own and Author, 2026"])
    assert item["fields"] == [{"name": "count", "type": "int", "default": "2"}]
    assert "Bottom  (tlx_config_mine)" in call("tunings", "--config", str(path))
    # dataclass writes the signature where a class has no documentation.
    assert listed("tunings", "--config", str(path))["Bare"]["about"] == ""
    assert "Bottom" not in listed("tunings")


def test_a_wrong_name_names_the_closest():
    assert "close: 'tunings'" in error_line("tuning")
    line = error_line("terms", "Dan")
    for part in ("'Dan'", "close: 'Dann'", "tlx list terms"):
        assert part in line
    assert "close: 'Lora'" in error_line("Lroa")


def test_the_families_of_models_have_their_costs_and_stages():
    result = CliRunner().invoke(main, ["models", "cnn", "--json"])
    assert result.exit_code == 0, result.output
    [entry] = json.loads(result.output)
    assert entry["name"] == "Cnn" and entry["parameters"] > 0 and entry["flops"] > 2 * entry["parameters"]
    assert "stages: stem, blocks/00 to blocks/01, pool" in CliRunner().invoke(main, ["models", "Cnn"]).output
    result = CliRunner().invoke(main, ["models", "Renset"])
    assert result.exit_code == 2 and result.output.count("\n") == 1 and "'ResNet'" in result.output
