"""A neck below the head: the hidden layer of domain adaptation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_chain import CONFIGS
from tlx import models, tuning
from tlx.models import Neck, Pooled, build, forward, initialise
from tlx.partition import partition
from tlx.trees import flatten

WIDTH = 5
NECK = Neck(width=WIDTH)
MLP = models.Mlp(inputs=(4,), widths=(6,))


def paths_of(model):
    return set(flatten(model.params))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ("linen", "nnx", "inception")])
def test_the_head_of_every_network_reads_the_neck(name):
    config = CONFIGS[name]
    plain, model = build(config, 3), build(config, Pooled(3, NECK))
    # The backbone stays what it is below a head of the family.
    backbone = {path for path in paths_of(plain) if not path.startswith("head/")}
    assert backbone == {path for path in paths_of(model) if not path.startswith(("head/", "neck/"))}
    assert models.count(config, Pooled(3, NECK)) == sum(map(math.prod, shapes(model)))
    taps = models.tap_shapes(model)
    assert models.features(taps).shape == (2, WIDTH)
    assert taps["logits"].shape == (2, 3)
    *_, neck, head = model.stages
    assert (neck.name, head.name) == ("neck", "head")
    assert model.depths["neck"] == model.depths["head"] == plain.depths["head"]


def shapes(model):
    return [param.shape for param in flatten(model.params).values()]


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_a_module_of_another_library_has_no_place_for_a_neck(name):
    with pytest.raises(ValueError, match=r"has no stage named 'head'.*remove Neck"):
        build(CONFIGS[name], Pooled(3, NECK))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 0}, "width=0"),
        ({"width": 2.5}, "width=2.5"),
        ({"width": True}, "width=True"),
        ({"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_a_wrong_number_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Neck(**fields)


@pytest.mark.parametrize("way", [tuning.Probe(), tuning.NormTuning(), tuning.BitFit()])
def test_every_tuning_that_trains_the_head_trains_the_neck(way):
    model = build(CONFIGS["vit"], Pooled(3, NECK))
    (phase,) = way.phases(model)
    parts = flatten(partition(model.params, phase.rules))
    top = {path for path in parts if path.startswith(("neck/", "head/"))}
    assert top and all(parts[path] is not None for path in top)
    frozen = {path for path, learn in parts.items() if learn is None}
    assert frozen and all(not path.startswith(("neck/", "head/")) for path in frozen)


def test_without_norm_and_dropout_it_is_a_dense_layer_with_relu():
    model = build(MLP, Pooled(2, Neck(width=3, norm=False)))
    assert model.stats == {}
    variables = initialise(model, jax.random.key(0))
    x = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    taps, _ = forward(model, variables, {"image": x})
    below, _ = forward(build(MLP, 2), initialise(build(MLP, 2), jax.random.key(0)), {"image": x})
    leaves = flatten(variables.params)
    hidden = np.maximum(models.features(below) @ leaves["neck/kernel"] + leaves["neck/bias"], 0)
    np.testing.assert_allclose(models.features(taps), hidden, atol=1e-6)
    np.testing.assert_allclose(taps["logits"], hidden @ leaves["head/kernel"] + leaves["head/bias"], atol=1e-6)


def test_dropout_is_active_in_training_alone():
    model = build(MLP, Pooled(2, Neck(width=64, norm=False, dropout=0.5)))
    variables, x = initialise(model, jax.random.key(0)), np.ones((2, 4), np.float32)
    kept, _ = forward(model, variables, {"image": x})
    dropped, _ = forward(model, variables, {"image": x}, train=True, key=jax.random.key(1))
    before, after = (np.asarray(models.features(taps)) for taps in (kept, dropped))
    live = after != 0
    assert 0 < live.sum() < (before != 0).sum()
    np.testing.assert_allclose(after[live], 2 * before[live], rtol=1e-6)


def test_its_kernels_start_within_the_bounds_of_a_layer_of_torch():
    model = build(models.Mlp(inputs=(4,), widths=(25,)), Pooled(400, Neck(width=16)))
    leaves = flatten(initialise(model, jax.random.key(0)).params)
    for path, inputs in (("neck/kernel", 25), ("head/kernel", 16), ("head/bias", 16)):
        bound = inputs**-0.5
        assert 0.9 * bound < float(jnp.abs(leaves[path]).max()) <= bound


@pytest.mark.parity
def test_a_training_step_equals_that_of_torch():
    import torch

    model = build(MLP, Pooled(3, NECK))
    variables = initialise(model, jax.random.key(3))
    rng = np.random.default_rng(0)
    x, slope = rng.normal(size=(7, 4)).astype(np.float32), rng.normal(size=(7, 3)).astype(np.float32)

    def loss(params):
        taps, new = forward(model, variables._replace(params=params), {"image": x}, train=True, key=jax.random.key(0))
        return (taps["logits"] * slope).sum(), (taps, new)

    (_, (taps, stats)), gradients = jax.value_and_grad(loss, has_aux=True)(variables.params)
    leaves, ours = flatten(variables.params), flatten(gradients)
    linear, norm, head = torch.nn.Linear(6, WIDTH), torch.nn.BatchNorm1d(WIDTH), torch.nn.Linear(WIDTH, 3)
    with torch.no_grad():
        for layer, path in ((linear, "neck"), (head, "head")):
            layer.weight.copy_(torch.tensor(np.array(leaves[f"{path}/kernel"]).T))
            layer.bias.copy_(torch.tensor(np.array(leaves[f"{path}/bias"])))
    below, _ = forward(build(MLP, 3), initialise(build(MLP, 3), jax.random.key(3)), {"image": x})
    features = torch.tensor(np.array(models.features(below)))
    logits = head(torch.relu(norm(linear(features))))
    (logits * torch.tensor(slope)).sum().backward()
    np.testing.assert_allclose(taps["logits"], logits.detach().numpy(), atol=1e-5)
    for path, theirs in (
        ("neck/kernel", linear.weight.grad.T),
        ("neck/norm/scale", norm.weight.grad),
        ("neck/norm/bias", norm.bias.grad),
        ("head/kernel", head.weight.grad.T),
        ("head/bias", head.bias.grad),
    ):
        np.testing.assert_allclose(ours[path], theirs.numpy(), atol=1e-5)
    moments = flatten(stats)
    np.testing.assert_allclose(moments["neck/norm/mean"], norm.running_mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(moments["neck/norm/variance"], norm.running_var.numpy(), atol=1e-6)
