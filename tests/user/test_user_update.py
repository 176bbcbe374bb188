"""A user-defined update."""

import pytest

NORMALISED = '''"""Steps of one size."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.updates import Update


@dataclass(frozen=True, kw_only=True)
class Normalised(Update):
    """The gradient of all terms, scaled to the norm `size`."""

    size: float = 1.0

    def gradient(self, slope, trainable, tick):
        gradient, aux = slope.at(trainable, None)
        norm = jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(gradient)))
        return jax.tree.map(lambda leaf: leaf * (self.size / (norm + 1e-12)), gradient), aux


def recipe():
    return Recipe(
        data=Data(target="digits", shots=4),
        task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
        update=Normalised(size=0.5),
        optim=Optim("sgd", lr=0.1),
        train=Train(steps=6, batch=8, eval_every=3),
    )
'''


@pytest.mark.slow
def test_a_user_defined_update_supports_all_steps(check_recipe):
    check_recipe(NORMALISED, "update.size", (0.25, 1.0))
