"""Classical methods, compared with other implementations."""

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from tlx.analysis.classical import METHODS, methods
from tlx.analysis.classical.methods import Inputs
from tlx.functional import reweight


def setting(source=90, target=70, width=4, seed=0, shift=1.5):
    """Two classes around two centres; the target is the source, rotated, stretched and moved."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(width, width)))[0] @ np.diag(np.linspace(0.5, 2, width))

    def draw(rows):
        labels = random.integers(0, 2, rows)
        return random.normal(size=(rows, width)) + 2.0 * labels[:, None], labels

    (x, labels), (y, value), (test, truth) = draw(source), draw(target), draw(200)
    y, test = y @ turn + shift, test @ turn + shift
    return Inputs(x, labels, y, y[:9], value[:9], test), truth


def fitted(x, labels, test, weights=None):
    return LogisticRegression(max_iter=2000).fit(x, labels, weights).predict(test)


def test_coral_gives_the_source_the_covariance_and_mean_of_the_target():
    inputs, _ = setting()
    covariances = [np.cov(rows.T) + np.eye(4) for rows in (inputs.source, inputs.target)]
    turn = fractional_matrix_power(covariances[0], -0.5) @ fractional_matrix_power(covariances[1], 0.5)
    moved = (inputs.source - inputs.source.mean(0)) @ turn + inputs.target.mean(0)
    np.testing.assert_array_equal(methods.coral(inputs).classes, fitted(moved, inputs.labels, inputs.test))
    tlx_side = methods.power(methods.covariance(inputs.source), -0.5) @ methods.power(
        methods.covariance(inputs.target), 0.5
    )
    np.testing.assert_allclose(tlx_side, turn, rtol=1e-9, atol=1e-12)
    # Equal sets are unchanged.
    same = inputs._replace(target=inputs.source)
    np.testing.assert_array_equal(methods.coral(same).classes, methods.source_only(inputs).classes)


def test_the_aligned_subspace_is_that_of_two_principal_component_analyses(monkeypatch):
    inputs, _ = setting(width=6)
    monkeypatch.setattr(methods, "DIMENSIONS", 3)
    tlx_side, reference_side = (PCA(3).fit(rows) for rows in (inputs.source, inputs.target))
    aligned = tlx_side.transform(inputs.source) @ tlx_side.components_ @ reference_side.components_.T
    actual = methods.subspace(inputs)
    np.testing.assert_array_equal(actual.classes, fitted(aligned, inputs.labels, reference_side.transform(inputs.test)))
    assert actual.details == {"converged": 1.0, "dimensions": 3}


def test_transfer_components_solve_their_eigenproblem(monkeypatch):
    inputs, _ = setting(31, 22)
    every = np.concatenate([inputs.source, inputs.target])
    squares = ((every[:, None] - every) ** 2).sum(-1)
    kernel = np.exp(-squares / (2 * squares.mean()))
    ends = np.r_[np.full(31, 1 / 31), np.full(22, -1 / 22)]
    spread = kernel @ (np.eye(53) - np.full((53, 53), 1 / 53)) @ kernel
    stored = kernel @ np.outer(ends, ends) @ kernel + 0.5 * np.eye(53)
    # As in the paper: the leading eigenvectors of a matrix that is not symmetric.
    values, vectors = np.linalg.eig(np.linalg.solve(stored, spread))
    order = np.argsort(-values.real)[:3]
    actual = methods.transfer_directions(every, 31, 3, 0.5)
    for tlx_side, reference_side in zip(actual.T, vectors.real[:, order].T, strict=True):
        cosine = tlx_side @ reference_side / np.linalg.norm(tlx_side) / np.linalg.norm(reference_side)
        assert abs(cosine) == pytest.approx(1.0, abs=1e-8)
    scores = kernel @ actual
    np.testing.assert_allclose(np.cov(scores.T, bias=True), np.eye(3), atol=1e-8)
    # Directions that separate the sets are suppressed, more so by a smaller mu.
    tight, loose = (kernel @ methods.transfer_directions(every, 31, 3, mu) for mu in (1e-4, 1e4))
    apart = [np.abs(value[:31].mean(0) - value[31:].mean(0)).max() for value in (tight, loose)]
    assert apart[0] < 0.1 * apart[1]
    monkeypatch.setattr(methods, "COMPONENT_ROWS", 20)
    assert methods.components(inputs).details == {"converged": 1.0, "dimensions": 32, "source": 20, "target": 20}


def test_transport_between_equal_numbers_is_the_best_assignment(monkeypatch):
    inputs, _ = setting(25, 25)
    rows, places = linear_sum_assignment(((inputs.source[:, None] - inputs.target) ** 2).sum(-1))
    moved, cost = methods.transported(inputs.source, inputs.target)
    np.testing.assert_allclose(moved, inputs.target[places], atol=1e-9)
    assert cost == pytest.approx(((inputs.source[rows] - inputs.target[places]) ** 2).sum(-1).mean())
    np.testing.assert_array_equal(methods.transport(inputs).classes, fitted(moved, inputs.labels, inputs.test))
    monkeypatch.setattr(methods, "TRANSPORT_ROWS", 10)
    assert methods.transport(inputs).details["source"] == 10


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"^the method 'ot' needs POT: pip install 'tlx\[classical\]'$"):
        methods.optimal_transport()


@pytest.mark.parametrize(("name", "find"), [("kmm", reweight.mean_matching), ("kliep", reweight.likelihood_ratio)])
def test_a_weighted_source_counts_by_its_weights(name, find):
    inputs, _ = setting()
    weights = find(inputs.source, inputs.target)
    actual = METHODS[name].answer(inputs)
    np.testing.assert_array_equal(
        actual.classes, fitted(inputs.source, inputs.labels, inputs.test, weights / weights.mean())
    )
    assert actual.details["effective"] == pytest.approx(weights.sum() ** 2 / len(weights) / (weights**2).sum())


def test_boosting_is_the_algorithm_of_the_paper():
    """For two classes, example by example, with the rule in the last line of the paper."""
    inputs, _ = setting(40, 30, shift=3.0)
    rounds, count, more = 6, 40, 9
    x = np.concatenate([inputs.source, inputs.granted])
    labels = np.concatenate([inputs.labels, inputs.granted_labels])
    w = [1.0] * (count + more)
    beta = 1 / (1 + (2 * np.log(count) / rounds) ** 0.5)
    left, right = np.ones(200), np.ones(200)
    moved = False
    for t in range(1, rounds + 1):
        p = np.array(w) / sum(w)
        model = LogisticRegression(max_iter=2000).fit(x, labels, p * len(p))
        h = model.predict(x)
        error = sum(w[i] for i in range(count, count + more) if h[i] != labels[i]) / sum(w[count:])
        error = min(max(error, 1e-6 / (1 + 1e-6)), 0.999 / 1.999)
        value = error / (1 - error)
        moved |= 1e-6 < value < 0.999
        for i in range(count + more):
            if h[i] != labels[i]:
                w[i] *= beta if i < count else 1 / value
        if t >= np.ceil(rounds / 2):
            left *= value ** -model.predict(inputs.test).astype(float)
            right *= value**-0.5
    assert moved
    actual = methods.boosted(inputs, rounds)
    np.testing.assert_array_equal(actual.classes, (left >= right).astype(int))
    assert actual.details["source_share"] == pytest.approx(sum(w[:count]) / sum(w), rel=1e-6)


@pytest.mark.slow
def test_every_method_beats_chance_and_some_beat_the_source_alone():
    inputs, truth = setting(200, 150)
    accuracy = {name: (method.answer(methods.standard(inputs)).classes == truth).mean()
                for name, method in METHODS.items()}  # fmt: skip
    assert min(accuracy.values()) > 0.4
    assert accuracy["target"] > accuracy["source"]
    assert accuracy["tradaboost"] > accuracy["source"]


def test_one_scale_serves_every_set():
    inputs, _ = setting()
    flat = {name: np.c_[getattr(inputs, name)[:, :3], np.full(len(getattr(inputs, name)), 7.0)]
            for name in ("source", "target", "granted", "test")}  # fmt: skip
    actual = methods.standard(inputs._replace(**flat))
    every = np.concatenate([actual.source, actual.target])
    np.testing.assert_allclose(every[:, :3].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(every[:, :3].std(0), 1)
    np.testing.assert_allclose(actual.test[:, 3], 0, atol=1e-12)
    np.testing.assert_array_equal(actual.granted, actual.target[:9])


def test_a_fit_that_did_not_converge_says_so(monkeypatch):
    inputs, _ = setting()
    assert methods.source_only(inputs).details["converged"] == methods.boosted(inputs, 2).details["converged"] == 1.0
    monkeypatch.setattr(methods, "STEPS", 2)
    assert methods.source_only(inputs).details["converged"] == methods.boosted(inputs, 2).details["converged"] == 0.0
