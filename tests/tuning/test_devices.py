"""Inserted parameters, on one device and on several, and in a resumed run."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, sharding, tasks, tuning
from tlx.training.prepare import prepare
from tlx.training.step import compile_step, initial_state
from tlx.trees import flatten

CLASSES, BATCH, STEPS = 10, 8, 2
RECIPE = Recipe(
    data=Data(target="digits", shots=2, size=8),
    task=tasks.Classification(classes=CLASSES),
    model=models.Vit(size=8, patch=4, channels=1, width=8, depth=1, heads=2, mlp=8, dropout=0.1),
    # Adam divides a gradient by its size, so a gradient of nearly zero would give a step that depends on rounding.
    optim=Optim("sgd", lr=0.5, clip=1.0, schedule="constant"),
    train=Train(steps=6, batch=BATCH, eval_every=3, eval_batch=512),
)
HOW = {
    "Lora": tuning.Lora(rank=2, dropout=0.5, plus=4.0),
    "Prefix": tuning.Prefix(tokens=2),
    "Adapter": tuning.Adapter(width=2),
}


@pytest.fixture(autouse=True)
def quick():
    """Most of the time is compilation of small programs, so the compiler optimises little."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def walk(ready, how, devices):
    """Return the state after some steps, and the last metrics."""
    parts, random = ready.parts(0), np.random.default_rng(0)
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
    state = compiled.place(initial_state(parts, ready.variables, STEPS, jax.random.key(1)))
    for step in range(STEPS):
        batch = {
            "image": random.normal(size=(BATCH, 8, 8, 1)).astype(np.float32),
            "label": random.integers(0, CLASSES, BATCH).astype(np.int32),
            "index": np.arange(BATCH, dtype=np.int32) + step * BATCH,
        }
        state, metrics = compiled.train(state, {"labelled": compiled.put(batch)})
    return compiled.fetch(state), jax.device_get(metrics)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["Lora", *(pytest.param(how, marks=pytest.mark.slow) for how in ("Prefix", "Adapter"))])
def test_eight_devices_one_device_and_pmap_agree(how):
    ready = prepare(replace(RECIPE, tuning=HOW[how]))
    full, recorded = walk(ready, "jit", 8)
    before, expected = flatten(ready.variables.params), flatten(full.variables.params)
    added = set(before) - flatten(ready.model.params).keys()
    assert any(not np.array_equal(before[path], expected[path]) for path in added)
    for program, devices in (("jit", 1), ("pmap", 8)):
        state, metrics = walk(ready, program, devices)
        for path, leaf in flatten(state.variables.params).items():
            np.testing.assert_allclose(leaf, expected[path], rtol=1e-6, atol=1e-6, err_msg=path)
        for name, value in metrics.items():
            np.testing.assert_allclose(value, recorded[name], rtol=1e-5, atol=1e-6, err_msg=name)


DENSE = r"stem|blocks/\d+"
STOPPED = [
    pytest.param(tuning.Lora(rank=2, dropout=0.1, on=DENSE), id="Lora"),
    pytest.param(tuning.Vera(rank=4, on=DENSE), id="Vera", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("how", STOPPED)
def test_a_resumed_run_has_the_same_bits(how, goes_on, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    model = models.Mlp(inputs=(8, 8, 1), widths=(8, 8), dropout=0.1)
    goes_on(replace(RECIPE, model=model, tuning=how, optim=Optim()), (4,))
