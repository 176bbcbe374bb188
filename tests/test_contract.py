"""What every tuning, every term and every architecture owe to one another: each with each."""

import itertools

import jax
import numpy as np
import pytest
from flax import linen

from tlx import Learn, Optim, models, partition, sharding, tasks, tuning
from tlx.checkpoint import Checkpoints, Saved
from tlx.objectives import TERMS
from tlx.step import Parts, compile_step, initial_state
from tlx.trees import flatten
from tlx.tuning.base import parametric

CLASSES, BATCH = 3, 4


class Net(linen.Module):
    """A researcher's own."""

    @linen.compact
    def __call__(self, x, train=False):
        x = linen.Dropout(0.5, deterministic=not train)(linen.relu(linen.Dense(4)(x)))
        return linen.Dense(CLASSES)(x)


TEXT = {"vocabulary": 11, "width": 4, "depth": 1, "heads": 2, "mlp": 4, "positions": 8}
MODELS = {
    "bert": models.Bert(**TEXT),
    "vit": models.Vit(size=4, patch=2, channels=1, width=4, depth=1, heads=2, mlp=4, dropout=0.1),
    "cnn": models.Cnn(size=4, widths=(2, 2), dense=4),
    "mlp": models.Mlp(inputs=(4, 4, 1), widths=(3, 3), dropout=0.5),
    "linen": models.Linen(module=Net(), shape=(16,), input="x"),
}
TUNINGS = {
    "Full": lambda stages: tuning.Full(decay=0.5),
    "Probe": lambda stages: tuning.Probe(),
    "Freeze": lambda stages: tuning.Freeze(through=stages[0], decay=0.5),
    "Rules": lambda stages: tuning.Rules((r".*/bias", None), (r".*", Learn(lr=0.5, weight_decay=0.1))),
}
# One stage cannot be cut: a module of another library is frozen by rules alone.
PAIRS = [pair for pair in itertools.product(MODELS, TUNINGS) if pair not in {("linen", "Probe"), ("linen", "Freeze")}]


def batch(name):
    random = np.random.default_rng(0)
    inputs = {
        "bert": {
            "input_ids": random.integers(1, 11, (BATCH, 5)).astype(np.int32),
            "attention_mask": np.ones((BATCH, 5), np.int32),
        },
        "linen": {"x": random.normal(size=(BATCH, 16)).astype(np.float32)},
    }.get(name, {"image": random.normal(size=(BATCH, 4, 4, 1)).astype(np.float32)})
    labels = random.integers(0, CLASSES, BATCH).astype(np.int32)
    return {"labelled": inputs | {"label": labels, "index": np.arange(BATCH, dtype=np.int32)}}


def held(state):
    """A state whose key is numbers, as a checkpoint holds it."""
    return state._replace(key=jax.random.key_data(state.key))._asdict()


def test_the_tables_are_all_tried():
    assert TUNINGS.keys() == tuning.TUNINGS.keys()
    kinds = {type(settings) for settings in MODELS.values()}
    assert kinds == models.ARCHITECTURES.keys() - {models.Nnx}


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(("name", "how"), PAIRS)
def test_two_steps(name, how, term, tmp_path):
    model = models.build(MODELS[name], CLASSES)
    way, objective = TUNINGS[how](parametric(model)), TERMS[term]()
    variables = jax.jit(lambda key: models.initialise(model, key))(jax.random.key(0))
    params = way.insert(model, variables.params, jax.random.key(1))
    variables = variables._replace(params=objective.insert(model, params, jax.random.key(2)))
    (phase, *_) = way.phases(model)
    claimed = partition.partition(variables.params, phase.rules)
    parts = Parts(model, tasks.Classification(classes=CLASSES), (objective,), Optim(lr=0.1), claimed)

    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:1]))
    start = initial_state(parts, variables, 2, jax.random.key(3))
    state = compiled.place(start)
    for _ in range(2):
        state, metrics = compiled.train(state, jax.tree.map(np.copy, batch(name)))
        assert np.isfinite(float(metrics["loss"]))
    final = compiled.fetch(state)

    before, after = flatten(variables.params), flatten(final.variables.params)
    assert before.keys() == after.keys() == claimed.keys()
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved
    assert not moved & {path for path, learn in claimed.items() if learn is None}

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, Saved(held(final), {}, None, {"best": False}))
    checkpoints.wait()
    again = checkpoints.restore(held(start), {}).state
    checkpoints.close()
    assert jax.tree.structure(again) == jax.tree.structure(held(final))
    jax.tree.map(np.testing.assert_array_equal, again, held(final))
