"""A run with an objective that remembers values, adds parameters and creates streams."""

import dataclasses
import json

import numpy as np
import pytest

from tlx import Data, Optim, Recipe, Train, Weights, load_pretrained, models, report, run, tasks, terms, tuning
from tlx.training.prepare import prepare

RECIPE = Recipe(
    data=Data(target="digits", shots=4),
    task=tasks.Classification(classes=10),
    model=models.Mlp(inputs=(8, 8, 1), widths=(6,)),
    optim=Optim(lr=0.01),
    train=Train(steps=2, batch=16),
)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "available", lambda: False)
        yield run(RECIPE, tmp_path_factory.mktemp("runs") / "first", quiet=True).folder


@pytest.mark.slow
def test_a_run_on_an_earlier_run_with_many_terms(first, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "available", lambda: False)
    objective = (
        terms.Mixup(weight=terms.Ramp(0.0, 1.0)), terms.L2SP(), terms.CoTuning(source=str(first)),
        terms.Lwf(source=str(first)),
    )  # fmt: skip
    recipe = dataclasses.replace(
        RECIPE,
        weights=Weights(str(first), reset=(r"head/.*",)),
        model=None,
        objective=objective,
        tuning=tuning.Probe(),
    )
    ready = prepare(recipe)
    assert ready.new == {"head/bias", "head/kernel"}
    assert ready.trainable == {
        f"{where}head/{leaf}" for where in ("", "cotuning/", "lwf/") for leaf in ("bias", "kernel")
    }
    outcome = run(recipe, tmp_path / "second", quiet=True)
    lines = [json.loads(line) for line in (outcome.folder / "metrics.jsonl").read_text().splitlines()]
    recorded = {line["name"]: line["value"] for line in lines if line["name"].startswith("train/")}
    assert recorded["train/mixup/weight"] == 0.5
    assert {"train/cotuning/risk", "train/lwf/risk", "train/l2sp/distance"} <= recorded.keys()
    # Parameters that the terms added are not part of the saved model.
    model = load_pretrained(outcome.folder)
    assert model.variables.params.keys() == {"stem", "head"}
    before = load_pretrained(first).variables.params["stem"]["kernel"]
    np.testing.assert_array_equal(model.variables.params["stem"]["kernel"], before)


def test_a_missing_stream_is_refused_before_training():
    with pytest.raises(ValueError) as error:
        prepare(dataclasses.replace(RECIPE, objective=(terms.Supervised(), terms.Entropy(on="unlabelled"))))
    assert str(error.value) == "Entropy reads the stream 'unlabelled', which does not exist; the streams are: labelled"


def test_from_scratch_everything_is_random():
    assert prepare(RECIPE).new == {"stem/bias", "stem/kernel", "head/bias", "head/kernel"}
