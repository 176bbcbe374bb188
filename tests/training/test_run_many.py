"""How many runs train together: chosen by counted FLOPs and memory, not by the clock."""

import dataclasses

import jax
import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, tasks
from tlx.layers import conv
from tlx.training import run_many
from tlx.training.active_run import opened
from tlx.training.loop import How
from tlx.training.prepare import prepare

LEAN = How(quiet=True, leave="learned")
RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16,)),
    optim=Optim(lr=0.01),
    train=Train(steps=8, batch=16, eval_every=8, eval_batch=128),
)


def varied(recipe, **fields):
    return dataclasses.replace(recipe, **fields)


@pytest.fixture
def packs(monkeypatch):
    """Vectorise always, and record the number of runs in each group."""
    calls, train = [], run_many.train
    monkeypatch.setattr(run_many, "GAIN", 1e9)
    monkeypatch.setattr(run_many, "train", lambda runs, *rest: calls.append(len(runs)) or train(runs, *rest))
    return calls


@pytest.mark.slow
def test_a_group_that_cannot_be_compiled_runs_one_by_one(tmp_path, packs, monkeypatch):
    def broken(runs, phase, how):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(run_many, "weighed", broken)
    message = []
    outcome = run_many.run_many(
        [varied(RECIPE, seed=n) for n in (0, 1)], [tmp_path / "a", tmp_path / "b"], how=LEAN, note=message.append
    )
    assert packs == [1, 1]
    assert [type(one).__name__ for one in outcome] == ["Run", "Run"]
    assert message[0]["why"] == "a step could not be compiled (RuntimeError: out of memory)"


@pytest.mark.slow
def test_a_slower_group_is_not_chosen_and_the_choice_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 0.0)
    message = []
    recipes = [varied(RECIPE, seed=seed) for seed in (0, 1)]
    outcome = run_many.run_many(recipes, [tmp_path / "a", tmp_path / "b"], how=LEAN, note=message.append)
    assert [one.result["pack"] for one in outcome] == [{"arms": 1, "place": 0}] * 2
    (choice,) = message
    assert (choice["how"], choice["arms"]) == ("one by one", 1)
    assert choice["groups"] == [[one.result["fingerprint"]] for one in outcome]
    assert choice["seconds_per_step"].keys() == {"one", "pack", "pack_per_arm"}
    assert choice["memory_bytes"] > 0
    assert "expected for all 8 steps" in choice["why"]


@pytest.mark.parametrize(
    ("load", "steps", "together"),
    [
        # A probe: the cost of a step beside its FLOPs decides.
        (run_many.Load(1e5, 4e5, False), 10_000, True),
        # FLOPs that the runs share are counted once.
        (run_many.Load(1e8, 1.2e8, False), 10_000, True),
        # Only the start is saved, which matters for short runs.
        (run_many.Load(1e8, 4e8, False), 10_000, False),
        (run_many.Load(1e8, 4e8, False), 10, True),
        # Convolutions with a separate kernel for each run are slow on CPUs.
        (run_many.Load(1e7, 4e7, True), 10_000, False),
        (run_many.Load(None, None, False), 10_000, True),
    ],
)
def test_a_group_is_chosen_by_flops_and_not_by_the_clock(load, steps, together):
    assert run_many.expected(load, 4, steps, 0).runs == (4 if together else 1)


@pytest.mark.slow
@pytest.mark.parametrize("model", [models.Cnn(size=8, widths=(3,), dense=None), RECIPE.model], ids=["cnn", "mlp"])
def test_the_operations_of_a_group_are_those_of_its_runs(tmp_path, model):
    recipes = [varied(RECIPE, model=model, seed=seed) for seed in (0, 1)]
    runs = [opened(recipe, tmp_path / str(n)) for n, recipe in enumerate(recipes)]
    setup, needed, load = run_many.weighed(runs, 0, LEAN)
    assert not load.grouped
    assert load.group == pytest.approx(2 * load.alone, rel=0.2)
    assert needed > 0 and setup.step == 0
    for active in runs:
        active.close()


@pytest.mark.parametrize(
    ("channel_groups", "with_kernels"),
    # The layers of tlx make products of matrices from several kernels, unless the kernels have groups of channels.
    [(1, 1), (2, 6)],
)
def test_kernels_of_several_runs_are_groups_of_a_convolution(channel_groups, with_kernels):
    def layer(kernel, x):
        return conv({"kernel": kernel}, x, groups=channel_groups)

    x, kernels = np.ones((3, 2, 5, 5, 4), np.float32), np.ones((3, 3, 3, 4 // channel_groups, 6), np.float32)
    alone = jax.jit(layer).lower(kernels[0], x[0]).as_text()
    together = jax.jit(jax.vmap(layer)).lower(kernels, x).as_text()
    assert run_many.most_groups(alone) == channel_groups
    assert run_many.most_groups(together) == with_kernels


@pytest.mark.slow
def test_runs_that_exceed_the_memory_are_split_into_several_groups(tmp_path, packs, monkeypatch):
    weighed = run_many.weighed

    def heavy(runs, phase, how):
        setup, _, load = weighed(runs, phase, how)
        return setup, 100 * len(runs), load

    monkeypatch.setattr(run_many, "weighed", heavy)
    monkeypatch.setattr(run_many, "own_bytes", lambda active, phase: 1)
    monkeypatch.setattr(run_many, "room_bytes", lambda: 250)
    recipes = [varied(RECIPE, seed=seed) for seed in range(5)]
    run_many.run_many(recipes, [tmp_path / str(n) for n in range(5)], how=LEAN)
    assert packs == [2, 2, 1]


@pytest.mark.slow
def test_sequential_runs_reuse_what_the_previous_run_has_prepared(tmp_path, monkeypatch):
    before = []

    def noted(recipe, splits, like, *settings):
        before.append(like)
        return prepare(recipe, splits, like, *settings)

    monkeypatch.setattr("tlx.training.active_run.prepare", noted)
    recipes = [varied(RECIPE, seed=seed) for seed in range(3)]
    outcome = run_many.run_many(recipes, [tmp_path / str(n) for n in range(3)], how=LEAN, most=1)
    assert [one.result["pack"]["arms"] for one in outcome] == [1, 1, 1]
    assert before[0] is None
    assert [like.recipe for like in before[1:]] == recipes[:2]
