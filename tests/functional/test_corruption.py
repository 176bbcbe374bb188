"""Hidden words and spans: what is hidden can be put back, and neither other texts nor padding matter."""

import jax
import numpy as np
import pytest

from tlx.functional import corruption
from tlx.functional.losses import IGNORED

RNG = np.random.default_rng(0)
ROWS, TOKENS, MASK, END, MARK, WORDS = 24, 37, 3, 1, 999, 900
LENGTHS = RNG.integers(2, TOKENS + 1, ROWS)
SEEN = (np.arange(TOKENS) < LENGTHS[:, None]).astype(np.int32)
IDS = np.where(SEEN > 0, RNG.integers(5, WORDS, (ROWS, TOKENS)), 0).astype(np.int32)
IDS[np.arange(ROWS), LENGTHS - 1] = END
LABELS = np.where((SEEN > 0) & (IDS != END), IDS, IGNORED)
OF_WORD = np.cumsum(RNG.random((ROWS, TOKENS)) < 0.5, 1).astype(np.int32)
KEYS = corruption.text_keys(jax.random.key(3), IDS, SEEN)


def wider(array, fill=0):
    return np.pad(array, [(0, 0), (0, 11)], constant_values=fill)


def words(rate=0.3, whole=False, keys=KEYS, ids=IDS, labels=LABELS):
    hide = jax.jit(
        lambda keys, ids, labels: corruption.mask_words(
            keys, ids, labels, rate=rate, mask_token=MASK, vocabulary=WORDS, words=OF_WORD if whole else None
        )
    )
    return corruption.MaskedTexts(*map(np.asarray, hide(keys, ids, labels)))


def test_a_key_depends_on_the_text_and_on_nothing_else():
    numbers = np.asarray(jax.random.key_data(KEYS))
    assert len(np.unique(numbers, axis=0)) == ROWS
    wide = corruption.text_keys(jax.random.key(3), wider(IDS)[::-1], wider(SEEN)[::-1])
    np.testing.assert_array_equal(numbers, np.asarray(jax.random.key_data(wide))[::-1])
    swapped = IDS[:1, [1, 0, *range(2, TOKENS)]]
    assert (
        np.asarray(jax.random.key_data(corruption.text_keys(jax.random.key(3), swapped, SEEN[:1]))) != numbers[:1]
    ).any()


@pytest.mark.parametrize("whole", [False, True])
def test_hidden_words_are_known_and_the_others_stay(whole):
    texts = words(whole=whole)
    hidden = texts.labels != IGNORED
    for row in range(ROWS):
        places = texts.places[row][hidden[row]]
        assert len(set(places.tolist())) == len(places) >= 1
        np.testing.assert_array_equal(texts.labels[row][hidden[row]], LABELS[row, places])
        others = np.setdiff1d(np.arange(TOKENS), places)
        np.testing.assert_array_equal(texts.ids[row, others], IDS[row, others])
        expected = max(1, round((LABELS[row] != IGNORED).sum() * 0.3))
        assert len(places) == expected or (whole and len(places) < expected)
        of_word = OF_WORD[row]
        if whole and len(set(of_word[places].tolist())) > 1:
            same = np.isin(of_word, of_word[places]) & (LABELS[row] != IGNORED)
            assert set(np.flatnonzero(same).tolist()) == set(places.tolist())


def test_the_shares_of_masks_and_of_other_words_are_those_of_bert():
    ids = RNG.integers(5, WORDS, (200, 100)).astype(np.int32)
    keys = corruption.text_keys(jax.random.key(0), ids, np.ones_like(ids))
    texts = words(0.5, keys=keys, ids=ids, labels=ids)
    read = np.take_along_axis(texts.ids, texts.places, 1)
    masked, kept = (read == MASK).mean(), (read == texts.labels).mean()
    # Six standard errors of 10,000 draws.
    assert abs(masked - 0.8) < 0.024 and abs(kept - 0.1) < 0.018


def test_neither_padding_nor_the_other_texts_change_the_hidden_words():
    texts, wide = words(), words(keys=KEYS[::-1], ids=wider(IDS)[::-1], labels=wider(LABELS, IGNORED)[::-1])
    np.testing.assert_array_equal(texts.ids, wide.ids[::-1, :TOKENS])


@pytest.mark.parametrize(("rate", "span"), [(0.15, 3.0), (0.5, 1.0), (0.3, 10.0)])
def test_hidden_spans_put_back_give_the_text(rate, span):
    settings = {"rate": rate, "span": span, "sentinel": MARK, "end": END, "pad": 0}
    texts = jax.jit(lambda keys, ids, seen: corruption.hide_spans(keys, ids, seen, **settings))(KEYS, IDS, SEEN)
    ids, mask, labels = map(np.asarray, texts)
    for row in range(ROWS):
        read, answer = ids[row][mask[row] > 0].tolist(), labels[row][labels[row] != IGNORED].tolist()
        if LENGTHS[row] == 2:
            # Of one token and an end nothing can be hidden.
            assert read == IDS[row, :2].tolist() and not answer
            continue
        assert read[-1] == answer[-1] == END and not ids[row][mask[row] == 0].any()
        spans = {}
        for token in answer[:-1]:
            if token > WORDS:
                spans[token] = []
            else:
                spans[next(reversed(spans))].append(token)
        # The numbers of the marks descend, and each mark replaces one token or more.
        assert list(spans) == [MARK - n for n in range(len(spans))] and all(spans.values())
        whole = [part for token in read for part in spans.get(token, [token])]
        assert whole == IDS[row, : LENGTHS[row]].tolist()
        count = LENGTHS[row] - 1
        wanted = min(max(1, round(float(np.float32(rate) * np.float32(count)))), count - 1)
        assert sum(map(len, spans.values())) == wanted


def test_the_parts_of_a_division_are_equally_likely():
    # Five items in two parts: the first part has 1 to 4 items.
    scores = np.random.default_rng(0).random((4000, 9)).astype(np.float32)
    parts = np.asarray(corruption.parts_of(scores, np.full(4000, 5), np.full(4000, 2)))[:, :5]
    shares = np.bincount((parts == 0).sum(1), minlength=6) / 4000
    assert (np.abs(shares[1:5] - 0.25) < 0.04).all() and shares[0] == shares[5] == 0


@pytest.mark.parametrize("change", [corruption.cut_texts, corruption.shuffle_texts])
def test_a_cut_or_shuffled_text_has_the_tokens_of_the_text(change):
    ids, mask, labels = map(np.asarray, change(KEYS, IDS, SEEN, end=END, pad=0))
    for row in range(ROWS):
        text = IDS[row, : LENGTHS[row] - 1].tolist()
        read, answer = ids[row][mask[row] > 0].tolist(), labels[row][labels[row] != IGNORED].tolist()
        assert read[-1] == answer[-1] == END
        if change is corruption.cut_texts:
            assert read[:-1] + answer[:-1] == text and len(read) > 1
        else:
            assert answer[:-1] == text and sorted(read[:-1]) == sorted(text)


def test_the_first_token_is_not_damaged_and_begins_every_answer():
    first, begun = 4, np.arange(ROWS) % 2 == 0
    ids = np.where(begun[:, None], np.insert(IDS, 0, first, 1)[:, :-1], IDS)
    seen = np.where(begun[:, None], np.insert(SEEN, 0, 1, 1)[:, :-1], SEEN)
    # A text that fills the row would lose its end.
    full = LENGTHS == TOKENS
    ids[full & begun], seen[full & begun] = IDS[full & begun], SEEN[full & begun]
    begun &= ~full

    def cut(ids, mask):
        return corruption.cut_texts(KEYS, ids, mask, end=END, pad=0)

    plain = corruption.Denoised(*map(np.asarray, jax.jit(cut)(IDS, SEEN)))
    both = jax.jit(lambda ids, mask: corruption.behind_first(cut, ids, mask, first))(ids, seen)
    actual = corruption.Denoised(*map(np.asarray, both))
    np.testing.assert_array_equal(actual.ids[~begun], plain.ids[~begun])
    np.testing.assert_array_equal(actual.mask[~begun], plain.mask[~begun])
    assert (actual.ids[begun, 0] == first).all() and (actual.mask[begun, 0] == 1).all()
    np.testing.assert_array_equal(actual.ids[begun, 1:], plain.ids[begun, :-1])
    np.testing.assert_array_equal(actual.mask[begun, 1:], plain.mask[begun, :-1])
    answered = (plain.labels != IGNORED).any(1)
    np.testing.assert_array_equal(actual.labels[:, 0], np.where(answered, first, IGNORED))
    np.testing.assert_array_equal(actual.labels[:, 1:], plain.labels[:, :-1])
