"""The FLOPs of a run: near a count by hand, and proportional to the work."""

import dataclasses

import pytest

from tlx import Data, Learn, Optim, Recipe, Train, Weights, models, run, tasks, terms, tuning
from tlx.data import Crop
from tlx.training.flops import operations
from tlx.training.loop import How
from tlx.training.run_many import run_many

PIXELS, H, C, B, STEPS = 64, 256, 10, 16, 6
RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=C),
    model=models.Mlp(inputs=(8, 8, 1), widths=(H,)),
    optim=Optim("sgd", lr=0.01),
    train=Train(steps=STEPS, batch=B),
)


def changed(**changes):
    return operations(dataclasses.replace(RECIPE, **changes)).total


def test_the_flops_of_a_step_are_near_a_count_by_hand():
    # Forward: PIXELS x H and H x C. Backward: both again for the kernels, and H x C for the activations. Two FLOPs
    # each.
    counted = operations(RECIPE)
    by_hand = 2 * B * (2 * (PIXELS * H + H * C) + H * C)
    assert counted.steps == STEPS and counted.a_step == counted.total / STEPS
    assert by_hand < counted.a_step < 1.15 * by_hand
    assert counted.how == f"XLA's count of the compiled step x {STEPS} steps, without evaluation"


def test_flops_are_proportional_to_the_steps_and_independent_of_the_pieces():
    full = changed()
    assert changed(train=Train(steps=2 * STEPS, batch=B)) == 2 * full
    assert changed(train=Train(steps=STEPS, batch=B, accumulate=2)) == full
    assert changed(train=Train(steps=STEPS, batch=2 * B)) == pytest.approx(2 * full, rel=0.1)


def test_terms_that_compare_examples_need_a_second_forward_pass_in_pieces():
    both = (terms.Supervised(), terms.Bss())
    full = changed(objective=both)
    pieces = changed(objective=both, train=Train(steps=STEPS, batch=B, accumulate=2))
    forward = 2 * B * (PIXELS * H + H * C) * STEPS
    assert pieces - full == pytest.approx(forward, rel=0.25)


def test_frozen_parameters_need_fewer_flops():
    # No gradient goes through the stem, which has most of the parameters.
    assert changed(tuning=tuning.Probe()) < 0.65 * changed()


def test_every_phase_is_counted_by_its_step():
    halves = tuning.InTurn((0.5, tuning.Probe()), (0.5, tuning.Full()))
    assert changed(tuning=halves) == pytest.approx((changed() + changed(tuning=tuning.Probe())) / 2, rel=0.02)


@pytest.mark.slow
def test_texts_are_counted_by_their_lengths():
    text = dataclasses.replace(
        RECIPE,
        data=Data(target="sentiment/movies", shots=4, tokens=64, buckets=(32,)),
        task=tasks.Classification(classes=2),
        model=None,
        weights=Weights("minilm-l6"),
        tuning=tuning.Probe(),
        train=Train(steps=8, batch=1),
    )
    long = dataclasses.replace(text, data=dataclasses.replace(text.data, buckets=(64,)))
    assert operations(text).total < operations(long).total


def test_the_test_split_is_not_opened(monkeypatch):
    from tlx.data import Examples

    labels = Examples.labels

    def spied(self):
        assert self.split != "test"
        return labels(self)

    monkeypatch.setattr(Examples, "labels", spied)
    operations(RECIPE)


CASES = {
    "rows on the device": RECIPE,
    "a stream": dataclasses.replace(RECIPE, data=Data(target="digits", shots=4, augment=(Crop(padding=1),))),
    "pieces": dataclasses.replace(RECIPE, train=Train(steps=STEPS, batch=B, accumulate=2)),
    "phases": dataclasses.replace(RECIPE, tuning=tuning.InTurn((0.5, tuning.Probe()), (0.5, tuning.Full()))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_run_records_the_flops_of_its_steps(name, tmp_path):
    how = How(quiet=True, feature_cache=False)
    outcome = run(CASES[name], tmp_path / "run", how=how).result["flops"]
    # They are counted before the last passes of the compiler.
    assert outcome == pytest.approx(operations(CASES[name]).total, rel=0.02)


@pytest.mark.slow
def test_cached_features_are_not_counted_again_and_vectorised_runs_share_them(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.feature_cache.store.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    probe = dataclasses.replace(RECIPE, tuning=tuning.Probe())
    full, above = (
        run(probe, tmp_path / f"{prefix}", how=How(quiet=True, feature_cache=prefix)).result["flops"]
        for prefix in (False, True)
    )
    by_hand = STEPS * 2 * B * 2 * H * C
    assert by_hand < above < 1.5 * by_hand < full
    arms = [dataclasses.replace(probe, seed=seed) for seed in (0, 1)]
    packed = run_many(arms, [tmp_path / f"arm-{seed}" for seed in (0, 1)])
    assert [arm.result["flops"] for arm in packed] == [pytest.approx(above)] * 2


@pytest.mark.slow
def test_vectorised_runs_with_different_trainable_parameters_are_counted_separately(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    few = tuning.Rules((r"stem/kernel", None), (r".*", Learn()))
    arms = [dataclasses.replace(RECIPE, tuning=how) for how in (tuning.Rules((r".*", Learn())), few)]
    packed = run_many(arms, [tmp_path / str(n) for n in range(2)])
    alone = [run(arm, tmp_path / f"alone-{n}", quiet=True) for n, arm in enumerate(arms)]
    assert [arm.result["flops"] for arm in packed] == [arm.result["flops"] for arm in alone]


@pytest.mark.slow
def test_the_count_is_the_same_with_pmap(tmp_path):
    recipe = dataclasses.replace(RECIPE, train=Train(steps=STEPS, batch=B, compile="pmap"))
    outcome = run(recipe, tmp_path / "run", quiet=True).result["flops"]
    assert outcome == pytest.approx(operations(RECIPE).total, rel=0.02)


def test_a_device_without_flop_counts_does_not_stop_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr("jax.stages.Lowered.cost_analysis", lambda program: None)
    assert run(RECIPE, tmp_path / "run", quiet=True).result["flops"] is None
