"""Selection criteria without target labels: by hand, by another library, by invariants, and runs that use them."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax
from scipy.stats import entropy

from tlx import Data, Optim, Recipe, Train, models, run, tasks, terms, tuning
from tlx.analysis.benefit.arms import assigned
from tlx.data import Crop, examples, load, streams
from tlx.functional.selection import (
    CRITERIA,
    SOURCE,
    TARGET,
    OutputRows,
    Outputs,
    controlled_risk,
    density_ratio,
    gaps,
    information,
    mean_entropy,
    measure,
    neighbourhood_density,
    weighted_risk,
)
from tlx.records.log import read_metrics
from tlx.training.loop import How
from tlx.training.prepare import open_data, prepare
from tlx.training.run_many import groups, run_many
from tlx.training.step import eval_step, initial_state
from tlx.weights import load_pretrained

ALL = tuple(CRITERIA)


def random_array(rows=37, classes=5, scale=2.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=(rows, classes))).astype(np.float32)


def test_the_entropy_of_predictions_by_hand():
    logits = np.log([[0.5, 0.5], [0.25, 0.75]])
    expected = (math.log(2) + 0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / 2
    assert mean_entropy(logits) == pytest.approx(expected, rel=1e-12)
    inputs = random_array()
    p = softmax(inputs.astype(np.float64), axis=1)
    assert mean_entropy(inputs) == pytest.approx(entropy(p, axis=1).mean(), rel=1e-12)
    assert information(inputs) == pytest.approx(entropy(p.mean(0)) - entropy(p, axis=1).mean(), rel=1e-12)


def test_confident_predictions_have_no_entropy_and_most_information_over_all_classes():
    sure = 1e4 * np.eye(4)
    assert mean_entropy(sure) == 0.0
    assert information(sure) == pytest.approx(math.log(4), rel=1e-12)
    # Predictions of one class, or of no class, have no information.
    assert information(sure[[1, 1, 1]]) == information(np.zeros((3, 4))) == pytest.approx(0.0, abs=1e-12)
    assert mean_entropy(np.zeros((3, 4))) == pytest.approx(math.log(4), rel=1e-12)


def test_the_density_of_neighbourhoods_row_by_row():
    inputs, temperature = random_array(11), 0.3
    p = softmax(inputs.astype(np.float64), axis=1)
    results = []
    for i, j in itertools.product(range(11), repeat=2):
        if i == j:
            results.append(0.0)
            continue
        results.append(math.exp(p[i] @ p[j] / math.sqrt((p[i] @ p[i]) * (p[j] @ p[j])) / temperature))
    expected = entropy(np.reshape(results, (11, 11)), axis=1).mean()
    assert neighbourhood_density(inputs, temperature) == pytest.approx(expected, rel=1e-12)


def test_the_density_of_neighbourhoods_counts_equal_predictions():
    """Among k equal confident predictions each has k - 1 neighbours.

    Examples of other classes have a similarity of exp(-20).
    """
    clusters = 1e4 * np.repeat(np.eye(3), 5, axis=0)
    near, far = 4, 10 * math.exp(-20)
    shares = np.array([1.0] * near + [math.exp(-20)] * 10) / (near + far)
    assert neighbourhood_density(clusters) == pytest.approx(entropy(shares), rel=1e-9)
    assert neighbourhood_density(np.zeros((9, 3))) == pytest.approx(math.log(8), rel=1e-12)
    # The order of the examples does not matter.
    inputs = random_array()
    assert neighbourhood_density(inputs[::-1]) == pytest.approx(neighbourhood_density(inputs), rel=1e-12)
    with pytest.raises(ValueError, match=r"1 row; .* at least two"):
        neighbourhood_density(inputs[:1])


def test_the_ratio_of_densities_is_that_of_a_penalised_logistic_regression():
    random = np.random.default_rng(1)
    source, target = random.normal(size=(61, 3)), random.normal(0.7, 1.5, size=(43, 3))
    rows = np.concatenate([source, target])
    x, y = (rows - rows.mean(0)) / rows.std(0), np.repeat([0.0, 1.0], [61, 43])

    def risk(actual):
        score = x @ actual[1:] + actual[0]
        return (np.logaddexp(0.0, score) - y * score).sum() + 0.5 * actual[1:] @ actual[1:]

    result = minimize(risk, np.zeros(4), method="BFGS", options={"gtol": 1e-9}).x
    expected = 61 / 43 * np.exp(x[:61] @ result[1:] + result[0])
    np.testing.assert_allclose(density_ratio(source, target), expected, rtol=1e-5)


def test_the_ratio_is_one_for_equal_sets_and_grows_towards_the_target():
    same = np.random.default_rng(0).normal(size=(50, 4))
    np.testing.assert_allclose(density_ratio(same, np.concatenate([same, same])), np.ones(50), rtol=1e-6)
    np.testing.assert_allclose(density_ratio(np.ones((5, 2)), np.ones((9, 2))), np.ones(5), rtol=1e-6)
    line = np.linspace(0.0, 1.0, 40)[:, None]
    assert (np.diff(density_ratio(line, line + 0.3)) > 0).all()


def test_the_risks_by_hand():
    errors, weights = np.array([1.0, 0.0, 0.0, 1.0]), np.array([2.0, 1.0, 0.5, 0.5])
    assert weighted_risk(errors, weights) == pytest.approx(2.5 / 4, rel=1e-12)
    # The means of w, w e, w^2 and w w e are 1, 5/8, 11/8 and 17/16; the mean of w is 1, so there is no correction.
    assert controlled_risk(errors, weights) == pytest.approx(5 / 8, rel=1e-12)
    # Twice the weights: eta = -(17/4 - 2 * 5/4) / (11/2 - 4) = -7/6 of the same risk, twice.
    assert controlled_risk(errors, 2 * weights) == pytest.approx(5 / 4 - 7 / 6, rel=1e-12)


def test_the_control_variate_gives_a_constant_risk_for_all_weights():
    weights = np.random.default_rng(0).exponential(size=33)
    for risk in (0.0, 0.3, 1.0):
        assert controlled_risk(np.full(33, risk), weights) == pytest.approx(risk, abs=1e-12)
        assert controlled_risk(np.full(33, risk), np.full(33, 0.1)) == pytest.approx(0.1 * risk, rel=1e-12)
    errors = (np.arange(33) % 3 == 0).astype(float)
    mean_one = weights / weights.mean()
    assert controlled_risk(errors, mean_one) == pytest.approx(weighted_risk(errors, mean_one), rel=1e-12)


def test_every_criterion_depends_only_on_what_it_declares():
    """A part that a criterion does not read may have any value."""
    random = np.random.default_rng(2)
    rows = {
        SOURCE: OutputRows(random_array(31), random.normal(size=(31, 4)), np.arange(31) % 5),
        TARGET: OutputRows(random_array(23, seed=1), random.normal(size=(23, 4))),
    }
    every = measure(ALL, Outputs(rows))
    right = (rows[SOURCE].logits.argmax(-1) == rows[SOURCE].labels).mean()
    assert every["source-validation"] == pytest.approx(right, rel=1e-12)
    for name, criterion in CRITERIA.items():
        value = {
            read: rows[read] if criterion.features else rows[read]._replace(features=None) for read in criterion.reads
        }
        assert measure([name], Outputs(value)) == {name: every[name]}


def test_values_that_are_not_finite_are_detected_everywhere():
    fine = {SOURCE: OutputRows(random_array(3), random_array(3, 2), np.arange(3)), TARGET: OutputRows(random_array(2))}
    assert Outputs().finite and Outputs(fine).finite
    for spoilt in (fine[SOURCE]._replace(features=np.full((3, 2), np.inf)), OutputRows(np.full((3, 5), np.nan))):
        assert not Outputs(fine | {SOURCE: spoilt}).finite


def lines(**series):
    return [
        {"step": step, "name": name.replace("_", "/"), "value": value}
        for name, values in series.items()
        for step, value in values.items()
    ]


def test_gaps_are_to_the_best_step_and_the_first_of_equal_steps_is_taken():
    recorded = lines(
        validation_accuracy={2: 0.5, 4: 0.8, 6: 0.75},
        validation_loss={2: 1.0, 4: 0.6, 6: 0.5},
        criterion_snd={2: 3.0, 4: 1.0, 6: 3.0},
        criterion_entropy={2: 0.9, 4: 0.2, 6: 0.3},
    )
    assert gaps(recorded, "accuracy", True) == {
        "last": {"step": 6, "value": 0.75, "gap": pytest.approx(0.05)},
        "oracle": {"step": 4, "value": 0.8, "gap": 0.0},
        "snd": {"step": 2, "value": 0.5, "gap": pytest.approx(0.3)},
        "entropy": {"step": 4, "value": 0.8, "gap": 0.0},
    }
    # For a metric where less is better, a gap is a loss too.
    assert gaps(recorded, "loss", False)["snd"] == {"step": 2, "value": 1.0, "gap": 0.5}
    # Values that a resumed run writes again count.
    second = recorded + lines(criterion_snd={4: 9.0})
    assert gaps(second, "accuracy", True)["snd"]["step"] == 4
    assert gaps(lines(validation_accuracy={2: 0.5}), "accuracy", True) == {}


LEAN = How(quiet=True, leave="learned")
RECIPE = Recipe(
    data=Data(source="mnist5k", target="digits", labels=0, size=8),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(16, 12), dropout=0.1),
    objective=(terms.Supervised(on="source"), terms.Coral()),
    optim=Optim(lr=0.01),
    train=Train(steps=12, batch=16, eval_every=3, eval_batch=128, criteria=ALL),
)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.feature_cache.store.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr("tlx.report.available", lambda: False)
    monkeypatch.setattr(streams, "LOOKED_AT", 150)


def criteria_of(actual):
    """The criteria of every step."""
    return {
        (line["step"], line["name"]): line["value"]
        for line in read_metrics(actual.folder)
        if line["name"].startswith("criterion/")
    }


@pytest.mark.slow
@pytest.mark.parametrize("rule", [pytest.param("dev", marks=pytest.mark.slow), "entropy"])
def test_a_run_takes_the_step_that_its_rule_selects(rule, tmp_path):
    outcome = run(assigned(RECIPE, {"train.select": rule, "train.criteria": ("snd",)}), tmp_path / "run", quiet=True)
    item = outcome.result["rules"][rule]
    assert outcome.result["selection"] == rule
    assert set(outcome.result["rules"]) == {"last", "oracle", "snd", rule}
    assert outcome.result["selected_step"] == item["step"]
    assert outcome.metrics["validation/accuracy"] == item["value"]
    values = {step: value for (step, name), value in criteria_of(outcome).items() if name == f"criterion/{rule}"}
    assert list(values) == [3, 6, 9, 12]
    assert item["step"] == min(values, key=values.get)


@pytest.mark.slow
def test_recorded_criteria_use_the_held_out_source_and_the_unlabelled_target(tmp_path):
    """Compute them again from the model of the run."""
    outcome = run(RECIPE, tmp_path / "run", quiet=True)
    pretrained = load_pretrained(outcome.folder)
    splits = open_data(RECIPE)
    inputs = {}
    for name, item in splits.aside.items():
        image = np.stack([pretrained.processor(example)["image"] for example in item])
        taps, _ = models.forward(pretrained.model, pretrained.variables, {"image": image})
        inputs[name] = np.asarray(taps["logits"]), np.asarray(taps["hidden"])
    stored = examples.open_dataset("mnist5k").splits["validation"]
    truth = stored.labels()[splits.aside[SOURCE].rows]
    errors = (inputs[SOURCE][0].argmax(-1) != truth).astype(float)
    weights = density_ratio(inputs[SOURCE][1], inputs[TARGET][1])
    values = {name.partition("/")[2]: value for (step, name), value in criteria_of(outcome).items() if step == 12}
    assert values.pop("source-validation") == pytest.approx(1 - errors.mean())
    assert values == pytest.approx(
        {
            "iwv": (weights * errors).mean(),
            "dev": controlled_risk(errors, weights),
            "snd": neighbourhood_density(inputs[TARGET][0]),
            "im": information(inputs[TARGET][0]),
            "entropy": mean_entropy(inputs[TARGET][0]),
        },
        rel=1e-4,
    )
    assert outcome.result["examples"][SOURCE] == outcome.result["examples"][TARGET] == 150


@pytest.mark.slow
def test_a_resumed_run_has_the_bits_of_an_unstopped_run(goes_on):
    goes_on(assigned(RECIPE, {"train.select": "dev"}), (8,))


@pytest.mark.slow
def test_criteria_change_only_the_records(tmp_path):
    plain = run(assigned(RECIPE, {"train.criteria": ()}), tmp_path / "plain", quiet=True)
    outcome = run(RECIPE, tmp_path / "run", quiet=True)
    bits = [(one.folder / "model" / "model.safetensors").read_bytes() for one in (plain, outcome)]
    assert bits[0] == bits[1]
    assert not criteria_of(plain) and plain.result["rules"] == {} and SOURCE not in plain.result["examples"]
    assert plain.metrics == pytest.approx(outcome.metrics, rel=1e-5)
    assert plain.result["data"] == outcome.result["data"]


@pytest.mark.slow
def test_a_vectorised_run_equals_the_run_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    base = assigned(RECIPE, {"train.select": "snd"})
    recipes = [assigned(base, {"seed": seed, "optim.lr": lr}) for seed in (0, 1) for lr in (0.01, 0.02)]
    packed = run_many(recipes, [tmp_path / str(n) for n in range(4)], how=LEAN)
    for n, (recipe, actual) in enumerate(zip(recipes, packed, strict=True)):
        assert actual.result["pack"]["arms"] == 4
        expected = run(recipe, tmp_path / f"alone-{n}", how=LEAN)
        assert criteria_of(actual) == pytest.approx(criteria_of(expected), rel=1e-3, abs=1e-4)
        assert actual.result["selected_step"] == expected.result["selected_step"]
    assert len({tuple(criteria_of(actual).values()) for actual in packed}) == 4


@pytest.mark.slow
def test_runs_that_read_other_examples_are_in_different_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("tlx.training.run_many.GAIN", 1e9)
    recipes = [assigned(RECIPE, {"data.shots": 20, "data.subset_seed": seed, "train.steps": 2}) for seed in (0, 1)]
    assert groups(recipes) == [[0, 1]]
    outcome = run_many(recipes, [tmp_path / str(n) for n in range(2)], how=LEAN)
    assert [one.result["pack"]["arms"] for one in outcome] == [1, 1]


@pytest.mark.slow
def test_pmap_gives_the_criteria_of_jit(tmp_path):
    actual = [
        run(assigned(RECIPE, {"train.compile": how, "model.dropout": 0.0}), tmp_path / how, how=LEAN)
        for how in ("jit", "pmap")
    ]
    assert criteria_of(actual[1]) == pytest.approx(criteria_of(actual[0]), rel=1e-3, abs=1e-4)
    assert criteria_of(actual[0])


@pytest.mark.slow
def test_cached_features_are_the_input_of_the_head_for_unchanged_images(tmp_path):
    changes = {
        "data.augment": (Crop(padding=1),),
        "data.views": 2,
        "tuning": tuning.Freeze(through="stem"),
        "model.dropout": 0.0,
        "train": Train(steps=80, batch=64, eval_every=40, eval_batch=128, criteria=ALL, select="iwv"),
    }
    recipe = assigned(RECIPE, changes)
    stored, plain = (
        run(recipe, tmp_path / f"{prefix}", how=How(quiet=True, leave="learned", feature_cache=prefix))
        for prefix in (True, False)
    )
    assert stored.result["prefix"][0]["cut"] == "blocks/00"
    assert criteria_of(stored) == pytest.approx(criteria_of(plain), rel=1e-3, abs=1e-4)
    assert criteria_of(stored)


def test_features_are_the_input_of_the_head_from_the_last_hidden_state():
    ready = prepare(RECIPE)
    assert ready.parts(0).features and not prepare(assigned(RECIPE, {"train.criteria": ("snd",)})).parts(0).features
    parts = ready.parts(0)
    state = initial_state(parts, ready.variables, 1, jax.random.key(0))
    actual = eval_step(parts, state, {"image": np.zeros((3, 8, 8, 1), np.float32)})
    assert actual["features"].shape == (3, 12) and actual["logits"].shape == (3, 10)
    assert eval_step(parts._replace(features=False), state, {"image": np.zeros((3, 8, 8, 1), np.float32)}).keys() == {
        "logits"
    }


def test_a_source_without_a_validation_split_holds_examples_out_only_if_a_rule_needs_them(monkeypatch):
    opened = examples.open_dataset

    def without(name):
        actual = opened(name)
        remaining = {
            split: value for split, value in actual.splits.items() if split != "validation" or name != "mnist5k"
        }
        return dataclasses.replace(actual, splits=remaining)

    full = load(RECIPE.data, 0, aside=(SOURCE, TARGET))
    stored = opened("mnist5k").splits["validation"]
    assert full.aside[SOURCE].split == "validation" and set(full.aside[SOURCE].rows) < set(stored.rows)
    monkeypatch.setattr(examples, "open_dataset", without)
    plain, requested = load(RECIPE.data, 0), load(RECIPE.data, 0, aside=(SOURCE,))
    assert not plain.aside and plain.fingerprint == load(RECIPE.data, 0, aside=(TARGET,)).fingerprint
    assert len(plain.streams["source"]) == 3500 and len(requested.streams["source"]) == 3150
    assert requested.fingerprint != plain.fingerprint
    assert not set(requested.streams["source"].rows) & set(requested.aside[SOURCE].rows)
    assert len(requested.aside[SOURCE]) == 150 and requested.aside[SOURCE].labelled
    # Both with the classes of the target.
    positions = dataclasses.replace(RECIPE.data, match="position")
    assert load(positions, 0, aside=(SOURCE,)).aside[SOURCE].labels().max() == 9


def test_no_target_label_is_read_and_no_seed_changes_the_examples():
    hidden = load(RECIPE.data, 0, aside=(TARGET,)).aside[TARGET]
    assert hidden[0].keys() == {"image", "index"} and len(hidden) == 150
    with pytest.raises(PermissionError, match="the labels of digits train"):
        hidden.labels()
    assert load(RECIPE.data, 7, aside=(TARGET,)).aside[TARGET].rows.tolist() == hidden.rows.tolist()
    train = load(RECIPE.data, 0).streams["unlabelled"]
    assert set(hidden.rows) < set(train.rows)


ALONE = {"data": Data(target="digits"), "objective": (terms.Supervised(),)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"criteria": ("sdn",)}}, "; close: 'snd'"),
        ({"train": {"criteria": ("oracle",)}},
         "; there are 'dev', 'entropy', 'im', 'iwv', 'snd', 'source-validation'"),
        ({"train": {"criteria": ("im", "snd", "im")}}, "criteria is ('im', 'snd', 'im'); "),
        ({"train": {"select": "svm"}},
         "one of 'last', 'best-validation', 'oracle', 'source-validation', 'iwv', 'dev', 'snd', "
         "'im', 'entropy'"),
        ({**ALONE, "train": {"select": "dev"}},
         "train.select is 'dev', which needs held-out examples of a source, but the recipe has no source"),
        ({**ALONE, "train": {"criteria": ("im", "iwv")}},
         "a rule that uses the target only ('snd', 'im', 'entropy')"),
        ({"task": tasks.Regression(), "train": {"select": "entropy"}},
         "train.select is 'entropy', which judges predicted classes, but with Regression an example "),
    ],
)  # fmt: skip
def test_invalid_rules_are_refused(changes, message):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(RECIPE, **{**changes, "train": Train(**changes["train"])})
    assert message in str(error.value)


def test_the_target_alone_suffices_for_criteria_that_need_no_source():
    recipe = dataclasses.replace(RECIPE, **ALONE, train=Train(steps=2, batch=8, select="im", criteria=("snd", "im")))
    assert recipe.train.measured == ("snd", "im")
    assert list(open_data(recipe).aside) == [TARGET]
