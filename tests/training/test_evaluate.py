"""Evaluate a model on a split: every example once, in the order of the split."""

import base64
import io
from types import SimpleNamespace

import numpy as np
from PIL import Image

from tlx import Data, Recipe, models, tasks
from tlx.functional.scores import scores_of
from tlx.processors.previews import data_uri
from tlx.records.run_directory import Predictions
from tlx.training import evaluate

RECIPE = Recipe(data=Data(target="digits"), task=tasks.Classification(), model=models.Mlp())
TASK = tasks.Classification(classes=2, names=("no", "yes"))


def test_logits_are_in_the_order_of_the_split_without_padding_examples(monkeypatch):
    # Texts are sorted by length; the last batch is filled with copies of weight zero.
    position = np.array([[3, 0], [4, 1], [2, 2]])
    batches = [
        {"x": p[:, None] * 10.0, "label": p % 2, "index": p + 100, "position": p, "weight": np.ones(2)}
        for p in position
    ]
    batches[-1]["weight"] = np.array([1.0, 0.0])
    monkeypatch.setattr(evaluate, "evaluation_batches", lambda *_, **__: iter(batches))
    calls = []
    engine = SimpleNamespace(
        mesh=None,
        runs=2,
        put_whole=lambda given: calls.append(sorted(given)) or given,
        evaluate=lambda _, given: {
            "logits": np.stack([given["x"], -given["x"]]),
            "label": np.stack([given["label"]] * 2),
        },
    )
    ready = SimpleNamespace(recipe=RECIPE, targets=None, task=RECIPE.task)
    outcome, other = evaluate.evaluate(engine, None, SimpleNamespace(members=None), [None], ready)
    np.testing.assert_array_equal(other.scores["logits"], -outcome.scores["logits"])
    assert outcome.scores["logits"][:, 0].tolist() == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert outcome.scores["label"].tolist() == [0, 1, 0, 1, 0]
    assert outcome.indices.tolist() == [100, 101, 102, 103, 104]
    # The device receives inputs and labels only.
    assert calls == [["label", "x"]] * 3


def test_mistakes_are_the_wrong_predictions_with_the_largest_loss_first():
    logits = np.log([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.99, 0.01]])
    outcome = Predictions(scores_of(logits, np.array([0, 0, 0, 1])), np.arange(4))
    displayed = [
        {"label": int(label), "index": n, "text": f"text {n}"} for n, label in enumerate(outcome.scores["label"])
    ]
    actual = evaluate.mistakes(outcome, displayed, TASK, list)
    assert [one["text"] for one in actual] == ["text 3", "text 2", "text 1"]
    assert actual[0]["label"] == "yes"
    assert list(actual[0]["answer"]) == ["no", "yes"]
    assert [one["loss"] for one in actual] == sorted((one["loss"] for one in actual), reverse=True)
    assert len(evaluate.mistakes(outcome, displayed, TASK, list, count=1)) == 1
    right = Predictions(scores_of(logits[:1], np.array([0])), np.arange(1))
    assert evaluate.mistakes(right, displayed, TASK, list) == []


def test_an_image_is_shown_unchanged():
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 256, (4, 5, channels)).astype(np.uint8)
        head, _, body = data_uri(pixels).partition(",")
        assert head == "data:image/png;base64"
        back = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
        np.testing.assert_array_equal(back.reshape(pixels.shape), pixels)
