"""A run across domains: all streams, resumed, vectorised, from the feature cache; the cost of adversarial terms."""

import dataclasses
import math

import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, models, run, tasks, terms, tuning
from tlx.analysis.benefit.arms import assigned
from tlx.data import examples
from tlx.data.shifts import Blur
from tlx.records.log import read_metrics
from tlx.training.active_run import opened
from tlx.training.loop import How
from tlx.training.run_many import alike, run_many

SLOW = pytest.mark.slow
LEAN = How(quiet=True, leave="learned")
SOURCE = terms.Supervised(on="source")
RECIPE = Recipe(
    data=Data(source="mnist5k", target="digits", labels=0, size=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16, 12), dropout=0.1),
    objective=(SOURCE, terms.Dann(width=8), terms.Mmd(), terms.Mcc(weight=0.1)),
    optim=Optim(lr=0.01),
    train=Train(steps=12, batch=16, eval_every=6, eval_batch=128),
)  # fmt: skip


# All terms between a source and a target; together they take long to compile.
MATCHED = dataclasses.replace(
    RECIPE,
    objective=(
        *RECIPE.objective, terms.Coral(), terms.Jmmd(), terms.Mdd(width=8), terms.Bsp(), terms.Ot(label_cost=0.1),
        terms.Cmd(), terms.Afn(),
    ),
)  # fmt: skip
WEIGHED = dataclasses.replace(
    RECIPE,
    data=dataclasses.replace(RECIPE.data, shots=20),
    objective=(
        terms.Kmm(landmarks=100), terms.Kliep(weight=0.5), terms.Iwan(width=8), terms.Pada(width=8),
        terms.Gate(width=8), terms.Cdan(width=8, projection=8),
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.feature_cache.store.cache_dir", lambda: tmp_path / "cache")


def metric_by_step(actual, name):
    return {line["step"]: line["value"] for line in read_metrics(actual.folder) if line["name"] == name}


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [RECIPE, pytest.param(MATCHED, marks=SLOW), pytest.param(WEIGHED, marks=SLOW)],
    ids=["few", "matched", "weighed"],
)
def test_a_resumed_run_has_the_bits_of_an_unstopped_run(goes_on, recipe):
    goes_on(recipe, (8,))


@pytest.mark.slow
def test_the_reversal_is_a_function_of_progress(tmp_path):
    outcome = run(RECIPE, tmp_path / "run", quiet=True)
    expected = {step + 1: 2 / (1 + math.exp(-10 * step / 12)) - 1 for step in range(12)}
    assert metric_by_step(outcome, "train/dann/reversal") == pytest.approx(expected, abs=1e-6)
    assert outcome.result["examples"]["source"] == 3500 and outcome.result["examples"]["unlabelled"] > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "labels", "statistics", "names"),
    [
        (RECIPE, 0, "stream", ("dann/risk", "mmd/distance", "mcc/confusion")),
        pytest.param(MATCHED, 2, "joint", ("dann/risk", "coral/distance", "mdd/disparity", "ot/cost"), marks=SLOW),
        pytest.param(WEIGHED, 0, "stream", ("kmm/risk", "iwan/risk", "pada/risk", "gate/effective"), marks=SLOW),
    ],
)
def test_a_vectorised_run_equals_the_run_alone(tmp_path, monkeypatch, recipe, labels, statistics, names):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    base = assigned(recipe, {"data.labels": labels, "train.statistics": statistics})
    recipes = [assigned(base, {"seed": seed, "optim.lr": lr}) for seed in (0, 1) for lr in (0.01, 0.02)]
    packed = run_many(recipes, [tmp_path / str(n) for n in range(4)], how=LEAN)
    assert [actual.result["pack"]["arms"] for actual in packed] == [4] * 4
    # The runs that differ most: another seed and another learning rate.
    for n in (0, 3):
        actual, expected = packed[n], run(recipes[n], tmp_path / f"alone-{n}", how=LEAN)
        for name in ("train/loss", *(f"train/{name}" for name in names)):
            assert metric_by_step(actual, name) == pytest.approx(metric_by_step(expected, name), rel=2e-4, abs=2e-5), (
                n,
                name,
            )


@pytest.mark.slow
@pytest.mark.parametrize("noise", [{"eps_y": 0.5}, {"eps_x": 0.5}])
def test_vectorised_runs_have_separate_noise(tmp_path, monkeypatch, noise):
    """The same rows of one source, drawn differently by each seed."""
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    changes = {"objective": (SOURCE,)} | {f"data.{name}": eps for name, eps in noise.items()}
    recipes = [assigned(RECIPE, {**changes, "seed": seed, "optim.lr": lr}) for seed in (0, 1) for lr in (0.01, 0.02)]
    packed = run_many(recipes, [tmp_path / str(n) for n in range(4)], how=LEAN)
    for n, (recipe, actual) in enumerate(zip(recipes, packed, strict=True)):
        assert actual.result["pack"]["arms"] == 4
        expected = run(recipe, tmp_path / f"alone-{n}", how=LEAN)
        assert metric_by_step(actual, "train/loss") == pytest.approx(
            metric_by_step(expected, "train/loss"), rel=2e-4, abs=2e-5
        ), n


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eps_y", "eps_x"])
def test_runs_with_different_noise_form_a_group(tmp_path, monkeypatch, name):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    recipes = [assigned(RECIPE, {"objective": (SOURCE,), f"data.{name}": eps}) for eps in (0.0, 0.3, 0.7)]
    packed = run_many(recipes, [tmp_path / str(n) for n in range(3)], how=LEAN)
    losses = []
    for n, (recipe, actual) in enumerate(zip(recipes, packed, strict=True)):
        assert actual.result["pack"]["arms"] == 3
        expected = run(recipe, tmp_path / f"alone-{n}", how=LEAN)
        losses.append(metric_by_step(actual, "train/loss"))
        assert losses[-1] == pytest.approx(metric_by_step(expected, "train/loss"), rel=2e-4, abs=2e-5), n
    assert losses[0] != losses[1] != losses[2]
    # A rule that reads the source reads other labels, or inputs, in each run.
    choosing = [assigned(recipe, {"train.select": "source-validation"}) for recipe in recipes]
    ready = {n: opened(recipe, tmp_path / f"c{n}") for n, recipe in enumerate(choosing)}
    assert alike(ready) == [[0], [1], [2]]


@pytest.mark.slow
def test_unusual_data_are_noted_and_recorded(tmp_path, capsys):
    recipe = assigned(RECIPE, {"data.imbalance": 1e6, "data.source_classes": ("3", "7"), "train.batch": 512})
    outcome = run(recipe, tmp_path / "run", how=How(leave="learned"))
    note = "source has 351 examples, fewer than the batch size 512: one step uses some examples more than once"
    assert note in outcome.result["notes"]
    assert f"note: {note}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "statistics", "names"),
    [
        (RECIPE, "stream", ("train/mcc/confusion", "train/mmd/distance", "train/dann/risk")),
        pytest.param(MATCHED, "joint", ("train/mmd/distance", "train/jmmd/distance", "train/ot/cost"), marks=SLOW),
        pytest.param(WEIGHED, "stream", ("train/kmm/effective", "train/kliep/risk", "train/gate/risk"), marks=SLOW),
    ],
)
def test_cached_features_serve_every_stream(tmp_path, base, statistics, names):
    # Enough steps to read the features that are computed once.
    changes = {
        "tuning": tuning.Freeze(through="stem"),
        "model.dropout": 0.0,
        "data.eps_x": 0.5,
        "data.eps_y": 0.5,
        "data.target_shift": (Blur(sigma=0.5),),
        "train": Train(steps=80, batch=64, eval_every=80, eval_batch=128, statistics=statistics),
    }
    recipe = assigned(base, changes)
    stored, plain = (
        run(recipe, tmp_path / f"{prefix}", how=How(quiet=True, feature_cache=prefix)) for prefix in (True, False)
    )
    assert stored.result["prefix"][0]["cut"] == "blocks/00"
    for name in ("train/loss", *names):
        assert metric_by_step(stored, name) == pytest.approx(metric_by_step(plain, name), rel=1e-4, abs=1e-5), name
    assert stored.metrics == pytest.approx(plain.metrics, rel=1e-4)


@pytest.fixture
def halves(monkeypatch):
    """Two data sets, `odd` and `even`, from the digits of one."""

    def half(name, actual=examples.open_dataset):
        if name not in ("odd", "even"):
            return actual(name)
        full = actual("mnist5k")
        splits = {split: value.view(np.arange(name == "odd", len(value), 2)) for split, value in full.splits.items()}
        return dataclasses.replace(full, name=name, fingerprint=name, splits=splits)

    monkeypatch.setattr(examples, "open_dataset", half)


SEVERAL = assigned(
    RECIPE,
    {
        "data.source": ("odd", "even"),
        "objective": (
            terms.Mdan(width=8, share=1.0), terms.M3sda(), terms.Dann(width=8), terms.Coral(), terms.Mcc(weight=0.1),
        ),
    },
)  # fmt: skip


@pytest.mark.slow
def test_a_run_over_several_sources_resumes_bit_for_bit(halves, goes_on):
    goes_on(SEVERAL, (8,))


@pytest.mark.slow
def test_several_sources_vectorised_and_from_the_feature_cache(halves, tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    names = ("train/loss", "train/mdan/weight_0", "train/m3sda/distance", "train/dann/risk")
    recipes = [assigned(SEVERAL, {"optim.lr": lr}) for lr in (0.01, 0.02)]
    packed = run_many(recipes, [tmp_path / str(n) for n in range(2)], how=LEAN)
    for n, (recipe, actual) in enumerate(zip(recipes, packed, strict=True)):
        assert actual.result["pack"]["arms"] == 2 and actual.result["examples"]["source/1"] == 1750
        expected = run(recipe, tmp_path / f"alone-{n}", how=LEAN)
        for name in names:
            assert metric_by_step(actual, name) == pytest.approx(metric_by_step(expected, name), rel=2e-4, abs=2e-5), (
                n,
                name,
            )
    changes = {
        "tuning": tuning.Freeze(through="stem"),
        "model.dropout": 0.0,
        "train": Train(steps=80, batch=64, eval_every=80, eval_batch=128),
    }
    recipe = assigned(SEVERAL, changes)
    stored, plain = (
        run(recipe, tmp_path / f"{prefix}", how=How(quiet=True, feature_cache=prefix)) for prefix in (True, False)
    )
    assert stored.result["prefix"][0]["cut"] == "blocks/00"
    for name in names:
        assert metric_by_step(stored, name) == pytest.approx(metric_by_step(plain, name), rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_the_discriminator_is_trained_with_every_tuning_and_features_become_harder_to_separate(tmp_path):
    """Compare with the same run in which the features have no gradient of the discriminator."""
    base = assigned(RECIPE, {"train.steps": 300, "train.batch": 32, "train.eval_every": 300})

    def accuracy(reversal, seed):
        objective = (SOURCE, terms.Dann(width=64, reversal=reversal))
        recipe = dataclasses.replace(base, objective=objective, seed=seed)
        outcome = run(recipe, tmp_path / f"{reversal}-{seed}", quiet=True)
        return np.mean(list(metric_by_step(outcome, "train/dann/accuracy").values())[-50:])

    # Over five seeds the accuracy of one run varies by 0.15, so no single run can show the effect.
    without, with_gradient = (np.array([accuracy(reversal, seed) for seed in range(5)]) for reversal in (0.0, 1.0))
    assert without.mean() > 0.65
    assert (with_gradient < without).all() and with_gradient.mean() < without.mean() - 0.1


@pytest.mark.slow
def test_an_adversarial_step_costs_little_more_than_a_plain_step_on_both_streams(tmp_path):
    wide = dataclasses.replace(RECIPE.model, widths=(512, 512))
    plain = dataclasses.replace(RECIPE, model=wide, objective=(SOURCE, terms.Entropy(on="unlabelled")))
    flops = [
        run(recipe, tmp_path / str(n), how=LEAN).result["flops"]
        for n, recipe in enumerate((plain, dataclasses.replace(plain, objective=(SOURCE, terms.Dann(width=64)))))
    ]
    assert flops[1] < 1.15 * flops[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: terms.Mmd(scales=()), "Mmd: scales are (); expected "),
        (lambda: terms.Mmd(scales=(1.0, 0.0)), "Mmd: scales are (1.0, 0.0); expected "),
        (lambda: terms.Coral(form="other"), "Coral: form is 'other'; expected one of 'paper', 'mean'"),
        (lambda: terms.Dann(width=0), "Dann: width is 0; expected "),
        (lambda: terms.Mcc(temperature=0.0), "Mcc: temperature is 0.0; expected "),
        (lambda: terms.Dann(reversal=-1.0), "Dann: reversal is -1.0; expected "),
        (lambda: terms.Mmd(source="a", target="a"), "Mmd: source and target are both the stream 'a'"),
        (lambda: terms.Dann(weight=-1.0), "Dann: weight is -1.0; expected "),
    ],
)
def test_invalid_terms_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
