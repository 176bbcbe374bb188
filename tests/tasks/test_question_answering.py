"""Answers to questions: which span, whether there is one, how it is scored; checked by hand."""

import jax
import numpy as np
import pytest

from tlx import tasks
from tlx.functional.scores import softmax
from tlx.models import Span
from tlx.types import Column

CONTEXT = "the old cat sat"
# [CLS] ? [SEP] the old cat sat [SEP]
KINDS = np.array([[1, 3, 3, 2, 2, 2, 2, 3]], np.int32)
FIRST = np.array([[0, 0, 0, 0, 4, 8, 12, 0]], np.int32)
LAST = np.array([[0, 0, 0, 3, 7, 11, 15, 0]], np.int32)
TOKENS = {"token_kinds": KINDS, "first_characters": FIRST, "last_characters": LAST}
TASK = tasks.QuestionAnswering(no_answer=True)


def logits_of(begins, ends):
    """Logits of 8 tokens, 0 except at some places."""
    logits = np.zeros((1, 8, 2), np.float32)
    for side, values in enumerate((begins, ends)):
        for place, value in values.items():
            logits[0, place, side] = value
    return logits


def answer_of(task, logits):
    (answer,) = task.answers({"logits": logits}, TOKENS)
    ((text, probability),) = task.worded(answer, {"context": CONTEXT}).items()
    return text, probability


def test_the_answer_is_the_best_span_with_its_probability():
    # The beginning is after the end of the best end, the question and [SEP] are no answers.
    logits = logits_of({4: 3.0, 1: 9.0, 7: 9.0}, {5: 2.0, 3: 2.5, 2: 9.0})
    text, probability = answer_of(TASK, logits)
    assert text == "old cat"
    scores = [logits[0, i, 0] + logits[0, j, 1] for i in range(3, 7) for j in range(i, 7)]
    assert probability == pytest.approx(softmax(np.array([*scores, 0.0]))[scores.index(5.0)], rel=1e-6)
    assert TASK.answer_values({text: probability}) == {"prediction": "old cat", "probability": probability}
    short = tasks.QuestionAnswering(no_answer=True, longest_answer=1)
    assert answer_of(short, logits)[0] == "old"


def test_no_answer_wins_by_the_threshold_and_only_where_it_is_an_answer():
    logits = logits_of({0: 3.0, 4: 2.0}, {0: 1.5, 4: 2.0})
    assert answer_of(TASK, logits)[0] == ""
    assert answer_of(tasks.QuestionAnswering(no_answer=True, threshold=0.4), logits)[0] == ""
    assert answer_of(tasks.QuestionAnswering(no_answer=True, threshold=0.6), logits)[0] == "old"
    text, probability = answer_of(tasks.QuestionAnswering(no_answer=False), logits)
    assert text == "old" and probability > answer_of(tasks.QuestionAnswering(no_answer=True, threshold=9), logits)[1]


def test_windows_are_one_answer():
    """The score of no answer is the lowest one of all windows, and the best span may be in any window."""
    task = tasks.QuestionAnswering(no_answer=True, stride=1, window=8)
    both = {name: np.concatenate([array, array], 1) for name, array in TOKENS.items()}
    # Only the first window is sure of no answer.
    logits = np.concatenate([logits_of({0: 9.0}, {0: 9.0}), logits_of({5: 2.0}, {6: 2.0})], 1)
    (answer,) = task.answers({"logits": logits}, both)
    assert task.worded(answer, {"context": CONTEXT}).keys() == {"cat sat"}


def test_scores_become_exact_match_and_f1():
    logits = np.concatenate([logits_of({5: 4.0}, {5: 4.0}), logits_of({0: 9.0}, {0: 9.0}), logits_of({}, {0: 9.0})])
    batch = {name: np.tile(array, (3, 1)) for name, array in TOKENS.items()}
    batch["answer_marks"] = np.array([[0, 0, 0, 0, 1, 2, 0, 0], [3, *[0] * 7], [0, 0, 0, 0, 0, 3, 0, 0]], np.int32)
    truths = [{"text": ["old cat", "a CAT."], "answer_start": [4, 8]}, {"text": [], "answer_start": []}]
    truths.append({"text": ["cat"], "answer_start": [8]})
    examples = [{"text_pair": CONTEXT, "label": truth} for truth in truths]
    scores = {name: np.asarray(array) for name, array in jax.jit(TASK.score)({"logits": logits}, batch).items()}
    graded = TASK.graded(scores, examples)
    assert graded["em"].tolist() == [1, 1, 0] and graded["f1"].tolist() == [1, 1, 0]
    assert graded["correct"].tolist() == [True, True, False]
    metrics = TASK.summarise(graded)
    assert metrics["answer_f1"] == metrics["exact_match"] == pytest.approx(2 / 3)
    log_p = [np.log(softmax(logits[n, :, side])) for n, side in ((0, 0), (0, 1))]
    assert graded["loss"][0] == pytest.approx(-(log_p[0][4] + log_p[1][5]) / 2, rel=1e-5)
    answers = TASK.stored_answers({name: array[:2] for name, array in graded.items()}, examples[:2])
    assert [list(answer) for answer in answers] == [["cat"], [""]]
    assert TASK.shown(examples[0], answers[0])[0] == "old cat / a CAT."
    label, answer = TASK.shown(examples[1], answers[1])
    assert label == "(no answer)" and list(answer) == ["(no answer)"]


def test_what_follows_from_the_data_is_kept():
    task = tasks.QuestionAnswering(stride=4).resolve({"label": Column("answers")})
    some, none = {"text": ["a"], "answer_start": [0]}, {"text": [], "answer_start": []}
    assert task.fitted([some, none]).no_answer is True and task.fitted([some, some]).no_answer is False
    assert tasks.QuestionAnswering(no_answer=True).fitted([some]).no_answer is True
    ready = task.fitted([some]).at_length(32)
    assert ready.head() == Span(window=32) and ready.kept_fields == {"stride": 4, "no_answer": False, "window": 32}
    assert task.with_kept(ready.kept_fields) == ready
    assert tasks.QuestionAnswering().at_length(32).head() == Span()


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: tasks.QuestionAnswering(stride=-1), ("stride=-1", "0 or more")),
        (lambda: tasks.QuestionAnswering(best=0), ("best=0",)),
        (lambda: TASK.resolve({"label": Column("class", ("a", "b"))}), ("class", "text_pair='context'")),
        (lambda: TASK.reader(object()), ("object", "places(example)")),
    ],
)
def test_invalid_input_is_named_in_the_error(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts)
