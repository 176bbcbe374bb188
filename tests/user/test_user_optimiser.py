"""A user's own optimiser."""

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
def test_an_optimiser(live):
    life = live(SIGN, "optim.size", (0.5, 1.0))
    # It is elementwise, so runs that learn other leaves may share a program.
    others = [dataclasses.replace(life.recipe, tuning=how) for how in (tlx.tuning.Full(), tlx.tuning.Probe())]
    assert groups(others) == [[0, 1]]
