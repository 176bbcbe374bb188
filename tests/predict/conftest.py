"""A small network of images with random weights, opened for prediction."""

from pathlib import Path

import jax
import pytest

from tlx import tasks
from tlx.models import Mlp, build, initialise
from tlx.predict.opening import ModelInputs, OpenedModel
from tlx.processors import ImageProcessor
from tlx.types import Column, Variables
from tlx.weights import Manifest, Pretrained


@pytest.fixture(scope="session")
def pictures():
    task = tasks.Classification(classes=2, names=("dark", "light"))
    built = build(Mlp(inputs=(8, 8, 1), widths=(4,)), task.head())
    params = initialise(built, jax.random.key(0)).params
    processor = ImageProcessor(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    model = Pretrained(built, Variables(params, {}), processor, Manifest("random", {}, ()), task)
    return OpenedModel(Path("random"), model, processor, ModelInputs({"image": Column("image")}), ())
