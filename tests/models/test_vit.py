"""Properties of the vision transformer beside its parity with `transformers`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.models import Pooled, Vit, build, forward, initialise, vit
from tlx.types import Context, Variables
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Vit(family="vti"), "no family 'vti'; close: 'vit'"),
        (lambda: Vit(width=10, heads=3), "width 10 is not a multiple of heads 3"),
        (lambda: Vit(activation="gelo"), "activation 'gelo'; close: 'gelu'"),
        (lambda: Vit(size=8), "an image of size 8 .* size 16"),
        (lambda: Vit(distilled=True), "'deit', not 'vit'"),
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
