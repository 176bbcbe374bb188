"""The whole: planted sources are judged as they must be, the gate's weights are kept, how far domains are."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import cells, terms
from tlx.cli import main
from tlx.negative import measure, negative_study
from tlx.negative.domains import proxy_a_distance
from tlx.negative.measuring import written as report_again
from tlx.records import write_json


@pytest.fixture
def longer(recipe):
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=120, batch=32))


@pytest.mark.slow
def test_planted_sources_are_judged(longer, planted, tmp_path):
    """Five seeds: the target's own examples help, the same with shuffled labels do harm."""
    study = negative_study(longer, sources=("copy", "shuffled"), labels=(0, 3))
    document = measure(study, tmp_path / "out", quiet=True)
    verdicts = {
        (gap["source"], gap["labels"], gap["baseline"]): gap["verdict"] for gap in document["gaps"]
    }  # fmt: skip
    assert verdicts["copy", 3, "A(0,T)"] == verdicts["copy", 0, "chance"] == "positive"
    assert verdicts["shuffled", 3, "A(0,T)"] == verdicts["shuffled", 3, "target only"] == "negative"
    assert verdicts["shuffled", 0, "chance"] != "positive"
    assert [one["use"] for one in document["advice"]] == ["copy", "copy"]
    # Every number is of the records: the report is the same when it is made again.
    kept = json.loads((tmp_path / "out" / "negative.json").read_text(encoding="utf-8"))
    again = report_again(study, tmp_path / "out")
    assert {**again, "command": ""} == {**document, "command": ""} and kept["gaps"] == again["gaps"]
    by_source = {row["source"]: row for row in document["domains"]}
    assert by_source["copy"]["a"] < 0.3 and by_source["copy"]["mmd"] == pytest.approx(0, abs=0.05)


def test_the_gates_weights_of_every_source_example_are_kept(recipe, tmp_path):
    gated = dataclasses.replace(recipe, objective=(terms.Gate(width=8),))
    study = negative_study(gated, labels=(2,), seeds=1)
    document = measure(study, tmp_path / "out", quiet=True)
    (one,) = document["gated"]
    with np.load(tmp_path / "out" / one["folder"] / "gate.npz") as kept:
        weight, index = kept["weight"], kept["index"]
    assert len(weight) == len(set(index.tolist())) == one["examples"] == 3500
    assert one["effective"] == pytest.approx(weight.sum() ** 2 / (len(weight) * (weight**2).sum()))
    assert one["away"][0]["weight"] == pytest.approx(weight.min() / weight.mean())
    assert one["away"][0]["index"] == index[weight.argmin()] and one["welcome"][0]["image"].startswith("data:image")
    assert one["quantiles"] == sorted(one["quantiles"])


def test_domains_that_cannot_be_told_apart_are_at_no_distance():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(400, 3)), draw.normal(size=(300, 3))
    assert abs(np.mean(proxy_a_distance(x, y))) < 0.5
    assert np.mean(proxy_a_distance(x, y + 9)) == 2.0
    with pytest.raises(ValueError, match="too few to tell domains apart by"):
        proxy_a_distance(x[:3], y)


def test_the_command_goes_on_where_it_was_and_says_what_to_use(tmp_path):
    config, out = tmp_path / "small.py", tmp_path / "out"
    config.write_text(
        "from tlx import *\nfrom tlx import models, tasks, terms\n\n\ndef recipe():\n"
        "    return Recipe(data=Data(source='mnist5k', target='digits', labels=0, size=8),\n"
        "        task=tasks.Classification(classes=10), model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),\n"
        "        objective=(terms.Supervised(on='source'), terms.Supervised(), terms.Coral()),\n"
        "        train=Train(steps=4, batch=16))\n",
        encoding="utf-8",
    )
    asked = ["negative-transfer", str(config), "--labels", "0,2", "--seeds", "2", "--out", str(out)]
    first = CliRunner().invoke(main, asked)
    assert first.exit_code == 0, first.output
    assert "against chance" in first.output and "with 2 labels of each class: use" in first.output
    done = {cell.fingerprint for cell in cells.read(out).cells}
    times = {name: (out / "cells" / name / "result.json").stat().st_mtime_ns for name in done}
    document = json.loads((out / "negative.json").read_text(encoding="utf-8"))
    assert document["command"] == (
        f"tlx negative-transfer {config} --seeds 2 --labels 0,2 --eps 0 --out {out}"
    )  # fmt: skip
    assert CliRunner().invoke(main, [*asked, "--quiet"]).exit_code == 0
    assert {name: (out / "cells" / name / "result.json").stat().st_mtime_ns for name in done} == times
    write_json(out / "domains.json", {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--labels", "many"], "labels 'many': give a number of examples of each class"),
        (["--labels", "1.5"], "labels=1.5"),
        (["--eps", "a"], "is not a list of numbers"),
        (["--sources", "mnist5"], "mnist5k"),
    ],
)
def test_mistakes_are_named(tmp_path, given, message):
    config = tmp_path / "small.py"
    config.write_text(
        "from tlx import *\nfrom tlx import models, tasks, terms\n\n\ndef recipe():\n"
        "    return Recipe(data=Data(source='mnist5k', target='digits', labels=0, size=8),\n"
        "        task=tasks.Classification(classes=10), model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),\n"
        "        objective=(terms.Supervised(on='source'),), train=Train(steps=4, batch=16))\n",
        encoding="utf-8",
    )
    found = CliRunner().invoke(main, ["negative-transfer", str(config), "--out", str(tmp_path / "out"), *given])
    assert found.exit_code == 2 and message in found.output
