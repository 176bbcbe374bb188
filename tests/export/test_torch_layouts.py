"""Export to the layouts of timm and torchvision, and a recipe that starts from them."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Data, Recipe, Weights, models, tasks
from tlx.cli import main
from tlx.export import export_run
from tlx.processors import ImageProcessor
from tlx.training.pretrained import pretrained_model
from tlx.trees import flatten, map_named
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained
from tlx.weights.export import answers, sample

NAMES = ("cat", "dog", "owl")
SMALL = {"stem": 4, "widths": (8,), "depths": (1,), "bottleneck": False}
BASIC = models.ResNet(size=33, depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), bottleneck=False)


def saved(folder, config, temperature=None, crop=None):
    """Write a classifier of random numbers in the usual layout, as a run does."""
    rng, model = np.random.default_rng(0), models.build(config, len(NAMES))
    params, stats = (
        map_named(lambda path, leaf: rng.normal("variance" in path, 0.04, leaf.shape).astype(np.float32), tree)
        for tree in (model.params, model.stats)
    )
    task = tasks.Classification(classes=3, names=NAMES, calibrate=temperature is not None, temperature=temperature)
    side, _, channels = models.image_shape(config)
    middle = (0.5,) * channels
    processor = ImageProcessor(size=crop or (side, side), crop=(side, side), channels=channels, mean=middle, std=middle)
    pretrained = Pretrained(model, Variables(params, stats), processor, Manifest("random", {}, ()), task)
    return save_pretrained(pretrained, folder)


def test_an_export_to_timm_says_how_images_are_prepared(tmp_path):
    source = saved(tmp_path / "model", BASIC, crop=36)
    export = export_run(source, tmp_path / "out", to="timm")
    assert any("timm cuts the middle of some images one pixel away" in note for note in export.notes)
    document = json.loads((tmp_path / "out" / "config.json").read_text())
    assert document["architecture"] == "resnet18" and document["label_names"] == list(NAMES)
    assert document["pretrained_cfg"]["input_size"] == [3, 33, 33]
    after = load_pretrained(tmp_path / "out")
    back = export_run(tmp_path / "out", tmp_path / "back")
    assert any("transformers cuts the middle" in note for note in back.notes)
    assert load_pretrained(tmp_path / "back").processor.identity == after.processor.identity
    assert after.processor.size == 36 and after.processor.crop == (33, 33)
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'timm.create_model("local-dir:.", pretrained=True)' in card and "library_name: timm" in card


def test_the_code_of_the_card_of_an_export_to_torchvision_computes_the_calibrated_outputs(tmp_path, monkeypatch):
    vgg = models.Vgg(size=9, widths=(4,), depths=(1,), grid=2, hidden=(5,))
    source = saved(tmp_path / "model", vgg, temperature=2.5)
    result = CliRunner().invoke(main, ["export", str(source), str(tmp_path / "out"), "--to", "torchvision"])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out" / "config.json").exists()
    card = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "out")
    variables = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], variables)
    before, after = load_pretrained(source), variables["pretrained"]
    np.testing.assert_allclose(answers(after, sample(after)), answers(before, sample(before)) / 2.5, atol=1e-5)


def test_a_network_without_a_name_in_timm_is_refused_with_one_line(tmp_path):
    source = saved(tmp_path / "model", models.ResNet(size=9, **SMALL))
    result = CliRunner().invoke(main, ["export", str(source), str(tmp_path / "out"), "--to", "timm"])
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1
    assert "timm has no architecture" in result.output and "resnet50" in result.output
    assert not (tmp_path / "out").exists()


def recipe(source, first, **fields):
    return Recipe(
        data=Data(target="digits", channels=1),
        task=tasks.Classification(classes=3),
        model=models.ResNet(size=8, **SMALL, **fields),
        weights=Weights(str(source), first=first),
    )


def test_a_recipe_reads_grey_images_with_a_state_dict_of_colour_images(tmp_path):
    colour = load_pretrained(saved(tmp_path / "model", models.ResNet(size=8, **SMALL)))
    source = save_pretrained(colour, tmp_path / "dict", layout="torchvision") / "model.safetensors"
    start = recipe(source, "sum", channels=1)
    grey = pretrained_model(start, start.task)
    assert grey.processor.shape == (8, 8, 1) and grey.task == start.task
    kernel = flatten(colour.variables.params)["stem/kernel"]
    np.testing.assert_allclose(flatten(grey.variables.params)["stem/kernel"], kernel.sum(2, keepdims=True), atol=1e-6)
    for wrong, message in (
        (recipe(source, None, channels=1), r'3 channels, .* 1 .*Weights\(first="sum"\)'),
        (recipe(source, "sum"), r"data\.channels is 1, but model reads images with 3 .*ResNet\(channels=1"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrained_model(wrong, wrong.task)
