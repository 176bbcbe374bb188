"""The benefit report: its comparisons; every number comes from the records; nothing runs twice; errors are named."""

import dataclasses
import json
import shlex

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Data, Weights, config, tuning
from tlx.analysis.benefit import benefit_study, measure, words
from tlx.analysis.benefit.card import card, seconds_a_step
from tlx.analysis.benefit.measuring import counted_once
from tlx.cli import main
from tlx.functional import significance
from tlx.objectives import L2SP, LabelSmoothing, Supervised
from tlx.records import studies
from tlx.records.log import read_metrics
from tlx.training.active_run import total_steps
from tlx.training.flops import operations


@pytest.fixture(scope="session")
def measured(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("benefit") / "out"
    study = benefit_study(recipe, seeds=3, shots=[1, 4])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tlx.report.available", lambda: False)
        return study, out, measure(study, out, quiet=True, command="tlx benefit x.py")


def row(document, name):
    return next(one for one in document["measures"] if one["name"] == name)


def test_the_arms_differ_only_in_their_initial_weights(recipe):
    study = benefit_study(recipe, seeds=2, shots=[1, 4])
    assert study.question == "How much does transfer help here?" and study.baseline == {"arm": "scratch"}
    names = [(cell.names["arm"], cell.names["labels"], cell.names["seed"]) for cell in study.cells]
    assert names == [(arm, n, seed) for n in (10, 40, 80) for arm in ("pretrained", "scratch") for seed in (0, 1)]
    by_name = {tuple(cell.names.values()): cell.recipe for cell in study.cells}
    for labels in (10, 40, 80):
        actual, expected = by_name["pretrained", labels, 1], by_name["scratch", labels, 1]
        assert [path for path, _, _ in config.diff(actual, expected)] == ["weights.reset", "tuning.decay"]
        assert expected.weights == Weights(recipe.weights.source, reset=(r".*",)) and expected.tuning == tuning.Full()
        # Twelve evaluations on the validation split if runs are timed, else one at the end.
        assert actual.train == expected.train == dataclasses.replace(recipe.train, eval_every=2 if labels == 80 else 20)
    assert by_name["pretrained", 80, 0] == dataclasses.replace(recipe, train=actual.train)
    chosen = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, select="best-validation"))
    assert {cell.recipe.train.eval_every for cell in benefit_study(chosen, seeds=1, shots=[1]).cells} == {2}


def test_fewer_labels_take_as_many_steps(recipe):
    passes = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=None, epochs=3.0))
    actual = {cell.names["labels"]: cell.recipe for cell in benefit_study(passes, seeds=1, shots=[1, 4]).cells}
    assert {labels: value.train.steps for labels, value in actual.items()} == {10: 15, 40: 15, 80: None}
    assert {total_steps(value, labels) for labels, value in actual.items()} == {15}
    longer = benefit_study(passes, seeds=1, shots=[1], scratch=["train.epochs=6.0"])
    steps = {
        (cell.names["arm"], cell.names["labels"]): total_steps(cell.recipe, cell.names["labels"])
        for cell in longer.cells
    }
    assert steps == {("pretrained", 10): 15, ("scratch", 10): 30, ("pretrained", 80): 15, ("scratch", 80): 30}


def test_scratch_has_no_anchor_and_may_have_another_learning_rate(recipe):
    stored = dataclasses.replace(recipe, objective=(LabelSmoothing(smoothing=0.1), L2SP(weight=0.1)))
    frozen = dataclasses.replace(stored, tuning=tuning.Probe(), train=dataclasses.replace(recipe.train, eval_every=5))
    study = benefit_study(frozen, seeds=1, shots=[1], scratch=["optim.lr=0.5"])
    expected = study.cells[1].recipe
    assert expected.objective == (LabelSmoothing(smoothing=0.1),) and expected.tuning == tuning.Full()
    assert expected.optim.lr == 0.5 and study.cells[0].recipe.optim.lr == recipe.optim.lr
    assert expected.train.eval_every == 5
    alone = dataclasses.replace(recipe, objective=(L2SP(weight=0.1),))
    assert benefit_study(alone, seeds=1, shots=[1]).cells[1].recipe.objective == (Supervised(),)


def test_shots_that_the_data_lack_are_left_out_by_default(recipe):
    study = benefit_study(dataclasses.replace(recipe, data=Data(target="digits", shots=20)), seeds=1)
    assert sorted({cell.names["labels"] for cell in study.cells}) == [80, 160, 200]
    study = benefit_study(dataclasses.replace(recipe, data=Data(target="digits", fraction=0.1)), seeds=1, shots=[2])
    assert sorted({cell.names["labels"] for cell in study.cells}) == [20, 126]


def test_every_number_comes_from_the_records(measured, recipe):
    study, out, document = measured
    assert json.loads((out / "benefit.json").read_text()) == document
    actual = studies.read(out)
    most = {
        arm: [cell for cell in actual.cells if cell.names["arm"] == arm and cell.names["labels"] == 80]
        for arm in ("pretrained", "scratch")
    }
    finals = {arm: [cell.metrics["test/accuracy"] for cell in value] for arm, value in most.items()}
    final, difference = row(document, "final"), significance.paired(finals["pretrained"], finals["scratch"])
    assert (final["gain"]["value"], final["gain"]["low"], final["gain"]["high"]) == difference[:3]
    assert final["gain"]["verdict"] == significance.verdict(difference.low, difference.high)
    assert final["pretrained"]["mean"] == np.mean(finals["pretrained"])
    # Steps: for each seed, the first evaluation at which validation is as good as the last of the run from scratch.
    first = {arm: [] for arm in most}
    for value, other in zip(most["pretrained"], most["scratch"], strict=True):
        threshold = other.metrics["validation/accuracy"]
        for arm, cell in (("pretrained", value), ("scratch", other)):
            looks = [line for line in read_metrics(cell.folder) if line["name"] == "validation/accuracy"]
            first[arm].append(next(line["step"] for line in looks if line["value"] >= threshold))
    steps = row(document, "steps")
    assert steps["pretrained"]["mean"] == np.mean(first["pretrained"])
    assert steps["gain"]["value"] == pytest.approx(sum(first["scratch"]) / sum(first["pretrained"]))
    assert steps["gain"]["low"] <= steps["gain"]["value"] <= steps["gain"]["high"]
    # FLOPs: the count of the compiler for one step, times the steps.
    counted = operations(study.by_fingerprint[most["pretrained"][0].fingerprint].recipe)
    assert row(document, "operations")["pretrained"]["mean"] == pytest.approx(
        counted.a_step * np.mean(first["pretrained"])
    )
    assert row(document, "operations in all")["scratch"]["mean"] == pytest.approx(counted.total)
    assert document["counted"] == counted.how
    # Energy: the mean power of the run, times the time of its steps.
    expected = []
    for cell in most["scratch"]:
        spent, arms = cell.result["seconds"], cell.result["pack"]["arms"]
        seconds = 20 * 16 / cell.result["examples_per_second"]
        assert seconds_a_step(cell) == pytest.approx(seconds / 20 / arms)
        expected.append(cell.result["energy"]["kwh"] * seconds / (spent["compile"] + spent["train"] + spent["eval"]))
    assert row(document, "energy in all")["scratch"]["mean"] == pytest.approx(np.mean(expected))
    assert row(document, "co2e in all")["scratch"]["mean"] == pytest.approx(
        row(document, "energy in all")["scratch"]["mean"] * 0.475
    )
    for one in document["measures"]:
        assert one["folders"] and all((out / folder / "result.json").is_file() for folder in one["folders"])
    assert [(point["arm"], point["labels"]) for point in document["learning"]] == [
        (arm, labels) for labels in (10, 40, 80) for arm in ("pretrained", "scratch")
    ]


def test_transfer_pays_if_the_source_is_the_target(measured):
    _, _, document = measured
    assert row(document, "final")["gain"]["value"] > 0
    assert row(document, "steps")["gain"]["value"] > 1
    labels = row(document, "labels")
    assert labels["gain"]["value"] > 1
    assert labels["pretrained"]["mean"] == pytest.approx(80 / labels["gain"]["value"])
    assert document["changes"] == [
        ["weights.reset", "()", "('.*',)"], ["tuning", "Full(decay=0.9)", "Full()"],
    ]  # fmt: skip
    old = document["strubell"]
    assert old["how"].endswith("PUE 1.58, 0.954 lb CO2e per kWh (Strubell et al., 2019)")
    # Runs that trained together share their energy evenly, so the ends may be equal.
    assert old["kwh"]["low"] <= old["kwh"]["mean"] <= old["kwh"]["high"]
    assert old["co2e_kg"]["mean"] == pytest.approx(old["kwh"]["mean"] * 0.954 * 0.45359237)
    assert not [note for note in document["notes"] if "processes ran at the same time" in note]


def test_nothing_is_run_or_counted_twice(measured, monkeypatch):
    study, out, document = measured
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    monkeypatch.setattr("tlx.analysis.benefit.measuring.operations", lambda recipe: pytest.fail("counted again"))
    second = measure(study, out, quiet=True, command="tlx benefit x.py")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("result.json")} == before
    assert second == document


def test_the_report_is_printed_on_a_terminal(measured):
    _, _, document = measured
    recorded = {one[0]: one for one in words.rows(document)}
    assert recorded["test/accuracy at the end"][1].startswith("+0.")
    assert recorded["steps to reach the final value of scratch"][1].endswith("]")
    assert any("evaluated every 2 steps" in note for note in words.notes(document))


@pytest.mark.slow
def test_one_seed_and_one_number_of_labels_give_a_shorter_report(recipe, tmp_path):
    # No number of shots is smaller than that of the recipe.
    small = dataclasses.replace(recipe, data=Data(target="digits", shots=2))
    study = benefit_study(small, seeds=1)
    document = measure(study, tmp_path / "out", quiet=True)
    assert document["labels"] == [20]
    assert any(note.startswith("there is one seed") and "compared" in note for note in document["notes"])
    assert document["measures"][0]["gain"]["verdict"] == "not compared"
    assert any(note.startswith("the labels needed for equal accuracy are not measured") for note in document["notes"])
    assert {one["gain"]["low"] for one in document["measures"]} == {None}
    assert not [one for one in document["measures"] if one["name"] == "labels"]


def test_a_run_that_never_reaches_the_accuracy_has_a_lower_bound(measured):
    study, out, _ = measured
    actual = studies.read(out)
    # As if the arms were swapped.
    other = {"pretrained": "scratch", "scratch": "pretrained"}
    turned = actual._replace(
        cells=tuple(one._replace(names=one.names | {"arm": other[one.names["arm"]]}) for one in actual.cells)
    )
    counted = {arm: counted_once(out, study, arm) for arm in ("pretrained", "scratch")}
    document = card(turned, counted)
    steps = row(document, "steps")
    assert steps["gain"]["bound"] == "at most" and steps["gain"]["value"] < 1 and steps["gain"]["low"] is None
    assert steps["pretrained"]["bound"] == "at least"
    assert row(document, "labels")["gain"]["bound"] == "at most"
    assert any("never reach the final value of scratch" in note for note in document["notes"])
    assert words.bought(steps["gain"]).startswith("<= 0.")


@pytest.mark.parametrize(
    ("changes", "inputs", "message"),
    [
        (
            {"weights": None},
            {},
            "the recipe has no pretrained weights: it has a model= and no weights=, so there is no transfer to measure",
        ),
        ({}, {"seeds": 0}, "seeds is 0; expected 1 or more"),
        ({}, {"shots": [0]}, "shots is 0; expected "),
        (
            {},
            {"shots": [8]},
            "8 shots give 80 labels, which is not fewer than the 80 labels of the recipe; leave 8 out",
        ),
        ({}, {"shots": [4000]}, "class '0' has 125 training examples, fewer than shots=4000"),
        ({}, {"scratch": ["optim.lr"]}, "--scratch 'optim.lr' is not of the form path=value"),
        (
            {},
            {"scratch": ["optim.rate=1"]},
            "recipe ... field 'optim.rate'; close: 'optim.name', 'optim.lr', 'optim.slant_peak'",
        ),
    ],
)
def test_recipes_that_cannot_be_measured_are_refused(changes, inputs, message, recipe):
    with pytest.raises(ValueError) as error:
        benefit_study(dataclasses.replace(recipe, **changes), **inputs)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_a_recipe_that_resets_all_parameters_is_refused(recipe):
    weights = dataclasses.replace(recipe.weights, reset=(r".*",))
    with pytest.raises(ValueError) as error:
        benefit_study(dataclasses.replace(recipe, weights=weights))
    for part in ("weights.reset is ('.*',)", repr(weights.source), "leave weights.reset out"):
        assert part in str(error.value)


@pytest.mark.slow
def test_the_command_prints_the_report_and_resumes(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(tiny)
    command = ["benefit", "tiny.py", "--seeds", "2", "--shots", "1", "--scratch", "optim.lr=0.01", "--quiet"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "How much does transfer help here?" in result.output and "two seeds say little" in result.output
    assert result.output.splitlines()[-1] == "runs/benefit-tiny/benefit.json"
    document = json.loads((tmp_path / "runs/benefit-tiny/benefit.json").read_text())
    assert document["command"] == shlex.join(["tlx", "benefit", "tiny.py", *command[6:8], "--seeds", "2", *command[4:6],
                                              "--out", "runs/benefit-tiny"])  # fmt: skip
    assert len(document["seeds"]) == 2
    refused = CliRunner().invoke(main, ["benefit", "tiny.py", "--set", "weights=None", "--quiet"])
    assert refused.exit_code == 2 and refused.output.startswith(
        "tlx: the recipe has no pretrained weights: it has a model="
    )
    refused = CliRunner().invoke(main, ["benefit", "tiny.py", "--shots", "few"])
    assert refused.exit_code == 2 and "'few' is not a list of whole numbers such as 8,16,32" in refused.output
