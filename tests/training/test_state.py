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
    partitions = [partition.partition(MODEL.params, own) for own in rules]
    task = tasks.Classification(classes=3)
    return [
        Parts(MODEL, task, (Supervised(),), optim, own, layout=optimisers.layout(MODEL, partitions, n), **more)
        for n, own in enumerate(partitions)
    ]


def walk(parts, state, count, how="jit", devices=1):
    compiled = compile_step(parts, sharding.make_mesh(jax.devices()[:devices]), how)
    # A state of one's own: the step gives its buffers away.
    state = compiled.place(jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state))
    for batch in batches(count):
        state, _ = compiled.train(state, {"labelled": compiled.put(batch)})
    return compiled.fetch(state), compiled.fetch(compiled.answer(state))


def begin(parts):
    return initial_state(parts, models.initialise(MODEL, jax.random.key(0)), STEPS, jax.random.key(1))


def identical(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_a_wave_that_goes_on_keeps_its_moments_and_its_count_and_a_late_one_begins_afresh():
    first, second = phases_of(HEAD, ALL)
    after, _ = walk(first, begin(first), 5)
    assert after.optimiser.keys() == {"0_1"}
    fresh = next_state(first, after, second, STEPS)
    assert fresh.optimiser.keys() == {"0_1", "1"}
    identical(fresh.optimiser["0_1"], after.optimiser["0_1"])
    identical(fresh.variables, after.variables)
    assert (int(fresh.step), int(fresh.optimiser["0_1"][0].count), int(fresh.optimiser["1"][0].count)) == (5, 5, 0)
    moved, _ = walk(second, fresh, 1)
    # A fresh Adam's first step has the size of the rate wherever there is a gradient.
    before, now = flatten(fresh.trainable), flatten(moved.trainable)
    late = np.abs(np.asarray(now["stem/kernel"] - before["stem/kernel"]))
    live = np.abs(np.asarray(flatten(moved.optimiser["1"][0].mu)["stem/kernel"])) > 1e-5
    assert live.any()
    np.testing.assert_allclose(late[live], 0.01, rtol=2e-3)
    assert (int(moved.optimiser["0_1"][0].count), int(moved.optimiser["1"][0].count)) == (6, 1)
    running = np.abs(np.asarray(now["head/kernel"] - before["head/kernel"]))
    assert not np.allclose(running, 0.01, rtol=2e-3)


def test_a_wave_that_pauses_begins_afresh_and_holds_nothing_meanwhile():
    first, second, third = phases_of(ALL, HEAD, ALL)
    after, _ = walk(first, begin(first), 2)
    assert after.optimiser.keys() == {"0_2", "0_1_2"}
    still = next_state(first, after, second, STEPS)
    assert still.optimiser.keys() == {"0_1_2"}
    again = next_state(second, still, third, STEPS)
    assert int(again.optimiser["0_2"][0].count) == 0
    identical(again.optimiser["0_1_2"], after.optimiser["0_1_2"])


@pytest.mark.parametrize(("how", "devices"), [("jit", 8), ("pmap", 4)])
def test_the_moving_average_is_that_of_the_parameters_with_its_start_corrected(how, devices):
    (plain,), (kept,) = phases_of(ALL), phases_of(ALL, ema=0.9)
    seen = []
    state, answered = begin(kept), None
    for _ in range(3):
        state, answered = walk(kept, state, 1, how, devices)
        seen.append(state.trainable)
    total = sum(0.9**n for n in range(3))
    expected = jax.tree.map(lambda *leaves: sum(0.9 ** (2 - n) * leaf for n, leaf in enumerate(leaves)) / total, *seen)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), answered.trainable, expected)
    assert not np.allclose(flatten(answered.trainable)["stem/kernel"], flatten(state.trainable)["stem/kernel"])
    assert begin(plain).average == {}


def test_an_average_changes_nothing_of_what_is_learned():
    found = []
    for more in ({}, {"ema": 0.5}):
        first, second = phases_of(HEAD, ALL, **more)
        state, _ = walk(first, begin(first), 2)
        state = next_state(first, state, second, STEPS)
        found.append((walk(second, state, 2)[0].variables.params, state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found[0][0], found[1][0])
    assert {name: float(own["weight"]) for name, own in found[1][1].average.items()} == {"0_1": 0.75, "1": 0.0}


def test_leaves_that_stop_learning_stay_at_what_a_schedule_free_optimiser_answered():
    first, second = phases_of(UPPER, HEAD, optim=Optim("schedule-free-adamw", lr=0.1, schedule="constant"))
    after, answered = walk(first, begin(first), 3)
    fresh = next_state(first, after, second, STEPS)
    stopped, trained, average = (flatten(tree) for tree in (fresh.frozen, after.trainable, answered.trainable))
    np.testing.assert_allclose(stopped["blocks/00/kernel"], average["blocks/00/kernel"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(stopped["blocks/00/kernel"], trained["blocks/00/kernel"], rtol=1e-4)
    np.testing.assert_array_equal(flatten(fresh.trainable)["head/kernel"], trained["head/kernel"])
    identical(fresh.optimiser["0_1"], after.optimiser["0_1"])


def test_the_schedules_of_a_restarted_phase_run_over_it_alone():
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


def test_what_a_tuning_added_rests_while_another_has_its_turn():
    how = tuning.InTurn((0.5, tuning.Lora(rank=2, on="stem", plus=2.0)), (0.5, tuning.Full()))
    variables = models.initialise(MODEL, jax.random.key(0))
    variables = variables._replace(params=how.insert(MODEL, variables.params, jax.random.key(2)))
    partitions = [partition.partition(variables.params, phase.rules) for phase in how.phases(MODEL)]
    first, second = (
        phases_of(ALL)[0]._replace(partition=own, layout=optimisers.layout(MODEL, partitions, n))
        for n, own in enumerate(partitions)
    )
    after, _ = walk(first, initial_state(first, variables, STEPS, jax.random.key(1)), 2)
    fresh = next_state(first, after, second, STEPS)
    assert fresh.optimiser.keys() == {"0_1", "1"}
    end, _ = walk(second, fresh, 2)
    begun, mid, last = (flatten(found.params) for found in (variables, after.variables, end.variables))
    assert not np.array_equal(begun["stem/lora/b"], mid["stem/lora/b"])
    assert not np.array_equal(mid["stem/kernel"], last["stem/kernel"])
    for path in (path for path in last if "/lora/" in path):
        np.testing.assert_array_equal(mid[path], last[path])


@pytest.mark.slow
def test_zeros_behind_a_rank_stay_zeros():
    """Whatever the optimiser, for those that are said to be elementwise: packs pad ranks so."""
    for name in (name for name, own in BY_NAME.items() if own.elementwise):
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
        found = flatten(state.trainable)
        assert all(not np.asarray(found[path])[:, 2:].any() for path in a), name
        assert all(not np.asarray(found[path])[2:].any() for path in b), name
