"""Every export of a calibrated classifier has the calibrated probabilities, or says how to compute them."""

import json

import jax
import numpy as np
import pytest

from tlx import tasks
from tlx.export import export_run
from tlx.export.temperature import folded, in_words
from tlx.export.usage import decoded
from tlx.functional.scores import softmax
from tlx.models import Mlp, build, initialise
from tlx.types import Variables
from tlx.weights import Manifest, Pretrained, load_pretrained, save_pretrained
from tlx.weights.export import answers, sample

TEMPERATURE = 2.5


@pytest.fixture(scope="module")
def calibrated(reviews):
    """A small BERT that divides its logits by a temperature."""
    return reviews.pretrained(tasks.Classification(classes=3, names=reviews.CLASSES, temperature=TEMPERATURE))


def test_the_last_layer_contains_the_temperature(calibrated, tmp_path):
    save_pretrained(calibrated, tmp_path / "model", untrained=True)
    export = export_run(tmp_path / "model", tmp_path / "exported")
    assert any(f"{TEMPERATURE}" in note and "last layer" in note for note in export.notes)
    assert f"temperature {TEMPERATURE}; the weights" in (tmp_path / "exported" / "README.md").read_text()
    opened = load_pretrained(tmp_path / "exported")
    assert opened.task.temperature is None and "temperature" not in (tmp_path / "exported" / "config.json").read_text()
    inputs = sample(calibrated)
    logits = answers(calibrated, inputs)
    np.testing.assert_allclose(answers(opened, inputs), logits / TEMPERATURE, atol=1e-6)
    expected = calibrated.task.answers({"logits": logits}, {})
    for answer, other in zip(opened.task.answers({"logits": answers(opened, inputs)}, {}), expected, strict=True):
        assert answer == pytest.approx(other, abs=1e-6)


def test_a_model_that_only_tlx_opens_keeps_its_temperature(tmp_path):
    task = tasks.Classification(classes=2, names=("a", "b"), temperature=TEMPERATURE)
    built = build(Mlp(inputs=(8, 8, 1), widths=(4,)), task.head())
    params = initialise(built, jax.random.key(0)).params
    model = Pretrained(built, Variables(params, {}), None, Manifest("random", {}, ()), task)
    assert folded(model) is model and "config.json" in in_words(model, "huggingface")
    save_pretrained(model, tmp_path / "model", untrained=True)
    program = export_run(tmp_path / "model", tmp_path / "program", to="stablehlo").directory
    assert json.loads((program / "program.json").read_text())["temperature"] == TEMPERATURE
    assert f"temperature = {TEMPERATURE}" in (program / "README.md").read_text()


def test_the_printed_code_has_the_probabilities_of_tlx(capsys, monkeypatch, tmp_path):
    names = ("a", "b", "c")
    task = tasks.Classification(classes=3, names=names, temperature=TEMPERATURE)
    (tmp_path / "program.json").write_text(json.dumps({"classes": names}))
    monkeypatch.chdir(tmp_path)
    logits = np.array([[3.0, 1.0, -2.0]], np.float32)
    exec("\n".join(decoded(task)), {"json": json, "jax": jax, "outputs": {"logits": logits}})
    printed = eval(capsys.readouterr().out)
    assert printed == pytest.approx(task.answers({"logits": logits}, {})[0], abs=1e-4)
    assert printed["a"] == pytest.approx(softmax(logits / TEMPERATURE)[0, 0], abs=1e-4)
