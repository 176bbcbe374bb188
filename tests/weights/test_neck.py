"""Checkpoints of other libraries below a neck, and a neck in our own directories."""

import jax
import numpy as np
import pytest

from tests.weights.test_export import BARE, CONFIGS, random_model
from tlx import models, tasks
from tlx.trees import flatten
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained

NAMES = ("low", "middle", "high")
WITH_HEAD = [name for name in CONFIGS if name.split("-")[0] not in BARE]


def classes(neck=None):
    return tasks.Classification(classes=3, names=NAMES, neck=neck)


# One family of each kind of head; the others are slow, because a network of convolutions takes seconds to draw.
QUICK = ("bert", "roberta", "distilbert", "vit", "deit-teacher", "dinov2", "siglip", "resnet-basic")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in WITH_HEAD]
)
def test_a_checkpoint_with_a_head_fills_everything_below_the_neck(name, tmp_path):
    stored = random_model(name, classes())
    save_pretrained(stored, tmp_path / "foreign")
    loaded = load_pretrained(tmp_path / "foreign", classes(models.Neck(width=4)))
    before, after = flatten(stored.variables.params), flatten(loaded.variables.params)
    new = {path for path in after if path.startswith(("neck/", "head/"))}
    assert {entry.path for entry in loaded.manifest.entries if entry.action == "reset"} >= new
    for path in after.keys() - new:
        np.testing.assert_array_equal(before[path], after[path], err_msg=path)
    assert before.keys() - after.keys() == {path for path in before.keys() - after.keys() if path.startswith("head/")}


def test_our_directory_keeps_the_neck(tmp_path):
    save_pretrained(random_model("resnet", classes()), tmp_path / "foreign")
    first = load_pretrained(tmp_path / "foreign", classes(models.Neck(width=4)), seed=5)
    save_pretrained(first, tmp_path / "ours", untrained=True)
    for task in (None, first.task):
        second = load_pretrained(tmp_path / "ours", task)
        assert second.task == first.task
        assert second.model.head == first.model.head == models.Pooled(3, models.Neck(width=4))
        for path, leaf in flatten(first.variables._asdict()).items():
            np.testing.assert_array_equal(leaf, flatten(second.variables._asdict())[path], err_msg=path)


def test_a_stored_head_is_not_put_above_a_new_neck(tmp_path):
    # The head fits: the neck is as wide as the features.
    config = models.Mlp(inputs=(4,), widths=(6,))
    model = models.build(config, 3)
    stored = Pretrained(model, models.initialise(model, jax.random.key(0)), None, Manifest("x", {}, ()), classes())
    save_pretrained(stored, tmp_path / "ours", untrained=True)
    loaded = load_pretrained(tmp_path / "ours", classes(models.Neck(width=6)), seed=9)
    notes = {entry.path: entry.note for entry in loaded.manifest.entries if entry.action == "reset"}
    assert notes["head/kernel"] == "the neck below it is new"
    assert not np.array_equal(
        flatten(loaded.variables.params)["head/kernel"], flatten(stored.variables.params)["head/kernel"]
    )
    with pytest.raises(ValueError, match=r"untrained (neck|head)"):
        save_pretrained(loaded, tmp_path / "new")
