"""Rows of sources: chosen rows, several tables, and data sets by name are those of their parts, in order."""

from dataclasses import dataclass

import pandas as pd
import pytest

from tlx import tasks
from tlx.data import Concat, Csv, Dataset, Frame, Source, Where
from tlx.predict import Predictor, open_model, predict, write_answers
from tlx.predict.arguments import understood
from tlx.predict.asking import rows_of
from tlx.types import Column


@dataclass(frozen=True, kw_only=True)
class Sentences(Source):
    """A data set of a user, with two splits."""

    kind: str = "text"

    def open(self):
        columns = {self.kind: Column(self.kind), "label": Column("class", ("bad", "good"))}
        cells = {"text": ("bad film", "good film"), "number": (0.0, 1.0)}[self.kind]
        rows = [{self.kind: cell, "label": label} for label, cell in enumerate(cells)]
        return Dataset("sentences", {"train": rows, "test": rows[::-1]}, columns, "sentences")


@pytest.fixture
def files(reviews, tmp_path):
    """Two tables of reviews with different names of the text."""
    rows = reviews.rows(12, seed=4, label=False)
    renamed = [{"words": row["body"], "id": row["id"], "language": row["language"]} for row in rows[7:]]
    return rows, reviews.write(tmp_path / "a.csv", rows[:7]), reviews.write(tmp_path / "b.csv", renamed)


def test_several_tables_and_chosen_rows_have_the_answers_of_their_rows(files, reviewed, reviews, tmp_path):
    rows, first, second = files
    both = Concat((first, Csv(second, text="words")))
    answers = [*map(pytest.approx, predict(reviewed, [row["body"] for row in rows]))]
    assert predict(reviewed, both) == answers
    german = [n for n, row in enumerate(rows) if row["language"] == "de"]
    for source in (
        Where(both, column="language", values=("de",)),
        Where(both, column="language", without=("en",)),
        Concat(tuple(Where(part, column="language", values=("de",)) for part in both.sources)),
        Where(Frame(pd.DataFrame(rows), label="language"), column="label", values=("de",)),
    ):
        assert predict(reviewed, source) == [answers[n] for n in german]
    predictor = Predictor(open_model(reviewed.folder))
    joined = rows_of(both, predictor.model, {})
    assert joined.place(8) == f"{second} line 3"
    write_answers(predictor, joined, tmp_path / "answers.csv")
    written = pd.read_csv(tmp_path / "answers.csv")
    assert written["id"].tolist() == [row["id"] for row in rows] and written["words"].isna().sum() == 7


def test_rows_with_and_without_a_value_are_different_jobs(files, reviewed):
    _, first, _ = files
    model = open_model(reviewed.folder)
    chosen = Where(first, column="language", values=("de",)), Where(first, column="language", without=("de",))
    jobs = [rows_of(source, model, {}).identity for source in chosen]
    assert jobs[0] != jobs[1]


def test_a_choice_without_rows_names_the_values(files, reviewed):
    _, first, _ = files
    for source, parts in (
        (Where(first, column="langage", values=("de",)), ("'langage'", "'language'")),
        (Where(first, column="language", values=("fr",)), ("a.csv", "'language'", "fr", "'en', 'de'")),
    ):
        with pytest.raises(ValueError) as error:
            predict(reviewed, source)
        assert all(part in str(error.value) for part in parts), error.value


def test_the_split_of_a_data_set_is_named(reviewed):
    answers = [*map(pytest.approx, predict(reviewed, ["good film", "bad film"]))]
    assert predict(reviewed, Sentences(), split="test") == answers
    assert predict(reviewed, Where(Sentences(), column="label", values=("bad",)), split="test") == answers[1:]
    for source, settings, parts in (
        (Sentences(), {}, ("'train', 'test'", "--split")),
        (Sentences(), {"split": "tset"}, ("'tset'", "'test'")),
        (Sentences(), {"split": "test", "text": "text"}, ("text", "states its columns itself")),
        (Sentences(kind="number"), {"split": "test"}, ("no input 'text'", "number", "reads texts")),
    ):
        with pytest.raises(ValueError) as error:
            predict(reviewed, source, **settings)
        assert all(part in str(error.value) for part in parts), error.value


def test_arguments_are_sources_and_names_of_data_sets(files, pictures, reviews):
    _, first, _ = files
    model = reviews.opened(tasks.Classification(classes=3, names=reviews.CLASSES))
    spelled = f'Where(Csv("{first}", text="body"), column="language", values=("de",))'
    [(name, chosen), (_, text)] = understood([spelled, "Great(film)"], model)
    assert name == spelled and len(chosen) == 3 and text.example(0) == "Great(film)"
    with pytest.raises(TypeError, match="colum"):
        understood(['Where("a.csv", colum="x", values=("y",))'], model)
    [(_, digits)] = understood(["digits"], pictures, split="test")
    assert digits.read(0)["image"].shape == (8, 8, 1) and digits.table.names == ("example", "label")
    assert len(Predictor(pictures).logits([digits.read(n) for n in range(3)])) == 3
    with pytest.raises(FileNotFoundError, match="digits"):
        understood(["digit"], pictures, split="test")
