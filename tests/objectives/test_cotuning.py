"""The head of the checkpoint is trained further."""

import dataclasses

import numpy as np
import pytest

from tlx import terms
from tlx.objectives import cotuning, reference


def test_it_is_its_definition(mlp, tmp_path):
    source = mlp.save(tmp_path / "source", mlp.config, 5, seed=8)
    batch, now = mlp.labelled(rows=8), mlp.drawn(mlp.model, 3)
    batch["label"][:] = [0, 0, 0, 2, 2, 0, 2, 2]
    # The last example only fills the batch.
    data = [batch | {"weight": np.array([1] * 7 + [0], np.float32)}]
    actual = mlp.look(terms.CoTuning(source=str(tmp_path / "source"), weight=2.0), now=now, batch=batch, data=data)
    _, features, _ = mlp.by_hand(now, batch["x"])
    old = mlp.softmax(mlp.by_hand(source, batch["x"])[2])
    relationship = np.stack([old[[0, 1, 2, 5]].mean(0), np.full(5, 0.2), old[[3, 4, 6]].mean(0)])
    np.testing.assert_allclose(actual.memory["relationship"], relationship, rtol=1e-5)
    q = mlp.softmax(features @ np.float64(source.params["head"]["kernel"]) + source.params["head"]["bias"])
    assert actual.value == pytest.approx(-2 * (relationship[batch["label"]] * np.log(q)).sum(-1).mean(), rel=1e-5)
    assert np.abs(actual.gradient["cotuning/head/kernel"]).max() > 0


def test_the_source_is_read_only_as_often_as_needed(mlp, tmp_path, monkeypatch):
    mlp.save(tmp_path / "source", mlp.config, 5, seed=8)
    read = []
    load = reference.load_pretrained
    for module in (reference, cotuning):
        monkeypatch.setattr(module, "load_pretrained", lambda source: read.append(source) or load(source))
    mlp.look(terms.CoTuning(source=str(tmp_path / "source")))
    # Once for the checks, once for its head, once for its predictions, and never during tracing.
    assert len(read) == 3


def test_an_invalid_source_is_refused(mlp, tmp_path):
    mlp.save(tmp_path / "bare", mlp.config, None, seed=8)
    mlp.save(tmp_path / "wide", dataclasses.replace(mlp.config, widths=(5, 7)), 5, seed=8)
    mlp.save(tmp_path / "long", dataclasses.replace(mlp.config, inputs=(9,)), 5, seed=8)
    mlp.save(tmp_path / "other", dataclasses.replace(mlp.config, input="y"), 5, seed=8)
    for name, message in {
        "bare": "CoTuning: {} has no head; ",
        "wide": "CoTuning: the head of {}, kernel (7, 5), cannot read the features of the model",
        "long": "CoTuning: {} reads 'x' of shape (9,), but the model reads the shape (4,)",
        "other": "CoTuning: {} reads 'y', but the model reads 'x'",
    }.items():
        source = str(tmp_path / name)
        with pytest.raises(ValueError) as error:
            mlp.look(terms.CoTuning(source=source))
        assert str(error.value).startswith(message.format(repr(source)))
    with pytest.raises(FileNotFoundError):
        mlp.look(terms.CoTuning(source=str(tmp_path / "nothing")))
