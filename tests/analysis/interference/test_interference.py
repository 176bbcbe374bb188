"""Interference: the arms and their budgets, the effects from the records, and the page."""

import dataclasses
import json
import runpy

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Data, Recipe, Train, models, tasks
from tlx.analysis.interference import Interference, words
from tlx.analysis.interference.card import card
from tlx.cli import main
from tlx.data import Arrays, Member, Mixture, load
from tlx.functional import significance
from tlx.functional.metrics import document as declaration
from tlx.records import studies
from tlx.records.log import write_json
from tlx.records.members import MEMBER, ROW, member_metrics
from tlx.records.run_directory import Predictions, write_predictions
from tlx.report import interference
from tlx.study.base import document, settle

TESTED = {"a": 200, "b": 100, "c": 50}


def member(name, count):
    rows = {"text": [f"{name}{n}" for n in range(count)], "label": ["yes", "no"] * (count // 2)}
    tested = {"text": ["w"] * TESTED[name], "label": ["yes", "no"] * (TESTED[name] // 2)}
    return Member(name=name, source=Arrays(rows, validation=tested, test=tested, text="text", label="label"))


RECIPE = Recipe(
    data=Data(target=Mixture((member("a", 600), member("b", 300), member("c", 100)))),
    task=tasks.TextToText(),
    model=models.T5(vocabulary=9),
    train=Train(steps=100, batch=8),
)
# The share of correct answers of each member by the members of the arm: a helps b, b hurts a, and c does nothing.
SHARES = {
    "a": lambda arm: 0.8 - 0.2 * ("b" in arm),
    "b": lambda arm: 0.6 + 0.2 * ("a" in arm),
    "c": lambda arm: 0.5,
}


def recorded(plan, out):
    """Write the records of all runs of a study as if they had been trained."""
    settle(out, document(plan.study, "mixture"))
    for cell in plan.study.by_fingerprint.values():
        folder, arm = out / "cells" / cell.fingerprint, cell.names["members"].split(" + ")
        folder.mkdir(parents=True)
        parts = []
        for number, name in enumerate(arm):
            random = np.random.default_rng([cell.names["seed"], ord(name), len(arm)])
            right = random.permutation(np.arange(TESTED[name]) < round(TESTED[name] * SHARES[name](arm)))
            # Another example is right or wrong from run to run, so that the seeds differ.
            right[: int(random.integers(0, 4))] = True
            parts.append((np.full(len(right), number), np.arange(len(right)), right))
        numbers, rows, right = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        ones = np.ones(len(right), np.int32)
        scores = {"correct": right, "loss": 1.0 - right, "tokens": ones, "right": right * ones}
        predictions = Predictions({**scores, MEMBER: numbers, ROW: rows}, np.arange(len(right)))
        write_predictions(folder, "test", predictions)
        task, names = plan.recipe.task, plan.mixture.only(arm).open().splits["test"].members
        metrics = predictions.metrics(task) | member_metrics(predictions, task, names)
        examples = {name: {"rate": 1 / len(arm), "examples": {"train": 9, "test": TESTED[name]}} for name in arm}
        write_json(folder / "result.json", {
            "fingerprint": cell.fingerprint, "seed": cell.names["seed"], "selection": "last", "selected_step": 3,
            "metrics": {f"test/{name}": value for name, value in metrics.items()}, "steps": 3, "members": examples,
            "measures": {name: declaration(task.metric(name)) for name in task.measures}, "classes": [],
            "parameters": {"total": 10, "trainable": 5}, "seconds": {"train": 1.5}, "data": "0" * 16,
        })  # fmt: skip
    return studies.read(out)


@pytest.fixture(scope="module")
def plan():
    return Interference(recipe=RECIPE, pairs=True, seeds=4, smallest=0.005)


@pytest.fixture(scope="module")
def report(plan, tmp_path_factory):
    return card(plan, recorded(plan, tmp_path_factory.mktemp("study") / "mixture"))


def test_the_arms_are_all_each_alone_and_all_but_one(plan):
    assert plan.subsets == [("a", "b", "c"), ("a",), ("b",), ("c",), ("b", "c"), ("a", "c"), ("a", "b")]
    cells = list(plan.study.by_fingerprint.values())
    assert len(cells) == 7 * 4 and {cell.recipe.train.steps for cell in cells} == {100}
    assert cells[4].recipe.data.target == RECIPE.data.target.only(["a"])
    assert [cell.recipe.seed for cell in cells[:4]] == [0, 1, 2, 3]
    # Without pairs two members have three arms.
    two = dataclasses.replace(RECIPE, data=Data(target=RECIPE.data.target.only(["a", "c"])))
    assert Interference(recipe=two).subsets == [("a", "c"), ("a",), ("c",)]


def test_a_budget_of_examples_gives_each_member_the_same_draws():
    plan = Interference(recipe=RECIPE, budget="examples")
    assert plan.rates == pytest.approx({"a": 0.6, "b": 0.3, "c": 0.1})
    assert [plan.steps(subset) for subset in plan.subsets] == [100, 60, 30, 10, 40, 70, 90]
    for subset in plan.subsets:
        members = load(Data(target=plan.mixture.only(subset)), seed=0).train.members
        draws = plan.steps(subset) * members.rates
        np.testing.assert_allclose(draws, [100 * plan.rates[name] for name in members.names], rtol=1e-9)
    epochs = dataclasses.replace(RECIPE, train=Train(epochs=2.0, batch=10))
    assert {Interference(recipe=epochs).steps(subset) for subset in plan.subsets} == {200}


def effect_of(report, row, column, kind="effects"):
    (item,) = (item for item in report[kind] if (item["row"], item["column"]) == (row, column))
    return item


def test_an_effect_is_the_metric_with_the_row_minus_without_it(report):
    assert len(report["effects"]) == len(report["pairs"]) == 6
    for kind in ("effects", "pairs"):
        assert effect_of(report, "a", "b", kind)["effect"] == pytest.approx(0.2, abs=0.03)
        assert effect_of(report, "b", "a", kind)["effect"] == pytest.approx(-0.2, abs=0.03)
        verdicts = {(item["row"], item["column"]): item["verdict"] for item in report[kind]}
        assert verdicts == {
            ("a", "b"): "helps", ("a", "c"): "not shown", ("b", "a"): "hurts", ("b", "c"): "not shown",
            ("c", "a"): "not shown", ("c", "b"): "not shown",
        }  # fmt: skip
        corrected = significance.holm([item["p"] for item in report[kind]])
        assert [item["holm"] for item in report[kind]] == pytest.approx(corrected)
    for item in report["effects"]:
        assert item["effect"] == pytest.approx(item["with"] - item["without"]) and item["pairs"] == 4
        # The same examples of a member are compared, although the arms have other examples beside them.
        assert item["lacking"] == "" and item["boot"][0] <= item["effect"] <= item["boot"][1]
        assert len(item["folders"]) == 8


def test_the_table_compares_each_member_alone_with_the_mixture(report):
    table = {row["member"]: row for row in report["table"]}
    assert list(table) == ["a", "b", "c", "average"]
    assert [len(row["folders"]) for row in table.values()] == [8, 8, 8, 16]
    for row in table.values():
        assert row["difference"] == pytest.approx(row["mixture"]["mean"] - row["alone"]["mean"])
    for side in ("alone", "mixture"):
        by_seed = np.mean([table[name][side]["values"] for name in "abc"], 0)
        assert table["average"][side]["values"] == pytest.approx(by_seed.tolist())
    assert [row["verdict"] for row in table.values()][:3] == ["hurts", "helps", "not shown"]
    paired = significance.paired(table["average"]["mixture"]["values"], table["average"]["alone"]["values"])
    assert (table["average"]["low"], table["average"]["high"]) == pytest.approx((paired.low, paired.high))
    corrected = significance.holm([row["p"] for row in table.values()])
    assert [row["holm"] for row in table.values()] == pytest.approx(corrected)


def test_the_page_and_the_terminal_show_the_matrix(report, plan):
    html = interference.draw({"fingerprint": "0" * 16, "recipe": {"kind": "Recipe"}, "command": "", **report})
    # In points, as the numbers of the tables are.
    assert "lies beyond 0.5 and p" in html
    for item in (*report["effects"], *report["pairs"]):
        assert f'<data value="{item["effect"]}"' in html
    assert html.count('<span class="shown-better nowrap">helps</span>') == 2
    assert '<strong>b</strong> <span class="shown-worse">hurts</span> <strong>a</strong>' in html
    assert "All arms take 100 steps" in html
    assert any(line.startswith("a helps b: +") for line in words.answer(report))
    assert len(words.effect_rows(report)) == 6 and len(words.table_rows(report)) == 4
    assert "100 steps" in words.budget(report)
    assert "same number of draws" in words.budget(report | {"budget": "examples"})
    json.dumps(report, allow_nan=False)


CONFIG = """
from tlx import Data, Recipe, Train, models, tasks
from tlx.data import Arrays, Member, Mixture

def recipe():
    rows = {"text": [f"w{n}" for n in range(600)], "label": ["yes", "no"] * 300}
    names = {"a": 200, "b": 100}
    members = tuple(
        Member(name=name, source=Arrays(rows, test={key: cells[:count] for key, cells in rows.items()}))
        for name, count in names.items()
    )
    return Recipe(
        data=Data(target=Mixture(members)), task=tasks.TextToText(), model=models.T5(vocabulary=9), train=Train(steps=9)
    )
"""


def test_the_command_writes_the_report_of_finished_runs(tmp_path):
    (tmp_path / "mixture.py").write_text(CONFIG)
    plan = Interference(recipe=runpy.run_path(str(tmp_path / "mixture.py"))["recipe"](), seeds=3)
    recorded(plan, tmp_path / "out")
    arguments = [
        "interference",
        str(tmp_path / "mixture.py"),
        "--seeds",
        "3",
        "--out",
        str(tmp_path / "out"),
        "--quiet",
    ]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "a helps b: +2" in result.output and "all arms take 9 steps" in result.output
    written = json.loads((tmp_path / "out" / "interference.json").read_text())
    assert [item["verdict"] for item in written["effects"]] == ["helps", "hurts"]
    assert "tlx interference" in written["command"] and "--budget steps" in written["command"]
    assert (tmp_path / "out" / "interference.html").is_file()
    result = CliRunner().invoke(main, [*arguments, "--set", "data.target=digits"])
    assert result.exit_code == 2 and "no mixture" in result.output and result.output.count("\n") == 1


def test_one_seed_compares_nothing(tmp_path):
    plan = Interference(recipe=RECIPE, seeds=1)
    report = card(plan, recorded(plan, tmp_path / "study"))
    assert {item["verdict"] for item in (*report["effects"], *report["table"])} == {"not compared"}
    assert any("one seed" in note for note in report["notes"])
    assert "one seed" in interference.draw({"fingerprint": "0" * 16, "recipe": {}, "command": "", **report})


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"data": Data(target="digits")}, {}, "no mixture; expected a mixture of two members"),
        ({"data": Data(target=RECIPE.data.target.only(["a"]))}, {}, "a mixture of one member"),
        ({"data": Data(target=RECIPE.data.target, folds=3)}, {}, "data.folds=3"),
        ({"data": Data(target=RECIPE.data.target, source="digits")}, {}, "the streams source, labelled, unlabelled"),
        ({}, {"seeds": 0}, "seeds is 0"),
        ({}, {"budget": "epochs"}, "'epochs'"),
    ],
)
def test_mistakes_are_named_in_one_line(changes, settings, said):
    with pytest.raises(ValueError, match=said) as error:
        Interference(recipe=dataclasses.replace(RECIPE, **changes), **settings)
    assert "\n" not in str(error.value)


def test_without_a_run_of_the_mixture_there_is_no_report(tmp_path):
    plan = Interference(recipe=RECIPE, seeds=1)
    settle(tmp_path, document(plan.study, "mixture"))
    with pytest.raises(ValueError, match="no run of the whole mixture"):
        card(plan, studies.read(tmp_path))
