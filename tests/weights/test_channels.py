"""Weights for images with another number of channels: `first="sum"` and `first="repeat"`."""

import numpy as np
import pytest

from tlx import models
from tlx.processors import ImageProcessor
from tlx.tasks import Classification
from tlx.trees import map_named
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained

TASK = Classification(classes=3, names=("a", "b", "c"))
SMALL = {"stem": 4, "widths": (8,), "depths": (1,)}
NETWORKS = {
    "resnet": lambda channels: models.ResNet(size=9, channels=channels, **SMALL),
    "vit": lambda channels: models.Vit(
        pooler=False, size=8, patch=4, channels=channels, width=12, depth=1, heads=3, mlp=8
    ),
    "vgg": lambda channels: models.Vgg(size=9, channels=channels, widths=(4,), depths=(1,), grid=2, hidden=(5,)),
    "cnn": lambda channels: models.Cnn(size=8, channels=channels, widths=(4,), dense=None),
}


def saved(folder, config, seed=0):
    """Write a checkpoint of random numbers."""
    rng, model = np.random.default_rng(seed), models.build(config, 3)
    params, stats = (
        map_named(lambda path, leaf: rng.normal("variance" in path, 0.1, leaf.shape).astype(np.float32), tree)
        for tree in (model.params, model.stats)
    )
    side = models.image_shape(config)[0]
    channels = 1 if config.channels == 1 else 3
    means = (0.2,) if channels == 1 else (0.1, 0.2, 0.3)
    processor = ImageProcessor(size=(side, side), channels=channels, mean=means, std=(0.5,) * channels)
    pretrained = Pretrained(model, Variables(params, stats), processor, Manifest("random", {}, ()), TASK)
    return save_pretrained(pretrained, folder)


def logits(pretrained, images):
    return np.asarray(models.forward(pretrained.model, pretrained.variables, {"image": images})[0]["logits"])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sum_reads_grey_as_equal_channels_and_repetition_the_other_way_round(tmp_path, name):
    colour, grey = (saved(tmp_path / str(n), NETWORKS[name](n)) for n in (3, 1))
    side = models.image_shape(NETWORKS[name](1))[0]
    images = np.random.default_rng(1).normal(size=(2, side, side, 1)).astype(np.float32)
    summed = load_pretrained(colour, channels=1, first="sum")
    assert summed.model.config == NETWORKS[name](1)
    np.testing.assert_allclose(logits(summed, images), logits(load_pretrained(colour), images.repeat(3, -1)), atol=1e-5)
    repeated = load_pretrained(grey, channels=3, first="repeat")
    np.testing.assert_allclose(logits(repeated, images.repeat(3, -1)), logits(load_pretrained(grey), images), atol=1e-5)
    # The channels are equal, but each of them is read.
    one = images.repeat(3, -1) * np.float32([1, 0, 0])
    assert np.abs(logits(repeated, one) - logits(repeated, 0 * one)).max() > 1e-4
    again = load_pretrained(save_pretrained(summed, tmp_path / "again"))
    np.testing.assert_array_equal(logits(again, images), logits(summed, images))


def test_the_processor_has_the_channels_of_the_network(tmp_path):
    summed = load_pretrained(saved(tmp_path, NETWORKS["resnet"](3)), channels=1, first="sum")
    assert summed.processor.shape == (9, 9, 1)
    np.testing.assert_allclose(summed.processor.mean, 0.2)
    assert summed.processor.std == (0.5,)
    four = load_pretrained(tmp_path, channels=4, first="repeat")
    assert four.processor is None and four.model.config.channels == 4


@pytest.mark.parametrize(
    ("stored", "channels", "first", "parts"),
    [
        (3, 1, None, ("3 channels", "images with 1", 'Weights(first="sum")', "Data(channels=...)")),
        (1, 3, None, ("1 channels", "images with 3", 'Weights(first="repeat")')),
        (1, 3, "sum", ('first="sum"', 'Weights(first="repeat")')),
        (3, 1, "repeat", ('first="repeat"', 'Weights(first="sum")')),
        (3, 1, "sums", ("first is 'sums'", "'sum'")),
    ],
)
def test_other_channels_without_an_instruction_that_fits_are_refused(tmp_path, stored, channels, first, parts):
    folder = saved(tmp_path, NETWORKS["cnn"](stored))
    with pytest.raises(ValueError) as error:
        load_pretrained(folder, channels=channels, first=first)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
