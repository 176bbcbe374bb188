"""BLEU and ROUGE equal sacrebleu and rouge-score on texts that are hard to count."""

import random

import numpy as np
import pytest

from tlx.functional import resampling, texts

pytestmark = pytest.mark.parity

WORDS = [
    "the", "The", "cat", "sat", "mat", ",", ".", "naïve", "é", "e\u0301", "日本語", "😀", "don't", "U.S.", "3.5", "$5",
    "1,000", "a-b", "&quot;", "&amp;", "<skipped>", "«oui»", "\u00a0", "\u200b", "\t", "\n", "\r\n", "x" * 40,
]  # fmt: skip


def corpora():
    """Pairs of written and true texts: shortened ones, unrelated ones, and empty ones on either side."""
    chance = random.Random(0)
    for size in (1, 2, 7, 40):
        for share in (0.0, 0.5, 0.8, 1.0):
            truths = [" ".join(chance.choices(WORDS, k=chance.randint(0, 14))) for _ in range(size)]
            kept = [" ".join(word for word in truth.split(" ") if chance.random() < share) for truth in truths]
            other = [" ".join(chance.choices(WORDS, k=chance.randint(0, 9))) for _ in range(size)]
            yield [chance.choice(pair) for pair in zip(kept, other, strict=True)], truths
            yield kept, truths
    yield ["", ""], ["", ""]
    yield ["", "the cat sat"], ["a cat", ""]


def test_bleu_is_that_of_sacrebleu():
    import sacrebleu

    positive = 0
    for written, truths in corpora():
        expected = sacrebleu.corpus_bleu(written, [truths])
        scores = texts.bleu_counts(written, truths)
        assert scores["bleu_matches"].sum(0).tolist() == expected.counts
        assert scores["bleu_totals"].sum(0).tolist() == expected.totals
        assert scores["bleu_lengths"].sum(0).tolist() == [expected.sys_len, expected.ref_len]
        assert texts.bleu(scores) == pytest.approx(expected.score, rel=1e-13, abs=1e-13)
        positive += expected.score > 0
    assert positive > 10


def test_a_resample_of_bleu_is_that_of_its_texts():
    import sacrebleu

    written, truths = list(corpora())[-4]
    scores = texts.bleu_counts(written, truths)
    rows = np.random.default_rng(0).integers(0, len(written), (20, len(written)))
    weights = resampling.weights_of(rows)
    expected = [sacrebleu.corpus_bleu([written[n] for n in row], [[truths[n] for n in row]]).score for row in rows]
    np.testing.assert_allclose(resampling.PLANS[texts.bleu](scores).values(weights), expected, rtol=1e-12)
    assert np.ptp(expected) > 1


def test_rouge_is_that_of_rouge_score():
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(texts.ROUGES))
    lines = ["The cat sat.\nIt ran away.", "It ran away.\nthe cat slept."]
    for written, truths in (*corpora(), (lines, lines[::-1])):
        scores = texts.rouge(written, truths, texts.ROUGES)
        for kind in texts.ROUGES:
            expected = [scorer.score(truth, text)[kind].fmeasure for text, truth in zip(written, truths, strict=True)]
            np.testing.assert_array_equal(scores[kind], expected)
    # The order of the sentences counts for the whole text, and not line by line.
    scores = texts.rouge(lines[:1], lines[1:], ("rougeL", "rougeLsum"))
    assert scores["rougeLsum"] > scores["rougeL"]
