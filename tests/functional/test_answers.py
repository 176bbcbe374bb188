"""Exact match and F1 of answers equal those of SQuAD's script, written again from its published definition."""

import string

import numpy as np
import pytest

from tlx.functional.answers import exact, normalised, overlap

TRUTHS = [
    ("Denver Broncos", "the Denver Broncos", "Broncos"),
    ("a",),
    ("The", "an"),
    (),
    ("",),
    ("the", "Paris"),
    ("Saint-Étienne",),
    ("the cat the cat dog",),
    ("1,000 m²", "1000"),
    ("北京",),
    ("U.S.A.",),
    ("“Ça va”",),
    ("  spaced\tout\u00a0words ",),
    ("Athena",),
    ("straße",),
]
ANSWERS = [
    "", "a", "the", "...", "Broncos", "denver broncos!", "The  Denver\nBroncos.", "Paris", "saint étienne",
    "SaintÉtienne", "cat cat the dog", "dog cat", "1000", "1000 m²", "北京", "北 京", "usa", "U S A", "Ça va",
    "“ça va”", "STRASSE", "Straße", "spaced out words", "words", "thena", "A the na", "İstanbul",
]  # fmt: skip


def squad(text):
    """lower -> remove ASCII punctuation -> remove whole words a, an, the -> join by single spaces."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    # A word ends where a letter, a digit or "_" (which is punctuation) is beside any other character.
    pieces, word = [], ""
    for letter in kept + " ":
        if letter.isalnum():
            word += letter
            continue
        pieces += [" " if word in ("a", "an", "the") else word, letter]
        word = ""
    return " ".join("".join(pieces).split())


def squad_scores(answer, truths):
    """Exact match and F1: the largest over the true answers that have words; no answer where none has."""
    gold = [truth for truth in truths if squad(truth) != ""] or [""]
    best = [0.0, 0.0]
    for truth in gold:
        ours, theirs = squad(answer).split(), squad(truth).split()
        if ours == theirs:
            f1 = 1.0
        elif not ours or not theirs:
            f1 = 0.0
        else:
            left, same = list(theirs), 0
            for word in ours:
                if word in left:
                    left.remove(word)
                    same += 1
            precision, recall = same / len(ours), same / len(theirs)
            f1 = 2 * precision * recall / (precision + recall) if same else 0.0
        best = [max(best[0], float(squad(answer) == squad(truth))), max(best[1], f1)]
    return best


@pytest.mark.parametrize("truths", TRUTHS, ids=str)
def test_scores_are_those_of_the_script(truths):
    for answer in ANSWERS:
        assert normalised(answer) == squad(answer)
        assert [exact(answer, truths), overlap(answer, truths)] == pytest.approx(squad_scores(answer, truths)), answer


def test_random_words_have_the_scores_of_the_script():
    random = np.random.default_rng(0)
    words = ["a", "The", "cat", "cat.", "Dog", "ñ", "-", "an"]
    for _ in range(200):
        answer, *truths = (" ".join(random.choice(words, random.integers(0, 6))) for _ in range(3))
        assert [exact(answer, truths), overlap(answer, truths)] == pytest.approx(squad_scores(answer, truths))


def test_a_question_without_an_answer():
    # By hand, as in SQuAD 2.0: no answer is right, any words are wrong.
    assert exact("", ()) == overlap("", ()) == 1.0
    assert exact("Paris", ()) == overlap("Paris", ()) == 0.0
    assert exact("", ("Paris",)) == overlap("", ("Paris",)) == 0.0
    assert overlap("the big red dog", ("red dog",)) == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
