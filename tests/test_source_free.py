"""Adapt the model of a run to a target without labels and without the source."""

import dataclasses

import numpy as np
import pytest

from tlx import Data, Learn, Optim, Recipe, Train, Weights, load_pretrained, models, report, run, tasks, terms, tuning
from tlx.analysis.benefit.arms import assigned
from tlx.records.log import read_metrics
from tlx.training.loop import How
from tlx.training.prepare import prepare
from tlx.training.run_many import run_many
from tlx.trees import flatten

LEAN = How(quiet=True, leave="learned")
SOURCE = Recipe(
    data=Data(target="mnist5k", size=8),
    task=tasks.Classification(),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16, 12), dropout=0.1),
    optim=Optim(lr=0.01),
    train=Train(steps=60, batch=32),
)
TAUGHT = (
    terms.Shot(), terms.PseudoLabel(threshold=0.3), terms.FixMatch(threshold=0.3, strength=0.5),
    terms.MeanTeacher(weight=terms.Ramp(0.0, 5.0)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.feature_cache.store.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(report, "available", lambda: False)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """Return `target(objective, **changes)`: a recipe that adapts a run on the source."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "available", lambda: False)
        folder = run(SOURCE, tmp_path_factory.mktemp("runs") / "source", quiet=True).folder

    def recipe(*objective, train=Train(steps=12, batch=32, eval_every=6), **more):
        inputs = {"tuning": tuning.Rules((r"head/.*", None), (r".*", Learn())), "optim": Optim(lr=3e-3)} | more
        return Recipe(
            data=Data(target="digits", labels=0), task=tasks.Classification(classes=10), weights=Weights(str(folder)),
            objective=objective, train=train, **inputs,
        )  # fmt: skip

    return recipe


def metric_by_step(actual, name):
    return {line["step"]: line["value"] for line in read_metrics(actual.folder) if line["name"] == name}


def params(folder):
    return flatten(load_pretrained(folder).variables.params)


@pytest.mark.slow
def test_from_a_run_on_the_source_to_the_target_with_its_frozen_head(target, tmp_path):
    recipe = target(terms.Shot(), train=Train(steps=80, batch=64))
    assert prepare(recipe).streams == ["unlabelled"]
    outcome = run(recipe, tmp_path / "target", quiet=True)
    assert outcome.result["examples"].keys() == {"unlabelled", "validation", "test"}
    assert outcome.metrics["test/accuracy"] > 0
    before, after = params(recipe.weights.source), params(outcome.folder)
    assert before.keys() == after.keys()
    same = {path for path in before if np.array_equal(before[path], after[path])}
    assert same == {"head/kernel", "head/bias"}
    # More confident on each example; over all examples nearly as diverse as ten classes can be.
    entropy, diversity = (
        list(metric_by_step(outcome, f"train/shot/{name}").values()) for name in ("entropy", "diversity")
    )
    assert np.mean(entropy[:10]) - np.mean(entropy[-10:]) > 0.3
    assert np.mean(diversity[-10:]) > 0.85 * np.log(10)


def test_a_trainable_or_random_head_is_refused(target, tmp_path):
    with pytest.raises(ValueError, match=r"^Shot needs a frozen head, but the tuning trains 'head/bias'"):
        prepare(target(terms.Shot(), tuning=tuning.Full()))
    with pytest.raises(ValueError, match=r"^Shot adapts features to the pretrained head"):
        run(dataclasses.replace(target(terms.Shot()), weights=None, model=SOURCE.model), tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_a_resumed_run_has_the_bits_of_an_unstopped_run(target, goes_on):
    goes_on(target(*TAUGHT, train=Train(steps=12, batch=16, eval_every=6, ema=0.9)), (8,))


@pytest.mark.slow
def test_a_vectorised_run_equals_the_run_alone(target, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    base = target(*TAUGHT, train=Train(steps=8, batch=16, eval_every=8, ema=0.9))
    recipes = [assigned(base, {"seed": seed, "optim.lr": lr}) for seed in (0, 1) for lr in (3e-3, 6e-3)]
    packed = run_many(recipes, [tmp_path / str(n) for n in range(4)], how=LEAN)
    for n, (recipe, actual) in enumerate(zip(recipes, packed, strict=True)):
        assert actual.result["pack"]["arms"] == 4
        expected = run(recipe, tmp_path / f"alone-{n}", how=LEAN)
        for name in ("loss", "shot/pseudo", "pseudolabel/risk", "fixmatch/risk", "meanteacher/distance"):
            custom, alone = (metric_by_step(result, f"train/{name}") for result in (actual, expected))
            assert custom == pytest.approx(alone, rel=2e-4, abs=2e-5), (n, name)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_cached_features_serve_only_terms_that_read_above_the_cut(target, tmp_path, count):
    rules = tuning.Rules((r"(stem|head)/.*", None), (r".*", Learn()))
    # Enough steps to read the features that are computed once.
    train = Train(steps=100, batch=64, eval_every=100, ema=0.9)
    recipe = target(*TAUGHT[:count], tuning=rules, train=train)
    stored, plain = (
        run(recipe, tmp_path / f"{prefix}", how=How(quiet=True, feature_cache=prefix)) for prefix in (True, False)
    )
    (cut,) = stored.result["prefix"]
    assert (cut["cut"] == "blocks/00") == (count == 2)
    assert count == 2 or "below 'blocks/00'" in cut["told"]
    for name in ("train/loss", "train/shot/pseudo", "train/pseudolabel/risk"):
        assert metric_by_step(stored, name) == pytest.approx(metric_by_step(plain, name), rel=1e-4, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("how", ["AdaBN", pytest.param("NormTuning", marks=pytest.mark.slow)])
def test_norms_adapt_in_a_run(tmp_path, how):
    """The changes in the saved model: statistics, and with Tent the norms too."""
    model = models.Cnn(size=8, widths=(3, 4), dense=6)
    source = dataclasses.replace(SOURCE, model=model, train=Train(steps=4, batch=16))
    folder = run(source, tmp_path / "source", quiet=True).folder
    way = tuning.AdaBN() if how == "AdaBN" else tuning.NormTuning(head=False)
    recipe = Recipe(
        data=Data(target="digits", labels=0), task=tasks.Classification(), weights=Weights(str(folder)), tuning=way,
        objective=(terms.Entropy(on="unlabelled", weight=1.0),), train=Train(steps=6, batch=16),
    )  # fmt: skip
    outcome = run(recipe, tmp_path / "target", quiet=True)
    before, after = params(folder), params(outcome.folder)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == (set() if how == "AdaBN" else {path for path in before if "/norm/" in path})
    stats = [flatten(load_pretrained(where).variables.stats) for where in (folder, outcome.folder)]
    assert all(not np.allclose(stats[0][path], leaf) for path, leaf in stats[1].items())
