"""Properties of the vision transformer beside its parity with `transformers`."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tlx.models import Pooled, Vit, build, forward, initialise, vit
from tlx.tasks import Classification
from tlx.trees import flatten, nest
from tlx.types import Context, Variables
from tlx.weights import Manifest, Pretrained, export_pretrained, load_pretrained, save_pretrained
from tlx.weights.formats.dinov3 import Dinov3Format
from tlx.weights.formats.siglip import SiglipFormat
from tlx.weights.formats.vit import VitFormat

IMAGE: dict[str, Any] = {"size": (9, 13), "patch": 4, "channels": 2, "width": 15, "depth": 3, "heads": 3, "mlp": 13}


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def made(config: Vit) -> tuple[Any, Variables, dict[str, np.ndarray]]:
    """Return a model with a head, its variables at a deviation at which every part matters, and a batch for it."""
    model = build(config, 3)
    return model, initialise(model, jax.random.key(0)), {"image": draw(8, 9, 13, 2)}


@pytest.mark.slow
def test_stochastic_depth_drops_a_whole_branch_of_an_example():
    config = Vit(**IMAGE, stochastic_depth=0.5, deviation=0.3)
    model, variables, inputs = made(config)
    params = variables.params
    block = params["blocks"]["02"]
    # Without the second branch, a kept first branch counts twice and a dropped one not at all.
    block = block | {"mlp": block["mlp"] | {"down": jax.tree.map(jnp.zeros_like, block["mlp"]["down"])}}
    x = jax.random.normal(jax.random.key(2), (64, 7, 15))

    def branch(rate: float, train: bool) -> jax.Array:
        return vit.encode(config, rate, block, x, Context(jax.random.key(3), train)) - x

    full, drawn = branch(0.5, False), branch(0.5, True)
    remaining = abs(drawn).max((1, 2)) > 0
    assert 16 < remaining.sum() < 48
    np.testing.assert_allclose(drawn[remaining], 2 * full[remaining], atol=1e-5)
    # The rates rise from 0, so the first block never drops.
    taps = [forward(model, variables, inputs, key=jax.random.key(1), train=t)[0] for t in (False, True)]
    assert np.array_equal(taps[0]["blocks/00"], taps[1]["blocks/00"])
    assert not np.array_equal(taps[0]["blocks/02"], taps[1]["blocks/02"])


def test_pixels_beyond_the_last_whole_patch_are_not_read():
    model, variables, inputs = made(Vit(**IMAGE, deviation=0.3))
    image = inputs["image"].copy()
    image[:, 8:], image[:, :, 12:] = 7.0, 7.0
    assert np.array_equal(*(forward(model, variables, {"image": i})[0]["logits"] for i in (inputs["image"], image)))
    image[:, 7] = 7.0
    assert not np.array_equal(*(forward(model, variables, {"image": i})[0]["logits"] for i in (inputs["image"], image)))


def test_resizing_positions_keeps_the_extra_tokens_and_a_flat_grid():
    config = Vit(family="deit", **IMAGE)
    array = draw(8, 15)
    np.testing.assert_array_equal(vit.resize_positions(config, array, (9, 13)), array)
    array[2:] = array[2]
    larger = vit.resize_positions(config, array, 20)
    assert larger.shape == (2 + 25, 15)
    assert larger.dtype == np.float32
    np.testing.assert_array_equal(larger[:2], array[:2])
    np.testing.assert_allclose(larger[2:], np.broadcast_to(array[2], (25, 15)), atol=1e-6)


def drawn(model: Any) -> Variables:
    """Return random parameters without compiling anything."""
    return Variables(nest({path: draw(*param.shape) for path, param in flatten(model.params).items()}), {})


def test_registers_stay_and_a_smaller_grid_is_smoothed():
    config = Vit(family="dinov2_with_registers", registers=4, **IMAGE)
    assert vit.extra(config) == 5
    array = draw(1 + 6, 15)
    array[1:] = array[1]
    resized = vit.resize_positions(config, array, 5)
    np.testing.assert_allclose(resized, array[:2], atol=1e-6)


def test_a_dinov3_with_a_head_is_saved_for_tlx_alone(tmp_path):
    config = Vit(family="dinov3_vit", layer_scale=1.0, registers=1, **(IMAGE | {"width": 12, "depth": 1}))
    model = build(config, 3)
    task = Classification(classes=3, names=("a", "b", "c"))
    pretrained = Pretrained(model, drawn(model), None, Manifest("random", {"model_type": "dinov3_vit"}, ()), task)
    with pytest.raises(ValueError, match="no class for a DINOv3 with a classifier"):
        export_pretrained(pretrained, tmp_path / "exported")
    again = load_pretrained(save_pretrained(pretrained, tmp_path / "saved", untrained=True))
    assert again.model.config == config and again.task == task
    jax.tree.map(np.testing.assert_array_equal, again.variables, pretrained.variables)


def test_a_head_finds_the_images_side_of_a_siglip_with_texts(tmp_path):
    """The published checkpoints hold the texts' side and the attention that pools, which a classifier does not read."""
    config = Vit(family="siglip", **(IMAGE | {"size": 8, "depth": 1}))
    model = build(config)
    pretrained = Pretrained(model, drawn(model), None, Manifest("random", {}, ()), None)
    save_pretrained(pretrained, tmp_path / "alone", untrained=True)
    document = json.loads((tmp_path / "alone" / "config.json").read_text())
    tensors = load_file(tmp_path / "alone" / "model.safetensors")
    (tmp_path / "whole").mkdir()
    whole = {"model_type": "siglip", "architectures": ["SiglipModel"], "vision_config": document, "text_config": {}}
    (tmp_path / "whole" / "config.json").write_text(json.dumps(whole))
    tensors = {f"vision_model.{key}": array for key, array in tensors.items()}
    tensors |= {"logit_scale": np.zeros(1, np.float32), "text_model.head.bias": np.zeros(2, np.float32)}
    save_file(tensors, tmp_path / "whole" / "model.safetensors")
    for task in (None, Classification(classes=3)):
        read = load_pretrained(tmp_path / "whole", task)
        leaves = flatten(read.variables.params)
        kept = {path for path in leaves if not path.startswith("head")}
        for path in kept:
            np.testing.assert_array_equal(leaves[path], flatten(pretrained.variables.params)[path])
        assert any(path.startswith("pool") for path in kept) == (task is None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vit(family="vti"), "no family 'vti'; close: 'vit'"),
        (lambda: Vit(width=10, heads=3), "width 10 is not a multiple of heads 3"),
        (lambda: Vit(activation="gelo"), "activation 'gelo'; close: 'gelu'"),
        (lambda: Vit(size=8), "an image of size 8 .* size 16"),
        (lambda: Vit(distilled=True), "'deit', not 'vit'"),
        (lambda: Vit(registers=2), "registers requires the family 'dinov2_with_registers' or 'dinov3_vit', not 'vit'"),
        (lambda: Vit(family="dinov3_vit", width=18, heads=3), "a head 6 dimensions; .* multiple of 4"),
        (lambda: Dinov3Format().read({"proj_bias": False}), "proj_bias=false"),
        (lambda: Dinov3Format().read({"value_bias": False}), "query_bias=True, value_bias=False"),
        (lambda: SiglipFormat().write(Vit(family="siglip", gated=True), None, {}), "a siglip with gated=True"),
        (lambda: SiglipFormat().write(Vit(family="siglip", size=(16, 32)), None, {}), r"square images, not \(16, 32\)"),
        (
            lambda: VitFormat().write(Vit(layer_scale=0.1), Pooled(2), {}),
            "a vit with layer_scale=0.1, gated=False",
        ),
        (
            lambda: VitFormat().write(Vit(family="dinov2", layer_scale=1.0, mlp=5), Pooled(2), {}),
            "mlp 5 is not a whole multiple of width",
        ),
        (
            lambda: VitFormat().read({"model_type": "vit", "patch_size": [4, 8]}),
            "patches of 4x8; .* square",
        ),
        (
            lambda: VitFormat().read({"model_type": "vit", "pooler_act": "relu"}),
            "'relu'; .* 'tanh'",
        ),
        (lambda: VitFormat().read({"model_type": "vit", "pooler_output_size": 4}), "4 pooler outputs"),
    ],
)
def test_invalid_configs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
