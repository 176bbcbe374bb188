"""The state from phase to phase: waves, averages, clocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx import Data, Learn, Optim, Recipe, models, partition, sharding, tasks, tuning
from tlx import optim as optimisers
from tlx.objectives import Supervised
from tlx.optim.directions import BY_NAME
from tlx.training.prepare import prepare
from tlx.training.step import Parts, compile_step, initial_state, next_state, train_step
from tlx.trees import flatten, nest
from tlx.types import Variables

MODEL = models.build(models.Mlp(inputs=(4,), widths=(3, 3), input="x"), 3)
HEAD = ((r"head/.*", Learn()), (r".*", None))
UPPER = ((r"stem/.*", None), (r".*", Learn()))
ALL = ((r".*", Learn()),)
STEPS = 8


def batches(count, seed=0):
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {
            "x": random.normal(size=(8, 4)).astype(np.float32),
            "label": random.integers(0, 3, 8).astype(np.int32),
            "index": np.arange(8, dtype=np.int32),
        }


def phases_of(*rules, optim=Optim(lr=0.01, schedule="constant"), **more):
    partitions = [partition.partition(MODEL.params, value) for value in rules]
    task = tasks.Classification(classes=3)
    return [
        Parts(MODEL, task, (Supervised(),), optim, value, layout=optimisers.layout(MODEL, partitions, n), **more)
        for n, value in enumerate(partitions)
    ]


def walk(parts, state, count, how="jit", devices=1):
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
    # A copy of the state, because the step donates its buffers.
    state = compiled.place(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state))
    for batch in batches(count):
        state, _ = compiled.train(state, {"labelled": compiled.put(batch)})
    return compiled.fetch(state), compiled.fetch(compiled.answer(state))


def begin(parts):
    return initial_state(parts, models.initialise(MODEL, jax.random.key(0)), STEPS, jax.random.key(1))


def identical(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_continuing_wave_keeps_its_moments_and_its_count_and_a_late_wave_starts_fresh():
    first, second = phases_of(HEAD, ALL)
    after, _ = walk(first, begin(first), 5)
    assert after.optimiser.keys() == {"0_1"}
    fresh = next_state(first, after, second, STEPS)
    assert fresh.optimiser.keys() == {"0_1", "1"}
    identical(fresh.optimiser["0_1"], after.optimiser["0_1"])
    identical(fresh.variables, after.variables)
    assert (int(fresh.step), int(fresh.optimiser["0_1"][0].count), int(fresh.optimiser["1"][0].count)) == (5, 5, 0)
    moved, _ = walk(second, fresh, 1)
    # The first step of a fresh Adam has the size of the learning rate wherever the gradient is not zero.
    before, now = flatten(fresh.trainable), flatten(moved.trainable)
    late = np.abs(np.asarray(now["stem/kernel"] - before["stem/kernel"]))
    live = np.abs(np.asarray(flatten(moved.optimiser["1"][0].mu)["stem/kernel"])) > 1e-5
    assert live.any()
    np.testing.assert_allclose(late[live], 0.01, rtol=2e-3)
    assert (int(moved.optimiser["0_1"][0].count), int(moved.optimiser["1"][0].count)) == (6, 1)
    running = np.abs(np.asarray(now["head/kernel"] - before["head/kernel"]))
    assert not np.allclose(running, 0.01, rtol=2e-3)


def test_a_wave_that_pauses_starts_fresh_and_has_no_state_meanwhile():
    first, second, third = phases_of(ALL, HEAD, ALL)
    after, _ = walk(first, begin(first), 2)
    assert after.optimiser.keys() == {"0_2", "0_1_2"}
    unchanged = next_state(first, after, second, STEPS)
    assert unchanged.optimiser.keys() == {"0_1_2"}
    repeated = next_state(second, unchanged, third, STEPS)
    assert int(repeated.optimiser["0_2"][0].count) == 0
    identical(repeated.optimiser["0_1_2"], after.optimiser["0_1_2"])


@pytest.mark.parametrize(("how", "devices"), [("jit", 8), pytest.param("pmap", 4, marks=pytest.mark.slow)])
def test_the_moving_average_is_that_of_the_parameters_with_bias_correction(how, devices):
    (plain,), (remaining,) = phases_of(ALL), phases_of(ALL, ema=0.9)
    calls = []
    state, answered = begin(remaining), None
    for _ in range(3):
        state, answered = walk(remaining, state, 1, how, devices)
        calls.append(state.trainable)
    total = sum(0.9**n for n in range(3))
    expected = jax.tree.map(lambda *leaves: sum(0.9 ** (2 - n) * leaf for n, leaf in enumerate(leaves)) / total, *calls)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), answered.trainable, expected)
    assert not np.allclose(flatten(answered.trainable)["stem/kernel"], flatten(state.trainable)["stem/kernel"])
    assert begin(plain).average == {}


@pytest.mark.slow
def test_an_average_does_not_change_the_training():
    results = []
    for more in ({}, {"ema": 0.5}):
        first, second = phases_of(HEAD, ALL, **more)
        state, _ = walk(first, begin(first), 2)
        state = next_state(first, state, second, STEPS)
        results.append((walk(second, state, 2)[0].variables.params, state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), results[0][0], results[1][0])
    assert {name: float(value["weight"]) for name, value in results[1][1].average.items()} == {"0_1": 0.75, "1": 0.0}


def test_parameters_that_become_frozen_keep_the_evaluation_weights_of_a_schedule_free_optimiser():
    first, second = phases_of(UPPER, HEAD, optim=Optim("schedule-free-adamw", lr=0.1, schedule="constant"))
    after, answered = walk(first, begin(first), 3)
    fresh = next_state(first, after, second, STEPS)
    stopped, trained, average = (flatten(tree) for tree in (fresh.frozen, after.trainable, answered.trainable))
    np.testing.assert_allclose(stopped["blocks/00/kernel"], average["blocks/00/kernel"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(stopped["blocks/00/kernel"], trained["blocks/00/kernel"], rtol=1e-4)
    np.testing.assert_array_equal(flatten(fresh.trainable)["head/kernel"], trained["head/kernel"])
    identical(fresh.optimiser["0_1"], after.optimiser["0_1"])


def test_the_schedules_of_a_restarted_phase_cover_only_that_phase():
    (parts,) = phases_of(ALL, optim=Optim(lr=1.0, schedule="linear"))
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:1]))
    rates = {}
    for clock in (None, (4, 8)):
        state = initial_state(parts, models.initialise(MODEL, jax.random.key(0)), 8, jax.random.key(1), None, clock)
        state = compiled.place(state._replace(step=jnp.int32(4)))
        rates[clock] = []
        for batch in batches(4):
            state, metrics = compiled.train(state, {"labelled": compiled.put(batch)})
            rates[clock].append(float(metrics["rate"]))
    np.testing.assert_allclose(rates[None], [0.5, 0.375, 0.25, 0.125], rtol=1e-6)
    np.testing.assert_allclose(rates[4, 8], [1.0, 0.75, 0.5, 0.25], rtol=1e-6)


def test_inserted_parameters_are_frozen_while_other_parameters_have_their_turn():
    how = tuning.InTurn((0.5, tuning.Lora(rank=2, on="stem", plus=2.0)), (0.5, tuning.Full()))
    variables = models.initialise(MODEL, jax.random.key(0))
    variables = variables._replace(params=how.insert(MODEL, variables.params, jax.random.key(2)))
    partitions = [partition.partition(variables.params, phase.rules) for phase in how.phases(MODEL)]
    first, second = (
        phases_of(ALL)[0]._replace(partition=value, layout=optimisers.layout(MODEL, partitions, n))
        for n, value in enumerate(partitions)
    )
    after, _ = walk(first, initial_state(first, variables, STEPS, jax.random.key(1)), 2)
    fresh = next_state(first, after, second, STEPS)
    assert fresh.optimiser.keys() == {"0_1", "1"}
    end, _ = walk(second, fresh, 2)
    begun, mid, last = (flatten(actual.params) for actual in (variables, after.variables, end.variables))
    assert not np.array_equal(begun["stem/lora/b"], mid["stem/lora/b"])
    assert not np.array_equal(mid["stem/kernel"], last["stem/kernel"])
    for path in (path for path in last if "/lora/" in path):
        np.testing.assert_array_equal(mid[path], last[path])


@pytest.mark.slow
def test_zeros_beyond_a_rank_stay_zeros():
    """Vectorised runs pad ranks with zeros, so this must hold for every elementwise optimiser."""
    for name in (name for name, value in BY_NAME.items() if value.elementwise):
        ready = prepare(
            Recipe(
                data=Data(target="digits", shots=4),
                task=tasks.Classification(classes=10),
                model=models.Vit(size=8, patch=4, channels=1, width=16, depth=2, heads=2, mlp=24, dropout=0.1),
                tuning=tuning.Lora(rank=4),
                optim=Optim(name, lr=0.1, weight_decay=0.1),
            )
        )
        leaves = flatten(ready.variables.params)
        a = {path: leaf.at[:, 2:].set(0) for path, leaf in leaves.items() if path.endswith("/lora/a")}
        b = {path: leaf.at[:2].set(1) for path, leaf in leaves.items() if path.endswith("/lora/b")}
        variables = Variables(nest(leaves | a | b), ready.variables.stats)
        state = initial_state(ready.parts(0), variables, 5, jax.random.key(0))
        image, rows = np.random.default_rng(0).normal(size=(4, 8, 8, 1)), np.arange(4, dtype=np.int32)
        batch = {"image": image.astype(np.float32), "label": rows, "index": rows}
        for _ in range(3):
            state, _ = train_step(ready.parts(0), state, {"labelled": batch})
        actual = flatten(state.trainable)
        assert all(not np.asarray(actual[path])[:, 2:].any() for path in a), name
        assert all(not np.asarray(actual[path])[2:].any() for path in b), name
