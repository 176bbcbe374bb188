"""The data of the user become a source; each mistake is one line with the row, the column or the nearest name."""

import pandas as pd
import pyarrow as pa
import pytest

from tlx.data import Arrays, Csv, Frame, Tfds, Where
from tlx.finetuning.sources import source_of

COUNT = 40
TEXTS = [f"a review with the number {n}" for n in range(COUNT)]
STARS = [("up", "down")[n % 2] for n in range(COUNT)]
FRAME = pd.DataFrame({"body": TEXTS, "stars": STARS, "year": range(COUNT)})
PAIRS = list(zip(TEXTS, STARS, strict=True))


def made(train, validation=None, test=None, **settings):
    return source_of(train, validation, test, settings)


def test_every_form_of_data_is_the_same_examples(tmp_path):
    FRAME.to_csv(tmp_path / "reviews.csv", index=False)
    forms = {
        "frame": FRAME,
        "arrow": pa.Table.from_pandas(FRAME),
        "mapping": {name: FRAME[name].tolist() for name in FRAME},
        "path": tmp_path / "reviews.csv",
        "text": str(tmp_path / "reviews.csv"),
        "source": Csv(str(tmp_path / "reviews.csv")),
    }
    texts = {}
    for name, form in forms.items():
        source, _ = made(form, text="body", label="stars")
        texts[name] = [example["text"] for example in source.open().splits["test"]]
    assert all(part == texts["frame"] for part in texts.values()) and len(texts["frame"]) == 8
    pairs, _ = made(PAIRS)
    assert [example["text"] for example in pairs.open().splits["test"]] == texts["frame"]


def test_the_columns_that_were_chosen_are_in_the_source_and_in_a_note():
    source, notes = made(FRAME)
    assert (source.text, source.label) == ("body", "stars")
    assert "text is 'body', label is 'stars'; not used: 'year'" in notes[0]
    # A recipe that names its columns has no note.
    assert made(FRAME, text="body", label="stars")[1] == ()


def test_names_of_data_sets_and_sources_are_taken_as_they_are(tmp_path):
    assert made("digits")[0] == Tfds("digits")
    FRAME.to_csv(tmp_path / "reviews.csv", index=False)
    where = Where(str(tmp_path / "reviews.csv"), column="year", values=(1, 2, 3))
    assert made(where)[0] == where


def test_splits_may_be_given():
    first, second, third = FRAME[:20], FRAME[20:30], FRAME[30:]
    source, _ = made(first, second, third, label="stars", text="body")
    assert {name: len(part) for name, part in source.open().splits.items()} == {
        "train": 20, "validation": 10, "test": 10
    }  # fmt: skip
    source, _ = made(PAIRS[:30], None, PAIRS[30:])
    assert isinstance(source, Arrays) and len(source.open().splits["test"]) == 10


@pytest.mark.parametrize(
    ("train", "settings", "parts"),
    [
        (FRAME, {"label": "star"}, ("no column 'star'", "'stars'")),
        (FRAME, {"text": "stars", "label": "stars"}, ("'stars' twice",)),
        (FRAME, {"label": "stars", "text": "bodies"}, ("no column 'bodies'", "'body'")),
        ([("a text", 1), ("another", 2, 3)], {}, ("row 1", "pair (text, label)")),
        ([("a text", 1), "another"], {}, ("row 1", "'another'")),
        ([], {}, ("empty list",)),
        ({"text": ["a", "b"], "label": [1]}, {}, ("'text' has 2, 'label' has 1",)),
        ({"text": ["a", "b"], "label": [1, "x"]}, {}, ("different types", "row 0", "row 1")),
        ("digits", {"label": "class"}, ("label='class'", "'digits'")),
        ("reviews.cvs", {}, ("reviews.cvs",)),
        (7, {}, ("int", "data frame")),
        (None, {}, ("train is None",)),
        (pd.DataFrame([["a", "b", 1]], columns=["text", "text", "label"]), {}, ("two columns", "'text'")),
    ],
)
def test_mistakes_are_one_line(train, settings, parts):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as error:
        made(train, **settings)[0].open()
    message = str(error.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_splits_of_different_forms_and_equal_splits_are_refused(tmp_path):
    FRAME.to_csv(tmp_path / "reviews.csv", index=False)
    with pytest.raises(TypeError, match="train is a data frame and test is a list"):
        made(FRAME, None, PAIRS)
    with pytest.raises(ValueError, match="train and test are the same data"):
        made(FRAME, None, FRAME.copy())
    path = str(tmp_path / "reviews.csv")
    with pytest.raises(ValueError, match="train and validation are the same data"):
        made(path, path)
    with pytest.raises(ValueError, match=r"splits of its own.*test"):
        made(Frame(FRAME), None, Frame(FRAME[:10]))
