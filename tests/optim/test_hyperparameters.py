"""The float fields of records as a tree of arrays."""

import dataclasses

import jax.numpy as jnp

from tlx import Optim, tasks
from tlx.objectives import Ramp, Supervised
from tlx.optim.hyperparameters import hyperparameters, with_hyperparameters


def test_numbers_are_the_floats_only_and_come_back_as_arrays():
    optim = Optim(lr=0.5, clip=None)
    numbers = hyperparameters(optim)
    named = {"lr", "weight_decay", "warmup", "beta1", "beta2", "epsilon", "momentum", "slant_peak", "slant_ratio"}
    named |= {"cycle_peak", "cycle_start", "cycle_end", "cycle_momentum", "inverse_scale", "inverse_power"}
    named |= {"boundaries", "boundary_divisor"}
    assert named == numbers.keys()
    assert hyperparameters(dataclasses.replace(optim, clip=1)) == numbers | {"clip": 1.0}
    assert hyperparameters(tasks.Classification(classes=3)) == {"smoothing": 0.0, "class_weights": {}}
    assert hyperparameters(tasks.Regression(outputs=3)) == {}
    ramp = Ramp(0.5, over=(0.25, 0.5))
    assert hyperparameters(Supervised(weight=ramp))["weight"] == {
        "start": 0.5, "end": 1.0, "over": {"0": 0.25, "1": 0.5}, "steepness": 10.0
    }  # fmt: skip
    moved = with_hyperparameters(Supervised(weight=ramp), {"weight": {"over": {"0": 7.0, "1": 8.0}}}).weight
    assert (moved.over, moved.start, moved.shape) == ((7.0, 8.0), 0.5, "linear")
    # Out of range on purpose: a traced value cannot be checked.
    twin = with_hyperparameters(optim, {"lr": jnp.float32(-1)})
    assert twin.lr == -1
    assert (twin.name, twin.weight_decay, twin.clip) == ("adamw", 0.0, None)
    assert optim.lr == 0.5
