"""The loss and the best span of texts in windows, against transformers and against all spans one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tlx.functional import spans as module
from tlx.functional.spans import BEGINS, CONTEXT, ENDS, FIRST, OTHER, PADDING

best_spans = jax.jit(module.best_spans, static_argnums=(2, 3, 4))
span_losses = jax.jit(module.span_losses, static_argnums=3)
WINDOW = 7
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(4, 3 * WINDOW, 2)).astype(np.float32)


def kinds_of(*contexts):
    """Windows of a question of one token and a context of some tokens; 0 is a window of padding."""
    rows = [[FIRST, OTHER, OTHER, *[CONTEXT] * size, OTHER][: 3 + size + 1] if size else [] for size in contexts]
    return np.array([kind for row in rows for kind in row + [PADDING] * (WINDOW - len(row))], np.int32)


KINDS = np.stack([kinds_of(3, 3, 2), kinds_of(3, 0, 0), kinds_of(1, 2, 0), kinds_of(3, 3, 3)])


def all_spans(logits, kinds, best, longest):
    """Return the spans of one text, best first, from the `best` beginnings and ends of each of its windows."""
    spans = []
    for start in range(0, len(kinds), WINDOW):
        inside = [place for place in range(start, start + WINDOW) if kinds[place] == CONTEXT]
        begins, ends = (sorted(inside, key=lambda n, side=side: -logits[n, side])[:best] for side in (0, 1))
        spans += [(logits[i, 0] + logits[j, 1], i, j) for i in begins for j in ends if 0 <= j - i < longest]
    return sorted(spans, reverse=True)


@pytest.mark.parametrize(("best", "longest"), [(20, 30), (20, 1), (2, 2), (1, 30)])
def test_the_best_span_is_the_best_of_all_spans(best, longest):
    spans = best_spans(LOGITS, KINDS, WINDOW, best, longest)
    for row, (logits, kinds) in enumerate(zip(LOGITS, KINDS, strict=True)):
        expected = all_spans(logits, kinds, best, longest)
        absent = min(logits[place].sum() for place in np.flatnonzero(kinds == FIRST))
        assert float(spans.absent[row]) == pytest.approx(absent, abs=1e-6)
        if not expected:
            assert np.isneginf(spans.score[row]) and int(spans.first[row]) == int(spans.last[row]) == 0
            continue
        score, first, last = expected[0]
        assert (int(spans.first[row]), int(spans.last[row])) == (first, last)
        assert float(spans.score[row]) == pytest.approx(score, abs=1e-6)
        total = np.log(np.exp([span[0] for span in expected[:best]]).sum())
        assert float(spans.total[row]) == pytest.approx(total, abs=1e-5)


def test_a_text_without_a_valid_span_has_none():
    logits, kinds = np.zeros((1, WINDOW, 2), np.float32), kinds_of(3)[None]
    # The only beginning that is combined comes after the only end.
    logits[0, 5, 0] = logits[0, 3, 1] = 1.0
    spans = best_spans(logits, kinds, None, 1, 30)
    assert np.isneginf(spans.score[0]) and np.isneginf(spans.total[0]) and int(spans.first[0]) == 0


def marks_of(*targets):
    marks = np.zeros((len(targets), 3 * WINDOW), np.int32)
    for row, spans in enumerate(targets):
        for window, (first, last) in enumerate(spans):
            marks[row, WINDOW * window + first] |= BEGINS
            marks[row, WINDOW * window + last] |= ENDS
    return marks


MARKS = marks_of([(3, 5), (0, 0), (4, 4)], [(3, 4)], [(0, 0), (3, 4)], [(0, 0)] * 3)


def test_the_loss_is_the_mean_cross_entropy_of_beginnings_and_ends():
    sums, counts = span_losses(LOGITS, KINDS, MARKS, WINDOW)
    np.testing.assert_array_equal(counts, [3, 1, 2, 3])
    for row in range(4):
        expected = 0.0
        for start in range(0, 3 * WINDOW, WINDOW):
            part = slice(start, start + WINDOW)
            real = KINDS[row, part] != PADDING
            for side, mark in enumerate((BEGINS, ENDS)):
                if real.any():
                    logits = LOGITS[row, part, side][real]
                    target = int(np.flatnonzero(MARKS[row, part] & mark)[0])
                    expected += (np.log(np.exp(logits).sum()) - LOGITS[row, start + target, side]) / 2
        assert float(sums[row]) == pytest.approx(expected, abs=1e-5)
    gradient = jax.grad(lambda logits: span_losses(logits, KINDS, MARKS, WINDOW)[0].sum())(jnp.asarray(LOGITS))
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[KINDS == PADDING].any()


def test_windows_of_padding_change_nothing():
    short = [array[:, :WINDOW] for array in (LOGITS[1:2], KINDS[1:2], MARKS[1:2])]
    for window in (WINDOW, None):
        np.testing.assert_allclose(
            span_losses(*short, window)[0], span_losses(LOGITS, KINDS, MARKS, WINDOW)[0][1:2], rtol=1e-6
        )
        alone, among = best_spans(*short[:2], window, 20, 30), best_spans(LOGITS, KINDS, WINDOW, 20, 30)
        for field in alone._fields:
            np.testing.assert_allclose(getattr(alone, field), getattr(among, field)[1:2], rtol=1e-6, err_msg=field)


@pytest.mark.parity
def test_the_loss_of_a_text_is_that_of_transformers():
    import torch
    import transformers

    config = transformers.BertConfig(vocab_size=20, hidden_size=12, num_hidden_layers=1, num_attention_heads=3)
    model = transformers.BertForQuestionAnswering(config).eval()
    ids = torch.tensor(RANDOM.integers(2, 20, (4, WINDOW)))
    first, last = torch.tensor([3, 0, 4, 2]), torch.tensor([5, 0, 4, 6])
    with torch.no_grad():
        outputs = model(input_ids=ids, start_positions=first, end_positions=last)
    logits = np.stack([outputs.start_logits.numpy(), outputs.end_logits.numpy()], -1)
    marks = np.zeros((4, WINDOW), np.int32)
    for row, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        marks[row, begin] |= BEGINS
        marks[row, end] |= ENDS
    # transformers counts every token, so here no token is padding.
    sums, counts = span_losses(logits, np.tile(kinds_of(3), (4, 1)), marks, None)
    assert float(sums.sum() / counts.sum()) == pytest.approx(float(outputs.loss), rel=1e-6)
