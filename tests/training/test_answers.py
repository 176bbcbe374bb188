"""Answers in memory become columns of a frame, whatever the task."""

import pytest

from tlx import tasks
from tlx.training.answers import columns_of_answers, examples_of_list


class Reader:
    """A processor of a kind of input, as `examples_of_list` needs it."""

    def __init__(self, kind):
        self.reads = (kind,)


def test_several_classes_are_a_tuple_and_a_column_each():
    task = tasks.MultiLabel(names=("rude", "toxic"), threshold=0.4)
    answers = [{"toxic": 0.9, "rude": 0.45}, {"rude": 0.3, "toxic": 0.1}]
    assert columns_of_answers(answers, task, None) == {
        "answer": [("rude", "toxic"), ()], "probability: rude": [0.45, 0.3], "probability: toxic": [0.9, 0.1]
    }  # fmt: skip


def test_numbers_have_the_names_of_their_columns():
    answers = [{"output 0": 1.5, "output 1": 2.5}]
    assert columns_of_answers(answers, tasks.Regression(outputs=2), ("width", "height")) == {
        "width": [1.5], "height": [2.5]
    }  # fmt: skip
    assert columns_of_answers([{"output 0": 1.5}], tasks.Regression(), "stars") == {"answer": [1.5]}


def test_tags_of_words_are_one_column():
    assert columns_of_answers([["B", "O"]], tasks.TokenClassification(names=("B", "O")), None) == {
        "answer": [["B", "O"]]
    }


def test_pairs_and_words_are_read():
    pairs = {"text": ("premise",), "text_pair": ("hypothesis",)}
    assert examples_of_list([("a", "b")], Reader("text"), pairs) == [{"text": "a", "text_pair": "b"}]
    with pytest.raises(ValueError, match=r"example 1 is 'a'.*\(text, text_pair\)"):
        examples_of_list([("a", "b"), "a"], Reader("text"), pairs)
    words = {"words": ("words",)}
    assert examples_of_list(["a b", ["c"]], Reader("words"), words) == [{"words": ["a", "b"]}, {"words": ["c"]}]
