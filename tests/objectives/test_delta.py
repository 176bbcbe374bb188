"""Feature maps stay near those of the initial model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import models, tasks, terms
from tlx.objectives.delta import attended, least_squares, loss_increases
from tlx.trees import flatten
from tlx.types import Setting


def test_it_is_half_the_squared_distance_of_the_units(mlp):
    one, other, x = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3), mlp.labelled()["x"]
    before, now = mlp.by_hand(one, x), mlp.by_hand(other, x)
    apart = [((a - b) ** 2).sum(-1).mean() for a, b in zip(before, now, strict=True)]
    actual = mlp.look(terms.Delta(weight=0.5), now=other, initial=one)
    assert actual.value == pytest.approx(0.25 * (apart[0] + apart[1]), rel=1e-5)
    assert np.abs(actual.gradient["stem/kernel"]).max() > 0
    assert np.abs(actual.gradient["head/kernel"]).max() == 0
    first = mlp.look(terms.Delta(weight=0.5, stages=("stem",)), now=other, initial=one)
    assert first.value == pytest.approx(0.25 * apart[0], rel=1e-5)


def test_the_initial_model_runs_without_dropout(mlp):
    config = dataclasses.replace(mlp.config, dropout=0.5)
    assert mlp.look(terms.Delta(), config=config).value == 0.0
    assert mlp.look(terms.Delta(), config=config, train=True).value > 0.0


def test_frozen_parameters_are_not_remembered(mlp):
    one, other = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3)
    moving = frozenset(path for path in flatten(one.params) if not path.startswith("stem"))
    now = other._replace(params=other.params | {"stem": one.params["stem"]})
    actual = mlp.look(terms.Delta(), now=now, initial=one, trainable=moving)
    assert flatten(actual.memory["params"]).keys() == moving
    assert actual.value == pytest.approx(mlp.look(terms.Delta(), now=now, initial=one).value)


def test_units_are_weighted_by_the_increase_of_the_loss_without_them(mlp):
    batch, pretrained = mlp.labelled(rows=12), mlp.drawn(mlp.model, 0)
    weight = np.array([1.0] * 10 + [0.0] * 2, np.float32)
    task = tasks.Classification(classes=3)
    setting = Setting(mlp.model, pretrained, task, lambda stream: [batch | {"weight": weight}])
    increases = loss_increases(setting, ["stem", "blocks/00"], "labelled", 1)

    # By hand: the head is fitted once, on the initial features.
    params = {path: np.float64(leaf) for path, leaf in flatten(pretrained.params).items()}
    first, second, _ = mlp.by_hand(pretrained, batch["x"])
    targets = np.eye(3)[batch["label"]]
    rows = np.concatenate([second, np.ones((12, 1))], 1)[:10]
    solution = np.linalg.lstsq(rows, targets[:10], rcond=None)[0]

    def error(features):
        return ((np.concatenate([features, np.ones((12, 1))], 1)[:10] @ solution - targets[:10]) ** 2).sum(-1).mean()

    for unit in range(4):
        without = np.where(np.arange(4) == unit, 0, second)
        assert increases["blocks/00"][unit] == pytest.approx(error(without) - error(second), rel=1e-3, abs=1e-4)
    for unit in range(5):
        hidden = np.where(np.arange(5) == unit, 0, first)
        without = np.tanh(hidden @ params["blocks/00/kernel"] + params["blocks/00/bias"])
        assert increases["stem"][unit] == pytest.approx(error(without) - error(second), rel=1e-3, abs=1e-4)


def test_attention_weights_the_units_of_the_distance(mlp):
    one, other, batch = mlp.drawn(mlp.model, 0), mlp.drawn(mlp.model, 3), mlp.labelled()
    actual = mlp.look(terms.Delta(stages=("blocks/00",), attention=True, weight=2.0), now=other, initial=one)
    units = np.float64(actual.memory["units"]["blocks"]["00"])
    assert units.sum() == pytest.approx(4)
    assert units.std() > 0.01
    apart = (mlp.by_hand(one, batch["x"])[1] - mlp.by_hand(other, batch["x"])[1]) ** 2
    assert actual.value == pytest.approx((units * apart).sum(-1).mean(), rel=1e-5)
    # Without data all units have the same weight.
    plain = mlp.look(terms.Delta(attention=True), now=other, initial=one, data=[])
    assert plain.value == pytest.approx(mlp.look(terms.Delta(), now=other, initial=one).value)


def test_a_channel_of_an_image_is_a_unit():
    cnn = models.build(models.Cnn(size=4, widths=(2, 3), dense=4), 3)
    variables = jax.jit(lambda key: models.initialise(cnn, key))(jax.random.key(0))
    random = np.random.default_rng(0)
    batch = {"image": random.normal(size=(6, 4, 4, 1)).astype("f4"), "label": np.array([0, 1, 2, 0, 1, 2], np.int32)}
    setting = Setting(cnn, variables, tasks.Classification(classes=3), lambda stream: [batch])
    actual = loss_increases(setting, ["stem", "blocks/00"], "labelled", 1)
    assert {stage: increase.shape for stage, increase in actual.items()} == {"stem": (2,), "blocks/00": (3,)}


def test_the_fitted_head_is_least_squares():
    random = np.random.default_rng(0)
    rows, targets = random.normal(size=(20, 3)), random.normal(size=(20, 2))
    weight = np.array([1.0] * 15 + [0.0] * 5)
    kernel, bias = least_squares(rows, targets, weight)
    expected = np.linalg.lstsq(np.concatenate([rows, np.ones((20, 1))], 1)[:15], targets[:15], rcond=None)[0]
    np.testing.assert_allclose(np.concatenate([kernel, bias[None]]), expected, atol=1e-5)
    # If all features are equal, only the mean can be fitted.
    kernel, bias = least_squares(np.ones((4, 3)), targets[:4], np.ones(4))
    np.testing.assert_allclose(kernel, 0, atol=1e-8)
    np.testing.assert_allclose(bias, targets[:4].mean(0), atol=1e-8)


def test_attention_of_equal_increases_is_one_each():
    np.testing.assert_allclose(attended(np.full(5, 0.3)), jnp.ones(5), rtol=1e-6)


def test_an_unknown_stage_is_named(mlp):
    with pytest.raises(ValueError, match=r"^Delta: batches is 0; expected "):
        terms.Delta(attention=True, batches=0)
    with pytest.raises(ValueError) as error:
        mlp.look(terms.Delta(stages=("block/00",)))
    assert str(error.value) == "Delta: there is no stage 'block/00' with a hidden state; close: 'blocks/00'"
