"""Compare written texts with true texts: cases worked by hand (sacrebleu and rouge-score are in the parity tests)."""

import math

import numpy as np
import pytest

from tlx.functional import texts


def counted(matches, totals, lengths):
    rows = {"bleu_matches": matches, "bleu_totals": totals, "bleu_lengths": lengths}
    return {name: np.array(row, np.int32) for name, row in rows.items()}


def test_bleu_of_counts_worked_by_hand():
    # "the cat sat on the mat" for "the cat sat on a mat" and "no" for "yes it is": 6 and 1 words written, 6 and 3 true.
    scores = counted([[5, 3, 2, 1], [0, 0, 0, 0]], [[6, 5, 4, 3], [1, 0, 0, 0]], [[6, 6], [1, 3]])
    mean = (5 / 7 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert texts.bleu(scores) == pytest.approx(100 * math.exp(1 - 9 / 7) * mean, rel=1e-12)
    # More words than the truth cost nothing beside the shares.
    longer = counted([[5, 3, 2, 1]], [[7, 6, 5, 4]], [[7, 6]])
    assert texts.bleu(longer) == pytest.approx(100 * (5 / 7 * 3 / 6 * 2 / 5 * 1 / 4) ** 0.25, rel=1e-12)


def test_orders_of_bleu_without_a_match_count_halves_and_quarters():
    scores = counted([[2, 1, 0, 0]], [[5, 4, 3, 2]], [[5, 5]])
    assert texts.bleu(scores) == pytest.approx(100 * (2 / 5 * 1 / 4 * 0.5 / 3 * 0.25 / 2) ** 0.25, rel=1e-12)
    for matches, totals in (([0, 0, 0, 0], [5, 4, 3, 2]), ([3, 2, 1, 0], [3, 2, 1, 0]), ([0, 0, 0, 0], [0, 0, 0, 0])):
        assert texts.bleu(counted([matches], [totals], [[sum(totals[:1]), 5]])) == 0.0
    equal = counted([[4, 3, 2, 1]], [[4, 3, 2, 1]], [[4, 4]])
    assert texts.bleu(equal) == 100.0


def test_bleu_of_a_corpus_is_not_the_mean_of_its_texts():
    rows = counted([[5, 4, 3, 2], [1, 0, 0, 0]], [[5, 4, 3, 2], [9, 8, 7, 6]], [[5, 5], [9, 9]])
    halves = [texts.bleu({name: array[[n]] for name, array in rows.items()}) for n in range(2)]
    assert abs(texts.bleu(rows) - np.mean(halves)) > 1
    # The order of the texts does not count.
    assert texts.bleu({name: array[::-1] for name, array in rows.items()}) == texts.bleu(rows)


def test_texts_come_back_as_they_were():
    listed = ["", "naïve", "日本語 😀", "a\nb ", "\x00\x00", " "]
    array = texts.packed(listed)
    assert array.dtype == np.uint8 and texts.unpacked(array) == listed
    assert texts.unpacked(array[[3, 1]]) == [listed[3], listed[1]]
    assert texts.packed([]).shape == (0, 0) and texts.unpacked(texts.packed(["", ""])) == ["", ""]
    # Half a character of a tokenizer of bytes.
    assert texts.unpacked(texts.packed(["a\udce2"])) == ["a?"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(texts, "find_spec", lambda name: None)
    for names, package in ((("exact_match", "bleu"), "sacrebleu"), (("rougeL",), "rouge-score")):
        with pytest.raises(ImportError, match=f"{package}: pip install 'tlx\\[text\\]'"):
            texts.check_installed(names)
    texts.check_installed(("exact_match",))
