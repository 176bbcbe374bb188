"""A user-defined optimiser."""

import dataclasses

import pytest

import tlx
from tlx.training.grouping import groups

SIGN = '''"""The sign of the momentum."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.optim import Optimiser, directed


@dataclass(frozen=True)
class Sign(Optim):
    """signSGD with momentum (Bernstein et al., 2018); the rate is multiplied by `size`."""

    name: str = "sign"
    size: float = 1.0

    def optimiser(self):
        return Optimiser(directed(sign), elementwise=True)


def sign(optim, wave):
    signed = optax.stateless(lambda tree, _: jax.tree.map(lambda leaf: optim.size * jnp.sign(leaf), tree))
    return optax.trace(optim.momentum), signed


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        optim=Sign(lr=0.01, momentum=0.8),
        train=Train(steps=6, batch=8, eval_every=3),
    )
'''


@pytest.mark.slow
def test_a_user_defined_optimiser_supports_all_steps(check_recipe):
    artifacts = check_recipe(SIGN, "optim.size", (0.5, 1.0))
    # The optimiser is elementwise, so runs with different trainable parameters may share a program.
    recipes = [dataclasses.replace(artifacts.recipe, tuning=how) for how in (tlx.tuning.Full(), tlx.tuning.Probe())]
    assert groups(recipes) == [[0, 1]]
