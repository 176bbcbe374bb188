"""The complete measurement: verdicts of constructed sources, stored gate weights, distances of domains."""

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from tlx import terms
from tlx.analysis.negative import measure, negative_study
from tlx.analysis.negative.domains import proxy_a_distance
from tlx.analysis.negative.measuring import written as report_again
from tlx.cli import main
from tlx.data import examples, load
from tlx.records import studies
from tlx.records.log import write_json
from tlx.training.evaluate import feature_reader
from tlx.training.prepare import prepare
from tlx.training.reopen import learned
from tlx.trees import flatten


@pytest.fixture
def longer(recipe):
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=120, batch=32))


@pytest.mark.slow
def test_constructed_sources_have_the_right_verdicts(longer, constructed_sources, tmp_path):
    """Five seeds: the examples of the target help, and the same examples with shuffled labels hurt."""
    study = negative_study(longer, sources=("copy", "shuffled"), labels=(0, 3))
    document = measure(study, tmp_path / "out", quiet=True)
    verdicts = {
        (gap["source"], gap["labels"], gap["baseline"]): gap["verdict"] for gap in document["gaps"]
    }  # fmt: skip
    assert verdicts["copy", 3, "A(0,T)"] == verdicts["copy", 0, "chance"] == "helps"
    assert verdicts["shuffled", 3, "A(0,T)"] == verdicts["shuffled", 3, "target only"] == "hurts"
    assert verdicts["shuffled", 0, "chance"] != "helps"
    assert [one["use"] for one in document["advice"]] == ["copy", "copy"]
    # Every number comes from the records: a second report is equal.
    remaining = json.loads((tmp_path / "out" / "negative.json").read_text(encoding="utf-8"))
    second = report_again(study, tmp_path / "out")
    assert {**second, "command": ""} == {**document, "command": ""} and remaining["gaps"] == second["gaps"]
    by_source = {row["source"]: row for row in document["domains"]}
    assert by_source["copy"]["a"] < 0.3 and by_source["copy"]["mmd"] == pytest.approx(0, abs=0.05)


@pytest.mark.slow
def test_the_gate_weight_of_every_source_example_is_stored(recipe, tmp_path):
    gated = dataclasses.replace(recipe, objective=(terms.Gate(width=8),))
    study = negative_study(gated, labels=(2,), seeds=1)
    document = measure(study, tmp_path / "out", quiet=True)
    (one,) = document["gated"]
    with np.load(tmp_path / "out" / one["folder"] / "gate.npz") as remaining:
        weight, index = remaining["weight"], remaining["index"]
    assert len(weight) == len(set(index.tolist())) == one["examples"] == 3500
    assert one["effective"] == pytest.approx(weight.sum() ** 2 / (len(weight) * (weight**2).sum()))
    assert one["away"][0]["weight"] == pytest.approx(weight.min() / weight.mean())
    assert one["away"][0]["index"] == index[weight.argmin()] and one["welcome"][0]["image"].startswith("data:image")
    assert one["quantiles"] == sorted(one["quantiles"])
    # D / (1 - D) of the trained discriminator, by numpy.
    ready, splits, variables = learned(tmp_path / "out" / one["folder"], gated)
    first = splits.streams["source"].view(np.arange(64))
    p = {path: np.asarray(leaf, np.float64) for path, leaf in flatten(variables.params).items()}
    image = np.stack([ready.processor(first[n])["image"] for n in range(64)]).reshape(64, -1).astype(np.float64)
    f = np.maximum(image @ p["stem/kernel"] + p["stem/bias"], 0)
    x = np.concatenate([f, np.eye(11)[first.labels()]], 1)
    for layer in range(3):
        x = x @ p[f"gate/{layer}/kernel"] + p[f"gate/{layer}/bias"]
        x = np.maximum(x, 0) if layer < 2 else x
    d = 1 / (1 + np.exp(-x[:, 0]))
    place = {value: n for n, value in enumerate(index.tolist())}
    np.testing.assert_allclose(weight[[place[int(row)] for row in first.rows]], d / (1 - d), rtol=1e-4)
    message = [
        studies.read(tmp_path / "out").cells[0].curves()[f"train/gate/{name}"] for name in ("effective", "weight_mean")
    ]
    assert one["effective_least"] == min(message[0].values()) and one["weight_mean_most"] == max(message[1].values())


@pytest.mark.slow
def test_ten_examples_are_measured_and_noted(recipe, monkeypatch, tmp_path):
    real = examples.open_dataset

    def opened(name):
        actual = real("mnist5k" if name == "few" else name)
        few = {split: value.view(np.arange(4)) for split, value in actual.splits.items()}
        return dataclasses.replace(actual, name=name, splits=few, fingerprint="few") if name == "few" else actual

    monkeypatch.setattr(examples, "open_dataset", opened)
    document = measure(negative_study(recipe, sources=("few",), seeds=2), tmp_path / "out", quiet=True)
    assert any("source has 4 examples, fewer than the batch size 16" in note for note in document["notes"])
    (row,) = document["domains"]
    assert (row["a"], row["a_low"], row["examples"][0]) == (None, None, 4)
    assert "NaN" not in (tmp_path / "out" / "negative.json").read_text()


def test_features_that_are_not_finite_are_named(recipe):
    splits = load(recipe.data, 0)
    ready = prepare(recipe, splits)
    ready.variables.params["stem"]["bias"] = np.full(16, np.nan, np.float32)
    with pytest.raises(ValueError, match=r"features of 1258 of 1258 examples of 'digits' train are not finite"):
        feature_reader(ready)(ready.variables, splits.streams["unlabelled"])


def test_domains_that_cannot_be_separated_have_distance_zero():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(400, 3)), draw.normal(size=(300, 3))
    assert abs(np.mean(proxy_a_distance(x, y))) < 0.5
    assert np.mean(proxy_a_distance(x, y + 9)) == 2.0
    with pytest.raises(ValueError, match="too few for the proxy A-distance"):
        proxy_a_distance(x[:3], y)


@pytest.mark.slow
def test_the_command_resumes_and_gives_advice(tmp_path):
    config, out = tmp_path / "small.py", tmp_path / "out"
    config.write_text(
        "from tlx import *\nfrom tlx import models, tasks, terms\n\n\ndef recipe():\n"
        "    return Recipe(data=Data(source='mnist5k', target='digits', labels=0, size=8),\n"
        "        task=tasks.Classification(classes=10), model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),\n"
        "        objective=(terms.Supervised(on='source'), terms.Supervised(), terms.Coral()),\n"
        "        train=Train(steps=4, batch=16))\n",
        encoding="utf-8",
    )
    requested = ["negative-transfer", str(config), "--labels", "0,2", "--seeds", "2", "--out", str(out)]
    first = CliRunner().invoke(main, requested)
    assert first.exit_code == 0, first.output
    assert "against chance" in first.output and "with 2 labels per class: use" in first.output
    outcome = {cell.fingerprint for cell in studies.read(out).cells}
    times = {name: (out / "cells" / name / "result.json").stat().st_mtime_ns for name in outcome}
    document = json.loads((out / "negative.json").read_text(encoding="utf-8"))
    assert document["command"] == (
        f"tlx negative-transfer {config} --seeds 2 --labels 0,2 --eps 0.0 --out {out}"
    )  # fmt: skip
    assert CliRunner().invoke(main, [*requested, "--quiet"]).exit_code == 0
    assert {name: (out / "cells" / name / "result.json").stat().st_mtime_ns for name in outcome} == times
    write_json(out / "domains.json", {})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["--labels", "many"], "labels 'many': expected a number of examples per class"),
        (["--labels", "1.5"], "labels=1.5"),
        (["--eps", "a"], "is not a list of numbers"),
        (["--sources", "mnist5"], "mnist5k"),
    ],
)
def test_invalid_arguments_are_named(tmp_path, inputs, message):
    config = tmp_path / "small.py"
    config.write_text(
        "from tlx import *\nfrom tlx import models, tasks, terms\n\n\ndef recipe():\n"
        "    return Recipe(data=Data(source='mnist5k', target='digits', labels=0, size=8),\n"
        "        task=tasks.Classification(classes=10), model=models.Mlp(inputs=(8, 8, 1), widths=(8,)),\n"
        "        objective=(terms.Supervised(on='source'),), train=Train(steps=4, batch=16))\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(main, ["negative-transfer", str(config), "--out", str(tmp_path / "out"), *inputs])
    assert result.exit_code == 2 and message in result.output
