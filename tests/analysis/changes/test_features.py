"""Similarity and probes on features with a known answer."""

import numpy as np
import pytest

from tlx.analysis.changes import features
from tlx.functional.similarity import linear_cka
from tlx.training.reopen import batches_of, reopen

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 5)).astype(np.float32)


def test_similarity_by_batches_and_plain():
    turn, _ = np.linalg.qr(RANDOM.normal(size=(5, 5)))
    message = features.similarity(X, (X @ turn).astype(np.float32))
    assert message["cka"] == pytest.approx(1, abs=1e-6)
    assert message["batches"] == 4
    other = X + RANDOM.normal(size=X.shape).astype(np.float32)
    assert features.similarity(X, other)["plain"] == linear_cka(X, other)
    assert features.similarity(X, other)["cka"] == pytest.approx(linear_cka(X, other), abs=0.1)
    assert features.similarity(X, np.ones((300, 2))) == {"cka": None, "plain": None, "batches": 4}
    assert features.similarity(X[:3], X[:3])["cka"] is None


def test_a_probe_of_classes():
    labels = (X[:, 0] > 0).astype(np.int32)
    stored = RANDOM.normal(size=(100, 5)).astype(np.float32)
    message = features.probe((X, labels), (stored, (stored[:, 0] > 0).astype(np.int32)), True)
    assert message["value"] > 0.9
    assert message["converged"]
    assert features.probe((X, labels), (stored, RANDOM.integers(0, 2, 100)), True)["value"] < 0.7
    assert message["low"] < message["value"] < message["high"] <= 1


def test_a_probe_of_numbers():
    target = lambda x: 3 * x[:, 0] - x[:, 1] + 0.3 * RANDOM.normal(size=len(x))  # noqa: E731
    stored = RANDOM.normal(size=(100, 5)).astype(np.float32)
    message = features.probe((X, target(X)), (stored, target(stored)), False)
    assert message["measure"] == "r2"
    assert message["low"] < message["value"] < message["high"]
    assert message["value"] == pytest.approx(1 - 0.09 / 10.09, abs=0.02)


def test_each_stage_gives_one_row_per_example(scratch):
    opened = reopen(scratch.folder)
    actual = features.reader(opened)(opened.after, batches_of(opened, opened.splits.validation))
    count = len(opened.splits.validation)
    assert {name: array.shape for name, array in actual.items() if name not in ("label", "index")} == {
        "stem": (count, 4), "blocks/00": (count, 4), "pool": (count, 6), "head": (count, 10)
    }  # fmt: skip
    logits = np.load(scratch.folder / "predictions" / "validation.npz")["logits"]
    np.testing.assert_allclose(actual["head"], logits, rtol=1e-4, atol=1e-5)
