"""A vectorised run equals the run alone: numbers, bits of frozen parameters, phases, selection, end of one run."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from tlx import Data, Learn, Optim, Recipe, Train, Weights, models, run, sharding, tasks, terms, tuning
from tlx.data import Crop
from tlx.records.log import read_metrics
from tlx.training import run_many, vectorize
from tlx.training.active_run import opened
from tlx.training.batches import HostBatches, batches_of
from tlx.training.loop import Diverged, How
from tlx.training.phases import engine_of, initial_states
from tlx.training.reopen import rebuild
from tlx.training.run_many import form_of, groups
from tlx.trees import flatten
from tlx.updates import Sam
from tlx.weights import load_pretrained
from tlx.weights.files import read_file

LEAN = How(quiet=True, leave="learned")
RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16, 12), dropout=0.2),
    optim=Optim(lr=0.01, weight_decay=0.1, warmup=0.3, clip=1.0),
    train=Train(steps=8, batch=16, eval_every=4, eval_batch=128),
)
VIT = models.Vit(size=8, patch=4, channels=1, width=16, depth=2, heads=2, mlp=24, dropout=0.1)

LORA = tuning.Lora(rank=2)


def varied(recipe, **fields):
    built = {
        name: dataclasses.replace(getattr(recipe, name), **value) if isinstance(value, dict) else value
        for name, value in fields.items()
    }
    return dataclasses.replace(recipe, **built)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.feature_cache.store.cache_dir", lambda: tmp_path / "cache")


@pytest.fixture
def packs(monkeypatch):
    """Vectorise always, and record the number of runs in each group."""
    calls = []
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    train = run_many.train
    monkeypatch.setattr(run_many, "train", lambda runs, *rest: calls.append(len(runs)) or train(runs, *rest))
    return calls


def compared(recipes, tmp_path, packs, size=None):
    """Run them vectorised and alone, and check that all their numbers agree."""
    folders = [tmp_path / "packed" / str(n) for n in range(len(recipes))]
    together = run_many.run_many(recipes, folders, how=LEAN)
    for outcome in together:
        if isinstance(outcome, Exception):
            raise outcome
    assert packs == [size or len(recipes)]
    assert size or {run.result["pack"]["place"] for run in together} == set(range(len(recipes)))
    for n, (recipe, actual) in enumerate(zip(recipes, together, strict=True)):
        reference = run(recipe, tmp_path / "alone" / str(n), how=LEAN)
        for name, value in reference.metrics.items():
            assert actual.metrics[name] == pytest.approx(value, abs=5e-5), (n, name)
        message, expected = (
            {(line["step"], line["name"]): line["value"] for line in read_metrics(item.folder)}
            for item in (actual, reference)
        )
        assert message.keys() == expected.keys()
        for at, value in expected.items():
            assert message[at] == pytest.approx(value, rel=2e-4, abs=2e-5), (n, at)
        custom, other = (read_file(item.folder / "learned.safetensors") for item in (actual, reference))
        assert custom.keys() == other.keys()
        for path, leaf in other.items():
            np.testing.assert_allclose(custom[path], leaf, rtol=2e-4, atol=2e-5, err_msg=f"{n} {path}")
    return together


NUMBERS = [
    varied(RECIPE, seed=seed, optim={"lr": lr, "weight_decay": decay})
    for seed, lr, decay in ((0, 0.01, 0.1), (0, 0.03, 0.0), (1, 0.01, 0.3))
]
CASES = {
    "numbers and seeds": NUMBERS,
    "one order": [varied(RECIPE, optim={"lr": lr}) for lr in (0.003, 0.01, 0.03)],
    "two orders": [varied(RECIPE, seed=seed, optim={"lr": lr}) for lr in (0.003, 0.03) for seed in (0, 1)],
    "two orders, streamed": [
        # Some gradients are only rounding: the bias of a key has no gradient, and Adam divides by the size of the
        # gradient.
        varied(RECIPE, model=VIT, tuning=LORA, seed=seed, data={"augment": (Crop(padding=1),)}, optim={"lr": lr})
        for lr in (0.003, 0.03)
        for seed in (0, 1)
    ],
    "two orders, statistics": [
        varied(RECIPE, model=models.Cnn(size=8, widths=(3,), dense=None), seed=seed, optim={"lr": lr})
        for lr in (0.003, 0.03)
        for seed in (0, 1)
    ],
    "a stored prefix": [varied(one, tuning=tuning.Freeze(through="stem")) for one in NUMBERS],
    "term weights": [varied(RECIPE, objective=(terms.Supervised(), terms.L2SP(weight=w))) for w in (0.0, 0.1, 3.0)],
    "rates a stage": [varied(RECIPE, tuning=tuning.Full(decay=decay)) for decay in (0.5, 0.9)],
    "ranks and alphas": [
        varied(RECIPE, model=VIT, tuning=tuning.Lora(rank=rank, alpha=alpha), seed=seed)
        for rank, alpha, seed in ((1, 4.0, 0), (3, 8.0, 0), (2, 16.0, 1))
    ],
    "magnitudes": [varied(RECIPE, model=VIT, tuning=tuning.Dora(rank=rank)) for rank in (1, 2)],
    "batch norm": [varied(RECIPE, model=models.Cnn(size=8, widths=(3,), dense=None), seed=seed) for seed in (0, 1)],
    "phases": [varied(RECIPE, tuning=tuning.Gradual(factor=factor)) for factor in (1.0, 2.6)],
    "the best": [varied(RECIPE, train={"select": "best-validation", "eval_every": 2}, seed=seed) for seed in (0, 1)],
    "an average": [varied(RECIPE, train={"ema": keep}) for keep in (0.5, 0.9)],
    "schedule-free": [
        varied(RECIPE, optim=Optim("schedule-free-adamw", lr=lr, schedule="constant")) for lr in (0.01, 0.03)
    ],
    "two passes": [varied(RECIPE, update=Sam(rho=rho)) for rho in (0.01, 0.1)],
    "micro-batches": [varied(RECIPE, train={"accumulate": 2}, seed=seed) for seed in (0, 1)],
    "augmented": [varied(RECIPE, data={"augment": (Crop(padding=1),)}, seed=seed) for seed in (0, 1)],
    "shots": [varied(RECIPE, data={"shots": shots}) for shots in (2, 4, 8)],
    "smoothing": [varied(RECIPE, task={"smoothing": smoothing}) for smoothing in (0.0, 0.1)],
    "masks": [
        varied(RECIPE, tuning=tuning.Rules(*rules))
        for rules in (
            ((r"stem/.*", None), (r".*/bias", None), (r".*", Learn())),
            ((r"stem/.*", None), (r".*", Learn(lr=0.5))),
            ((r"stem/.*", None), (r".*/kernel", None), (r".*", Learn(weight_decay=0.2))),
        )
    ],
    "learned rates": [
        varied(RECIPE, tuning=tuning.Rules((r"stem/.*", Learn(lr=lr, weight_decay=decay)), (r".*", Learn())))
        for lr, decay in ((0.1, 0.0), (1.0, 0.5))
    ],
}


# Most of the time is compilation, so only the basic cases are here; the slow tests have the others.
NEAR = {"numbers and seeds"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in NEAR else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_a_vectorised_run_equals_the_run_alone(name, tmp_path, packs):
    compared(CASES[name], tmp_path, packs)


def test_runs_with_one_seed_and_subset_share_their_batches(tmp_path):
    recipes = [varied(RECIPE, seed=seed, optim={"lr": lr}) for seed in (0, 1) for lr in (0.1, 0.2)]
    runs = [opened(recipe, tmp_path / str(n)) for n, recipe in enumerate(recipes)]
    readers = [{"labelled": active.ready.processor} for active in runs]
    assert batches_of(runs, readers) == 2
    assert batches_of(runs[:2], readers[:2]) == 1
    assert batches_of(runs[:3], readers[:3]) == 3, "unequally many"
    assert batches_of([runs[0], runs[2], runs[1]], readers[:3]) == 3, "apart"
    for active in runs:
        active.close()


@pytest.mark.slow
def test_arrays_shared_by_runs_are_stored_once(tmp_path, packs):
    stored = []
    placed = vectorize.vectorised

    def seen(parts, mesh, states, **shared):
        stored.append(vectorize.axes_of(states))
        return placed(parts, mesh, states, **shared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vectorize, "vectorised", seen)
        first = run(RECIPE, tmp_path / "first", how=How(quiet=True))
        probes = [
            varied(RECIPE, model=None, weights=Weights(str(first.folder)), tuning=tuning.Probe(), seed=seed)
            for seed in (0, 1)
        ]
        compared(probes, tmp_path, packs)
    assert all(axes.count(None) == 5 for axes in stored), "the step and four frozen leaves"


def test_masked_parameters_of_a_run_stay_bit_for_bit(tmp_path):
    """Weight decay, moments and gradient clipping ignore them."""
    runs = [opened(recipe, tmp_path / str(n)) for n, recipe in enumerate(CASES["masks"])]
    parts = [active.ready.parts(0) for active in runs]
    readers = [{"labelled": active.ready.processor} for active in runs]
    stored = [active.ready.processor for active in runs]
    states = initial_states(runs, parts, 0, None)
    engine, states, learning = engine_of(runs, parts, sharding.make_mesh(), states, readers, stored)
    assert (
        learning
        == vectorize.joined(parts).learning
        == ["blocks/00/bias", "blocks/00/kernel", "head/bias", "head/kernel"]
    )
    state, inputs = engine.place(states), HostBatches(engine, runs, readers, 0, 1)
    for step in range(3):
        state = inputs.take(state, step, 8).state
    for n, active in enumerate(runs):
        actual = engine.fetch(state, n)
        assert jax.tree.structure(actual) == jax.tree.structure(form_of(active).phases[0][1])
        before, after = flatten(active.ready.variables.params), flatten(actual.variables.params)
        for path, leaf in after.items():
            assert np.array_equal(leaf, before[path]) == (active.ready.partitions[0][path] is None), (n, path)
        active.close()


@pytest.mark.slow
def test_a_run_that_diverges_stops_no_other_run(tmp_path, packs):
    recipes = [varied(RECIPE, optim={"lr": lr, "clip": None}) for lr in (0.01, 1e20, 0.02)]
    fine, gone, also = run_many.run_many(recipes, [tmp_path / str(n) for n in range(3)], how=LEAN)
    assert packs == [3]
    assert isinstance(gone, Diverged)
    assert "loss" in str(gone) or "outputs" in str(gone)
    assert not (tmp_path / "1" / "result.json").exists()
    alone = run(recipes[0], tmp_path / "alone", how=LEAN)
    assert fine.metrics["test/loss"] == pytest.approx(alone.metrics["test/loss"], abs=5e-5)
    assert np.isfinite(also.metrics["test/loss"])


@pytest.mark.slow
def test_an_invalid_recipe_stops_no_other_run(tmp_path, packs):
    wrong = varied(RECIPE, tuning=tuning.Freeze(through="nothing"))
    outcomes = run_many.run_many(
        [RECIPE, wrong, varied(RECIPE, seed=1)], [tmp_path / str(n) for n in range(3)], how=LEAN
    )
    assert [type(outcome).__name__ for outcome in outcomes] == ["Run", "ValueError", "Run"]
    assert packs == [2]


def file_contents(folder):
    """Return the bytes of all files of a run except its checkpoints."""
    files = [path for path in folder.rglob("*") if path.is_file() and "checkpoints" not in path.parts]
    return {path: path.read_bytes() for path in files}


# Their checkpoint at step 4 is at the end of the first phase.
PHASES = {"tuning": tuning.InTurn((0.5, tuning.Probe()), (0.5, tuning.Full()))}


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, pytest.param(PHASES, marks=pytest.mark.slow)], ids=["one phase", "two phases"])
def test_a_stopped_group_resumes_at_its_step(fields, tmp_path, packs, monkeypatch):
    from tlx.training import group

    recipes = [varied(RECIPE, seed=seed, **fields) for seed in (0, 1)]
    full = run_many.run_many(recipes, [tmp_path / "whole" / str(n) for n in range(2)], how=LEAN)
    folders = [tmp_path / "parts" / str(n) for n in range(2)]
    validate = group.RunGroup.validate

    def stop(group):
        if group.step == 8:
            raise KeyboardInterrupt
        return validate(group)

    with monkeypatch.context() as patch:
        patch.setattr(group.RunGroup, "validate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_many.run_many(recipes, folders, how=LEAN)
    # One checkpoint for both runs.
    assert [len(list(folder.glob("checkpoints/group-2-*/4"))) for folder in folders] == [1, 0]
    second = run_many.run_many(recipes, folders, how=LEAN)
    assert packs == [2, 2, 2]
    for actual, expected in zip(second, full, strict=True):
        assert actual.result["flops"] == expected.result["flops"]
        custom, other = (read_file(value.folder / "learned.safetensors") for value in (actual, expected))
        for path, leaf in other.items():
            np.testing.assert_array_equal(custom[path], leaf, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["a stored prefix", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ranks and alphas", "batch norm"))],
)
def test_the_model_of_a_cell_is_rebuilt_from_its_trained_parameters(case, tmp_path, packs, monkeypatch):
    monkeypatch.setattr("tlx.report.available", lambda: False)
    recipe = CASES[case][0]
    (cell,) = run_many.run_many([recipe], [tmp_path / "cell"], how=LEAN)
    with pytest.raises(FileNotFoundError, match=r"is a cell of a study.*`tlx rebuild`"):
        load_pretrained(cell.folder)
    rebuild(cell.folder)
    full = run(recipe, tmp_path / "whole", how=How(quiet=True))
    actual, expected = (load_pretrained(value.folder).variables for value in (cell, full))
    for custom, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(custom, other)
    assert (cell.folder / "mistakes.json").read_text() == (full.folder / "mistakes.json").read_text()
    (cell.folder / "learned.safetensors").unlink()
    assert rebuild(cell.folder) == cell.folder
    shutil.rmtree(cell.folder / "model")
    with pytest.raises(FileNotFoundError, match="neither its model nor its trained parameters"):
        rebuild(cell.folder)


@pytest.mark.slow
def test_finished_runs_are_not_repeated(tmp_path, packs):
    recipes = [varied(RECIPE, seed=seed) for seed in (0, 1)]
    folders = [tmp_path / str(n) for n in range(2)]
    first = run_many.run_many(recipes[:1], folders[:1], how=LEAN)
    before = file_contents(folders[0])
    outcome = run_many.run_many(recipes, folders, how=LEAN)
    assert file_contents(folders[0]) == before
    assert outcome[0].result == first[0].result
    # The group of the second run has both recipes, even if one is finished.
    assert packs == [1, 2]
    assert run_many.run_many(recipes, folders, how=LEAN)[1].result == outcome[1].result
    assert packs == [1, 2]


@pytest.mark.parametrize(
    "other",
    [
        varied(RECIPE, train={"batch": 8}),
        varied(RECIPE, train={"steps": 9}),
        varied(RECIPE, model=VIT),
        varied(RECIPE, optim={"clip": None}),
        varied(RECIPE, optim={"schedule": "linear"}),
        varied(RECIPE, optim=Optim("sgd", lr=0.01)),
        varied(RECIPE, data={"augment": (Crop(padding=1),)}),
        varied(RECIPE, task=tasks.Classification(classes=11)),
    ],
)
def test_recipes_that_differ_in_other_fields_are_in_another_group(other):
    assert groups([RECIPE, other, varied(RECIPE, seed=3)]) == [[0, 2], [1]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        varied(RECIPE, tuning=tuning.Rules((r"(stem|blocks)/.*", None), (r".*", Learn()))),
        varied(RECIPE, tuning=tuning.Rules((r"stem/bias", None), (r".*", Learn()))),
        pytest.param(
            varied(RECIPE, tuning=tuning.Rules((r"(stem/.*|head/bias)", None), (r".*", Learn())), update=Sam()),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            varied(
                RECIPE,
                tuning=tuning.Rules((r"(stem/.*|head/bias)", None), (r".*", Learn())),
                objective=(terms.Supervised(), terms.L2SP()),
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(varied(RECIPE, model=VIT, tuning=tuning.Lora(rank=2, dropout=0.1)), marks=pytest.mark.slow),
    ],
)
def test_runs_with_different_parameter_trees_do_not_share_a_program(other, tmp_path, packs):
    base = varied(RECIPE, tuning=tuning.Rules((r"stem/.*", None), (r".*", Learn())))
    base = varied(base, update=other.update, objective=other.objective)
    if other.model is VIT:
        base = varied(RECIPE, model=VIT, tuning=tuning.Lora(rank=2))
    run_many.run_many([base, other], [tmp_path / "a", tmp_path / "b"], how=LEAN)
    assert packs == [1, 1]
