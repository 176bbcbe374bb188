"""The label of a table is read as a researcher means it, or an error asks; no class is split or made in silence."""

import numpy as np
import pandas as pd
import pytest

from tlx.data import Arrays, Csv, Frame
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
