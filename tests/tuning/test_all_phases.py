"""Tunings with several phases, from first to last: frozen parameters stay, and only trainable ones have state."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, tasks, tuning
from tlx.training import describe
from tlx.training.prepare import prepare
from tlx.training.step import initial_state, next_state, train_step
from tlx.trees import flatten

CLASSES, BATCH, STEPS = 3, 4, 8
MODELS = {
    "mlp": models.Mlp(inputs=(4, 4, 1), widths=(3, 3), activation="tanh", dropout=0.5),
    "vit": models.Vit(size=4, patch=2, channels=1, width=4, depth=1, heads=2, mlp=4, dropout=0.1),
}
LORA = {
    "mlp": tuning.Lora(rank=2, on=r"stem|blocks/\d+", dropout=0.5),
    "vit": tuning.Lora(rank=2, on=r".*/mlp/up", dropout=0.5),
}
HOW = {
    "Gradual": lambda name: tuning.Gradual(count=3),
    "Episodes": lambda name: tuning.Episodes(episodes=2),
    "FineTune": lambda name: tuning.FineTune(),
    "LinearThenFull": lambda name: tuning.LinearThenFull(decay=0.5),
    "InTurn": lambda name: tuning.InTurn((0.5, LORA[name]), (0.5, tuning.Full())),
}
# These small programs run for a moment only, so compiling them quickly is faster overall.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def batch(step):
    random = np.random.default_rng(step)
    images = random.normal(size=(BATCH, 4, 4, 1)).astype(np.float32)
    labels = random.integers(0, CLASSES, BATCH).astype(np.int32)
    return {"labelled": {"image": images, "label": labels, "index": np.arange(BATCH, dtype=np.int32)}}


def same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow if how in ("InTurn", "LinearThenFull") else []) for how in HOW]
)
@pytest.mark.parametrize("name", ["mlp", pytest.param("vit", marks=pytest.mark.slow)])
def test_every_phase_moves_its_trainable_parameters_and_has_no_other_state(name, how):
    recipe = Recipe(
        data=Data(target="digits"), task=tasks.Classification(classes=CLASSES), model=MODELS[name],
        tuning=HOW[how](name), optim=Optim(lr=0.1), train=Train(steps=STEPS, batch=BATCH),
    )  # fmt: skip
    ready = prepare(recipe)
    count, learned = len(ready.phases), set()
    assert count > 1
    state = parts = None
    for phase in range(count):
        before, parts = (parts, state), ready.parts(phase)
        clock = (phase * STEPS // count, (phase + 1) * STEPS // count) if ready.phases[phase].restart else None
        if phase == 0:
            state = initial_state(parts, ready.variables, STEPS, jax.random.key(1), clock=clock)
        else:
            state = next_state(*before, parts, STEPS, clock)
            # The switch of phases moves nothing, and a wave that stays trainable keeps its moments.
            same(flatten(state.variables.params), flatten(before[1].variables.params))
            going = state.optimiser.keys() & before[1].optimiser.keys()
            same({wave: state.optimiser[wave] for wave in going}, {wave: before[1].optimiser[wave] for wave in going})
        start = flatten(jax.tree.map(np.array, state.variables.params))
        # AdamW has two moments per trainable number and a count per wave, and nothing for frozen parameters.
        learning = {path for path, learn in ready.partitions[phase].items() if learn is not None}
        numbers = sum(start[path].size for path in learning)
        stored = sum(leaf.nbytes for leaf in jax.tree.leaves(state.optimiser))
        assert stored == 8 * numbers + 4 * len(state.optimiser) == describe.totals(ready, phase)["optimiser_bytes"]
        assert flatten(state.trainable).keys() == learning
        train = jax.jit(partial(train_step, parts), donate_argnums=0, compiler_options=QUICK)
        state = jax.tree.map(partial(jnp.array, copy=True), state)
        for step in range(2):
            state, metrics = train(state, batch(2 * phase + step))
            assert np.isfinite(float(metrics["loss"]))
        after = flatten(state.variables.params)
        same(
            {path: after[path] for path in start if path not in learning},
            {p: start[p] for p in start if p not in learning},
        )
        moved = {path for path in learning if not np.array_equal(start[path], after[path])}
        # The bias of a key has no gradient except rounding.
        assert moved | {path for path in learning if path.endswith("key/bias")} == learning
        learned |= learning
    assert learned == ready.trainable
    unchanged = ready.variables.params
    assert all(np.array_equal(leaf, flatten(unchanged)[path]) for path, leaf in after.items() if path not in learned)
