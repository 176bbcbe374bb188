"""The losses and the best spans of texts that are read in windows, from the scores of beginnings and ends.

Shapes: B batch, W windows of a text, T tokens of a window, L = W T tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tlx.types import Array

# The kinds of tokens: padding; the first token of a window, whose score is that of no answer; a token of the text with
# the answers; any other token.
PADDING, FIRST, CONTEXT, OTHER = 0, 1, 2, 3
# The parts of `answer_marks`: an answer begins here, an answer ends here.
BEGINS, ENDS = 1, 2

# The logit of padding: exp is 0, and the gradient of a window of padding stays finite.
UNREAD = -1e9


class BestSpan(NamedTuple):
    """The best span of each text, in any of its windows.

    Attributes:
        first: The place of its first token among all tokens of the text, int[B]; 0 if there is no valid span.
        last: That of its last token, int[B].
        score: The sum of the two logits, float[B]; -inf if there is no valid span.
        absent: The score of no answer, float[B]: the lowest one of all windows.
        total: The logarithm of the sum of exp(score) of the best spans that were compared, float[B].
    """

    first: Array
    last: Array
    score: Array
    absent: Array
    total: Array


def by_window(array: Array, window: int | None) -> Array:
    """Divide the tokens of texts into windows: [B, L, ...] -> [B, W, T, ...]."""
    length = array.shape[1]
    tokens = length if window is None or length <= window else window
    return array.reshape(array.shape[0], length // tokens, tokens, *array.shape[2:])


def span_losses(logits: Array, kinds: Array, marks: Array, window: int | None) -> tuple[Array, Array]:
    """Return for each text the sum over its windows of the mean cross-entropy of the beginning and the end, and the
    number of its windows, float[B] each.

    The target of a window without the whole answer is its first token (Devlin et al., 2019, section 4.3). Padding has
    the probability 0.

    Args:
        logits: [B, L, 2].
        kinds: What each token is, int[B, L].
        marks: Where the answer begins and ends, int[B, L]: `BEGINS`, `ENDS`, or their sum.
        window: The number of tokens of a window; None for one window.
    """
    logits, kinds, marks = (by_window(array, window) for array in (logits, kinds, marks))
    readable = (kinds != PADDING)[..., None]
    log_p = jax.nn.log_softmax(jnp.where(readable, logits.astype(jnp.float32), UNREAD), 2)
    targets = jnp.stack([marks & BEGINS, marks & ENDS], -1) > 0
    present = (kinds == FIRST).any(-1)
    losses = -jnp.where(targets, log_p, 0.0).sum((2, 3)) / 2
    return jnp.where(present, losses, 0.0).sum(1), present.sum(1).astype(jnp.float32)


def best_spans(logits: Array, kinds: Array, window: int | None, best: int, longest: int) -> BestSpan:
    """Return the best valid span of each text: tokens of its context, the beginning not after the end.

    As in the scripts of BERT and `transformers`, the `best` beginnings and the `best` ends of each window are combined,
    and the windows of a text are compared by the sums of their logits.

    Args:
        logits: [B, L, 2].
        kinds: What each token is, int[B, L].
        window: The number of tokens of a window; None for one window.
        best: The number of beginnings and ends of a window that are combined.
        longest: The largest number of tokens of an answer.
    """
    logits, kinds = by_window(logits.astype(jnp.float32), window), by_window(kinds, window)
    rows, windows, tokens = kinds.shape
    inside = (kinds == CONTEXT)[..., None]
    count = min(best, tokens)
    values, places = jax.lax.top_k(jnp.moveaxis(jnp.where(inside, logits, -jnp.inf), -1, 2), count)
    begins, ends = places[:, :, 0, :, None], places[:, :, 1, None, :]
    valid = (ends >= begins) & (ends - begins < longest)
    scores = jnp.where(valid, values[:, :, 0, :, None] + values[:, :, 1, None, :], -jnp.inf)
    flat, shape = scores.reshape(rows, -1), scores.shape
    top, chosen = jax.lax.top_k(flat, min(best, flat.shape[1]))
    offsets = tokens * jnp.arange(windows)[None, :, None, None]
    first, last = (
        jnp.take_along_axis(jnp.broadcast_to(side + offsets, shape).reshape(rows, -1), chosen[:, :1], 1)[:, 0]
        for side in (begins, ends)
    )
    absent = jnp.where(kinds == FIRST, logits.sum(-1), jnp.inf).min((1, 2))
    none = jnp.isneginf(top[:, 0])
    # An infinite sum of nothing has no gradient, and none is taken.
    total = jnp.where(none, -jnp.inf, jax.nn.logsumexp(jnp.where(none[:, None], 0.0, top), -1))
    return BestSpan(jnp.where(none, 0, first), jnp.where(none, 0, last), top[:, 0], absent, total)
