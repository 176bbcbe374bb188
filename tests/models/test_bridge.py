"""What a bridged module may return, and may keep. That the bridge changes nothing is held in `test_chain.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tlx.models import Linen, build, forward, initialise


class Verbose(nn.Module):
    """Its own features beside the logits, and the other name of the switch."""

    @nn.compact
    def __call__(self, x, deterministic):
        hidden = nn.Dense(4)(x)
        return {"hidden": hidden, "logits": nn.Dropout(0.5)(nn.Dense(3)(hidden), deterministic=deterministic)}


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "count", lambda: jnp.zeros(()))
        return nn.Dense(3)(x)


def test_a_module_may_name_its_hidden_state():
    model = build(Linen(module=Verbose(), shape=(6,), input="features"), 3)
    variables = initialise(model, jax.random.key(0))
    inputs = {"features": np.ones((2, 6), np.float32)}
    taps, _ = forward(model, variables, inputs, key=jax.random.key(1), train=True)
    assert taps["hidden"].shape == (2, 4)
    assert not np.array_equal(taps["logits"], forward(model, variables, inputs)[0]["logits"])


def test_a_module_with_other_state_is_refused():
    with pytest.raises(ValueError, match=r"the module keeps \['cache'\]; the bridge carries params and batch_stats"):
        build(Linen(module=Counting(), shape=(6,)))
