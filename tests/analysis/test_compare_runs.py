"""Runs that are no study: differences of recipes, tests over shared examples, independent samples, arms over seeds."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import Data, tuning
from tlx.analysis.compare_runs import compare_runs, differences
from tlx.cli import main
from tlx.functional import significance
from tlx.records import studies
from tlx.records.log import write_json
from tlx.report import comparison, intervals

DRAW = np.random.default_rng(0)
WEAK, STRONG = DRAW.random(200) < 0.6, DRAW.random(200) < 0.8


@pytest.fixture
def pair(tmp_path, write_run):
    return [write_run(tmp_path / "weak", WEAK), write_run(tmp_path / "strong", STRONG, tuning=tuning.Lora(rank=4))]


def test_a_pair_on_the_same_examples_has_the_tests_over_these_examples(pair):
    document = compare_runs(pair)
    (item,) = document["comparisons"]
    expected = significance.paired(STRONG.astype(float), WEAK.astype(float), (0.0, 1.0))
    assert (item["difference"], item["low"], item["high"]) == pytest.approx(expected[:3])
    assert item["p"] == pytest.approx(significance.mcnemar(STRONG, WEAK))
    assert item["holm"] == item["p"]
    assert (item["paired"], item["examples"], item["verdict"], item["reason"]) == (True, 200, "better", "")
    assert item["test"] == "McNemar's exact test"
    assert "these trained models" in document["notes"][0]
    accuracy = next(row for row in document["metrics"] if row["name"] == "test/accuracy")
    for value, correct in zip(accuracy["values"], (WEAK, STRONG), strict=True):
        exact = intervals.wilson(int(correct.sum()), 200)
        assert (value["value"], value["low"], value["high"]) == (correct.mean(), exact.low, exact.high)
    assert document["differences"] == [{"path": "tuning", "values": ["Full()", "Lora(rank=4)"]}]


def test_runs_before_and_after_a_change_of_the_data_are_not_paired(tmp_path, write_run):
    def on_other_data(folder, **fields):
        result = json.loads((write_run(folder, STRONG, **fields) / "result.json").read_text())
        write_json(folder / "result.json", result | {"data": "1" * 16})
        return folder

    runs = [write_run(tmp_path / "a", WEAK), on_other_data(tmp_path / "b", tuning=tuning.Lora())]
    (item,) = compare_runs(runs)["comparisons"]
    assert (item["paired"], item["difference"]) == (False, None)
    for part in (*map(str, runs), "0" * 16, "1" * 16):
        assert part in item["reason"]
    # A subset that the seed draws has another fingerprint for each seed.
    drawn = Data(target="digits", shots=4)
    subsets = [write_run(tmp_path / "c", WEAK, data=drawn), on_other_data(tmp_path / "d", data=drawn, seed=1)]
    assert compare_runs(subsets)["comparisons"][0]["paired"]
    assert [row["seeds"] for row in compare_runs(subsets)["arms"]["rows"]] == [2]
    seeds = [runs[0], write_run(tmp_path / "e", STRONG, seed=1), on_other_data(tmp_path / "f", seed=2)]
    arms = compare_runs(seeds)
    assert [row["seeds"] for row in arms["arms"]["rows"]] == [2]
    assert any(str(seeds[2]) in note and "without" in note for note in arms["notes"])


@pytest.mark.parametrize("metric", ["test/accuracy", "test/loss", "test/macro_f1"])
def test_the_other_order_has_the_opposite_sign(pair, metric):
    (first,), (second,) = (compare_runs(runs, metric)["comparisons"] for runs in (pair, pair[::-1]))
    assert first["difference"] == pytest.approx(-second["difference"])
    assert (first["low"], first["high"]) == pytest.approx((-second["high"], -second["low"]), abs=1e-12)
    assert first["p"] == second["p"]
    assert (first["verdict"], second["verdict"]) == ("better", "worse")
    # A lower loss is better.
    assert (first["difference"] > 0) == (metric != "test/loss")
    assert first["paired"]


def test_the_same_outcome_twice_shows_no_difference(tmp_path, write_run):
    runs = [write_run(tmp_path / name, WEAK, seed=seed) for seed, name in enumerate("ab")]
    for metric in ("test/accuracy", "test/macro_f1"):
        (item,) = compare_runs(runs, metric)["comparisons"]
        assert (item["difference"], item["verdict"]) == (0.0, "no difference shown")
        assert item["p"] in (None, 1.0)


def test_the_order_of_the_stored_examples_does_not_matter(pair, tmp_path, write_run):
    order = DRAW.permutation(200)
    shuffled = write_run(
        tmp_path / "shuffled", STRONG[order], indices=order, labels=order % 2, tuning=tuning.Lora(rank=4)
    )
    one, two = (compare_runs([pair[0], run])["comparisons"][0] for run in (pair[1], shuffled))
    assert one == two


def test_other_examples_are_two_independent_samples(pair, tmp_path, write_run):
    other = write_run(tmp_path / "other", STRONG[:150], indices=np.arange(50, 200))
    (item,) = compare_runs([pair[0], other])["comparisons"]
    assert not item["paired"]
    assert "150 and 200, of which 150 are in both" in item["reason"]
    assert "two independent samples" in item["reason"]
    assert item["difference"] == pytest.approx(STRONG[:150].mean() - WEAK.mean())
    assert item["low"] < item["difference"] < item["high"]
    assert item["p"] is None
    # The interval of independent samples by the normal approximation.
    variance = sum(side.var(ddof=1) / len(side) for side in (STRONG[:150].astype(float), WEAK.astype(float)))
    assert item["high"] - item["low"] == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)
    relabelled = write_run(tmp_path / "relabelled", STRONG, labels=(np.arange(200) + 1) % 2)
    assert "labels" in compare_runs([pair[0], relabelled])["comparisons"][0]["reason"]


def test_other_data_are_not_compared(pair, tmp_path, write_run):
    other = write_run(tmp_path / "other", STRONG, data=Data(target="mnist5k"))
    (item,) = compare_runs([pair[0], other])["comparisons"]
    assert (item["difference"], item["verdict"]) == (None, "not compared")
    assert "'mnist5k'" in item["reason"]
    assert "'digits'" in item["reason"]


def test_several_comparisons_are_corrected(pair, tmp_path, write_run):
    third = write_run(tmp_path / "third", DRAW.random(200) < 0.65)
    items = compare_runs([*pair, third])["comparisons"]
    assert [item["holm"] for item in items] == significance.holm([item["p"] for item in items])
    assert items[0]["holm"] == 2 * items[0]["p"]


def test_a_difference_below_the_smallest_of_interest_is_not_shown(pair):
    (item,) = compare_runs(pair, smallest=0.5)["comparisons"]
    assert item["verdict"] == "no difference shown"
    assert item["test"] == "paired t-test over examples"
    assert item["p"] == 1.0 or item["p"] > 0.05


def test_runs_that_differ_in_their_seeds_are_arms_as_in_a_study(tmp_path, write_run, written):
    runs, draw = [], np.random.default_rng(1)
    study = written
    for name, share in (("a", 0.6), ("b", 0.8)):
        for seed in range(3):
            correct = draw.random(100) < share
            change = {} if name == "a" else {"tuning": tuning.Probe()}
            runs.append(write_run(tmp_path / "runs" / f"{name}{seed}", correct, seed=seed, **change))
            study.add(correct, method=name, seed=seed)
    document = compare_runs(runs)
    (expected,) = study.compare().comparisons
    base, arm = document["arms"]["rows"]
    assert (base["name"], base["seeds"], base["verdict"]) == ("a0", 3, "")
    assert (arm["name"], arm["pairs"], arm["verdict"]) == ("b0", 3, expected.verdict)
    assert arm["difference"] == pytest.approx(expected.difference.mean)
    assert (arm["difference_low"], arm["holm"]) == pytest.approx((expected.difference.low, expected.holm))
    assert {row["path"] for row in document["differences"]} == {"seed", "tuning"}
    assert isinstance(studies.compare(studies.read(study.folder)), studies.StudyTable)


def test_fields_that_one_recipe_lacks_are_empty():
    before, after = {"data": {"kind": "Data", "a": 1}}, {"data": {"kind": "Data", "a": 1, "b": {"kind": "Own", "c": 2}}}
    assert differences([before, after]) == [{"path": "data.b", "values": [None, "Own(c=2)"]}]
    assert differences([after, after]) == []
    terms = [{"objective": [{"kind": "Dann", "weight": weight}, {"kind": "Supervised"}]} for weight in (1.0, 2.0)]
    assert differences(terms) == [{"path": "objective.0.weight", "values": ["1.0", "2.0"]}]


def test_mistakes_are_one_line(pair, tmp_path, write_run, small_study):
    unfinished = write_run(tmp_path / "unfinished", WEAK, finished=False)
    write_json(tmp_path / "empty.json", {})
    for words, parts in (
        ((pair[0],), ("1 run", "two or more")),
        ((pair[0], pair[0]), (str(pair[0]), "twice")),
        ((pair[0], small_study), (str(small_study), "a study", "tlx report")),
        ((pair[0], unfinished), (str(unfinished), "unfinished run")),
        ((pair[0], tmp_path / "nothing"), ("nothing", "no directory")),
        ((*pair, "--metric", "test/acuracy"), ("'test/acuracy'", "'test/accuracy'")),
        ((*pair, "--smallest", "-1"), ("smallest is -1",)),
    ):
        outcome = CliRunner().invoke(main, ["compare", *map(str, words), "--out", str(tmp_path / "out")])
        assert outcome.exit_code == 2, outcome.output
        assert len(outcome.output.splitlines()) == 1
        assert all(part in outcome.output for part in parts), outcome.output
    assert not (tmp_path / "out").exists()


def test_the_command_prints_and_writes_the_comparison(pair, tmp_path):
    out = tmp_path / "out"
    outcome = CliRunner().invoke(main, ["compare", *map(str, pair), "--out", str(out)])
    assert outcome.exit_code == 0, outcome.output
    for part in ("Lora(rank=4)", "better", "McNemar's exact test", "test/accuracy", f"{out}/compare.html"):
        assert part in outcome.output
    document = json.loads((out / "compare.json").read_text())
    assert document == json.loads(json.dumps(compare_runs(pair)))
    page = (out / "compare.html").read_text(encoding="utf-8")
    for part in ("strong", "weak", "Lora(rank=4)", "shown-better", "200 paired examples", 'data-figure="metric"'):
        assert part in page
    document["runs"][0]["name"] = document["notes"][0] = "<script>window.hit=1</script>"
    assert "<script>window.hit" not in comparison.draw(document)
    printed = CliRunner().invoke(main, ["compare", *map(str, pair), "--out", str(out), "--json"]).output
    assert json.loads(printed) == json.loads((out / "compare.json").read_text())
