"""Checkpoints read for images of another size, and the processor that then makes them."""

import pytest

from tests.weights.test_channels import NETWORKS, saved
from tlx import Data, Recipe, Weights, models, tasks
from tlx.processors import ImageProcessor
from tlx.training.prepare import open_data
from tlx.training.pretrained import fitted, pretrained_model
from tlx.weights import load_pretrained


@pytest.mark.parametrize(
    ("before", "sides", "after"),
    [
        ({"size": (224, 224)}, (96, 80), {"size": (96, 80)}),
        # The crop keeps its share of the resized picture.
        ({"size": 256, "crop": (224, 224)}, (112, 112), {"size": 128, "crop": (112, 112)}),
        ({"size": (256, 320), "crop": (224, 224)}, (112, 112), {"size": (128, 160), "crop": (112, 112)}),
        ({"size": 9, "crop": (9, 9)}, (4, 4), {"size": 4, "crop": (4, 4)}),
        ({"size": None, "crop": (9, 9)}, (4, 5), {"size": (4, 5)}),
    ],
)
def test_a_processor_for_other_sides(before, sides, after):
    processor = ImageProcessor(**before)
    assert processor.with_sides(sides) == ImageProcessor(**after)
    assert processor.with_sides(processor.shape[:2]) == processor


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_resize_gives_the_model_and_its_processor_one_size(tmp_path, name):
    loaded = load_pretrained(saved(tmp_path, NETWORKS[name](3)), resize=12)
    assert models.image_shape(loaded.model.config) == loaded.processor.shape == (12, 12, 3)


def recipe(folder, **weights):
    data = Data(target="digits", size=12, channels=3)
    return Recipe(data=data, task=tasks.Classification(classes=3), weights=Weights(str(folder), **weights))


def test_a_network_takes_the_size_of_the_data_if_no_parameter_depends_on_it(tmp_path):
    chosen = recipe(saved(tmp_path, NETWORKS["resnet"](3)))
    loaded = pretrained_model(chosen, chosen.task)
    assert models.image_shape(loaded.model.config) == (12, 12, 3)
    assert fitted(chosen, open_data(chosen), loaded.model, loaded.processor).shape == (12, 12, 3)


def test_positions_are_resized_on_request_alone(tmp_path):
    chosen = recipe(saved(tmp_path, NETWORKS["vit"](3)))
    loaded = pretrained_model(chosen, chosen.task)
    with pytest.raises(ValueError, match=r"images of shape \(12, 12, 3\) do not fit.*Weights\(resize=\.\.\.\)"):
        fitted(chosen, open_data(chosen), loaded.model, loaded.processor)
