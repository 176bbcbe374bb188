"""Classical methods against other ways to the same."""

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from tlx.analysis.classical import METHODS, methods
from tlx.analysis.classical.methods import Given
from tlx.functional import reweight


def setting(source=90, target=70, width=4, seed=0, shift=1.5):
    """Two classes about two centres; the target is the source turned, stretched and moved."""
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(width, width)))[0] @ np.diag(np.linspace(0.5, 2, width))

    def draw(rows):
        labels = random.integers(0, 2, rows)
        return random.normal(size=(rows, width)) + 2.0 * labels[:, None], labels

    (x, labels), (y, own), (test, truth) = draw(source), draw(target), draw(200)
    y, test = y @ turn + shift, test @ turn + shift
    return Given(x, labels, y, y[:9], own[:9], test), truth


def fitted(x, labels, test, weights=None):
    return LogisticRegression(max_iter=2000).fit(x, labels, weights).predict(test)


def test_coral_gives_the_source_the_targets_covariance_and_mean():
    given, _ = setting()
    covariances = [np.cov(rows.T) + np.eye(4) for rows in (given.source, given.target)]
    turn = fractional_matrix_power(covariances[0], -0.5) @ fractional_matrix_power(covariances[1], 0.5)
    moved = (given.source - given.source.mean(0)) @ turn + given.target.mean(0)
    np.testing.assert_array_equal(methods.coral(given).classes, fitted(moved, given.labels, given.test))
    ours = methods.power(methods.covariance(given.source), -0.5) @ methods.power(methods.covariance(given.target), 0.5)
    np.testing.assert_allclose(ours, turn, rtol=1e-9, atol=1e-12)
    # Alike sets are left where they are.
    same = given._replace(target=given.source)
    np.testing.assert_array_equal(methods.coral(same).classes, methods.source_only(given).classes)


def test_the_aligned_subspace_is_that_of_two_principal_component_analyses(monkeypatch):
    given, _ = setting(width=6)
    monkeypatch.setattr(methods, "DIMENSIONS", 3)
    ours, theirs = (PCA(3).fit(rows) for rows in (given.source, given.target))
    aligned = ours.transform(given.source) @ ours.components_ @ theirs.components_.T
    found = methods.subspace(given)
    np.testing.assert_array_equal(found.classes, fitted(aligned, given.labels, theirs.transform(given.test)))
    assert found.told == {"converged": 1.0, "dimensions": 3}


def test_transfer_components_solve_their_eigenproblem(monkeypatch):
    given, _ = setting(31, 22)
    every = np.concatenate([given.source, given.target])
    squares = ((every[:, None] - every) ** 2).sum(-1)
    kernel = np.exp(-squares / (2 * squares.mean()))
    ends = np.r_[np.full(31, 1 / 31), np.full(22, -1 / 22)]
    spread = kernel @ (np.eye(53) - np.full((53, 53), 1 / 53)) @ kernel
    held = kernel @ np.outer(ends, ends) @ kernel + 0.5 * np.eye(53)
    # As the paper has it: the leading eigenvectors of a matrix that is not symmetric.
    values, vectors = np.linalg.eig(np.linalg.solve(held, spread))
    order = np.argsort(-values.real)[:3]
    found = methods.transfer_directions(every, 31, 3, 0.5)
    for ours, theirs in zip(found.T, vectors.real[:, order].T, strict=True):
        cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert abs(cosine) == pytest.approx(1.0, abs=1e-8)
    scores = kernel @ found
    np.testing.assert_allclose(np.cov(scores.T, bias=True), np.eye(3), atol=1e-8)
    # What tells the sets apart is held down: more so by a smaller mu.
    tight, loose = (kernel @ methods.transfer_directions(every, 31, 3, mu) for mu in (1e-4, 1e4))
    apart = [np.abs(own[:31].mean(0) - own[31:].mean(0)).max() for own in (tight, loose)]
    assert apart[0] < 0.1 * apart[1]
    monkeypatch.setattr(methods, "COMPONENT_ROWS", 20)
    assert methods.components(given).told == {"converged": 1.0, "dimensions": 32, "source": 20, "target": 20}


def test_transport_of_equally_many_is_the_best_assignment(monkeypatch):
    given, _ = setting(25, 25)
    rows, places = linear_sum_assignment(((given.source[:, None] - given.target) ** 2).sum(-1))
    moved, cost = methods.transported(given.source, given.target)
    np.testing.assert_allclose(moved, given.target[places], atol=1e-9)
    assert cost == pytest.approx(((given.source[rows] - given.target[places]) ** 2).sum(-1).mean())
    np.testing.assert_array_equal(methods.transport(given).classes, fitted(moved, given.labels, given.test))
    monkeypatch.setattr(methods, "TRANSPORT_ROWS", 10)
    assert methods.transport(given).told["source"] == 10


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r"^the method 'ot' needs POT: pip install 'tlx\[classical\]'$"):
        methods.optimal_transport()


@pytest.mark.parametrize(("name", "find"), [("kmm", reweight.mean_matching), ("kliep", reweight.likelihood_ratio)])
def test_a_weighed_source_counts_by_its_weights(name, find):
    given, _ = setting()
    weights = find(given.source, given.target)
    found = METHODS[name].answer(given)
    np.testing.assert_array_equal(
        found.classes, fitted(given.source, given.labels, given.test, weights / weights.mean())
    )
    assert found.told["effective"] == pytest.approx(weights.sum() ** 2 / len(weights) / (weights**2).sum())


def test_boosting_is_the_papers_algorithm():
    """For two classes, example by example, with the rule of the paper's last line."""
    given, _ = setting(40, 30, shift=3.0)
    rounds, count, more = 6, 40, 9
    x = np.concatenate([given.source, given.granted])
    labels = np.concatenate([given.labels, given.granted_labels])
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
        own = error / (1 - error)
        moved |= 1e-6 < own < 0.999
        for i in range(count + more):
            if h[i] != labels[i]:
                w[i] *= beta if i < count else 1 / own
        if t >= np.ceil(rounds / 2):
            left *= own ** -model.predict(given.test).astype(float)
            right *= own**-0.5
    assert moved
    found = methods.boosted(given, rounds)
    np.testing.assert_array_equal(found.classes, (left >= right).astype(int))
    assert found.told["source_share"] == pytest.approx(sum(w[:count]) / sum(w), rel=1e-6)


def test_every_method_beats_chance_and_some_beat_the_source_alone():
    given, truth = setting(200, 150)
    accuracy = {name: (method.answer(methods.standard(given)).classes == truth).mean()
                for name, method in METHODS.items()}  # fmt: skip
    assert min(accuracy.values()) > 0.4
    assert accuracy["target"] > accuracy["source"]
    assert accuracy["tradaboost"] > accuracy["source"]


def test_one_scale_serves_every_set():
    given, _ = setting()
    flat = {name: np.c_[getattr(given, name)[:, :3], np.full(len(getattr(given, name)), 7.0)]
            for name in ("source", "target", "granted", "test")}  # fmt: skip
    found = methods.standard(given._replace(**flat))
    every = np.concatenate([found.source, found.target])
    np.testing.assert_allclose(every[:, :3].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(every[:, :3].std(0), 1)
    np.testing.assert_allclose(found.test[:, 3], 0, atol=1e-12)
    np.testing.assert_array_equal(found.granted, found.target[:9])


def test_a_fit_that_ran_out_of_steps_says_so(monkeypatch):
    given, _ = setting()
    assert methods.source_only(given).told["converged"] == methods.boosted(given, 2).told["converged"] == 1.0
    monkeypatch.setattr(methods, "STEPS", 2)
    assert methods.source_only(given).told["converged"] == methods.boosted(given, 2).told["converged"] == 0.0
