"""What a bridged module may return and store. `test_chain.py` tests that the bridge changes nothing."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from tlx import Data, Learn, Optim, Recipe, tasks, terms, tuning
from tlx.models import Linen, Nnx, build, forward, initialise
from tlx.training.prepare import prepare
from tlx.training.step import initial_state, train_step
from tlx.trees import flatten


class Verbose(nn.Module):
    """A module that returns its features with the logits, and has the other name of the train switch."""

    @nn.compact
    def __call__(self, x, deterministic):
        hidden = nn.Dense(4)(x)
        return {"hidden": hidden, "logits": nn.Dropout(0.5)(nn.Dense(3)(hidden), deterministic=deterministic)}


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "count", lambda: jnp.zeros(()))
        return nn.Dense(3)(x)


class Own(nnx.Module):
    """A module with statistics, dropout, and a separate parameter."""

    def __init__(self, rngs):
        self.inner, self.norm = nnx.Linear(6, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.dropout, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.inner(x)))))


NNX = Recipe(
    data=Data(target="digits"), task=tasks.Classification(classes=3),
    model=Nnx(make=Own, shape=(6,), input="features"), optim=Optim(lr=0.1),
)  # fmt: skip
KEPT = tuning.Rules((r"module/inner/.*", None), (".*", Learn()))


# The checks of `test_contract.py` for other architectures, with the tunings that a bridge supports.
@pytest.mark.parametrize("how", [tuning.Full(), KEPT, tuning.Gradual(), tuning.Episodes()])
@pytest.mark.parametrize("objective", [(terms.Supervised(),), (terms.LabelSmoothing(), terms.L2SP(), terms.RDrop())])
def test_an_nnx_module_trains(how, objective, quick):
    ready = prepare(replace(NNX, tuning=how, objective=objective))
    parts, random = ready.parts(0), np.random.default_rng(0)
    start = initial_state(parts, ready.variables, 2, jax.random.key(1))
    state, train = start, jax.jit(partial(train_step, parts))
    for _ in range(2):
        batch = {
            "features": random.normal(size=(4, 6)).astype(np.float32),
            "label": random.integers(0, 3, 4).astype(np.int32),
            "index": np.arange(4, dtype=np.int32),
        }
        state, metrics = train(state, {"labelled": batch})
        assert np.isfinite(float(metrics["loss"]))
    before, after = flatten(start.variables.params), flatten(state.variables.params)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    # Parameters before batch norm have no gradient except rounding.
    assert moved | {"module/inner/bias"} == {*parts.learning, "module/inner/bias"}
    assert len(moved) > 3
    learning = sum(before[path].size for path in parts.learning)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state.optimiser)) == 8 * learning + 4
    for path, leaf in flatten(start.stats).items():
        assert not np.array_equal(leaf, flatten(state.stats)[path])
    assert jax.tree.structure(state) == jax.tree.structure(start)


@pytest.mark.parametrize("how", [tuning.Lora(), tuning.Prompt(), tuning.SideHead(), tuning.Bottleneck()])
def test_an_nnx_module_reads_no_inserted_parameters(how):
    with pytest.raises(ValueError, match=r"which a bridged module \(Nnx\) does not read"):
        prepare(replace(NNX, tuning=how))


def test_a_module_may_name_its_hidden_state():
    model = build(Linen(module=Verbose(), shape=(6,), input="features"), 3)
    variables = initialise(model, jax.random.key(0))
    inputs = {"features": np.ones((2, 6), np.float32)}
    taps, _ = forward(model, variables, inputs, key=jax.random.key(1), train=True)
    assert taps["hidden"].shape == (2, 4)
    assert not np.array_equal(taps["logits"], forward(model, variables, inputs)[0]["logits"])


def test_a_module_with_other_state_is_refused():
    with pytest.raises(ValueError, match=r"\['cache'\]; .* params and batch_stats"):
        build(Linen(module=Counting(), shape=(6,)))
