"""Estimators of scikit-learn: texts, images and numbers; pickles; pipelines, searches and cross-validation."""

import pickle

import joblib
import numpy as np
import pandas as pd
import polars
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from tlx import models, tuning
from tlx.sklearn import OPENED, TransferClassifier, TransferRegressor, kind_of, texts_of
from tlx.training import batches

X, Y = make_blobs(n_samples=90, n_features=4, random_state=0)
# Checks that do not apply. With SCIPY_ARRAY_API set, a check of arrays that are not of NumPy would run; the model runs
# in JAX on arrays of NumPy, and the estimators declare no such support.
FAILED_CHECKS: dict[str, str] = {}


def small(**settings):
    """Return a classifier that is fitted in few steps."""
    return TransferClassifier(**{"steps": 120, "batch": 16, "lr": 1e-2} | settings)


@pytest.fixture(scope="module")
def fitted():
    return small().fit(X, np.array(["red", "green", "blue"])[Y])


def test_labels_of_any_type_are_predicted_with_probabilities(fitted):
    assert fitted.classes_.tolist() == ["blue", "green", "red"] and fitted.n_features_in_ == 4
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (90, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (fitted.classes_[probabilities.argmax(1)] == fitted.predict(X)).all()
    assert fitted.score(X, np.array(["red", "green", "blue"])[Y]) > 0.9


@pytest.mark.parametrize("library", [pickle, joblib], ids=["pickle", "joblib"])
def test_a_pickle_needs_no_file_and_no_memory_of_this_process(library, fitted, tmp_path, monkeypatch):
    expected = fitted.predict_proba(X)
    file = tmp_path / "model"
    if library is pickle:
        file.write_bytes(pickle.dumps(fitted))
        again = pickle.loads(file.read_bytes())
    else:
        joblib.dump(fitted, file)
        again = joblib.load(file)
    assert again not in OPENED
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "another machine"))
    np.testing.assert_array_equal(again.predict_proba(X), expected)


@pytest.mark.slow
def test_a_second_fit_has_the_programs_of_the_first(fitted, monkeypatch):
    """Folds differ in their number of rows; tables of similar sizes have one shape, and so one program."""
    shapes = []
    one_table = batches.one_table

    def noted(pairs):
        places, table = one_table(pairs)
        shapes.append({name: array.shape for name, array in table.items()})
        return places, table

    monkeypatch.setattr(batches, "one_table", noted)
    for first in (0, 1):
        assert small(seed=first).fit(X[first:], Y[first:]).score(X, Y) > 0.9
    assert shapes[0] == shapes[1] and shapes[0]["numbers"] == (96, 4)


def test_a_clone_has_the_settings_and_no_fit(fitted):
    model = TransferClassifier(models.Mlp(inputs=(4,), widths=(8,), input="numbers"), tuning=tuning.Probe(), seed=3)
    copy = clone(model)
    assert copy.get_params() == model.get_params() and copy.model is not None
    with pytest.raises(NotFittedError):
        copy.predict(X)
    copy.set_params(seed=4, steps=5)
    assert (copy.seed, copy.steps) == (4, 5)


@pytest.mark.slow
def test_images_are_classified():
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    images[::2] //= 4
    labels = np.arange(40) % 2
    model = models.Mlp(inputs=(8, 8, 1), widths=(8,))
    classifier = TransferClassifier(model, steps=60, lr=1e-2).fit(images, labels)
    assert classifier.score(images, labels) == 1.0 and classifier.predict(images[:3]).tolist() == [0, 1, 0]
    few = TransferClassifier(model, steps=60, lr=1e-2).fit(images[:6], labels[:6])
    assert few.score(images[:6], labels[:6]) == 1.0
    with pytest.raises(ValueError, match=r"X holds numbers.*fitted on images"):
        classifier.predict(X)


def test_numbers_are_predicted_in_the_units_of_the_targets():
    targets = np.stack([1000 + 50 * X[:, 0], X[:, 1]], 1)
    regressor = TransferRegressor(steps=200, lr=1e-2).fit(X, targets)
    assert regressor.score(X, targets) > 0.9 and regressor.predict(X[:2]).shape == (2, 2)


@pytest.mark.parametrize(
    ("rows", "labels", "part"),
    [
        (["a text", 3], [0, 1], r"X\[1\] is 3 \(int\)"),
        ("a text", [0], "X is one text"),
        (["a text", "another"], [0, 0], "one class"),
        (["a text", "another"], [0, 1, 1], "inconsistent numbers of samples"),
        (X, None, "requires y"),
        (X, X[:, 0], "continuous"),
        (X[:, :, None].repeat(2, 2), Y, "dim 3"),
    ],
)
def test_invalid_rows_are_refused(rows, labels, part):
    with pytest.raises(ValueError, match=part):
        small().fit(rows, labels)


@pytest.mark.slow
def test_texts_are_a_list_a_series_or_one_column():
    texts = ["good", "bad"]
    column = np.array(texts, object)[:, None]
    for rows in (texts, pd.Series(texts), polars.Series(texts), pd.DataFrame({"t": texts}), column, np.array(texts)):
        assert kind_of(rows) == "texts" and texts_of(rows) == texts
    assert [kind_of(rows) for rows in (X, pd.DataFrame({"n": [1, 2]}), [[1.0], [2.0]], [])] == ["numbers"] * 4
    with pytest.raises(ValueError, match=r"X\[0\] is nan"):
        texts_of([float("nan"), "a"])
    assert kind_of([float("nan"), "a"]) == "texts"
    with pytest.raises(ValueError, match=r"y\[1\] is None"):
        small().fit(X[:2], np.array(["a", None], object))


@pytest.mark.slow
def test_pipelines_searches_and_cross_validation_work():
    pipeline = make_pipeline(StandardScaler(), SelectKBest(k=2), small())
    assert cross_val_score(pipeline, X, Y, cv=3).mean() > 0.8
    search = GridSearchCV(small(), {"lr": [1e-6, 1e-2]}, cv=3).fit(X, Y)
    assert search.best_params_ == {"lr": 1e-2}
    assert search.predict_proba(X).shape == (90, 3) and search.score(X, Y) > 0.9


@pytest.mark.slow
def test_texts_are_classified_with_a_pretrained_model(tmp_path, monkeypatch):
    good, bad = ("a lovely film", "great and fine", "good story"), ("a dull film", "bad and poor", "awful story")
    texts = [f"{(good, bad)[n % 2][n // 2 % 3]} {n}" for n in range(24)]
    labels = [("up", "down")[n % 2] for n in range(24)]
    classifier = TransferClassifier("minilm-l6", head_only=True, steps=40, batch=8).fit(texts, labels)
    assert classifier.predict(["a great film", "an awful film"]).tolist() == ["up", "down"]
    assert not hasattr(classifier, "n_features_in_")
    again = pickle.loads(pickle.dumps(classifier))
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setenv("TLX_OFFLINE", "1")
    assert again.predict(np.array(texts, object)).tolist() == classifier.predict(texts).tolist()


CHECKS = parametrize_with_checks(
    [TransferClassifier(), TransferRegressor()], expected_failed_checks=lambda estimator: FAILED_CHECKS
).mark


@pytest.mark.slow
@pytest.mark.parametrize(
    CHECKS.args[0],
    # Arrays of other libraries than NumPy apply to estimators that say so.
    [case for case in CHECKS.args[1] if "array_api" not in CHECKS.kwargs["ids"](getattr(case, "values", case)[1])],
    ids=CHECKS.kwargs["ids"],
)
@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)
