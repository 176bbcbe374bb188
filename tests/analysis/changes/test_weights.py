"""Norms of changes and spectra of kernels, by hand and by invariants."""

import numpy as np
import pytest

from tlx.analysis.changes import weights

RANDOM = np.random.default_rng(0)


def test_norms_add_up_by_stage_and_kind():
    before = {"stem": {"kernel": np.full((2, 2), 2.0), "bias": np.zeros(2)}, "head": {"norm": {"bias": np.ones(4)}}}
    after = {"stem": {"kernel": np.full((2, 2), 3.5), "bias": np.full(2, 2.0)}, "head": {"norm": {"bias": np.ones(4)}}}
    rows = weights.changes(before, after, ["stem", "head"], {"stem/kernel", "stem/bias", "head/norm/bias"})
    stem = weights.by_kind([row for row in rows if row["stage"] == "stem"])
    assert stem["kernels"] == {"before": 4.0, "after": 7.0, "change": 3.0, "relative": 0.75, "count": 4}
    assert stem["biases"]["relative"] is None
    assert stem["all"]["change"] == pytest.approx((9 + 8) ** 0.5)
    assert stem["all"]["relative"] == pytest.approx(17**0.5 / 4)
    head = weights.by_kind([row for row in rows if row["stage"] == "head"])
    assert head.keys() == {"all", "norms"}
    assert head["all"]["relative"] == 0


@pytest.mark.parametrize(
    ("path", "shape", "kind"),
    [
        ("blocks/00/attention/query/kernel", (3, 3), "kernels"),
        ("blocks/00/attention/query/bias", (3,), "biases"),
        ("blocks/00/attention/norm/bias", (3,), "norms"),
        ("module/LayerNorm_0/bias", (3,), "norms"),
        ("module/bn1/scale", (3,), "norms"),
        ("stem/words/embedding", (9, 3), "embeddings"),
        ("stem/class", (1, 3), "others"),
        ("module/Conv_0/kernel", (3, 3, 1, 2), "kernels"),
    ],
)
def test_kinds(path, shape, kind):
    assert weights.kind(path, np.zeros(shape), {path}) == kind
    assert weights.kind(path, np.zeros(shape), ()) == "added"


def test_a_stage_owns_the_paths_that_begin_with_its_name():
    assert weights.stage_of("blocks/01/kernel", ["blocks/0", "blocks/01"]) == "blocks/01"
    assert weights.stage_of("domain/kernel", ["stem"]) == "domain"


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (1, 5)])
def test_singular_values_are_those_of_a_decomposition(shape):
    matrix = RANDOM.normal(size=shape) @ np.diag(np.logspace(0, -4, shape[1]))
    recorded = weights.singular_values(matrix)
    np.testing.assert_allclose(recorded, np.linalg.svd(matrix, compute_uv=False), rtol=1e-5)
    assert not weights.singular_values(np.zeros(shape)).any()


def test_a_change_of_low_rank_is_detected():
    before = {"a": {"kernel": RANDOM.normal(size=(12, 8))}, "b": {"kernel": RANDOM.normal(size=(3, 3, 2, 4))}}
    move = np.outer(RANDOM.normal(size=12), RANDOM.normal(size=8))
    after = {**before, "a": {"kernel": before["a"]["kernel"] + move}}
    rows = weights.changes(before, after, ["a", "b"], {"a/kernel", "b/kernel"})
    message = []
    moved, unchanged = weights.spectra(before, after, rows, lambda *how: message.append(how))
    assert moved["change"]["effective_rank"] == pytest.approx(1, abs=1e-6)
    assert moved["change"]["singular_values"][0] == pytest.approx(np.linalg.norm(move))
    assert 1 < moved["before"]["effective_rank"] <= 8
    assert len(moved["before"]["singular_values"]) == weights.TOP
    assert (unchanged["shape"], unchanged["matrix"]) == ([3, 3, 2, 4], [18, 4])
    assert unchanged["before"] == unchanged["after"]
    assert unchanged["change"] == {"effective_rank": 0.0, "singular_values": [0.0] * 4}
    assert message == [(1, 2), (2, 2)]
