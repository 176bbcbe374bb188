"""The label of a table is read as a researcher means it, or an error asks; no class is split or made in silence."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tlx.data import Arrays, Csv, Data, Frame, HfDataset, load
from tlx.data.examples import Examples
from tlx.data.held_out import withheld
from tlx.types import Column

COUNT = 60
TEXTS = [f"the review of number {n}, or so" for n in range(COUNT)]
INDICATORS = np.array([[n % 2, n // 2 % 2, n // 3 % 2] for n in range(COUNT)])


def frame(labels, **settings):
    return Frame(pd.DataFrame({"text": TEXTS[: len(labels)], "label": labels}), test_share=0.0, **settings)


def message(source):
    with pytest.raises(ValueError) as error:
        source.open()
    return str(error.value)


@pytest.mark.parametrize("kind", [int, float, bool, np.uint8, list])
def test_a_row_of_zeros_and_ones_says_which_classes_an_example_has(kind):
    if kind is list:
        source = frame(INDICATORS.tolist())
    else:
        source = Arrays({"text": TEXTS, "label": INDICATORS.astype(kind)}, test_share=0.0)
    dataset = source.open()
    assert dataset.columns["label"] == Column("classes", ("0", "1", "2"))
    assert [example["label"] for example in dataset.splits["train"]] == [
        np.flatnonzero(row).tolist() for row in INDICATORS
    ]
    assert "3 numbers, all of them 0 or 1" in dataset.notes[-1]


def test_settings_decide_how_zeros_and_ones_are_read():
    named = frame(INDICATORS.tolist(), classes=("rude", "toxic", "spam")).open()
    assert named.classes == ("rude", "toxic", "spam") and named.splits["train"][5]["label"] == [0, 2]
    assert all(part in message(frame(INDICATORS.tolist(), classes=("a", "b"))) for part in ("3 numbers", "2 names"))
    numbers = frame(INDICATORS.tolist(), label_kind="numbers").open()
    assert numbers.columns["label"] == Column("numbers")
    np.testing.assert_array_equal(numbers.splits["train"][1]["label"], INDICATORS[1])
    assert "list of 3 values" in message(frame(INDICATORS.tolist(), label_kind="class"))
    numbered = frame([[0], [0, 1], [2]] * 20).open()
    assert numbered.classes == ("0", "1", "2") and numbered.splits["train"][1]["label"] == [0, 1]


def test_one_number_in_each_list_is_one_label():
    for values, column in (([[n % 2] for n in range(COUNT)], Column("class", ("0", "1"))),
                           ([[n / 7] for n in range(COUNT)], Column("number"))):  # fmt: skip
        for source in (frame(values), Arrays({"text": TEXTS, "label": np.array(values)}, test_share=0.0)):
            dataset = source.open()
            assert dataset.columns["label"] == column and "one label" in dataset.notes[-1]
            np.testing.assert_allclose(dataset.splits["train"].labels(), np.ravel(values), rtol=1e-6)
    topics = frame([["news"], ["sport"]] * 30).open()
    assert topics.columns["label"] == Column("classes", ("news", "sport"))


def test_a_list_that_names_a_class_twice_is_refused(tmp_path):
    for labels in ([["a"], ["b", "a", "b"]] * 30, [[3, 4], [3, 3]] * 30):
        assert all(part in message(frame(labels)) for part in ("row 1", "'label'", "twice"))
    (tmp_path / "rows.csv").write_text("text,label\nx,a;b\ny,b; b\n")
    assert all(part in message(Csv(str(tmp_path / "rows.csv"), separator=";")) for part in ("line 3", "'b' twice"))


def test_lists_of_numbers_have_one_length():
    found = message(Arrays({"text": TEXTS, "label": [[0.5] * (2 + (n == 7)) for n in range(COUNT)]}))
    assert all(part in found for part in ("row 7", "'label' has 3 numbers", "row 0 has 2"))


@pytest.mark.parametrize("missing", ["error", "drop"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_split_whose_labels_are_not_published_is_left_out(missing, declared, tmp_path):
    label = {"names": ["neg", "pos"], "_type": "ClassLabel"} if declared else {"dtype": "int64", "_type": "Value"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": label}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    for split, labels in (("train", [0, 1] * 30), ("validation", [1, 0] * 30), ("test", [-1] * COUNT)):
        table = pa.table({"text": [f"{split} {text}" for text in TEXTS], "label": labels})
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / f"{split}.parquet")
    splits = load(Data(target=HfDataset(str(tmp_path), missing=missing)), 0)
    assert {example["text"][:5] for part in (splits.train, splits.test) for example in part} == {"train"}
    assert len(splits.validation) == COUNT and set(splits.train.labels().tolist()) == {0, 1}
    assert any("does not publish the labels of its test split" in note for note in splits.notes)


def test_several_labels_that_are_not_published_are_left_out():
    rows = pd.DataFrame({"text": TEXTS, "a": [n % 2 for n in range(COUNT)], "b": [n // 2 % 2 for n in range(COUNT)]})
    dataset = Frame(rows, test=rows.assign(a=None, b=None), label=("a", "b"), text="text", test_share=0.0).open()
    assert list(dataset.splits) == ["train"] and "does not publish the labels" in dataset.notes[-1]


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [([0, 5], [-1, -1], True), ([0, 5], [-1, 3], False), ([-2, 5], [-1, -1], False), ([0, 5], [0, -1], False)],
)
def test_numbers_are_withheld_where_all_of_them_are_the_mark(train, test, expected):
    columns = {"text": Column("text"), "label": Column("number")}
    parts = [Examples("x", "x", [{"text": "a", "label": n} for n in labels], columns) for labels in (test, train)]
    assert withheld(*parts) is expected


def test_decimal_commas_are_no_classes(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text;rating\n" + "".join(f"{text};{n % 5},{n % 3}\n" for n, text in enumerate(TEXTS)))
    found = message(Csv(str(file)))
    assert all(
        part in found for part in ("line 2", "'rating' is '0,0'", "decimal commas?", "0.0", "label_kind='class'")
    )
    assert "decimal comma" in message(Csv(str(file), label_kind="number"))
    assert "4,2" in Csv(str(file), label_kind="class").open().classes
    file.write_text("text;rating\na;4\nb;3,5\n")
    assert all(part in message(Csv(str(file))) for part in ("line 3", "'3,5'", "3.5"))


def test_labels_that_look_like_ids_are_no_classes():
    found = message(frame([f"id{n}" for n in range(COUNT)]))
    assert all(part in found for part in ("'label'", "60 different labels in 60 rows", "label_kind='class'"))
    assert len(frame([f"id{n}" for n in range(COUNT)], label_kind="class").open().classes) == COUNT
    assert len(frame([f"id{n % 30}" for n in range(COUNT)]).open().classes) == 30


@pytest.mark.parametrize(
    "labels", [[20 + n * 7 % 45 for n in range(COUNT)], [1990 + n % 25 for n in range(COUNT)], [*range(12)]]
)
def test_many_whole_numbers_are_asked_about(labels):
    found = message(frame(labels))
    parts = ("row 0", "'label'", str(min(labels)), str(max(labels)), "label_kind='number'", "label_kind='class'")
    assert all(part in found for part in parts), found
    assert frame(labels, label_kind="number").open().columns["label"] == Column("number")
    assert len(frame(labels, label_kind="class").open().classes) == len(set(labels))


def test_numbers_that_count_the_classes_are_classes():
    labels = [n % 25 for n in range(250)]
    rows = {"text": [f"text {n}" for n in range(250)], "label": labels}
    assert len(Arrays(rows).open().classes) == 25


@pytest.mark.parametrize(
    "names", [("caf\u00e9", "cafe\u0301"), ("Pos", "pos"), ("1", "1.0"), ("STRASSE", "stra\u00dfe"), ("True", "true")]
)
def test_two_spellings_of_one_class_are_named(names):
    labels = [names[0], "b", names[1]] * 20
    found = message(frame(labels))
    assert all(part in found for part in ("row 2", "row 0", "'label'", *map(repr, names), "label_kind='class'")), found
    kept = frame(labels, label_kind="class").open()
    assert len(kept.classes) == 3 and all(repr(name) in kept.notes[-1] for name in names)
    assert frame(labels, classes=(*names, "b")).open().classes == (*names, "b")
