"""The devices never wait for the host: steps are dispatched before the last one is read, and batches are placed ahead.
A step reuses the buffers of the state."""

from contextlib import closing
from dataclasses import replace

import jax
import numpy as np
import pytest

import tlx
from tlx import Data, Recipe, Train, models, sharding, tasks
from tlx.records.log import read_metrics
from tlx.training import batches, phases
from tlx.training.active_run import opened
from tlx.training.batches import DeviceBatches, DispatchedSteps, HostBatches
from tlx.training.loop import How

RECIPE = Recipe(
    data=Data(target="digits", shots=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),
    train=Train(steps=8, batch=8, eval_batch=64, eval_every=4),
)
HOW = How(quiet=True, mesh=sharding.Mesh(data=1))

pytestmark = pytest.mark.usefixtures("no_page")


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """What happens in a run whose batches come from the host, in its order: (event, step), and the run."""
    happened, folder = [], tmp_path_factory.mktemp("events")
    true_batch, true_read, true_for = HostBatches.batch, DispatchedSteps.metrics_on_host, phases.batches_for

    def counted(event):
        happened.append((event, sum(name == event for name, _ in happened) + 1))

    def batch(self):
        counted("placed")
        return true_batch(self)

    def read(self):
        counted("read")
        return true_read(self)

    def batches_for(engine, *settings):
        def train(state, inputs):
            counted("dispatched")
            return engine.train(state, inputs)

        return true_for(engine._replace(train=train), *settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        # A small model would otherwise take many steps in one program.
        patch.setattr(batches, "SMALL", 0)
        outcomes = []
        for ahead in (2, 0):
            happened.clear()
            patch.setattr(batches, "AHEAD", ahead)
            patch.setattr(HostBatches, "batch", batch)
            patch.setattr(DispatchedSteps, "metrics_on_host", read)
            patch.setattr(phases, "batches_for", batches_for)
            outcomes.append((tlx.run(RECIPE, folder / str(ahead), how=HOW), [*happened]))
    return outcomes


@pytest.mark.slow
def test_a_step_is_read_after_the_next_one_is_dispatched(events):
    for _, happened in events:
        assert [step for event, step in happened if event == "dispatched"] == [*range(1, 9)]
        for step in range(1, 9):
            read = happened.index(("read", step))
            # The validation needs the state after its step.
            if step % RECIPE.train.eval_every:
                assert read > happened.index(("dispatched", step + 1))


@pytest.mark.slow
def test_the_batches_of_two_steps_are_placed_ahead_and_none_beyond_the_last_step(events):
    happened = events[0][1]
    placed = [step for event, step in happened if event == "placed"]
    assert placed == [*range(1, 9)]
    for step in range(1, 9):
        dispatched = happened.index(("dispatched", step))
        # At the dispatch the next batch is there, and when this step is read, the one after it too.
        if 1 < step < 8:
            assert happened.index(("placed", step + 1)) < dispatched
        if step < 7:
            assert dispatched < happened.index(("placed", step + 2)) < happened.index(("read", step))


@pytest.mark.slow
def test_placing_ahead_changes_no_bit(events):
    runs = [run for run, _ in events]
    weights = [(run.folder / "model" / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]
    lines = [[line | {"time": 0} for line in read_metrics(run.folder)] for run in runs]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("kind", "mesh", "compiler", "count"),
    [
        (DeviceBatches, sharding.Mesh(data=1), "jit", 1),
        pytest.param(HostBatches, sharding.Mesh(data=1), "jit", 1, marks=pytest.mark.slow),
        pytest.param(HostBatches, sharding.Mesh(data=2, fsdp=2), "jit", 1, marks=pytest.mark.slow),
        pytest.param(HostBatches, sharding.Mesh(), "pmap", 1, marks=pytest.mark.slow),
        pytest.param(DeviceBatches, sharding.Mesh(data=1), "jit", 2, marks=pytest.mark.slow),
    ],
)
def test_a_step_reuses_the_buffers_of_the_state(kind, mesh, compiler, count, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "SMALL", 0 if kind is HostBatches else batches.SMALL)
    recipe = replace(RECIPE, train=replace(RECIPE.train, compile=compiler))
    runs = [opened(replace(recipe, seed=seed), tmp_path / str(seed)) for seed in range(count)]
    setup = phases.set_up_phase(runs, 0, False, lambda text: None, mesh=mesh)
    for run in runs:
        with closing(run):
            pass
    assert type(setup.batches) is kind
    state = setup.placed()
    moving = {name: jax.tree.leaves(getattr(state, name)) for name in ("trainable", "optimiser")}
    size = sum(leaf.nbytes for leaves in moving.values() for leaf in leaves)
    places = {leaf.unsafe_buffer_pointer() for leaf in moving["trainable"] if len(leaf.devices()) == 1}
    after = setup.batches.take(state, 0, 2).state
    jax.block_until_ready(after)
    for name, leaves in moving.items():
        assert leaves, name
        assert all(leaf.is_deleted() for leaf in leaves), name
    assert size > 0
    # The new numbers lie where the old ones did.
    if places:
        assert places & {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after.trainable)}
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(after.trainable))
