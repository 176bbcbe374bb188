"""An evaluation: the numbers of the run on its own split, classes by name, slices that add up, recorded data."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_fscore_support

from tlx import tasks
from tlx.analysis.evaluation import evaluate
from tlx.analysis.evaluation.numbers import class_rows
from tlx.analysis.evaluation.slices import quarters, slices
from tlx.data import Arrays, Concat, Where
from tlx.predict import predict
from tlx.records.run_directory import Predictions, read_predictions
from tlx.weights import save_pretrained


@pytest.fixture(scope="module")
def frame(reviews):
    return pd.DataFrame(reviews.rows(60, seed=9))


@pytest.fixture(scope="module")
def evaluation(reviewed, frame):
    return evaluate(reviewed, frame, by=("language", "votes", "label"), mistakes=5)


def test_the_own_test_split_has_the_numbers_of_the_run(reviewed):
    own = evaluate(reviewed.folder, mistakes=0)
    recorded = {name.removeprefix("test/"): value for name, value in reviewed.metrics.items() if "test/" in name}
    assert own.metrics == pytest.approx(recorded, abs=1e-5)
    stored = read_predictions(reviewed.folder, "test")
    np.testing.assert_allclose(own.predictions.scores["logits"], stored.scores["logits"], atol=1e-4)
    assert own.document["data"]["split"] == "test" and not own.document["mistakes"]
    held_out = evaluate(reviewed.folder, split="validation", mistakes=0)
    assert held_out.document["data"]["split"] == "validation"
    assert held_out.metrics["accuracy"] == pytest.approx(reviewed.metrics["validation/accuracy"])


def test_other_data_have_the_answers_of_predict(reviewed, frame, evaluation, reviews):
    predicted = predict(reviewed, frame)["prediction"].tolist()
    assert evaluation.metrics["accuracy"] == pytest.approx(np.mean(frame["stars"] == predicted))
    scores = evaluation.predictions.scores
    assert [reviews.CLASSES[n] for n in scores["label"]] == frame["stars"].tolist()
    assert [reviews.CLASSES[n] for n in scores["prediction"]] == predicted
    for row in evaluation.document["metrics"]:
        assert row["low"] is None or row["low"] <= row["value"] <= row["high"]


def test_classes_are_matched_by_name_in_any_order_and_case(reviewed, frame, evaluation):
    others = frame[::-1].assign(stars=frame["stars"].str.upper())
    again = evaluate(reviewed, others, mistakes=0)
    assert again.metrics == pytest.approx(evaluation.metrics, abs=1e-5)
    few = frame[frame["stars"] == "good"]
    assert evaluate(reviewed, few, mistakes=0).document["classes"][1]["examples"] == 20
    source = Arrays({"text": frame["body"].tolist(), "label": frame["stars"].tolist()}, test_share=0.0,
                    classes=("mixed", "good", "bad"))  # fmt: skip
    reordered = evaluate(reviewed, source, text="text", label="label", mistakes=0)
    assert reordered.metrics == pytest.approx(evaluation.metrics, abs=1e-5)


def test_several_tables_and_chosen_rows_are_measured_whole(reviewed, frame, evaluation, reviews, tmp_path):
    rows = frame.to_dict("records")
    files = [reviews.write(tmp_path / f"{n}.csv", part) for n, part in enumerate((rows[:25], rows[25:]))]
    both = evaluate(reviewed, Concat(tuple(files)), mistakes=0)
    assert both.metrics == pytest.approx(evaluation.metrics, abs=1e-5)
    english = evaluate(reviewed, Where(Concat(tuple(files)), column="language", values=("en",)), mistakes=0)
    expected = evaluate(reviewed, frame[frame["language"] == "en"], mistakes=0)
    assert english.metrics == pytest.approx(expected.metrics, abs=1e-5)
    assert english.document["data"]["examples"] == (frame["language"] == "en").sum()


def test_slices_divide_the_examples_and_repeat_the_scores(evaluation, frame):
    correct = evaluation.predictions.scores["correct"]
    rows = evaluation.document["slices"]
    for column, count in (("language", 2), ("votes", 4), ("label", 3)):
        parts = [row for row in rows if row["column"] == column]
        assert len(parts) == count and sum(row["examples"] for row in parts) == len(frame)
    for row in (row for row in rows if row["column"] == "language"):
        assert row["metrics"][0]["value"] == pytest.approx(correct[frame["language"] == row["value"]].mean())
    quarters = [part.places for part in slices(evaluation.examples, "votes")]
    assert [places.tolist() for places in quarters] == [list(range(n, n + 15)) for n in (0, 15, 30, 45)]
    many = {"text": [f"t{n}" for n in range(20)], "label": list(map(str, range(10))) * 2}
    by_class = slices(Arrays(many, test_share=0.0).open().splits["train"], "label")
    assert [part.value for part in by_class] == many["label"][:10]
    empty = pd.DataFrame({"text": ["a", "b", "c"], "label": ["x", "y", "x"], "group": ["g", None, "1"]})
    examples = Arrays(empty.to_dict("list"), test_share=0.0).open().splits["train"]
    assert [part.value for part in slices(examples, "group")] == ["1", "g", "(empty)"]


def test_mistakes_are_wrong_and_named(evaluation, frame):
    wrong = int((~evaluation.predictions.scores["correct"]).sum())
    listed = evaluation.document["mistakes"]
    assert len(listed) == min(5, wrong)
    losses = [mistake["loss"] for mistake in listed]
    assert losses == sorted(losses, reverse=True)
    for mistake in listed:
        assert next(iter(mistake["answer"])) != mistake["label"] == frame["stars"][mistake["index"]]
        assert mistake["place"].endswith(f"row {mistake['index']}")


def test_the_numbers_of_classes_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 4, (2, 200))
    scores = {"label": label, "prediction": prediction}
    rows = class_rows(Predictions(scores, np.arange(200)), tasks.Classification(names=tuple("abcd")))
    expected = precision_recall_fscore_support(label, prediction)
    for place, name in enumerate(("precision", "recall", "f1")):
        assert [row[name]["value"] for row in rows] == pytest.approx(expected[place].tolist())
        assert all(row[name]["low"] < row[name]["value"] < row[name]["high"] for row in rows)
    assert [row["examples"] for row in rows] == expected[3].tolist()


def test_the_data_are_recorded_and_the_page_shows_the_numbers(evaluation, reviewed, frame, tmp_path):
    again = evaluate(reviewed, frame, mistakes=0)
    assert again.document["data"]["fingerprint"] == evaluation.document["data"]["fingerprint"]
    other = evaluate(reviewed, frame[:30], mistakes=0)
    assert other.document["data"]["fingerprint"] != evaluation.document["data"]["fingerprint"]
    files = evaluation.write(tmp_path / "eval")
    assert [file.name for file in files] == ["evaluation.json", "scores.npz", "evaluation.html"]
    document = json.loads(files[0].read_text())
    assert document["run"]["fingerprint"] == reviewed.result["fingerprint"]
    assert document["data"]["columns"] == {"text": ["body"], "label": ["stars"]}
    page = files[2].read_text()
    for part in (
        'data-metric="accuracy"',
        "By language",
        "confusion",
        document["data"]["fingerprint"],
        "Worst mistakes",
    ):
        assert part in page, part
    again.document["metrics"][0]["low"] = float("nan")
    again.write(tmp_path / "eval")
    written = json.loads(files[0].read_text(), parse_constant=pytest.fail)
    assert written["metrics"][0]["low"] is None
    with pytest.raises(FileExistsError, match=r"other data.*--overwrite"):
        other.write(tmp_path / "eval")
    other.write(tmp_path / "eval", overwrite=True)


def test_a_note_says_that_training_examples_are_counted(reviewed):
    file = reviewed.recipe.data.target
    notes = evaluate(reviewed, file, mistakes=0).document["notes"]
    assert any(file in note and "training examples" in note for note in notes)


@pytest.mark.slow
def test_other_tasks_are_measured_too(reviews, tmp_path):
    texts = ["good film", "bad film", "very good", "the bad"] * 3
    classes = ("film", "taste")
    cases = {
        "labels": (
            tasks.MultiLabel(names=classes),
            ["film;taste", "film", "", "taste"] * 3,
            ("micro_f1", "exact_match"),
        ),
        "number": (tasks.Regression(), [0.5, 1.0, -1.0, 2.0] * 3, ("mse", "r2")),
        "tags": (tasks.TokenClassification(names=("O", "GOOD")), ["GOOD O", "O O", "O GOOD", "O O"] * 3, ("micro_f1",)),
    }
    for name, (task, labels, metrics) in cases.items():
        folder = save_pretrained(reviews.pretrained(task), tmp_path / name, untrained=True)
        measured = evaluate(folder, {"text": texts, "label": labels})
        assert set(metrics) <= measured.metrics.keys()
        assert len(measured.predictions) == 12
    assert [row["examples"] for row in evaluate(tmp_path / "labels", {"text": texts, "label": cases["labels"][1]})
            .document["classes"]] == [6, 6]  # fmt: skip
    with pytest.raises(ValueError, match=r"row 1: 'label' is 'flim'.*'film'"):
        evaluate(tmp_path / "labels", {"text": texts[:2], "label": ["film", "flim;taste"]})


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"body": ["good", "bad"], "stars": ["good", ""]}, ("row 1", "'stars' is empty")),
        ({"text": ["good", "bad"], "stars": ["good", "bad"]}, ("no column 'body'", "'text'")),
        (
            {"body": ["good", "bad"], "star": ["good", "bad"]},
            ("no column 'stars'", "label in training", "'star'", "--label"),
        ),
        ({"body": ["good", "bad"], "stars": [1.5, 2.5]}, ("row 0", "'stars' is '1.5'")),
    ],
)
def test_bad_data_name_the_row_and_the_column(columns, parts, reviewed):
    with pytest.raises(ValueError) as error:
        evaluate(reviewed, columns)
    assert all(part in str(error.value) for part in parts), error.value


def test_large_numbers_that_are_close_have_four_quarters():
    numbers = [1_700_000_000.0 + n for n in range(40)]
    titles, names = quarters(numbers)
    assert len(set(titles)) == 4 and [names.count(title) for title in titles] == [10, 10, 10, 10]
    assert titles[0] == "1700000000 to 1700000010"
