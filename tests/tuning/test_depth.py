"""Depth: stages of several branches are parallel when layers are frozen, slowed or unfrozen by depth."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import models, tuning
from tlx.layers import as_dtype, declare_dense, dense, example
from tlx.models import Architecture
from tlx.optim import hidden_kernels
from tlx.partition import partition
from tlx.trees import flatten
from tlx.tuning.base import depths, levels
from tlx.types import Field, Model, Stage


@dataclass(frozen=True, kw_only=True)
class Towers(Architecture):
    """Two branches of three layers each, over two inputs, and a head over both. The depth of a stage is its layer."""

    width: int = 4

    def build(self, head):
        def layer(branch, first):
            def apply(params, stats, carry, context):
                x = as_dtype(example(carry, branch, (self.width,)), context) if first else carry[f"{branch} hidden"]
                hidden = jnp.tanh(dense(params, x))
                return carry | {f"{branch} hidden": hidden, "hidden": hidden}, stats

            return apply

        def top(params, stats, carry, context):
            both = jnp.concatenate([carry["left hidden"], carry["right hidden"]], axis=-1)
            return carry | {"logits": dense(params, both).astype(jnp.float32)}, stats

        shape = declare_dense(self.width, self.width, ("width", "width"))
        params, stages = {}, []
        for branch in ("left", "right"):
            params[branch] = dict.fromkeys(("stem", "middle", "last"), shape)
            for depth, name in enumerate(params[branch]):
                output = f"{branch} hidden"
                stages.append(Stage(f"{branch}/{name}", layer(branch, depth == 0), others=(output,), depth=depth))
        params["head"] = declare_dense(2 * self.width, head.outputs, ("width", None))
        return Model((*stages, Stage("head", top, "logits")), params, {}, self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return dict.fromkeys(("left", "right"), Field((self.width,), "float32"))


MODEL = models.build(Towers(), 3)


def rates(how, phase=0):
    """Return the learning rate of every stage in a phase, None if it is frozen."""
    claimed = partition(MODEL.params, how.phases(MODEL)[phase].rules)
    stages = [stage.name for stage in MODEL.stages]
    actual = {name: {claimed[path] for path in claimed if path.startswith(f"{name}/")} for name in stages}
    assert all(len(learns) == 1 for learns in actual.values())
    return {name: None if (learn := min(learns)) is None else learn.lr for name, learns in actual.items()}


def test_stages_of_one_depth_are_one_layer():
    assert levels(MODEL) == [
        ["left/stem", "right/stem"],
        ["left/middle", "right/middle"],
        ["left/last", "right/last"],
        ["head"],
    ]
    expected = {
        f"{branch}/{name}": n for branch in ("left", "right") for n, name in ((3, "stem"), (2, "middle"), (1, "last"))
    }
    assert depths(MODEL) == expected | {"head": 0}


def test_the_rate_falls_with_the_depth_in_both_branches():
    actual = rates(tuning.Full(decay=0.5))
    assert actual["head"] == 1.0
    for number, name in enumerate(("last", "middle", "stem")):
        assert actual[f"left/{name}"] == actual[f"right/{name}"] == 0.5 ** (number + 1)
    first, second = (rates(tuning.FineTune(), phase) for phase in (0, 1))
    assert [name for name, rate in first.items() if rate is not None] == ["head"]
    assert second["left/middle"] == second["right/middle"] == pytest.approx(0.5 * 100 ** (-2 / 3))


@pytest.mark.parametrize("branch", ["left", "right"])
def test_freezing_through_a_stage_freezes_stages_of_the_same_or_smaller_depth_in_both_branches(branch):
    actual = rates(tuning.Freeze(through=f"{branch}/middle"))
    assert {name for name, rate in actual.items() if rate is not None} == {"left/last", "right/last", "head"}
    with pytest.raises(ValueError, match="freezes all parameters"):
        tuning.Freeze(through="head").phases(MODEL)


@pytest.mark.parametrize("how", [tuning.Gradual(factor=2.0), tuning.Episodes()])
def test_both_branches_are_unfrozen_layer_by_layer_from_the_top(how):
    phases = how.phases(MODEL)
    assert len(phases) == 4
    learning = {"head"}
    for number, name in enumerate(("", "last", "middle", "stem")):
        learning |= {f"{branch}/{name}" for branch in ("left", "right")} if name else set()
        actual = rates(how, number)
        assert {stage for stage, rate in actual.items() if rate is not None} == learning
    assert actual["left/stem"] == actual["right/stem"] == (1.0 if isinstance(how, tuning.Episodes) else 0.125)


def test_both_branches_read_the_input():
    inside = hidden_kernels(MODEL, flatten(MODEL.params))
    assert inside == {f"{branch}/{name}/kernel" for branch in ("left", "right") for name in ("middle", "last")}


def test_both_branches_reach_the_logits_and_each_is_a_tap():
    inputs = {name: np.ones((2, 4), np.float32) for name in ("left", "right")}
    taps, _ = models.forward(MODEL, models.initialise(MODEL, jax.random.key(0)), inputs)
    np.testing.assert_array_equal(taps["left hidden"], taps["left/last"])
    np.testing.assert_array_equal(taps["right/last/right hidden"], taps["right hidden"])
    assert taps["logits"].shape == (2, 3)


def test_a_chain_without_depths_is_as_deep_as_it_is_long():
    model = models.build(models.Vit(size=8, patch=4, channels=1, width=4, depth=2, heads=2, mlp=4), 3)
    assert model.depths == {"stem": 0, "blocks/00": 1, "blocks/01": 2, "norm": 3, "head": 4}
    assert depths(model) == {"stem": 3, "blocks/00": 2, "blocks/01": 1, "norm": 1, "head": 0}
