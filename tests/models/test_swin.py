"""Properties of windows and of Swin transformers beside their parity with `transformers`."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import tuning
from tlx.layers import join_windows, log_distances, relative_places, split_windows, window_mask
from tlx.models import ConvNeXt, Swin, Vit, attention_stages, build, forward, initialise
from tlx.models.convnext import response_norm
from tlx.trees import map_named
from tlx.types import Variables
from tlx.weights.formats.swin import SwinFormat

pytestmark = pytest.mark.usefixtures("quick")
SMALL = {"size": (10, 12), "patch": 2, "channels": 1, "width": 6, "depths": (2,), "heads": (2,), "window": 2}


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_windows_put_together_are_the_image(shift):
    image = np.random.default_rng(0).normal(size=(2, 5, 8, 3)).astype(np.float32)
    windows = split_windows(jnp.asarray(image), 3, shift)
    assert windows.shape == (2 * 2 * 3, 9, 3)
    np.testing.assert_array_equal(join_windows(windows, (5, 8), 3, shift), image)


def test_a_shifted_window_sees_no_pixel_from_the_other_side_of_the_image():
    """Places of pixels: two tokens of a window may attend to each other if they are near in the image."""
    rows, columns = np.meshgrid(np.arange(6.0), np.arange(9.0), indexing="ij")
    windows = np.asarray(split_windows(jnp.asarray(np.stack([rows, columns], -1)[None]), 3, 1))
    mask = window_mask((6, 9), 3, 1, -100.0)[:, 0]
    distance = abs(windows[:, :, None] - windows[:, None]).max(-1)
    np.testing.assert_array_equal(mask == 0, distance < 3)
    assert window_mask((6, 9), 3, 0, -100.0) is None


def test_a_distance_has_one_row_of_the_table():
    rows, columns = (axis.reshape(-1) for axis in np.meshgrid(np.arange(3), np.arange(3), indexing="ij"))
    by_row = {}
    for (one, other), row in np.ndenumerate(relative_places(3)):
        by_row.setdefault(row, set()).add((rows[one] - rows[other], columns[one] - columns[other]))
    assert set(by_row) == set(range(25)) and all(len(distances) == 1 for distances in by_row.values())
    # Equation 4 by hand: the furthest distance of a window of 3 is 8 after scaling, log2(9) / 3.
    distances = log_distances(3)
    np.testing.assert_allclose(distances[0], -np.log2(9) / 3, rtol=1e-6)
    np.testing.assert_allclose(distances[13], [0, np.log2(5) / 3], rtol=1e-6)
    np.testing.assert_allclose(log_distances(3, 5)[24], np.log2(5) / 3, rtol=1e-6)


def test_response_norm_by_hand():
    x = np.zeros((1, 1, 2, 2), np.float32)
    x[0, 0, :, 0] = 3, 4
    params = {"scale": jnp.array([2.0, 1.0]), "bias": jnp.array([0.5, 1.0])}
    # The norms are 5 and 0, their mean is 2.5, so the ratios are 2 and 0.
    np.testing.assert_allclose(
        response_norm(params, jnp.asarray(x))[0, 0], [[3 * 4 + 0.5 + 3, 1], [4 * 4 + 0.5 + 4, 1]], rtol=1e-5
    )
    slopes = jax.jit(jax.grad(lambda value: response_norm(params, value).sum()))(jnp.asarray(x))
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("family", [pytest.param("swin", marks=pytest.mark.slow), "swinv2"])
def test_adapters_act_in_every_block(family):
    model = build(Swin(family=family, deviation=0.3, **SMALL), 3)
    params = initialise(model, jax.random.key(0)).params
    for how in (tuning.Adapter(width=2, placement="houlsby"), tuning.Prefix(tokens=2), tuning.Lora(rank=2)):
        params = how.insert(model, params, jax.random.key(1))
    images = np.random.default_rng(0).normal(size=(2, 10, 12, 1)).astype(np.float32)
    run = jax.jit(lambda params: forward(model, Variables(params, {}), {"image": images})[0])
    taps, rng = run(params), np.random.default_rng(0)
    for number, kind in itertools.product(range(2), ("adapter", "prefix", "lora")):
        grown = re.compile(rf"blocks/{number:02d}/.*/{kind}/.*")
        moved = map_named(
            lambda path, leaf, grown=grown: (
                leaf + rng.normal(size=leaf.shape).astype(np.float32) if grown.fullmatch(path) else leaf
            ),
            params,
        )
        stage = f"blocks/{number:02d}"
        assert float(abs(run(moved)[stage] - taps[stage]).max()) > 1e-3


def test_attention_maps_of_windows_are_refused():
    assert attention_stages(build(Swin(**SMALL), 3)) == []
    assert attention_stages(build(Vit(size=8, patch=4, width=6, depth=1, heads=2, mlp=6), 3)) == ["blocks/00"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Swin(family="swinv"), "no family 'swinv'; close: 'swin"),
        (lambda: Swin(size=64), "leaves group 2 of the blocks 4 patches .* at least 7"),
        (lambda: Swin(size=31, family="swinv2"), "leaves group 3 of the blocks 0 patches"),
        (lambda: Swin(heads=(3, 6)), "differ in length"),
        (lambda: Swin(heads=(3, 5, 12, 24)), "width 192 of group 1 is not a multiple of its 5 heads"),
        (lambda: Swin(pretrained_windows=(7, 7, 7, 7)), "for the family 'swinv2'"),
        (lambda: Swin(family="swinv2", pretrained_windows=(8, 1, 0, 0)), "2 or more"),
        (lambda: Swin(activation="gelo"), "activation 'gelo'; close: 'gelu'"),
        (lambda: SwinFormat().read({"model_type": "swin", "use_absolute_embeddings": True}), "absolute positions"),
        (lambda: SwinFormat().read({"model_type": "swin", "patch_size": [4, 8]}), "patches of 4x8; .* square"),
        (lambda: ConvNeXt(size=31), "size 31 is too small for 4 groups of blocks; expected at least 32"),
        (lambda: ConvNeXt(widths=(4, 8)), "differ in length"),
        (lambda: ConvNeXt(activation="gelo"), "activation 'gelo'; close: 'gelu'"),
    ],
)
def test_invalid_configs_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
