"""Hide parts of texts, from which language models learn: masked words (BERT), and the objectives of T5.

Everything is computed on arrays of a fixed shape from a key for each text, so what happens to a text depends neither on
the other texts of its batch nor on its padding. Shapes: B batch, T tokens, M hidden tokens, S tokens of the answer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tlx.functional.losses import IGNORED
from tlx.types import Array, Key

# The shares of the hidden tokens that become the mask, and another word; the others stay (Devlin et al., 2019).
MASKED, OTHER = 0.8, 0.1


class MaskedTexts(NamedTuple):
    """Texts with hidden tokens: the `ids` [B, T] that a model reads, the `places` [B, M] of the hidden tokens, and the
    true tokens there, `labels` [B, M], with `IGNORED` where a text has fewer than M."""

    ids: Array
    places: Array
    labels: Array


class Denoised(NamedTuple):
    """Pairs of a damaged text and its repair: `ids` [B, T] and their `mask` [B, T], and the `labels` [B, S], with
    `IGNORED` after their end."""

    ids: Array
    mask: Array
    labels: Array


def text_keys(key: Key, ids: Array, mask: Array) -> Key:
    """Return a key for each text [B], which depends on `key` and on the tokens of the text alone.

    Args:
        key: The key of the step.
        ids: The tokens [B, T].
        mask: 1 for a token, 0 for padding [B, T].
    """
    places = jnp.arange(1, ids.shape[1] + 1, dtype=jnp.uint32)
    # Products with odd numbers spread similar texts; sums of 32 bits wrap around.
    mixed = (ids.astype(jnp.uint32) + jnp.uint32(1)) * jnp.uint32(2654435761) ^ (places * jnp.uint32(2246822519))
    mixed = mixed * ((mixed >> jnp.uint32(15)) | jnp.uint32(1))
    sums = jnp.where(mask > 0, mixed, jnp.uint32(0)).sum(1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, sums)


def drawn(keys: Key, use: int, count: int) -> Array:
    """Draw `count` numbers in [0, 1) for each text, float32 [B, count], others for every `use`."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, use), (count,)))(keys)


def hidden_count(tokens: int, rate: float) -> int:
    """Return the number of hidden tokens of a text of which `tokens` tokens may be hidden: at least 1."""
    return max(1, round(tokens * rate))


def share_of(counts: Array, rate: float) -> Array:
    """Return `hidden_count` of an array of counts, int32."""
    return jnp.maximum(1, jnp.round(counts.astype(jnp.float32) * rate).astype(jnp.int32))


def mask_words(
    keys: Key, ids: Array, labels: Array, *, rate: float, mask_token: int, vocabulary: int, words: Array | None = None
) -> MaskedTexts:
    """Hide a share of the tokens of each text, as BERT does (Devlin et al., 2019, section 3.1).

    Of n tokens that may be hidden, max(1, round(rate n)) are hidden: 80 % become the mask, 10 % another word, and 10 %
    stay. With `words` all tokens of a word are hidden together (whole-word masking). A word that goes beyond the number
    is then left out, unless it is the first one, of which only the first tokens are hidden.

    Args:
        keys: A key for each text [B].
        ids: The tokens [B, T].
        labels: The same tokens, `IGNORED` where a token is never hidden [B, T].
        rate: The share of the tokens that are hidden.
        mask_token: The token that the model reads in the place of a hidden one.
        vocabulary: The number of tokens among which another one is drawn.
        words: The number of the word of each token [B, T], ascending; None hides tokens.

    Returns:
        The texts.
    """
    tokens = ids.shape[1]
    most = hidden_count(tokens, rate)
    may = labels != IGNORED
    count = may.sum(1)
    wanted = jnp.where(count > 0, jnp.minimum(share_of(count, rate), most), 0)[:, None]
    scores, changes, others = (drawn(keys, use, tokens) for use in range(3))
    if words is not None:
        # A word has the number of its first token, and its tokens follow each other in the order below.
        scores = jnp.take_along_axis(scores, first_of(words), 1)
    places = jnp.argsort(jnp.where(may, scores, 2.0), axis=1, stable=True)
    chosen = jnp.arange(tokens) < wanted
    if words is not None:
        ranked = jnp.take_along_axis(words, places, 1)
        ends = tokens - 1 - first_of(ranked[:, ::-1])[:, ::-1]
        chosen &= (ends < wanted) | (ranked == ranked[:, :1])
    places, chosen = places[:, :most], chosen[:, :most]
    true, change, other = (jnp.take_along_axis(array, places, 1) for array in (ids, changes, others))
    another = (other * vocabulary).astype(ids.dtype)
    read = jnp.where(change < MASKED, jnp.asarray(mask_token, ids.dtype), another)
    read = jnp.where(chosen & (change < MASKED + OTHER), read, true)
    masked = jnp.asarray(ids).at[jnp.arange(len(ids))[:, None], places].set(read)
    return MaskedTexts(masked, places, jnp.where(chosen, true, IGNORED).astype(jnp.int32))


def first_of(numbers: Array) -> Array:
    """Return for each entry the place of the first equal entry of its row: [B, T] -> int32 [B, T]."""
    return jnp.argmax(numbers[:, :, None] == numbers[:, None, :], axis=2).astype(jnp.int32)


def hide_spans(
    keys: Key, ids: Array, mask: Array, *, rate: float, span: float, sentinel: int, end: int, pad: int
) -> Denoised:
    """Replace random spans of each text by marks, and ask for the spans (Raffel et al., 2020, section 3.1.4).

    A text of n tokens and an end keeps and hides alternating spans of random lengths, the first one kept and the last
    one hidden: round(rate n) tokens in round(rate n / span) spans. A text of one token stays, and no answer counts.
    The model reads the kept spans with a mark in the place of each hidden one, and answers each mark with its span. The
    marks are `sentinel`, `sentinel` - 1, ...

    Args:
        keys: A key for each text [B].
        ids: The tokens [B, T], with padding on the right.
        mask: 1 for a token, 0 for padding [B, T].
        rate: The share of the tokens that are hidden.
        span: The mean number of tokens of a hidden span.
        sentinel: The first mark.
        end: The token that ends a text. It is never hidden, and ends the answer too.
        pad: The token of padding.

    Returns:
        The damaged texts and the answers.
    """
    tokens = ids.shape[1]
    inside = (mask > 0) & (ids != end)
    count = inside.sum(1)
    most = hidden_count(tokens, rate)
    noise = jnp.clip(share_of(count, rate), 0, jnp.clip(count - 1, 0, most))
    spans = jnp.maximum(1, jnp.round(noise.astype(jnp.float32) / span).astype(jnp.int32))
    spans = jnp.minimum(spans, jnp.minimum(noise, count - noise))
    hidden_span = parts_of(drawn(keys, 0, tokens), noise, spans)
    kept_span = parts_of(drawn(keys, 1, tokens), count - noise, spans)
    # The kept token number i lies behind all hidden spans before its own.
    items = jnp.arange(tokens)
    before = (
        (hidden_span[:, None, :] < kept_span[:, :, None])
        & (items[None, None, :] < noise[:, None, None])
        & (items[None, :, None] < (count - noise)[:, None, None])
    ).sum(2)
    kept_places = jnp.where(items < (count - noise)[:, None], items + before, tokens)
    kept = jnp.zeros((len(ids), tokens), bool).at[jnp.arange(len(ids))[:, None], kept_places].set(True, mode="drop")
    hidden = inside & ~kept
    read = with_marks(ids, inside, hidden, sentinel, end, pad, tokens)
    answer = with_marks(ids, inside, inside & ~hidden, sentinel, end, IGNORED, min(tokens, 2 * most) + 1)
    answer = jnp.where(hidden.any(1, keepdims=True), answer, IGNORED)
    return Denoised(read, marked_mask(inside, hidden, tokens), answer)


def parts_of(scores: Array, count: Array, parts: Array) -> Array:
    """Divide the first `count` [B] items of each row into `parts` [B] consecutive parts of at least one item, all
    divisions equally likely, by random `scores` [B, T]: the number of the part of each item, int32 [B, T]."""
    items = jnp.arange(scores.shape[1])
    # A part may begin at every item but the first.
    free = jnp.where((items > 0) & (items < count[:, None]), scores, 2.0)
    ranks = jnp.argsort(jnp.argsort(free, axis=1, stable=True), axis=1, stable=True)
    begins = (ranks < (parts - 1)[:, None]) & (free < 2.0)
    return jnp.cumsum(begins, axis=1).astype(jnp.int32)


def with_marks(ids: Array, inside: Array, marked: Array, sentinel: int, end: int, fill: int, length: int) -> Array:
    """Return the tokens [B, `length`] with a mark in the place of every span of `marked` tokens [B, T], the `end`, and
    `fill` up to the length."""
    first = marked & ~jnp.pad(marked, [(0, 0), (1, 0)])[:, :-1]
    marks = sentinel - (jnp.cumsum(first, axis=1) - 1)
    keep = inside & (first | ~marked)
    values = jnp.where(first, marks, ids)
    count = keep.sum(1)[:, None]
    order = jnp.argsort(~keep, axis=1, stable=True)
    packed = jnp.pad(jnp.take_along_axis(values, order, 1), [(0, 0), (0, max(0, length - ids.shape[1]))])[:, :length]
    places = jnp.arange(length)
    packed = jnp.where(places < count, packed, fill)
    return jnp.where(places == count, end, packed).astype(jnp.int32)


def marked_mask(inside: Array, marked: Array, length: int) -> Array:
    """Return the attention mask [B, `length`] of the tokens that `with_marks` returns."""
    first = marked & ~jnp.pad(marked, [(0, 0), (1, 0)])[:, :-1]
    count = (inside & (first | ~marked)).sum(1)[:, None]
    return (jnp.arange(length) <= count).astype(jnp.int32)


def cut_texts(keys: Key, ids: Array, mask: Array, *, end: int, pad: int) -> Denoised:
    """Cut each text at a random place: the model reads the first part and answers the second (a prefix language model,
    Raffel et al., 2020, section 3.2.3). A text of one token is read whole, with an empty answer. Arguments are as in
    `hide_spans`."""
    inside = (mask > 0) & (ids != end)
    count = inside.sum(1)
    # From 1 to count - 1 tokens are read.
    cut = 1 + jnp.floor(drawn(keys, 0, 1)[:, 0] * jnp.maximum(count - 1, 0).astype(jnp.float32)).astype(jnp.int32)
    cut = jnp.minimum(cut, jnp.maximum(count - 1, 1))
    place = jnp.cumsum(inside, axis=1) - 1
    return repaired(ids, inside & (place < cut[:, None]), inside & (place >= cut[:, None]), end, pad)


def shuffle_texts(keys: Key, ids: Array, mask: Array, *, end: int, pad: int) -> Denoised:
    """Shuffle the tokens of each text, and ask for the text (deshuffling, Liu et al., 2019a, in Raffel et al., 2020).
    Arguments are as in `hide_spans`."""
    inside = (mask > 0) & (ids != end)
    order = jnp.argsort(jnp.where(inside, drawn(keys, 0, ids.shape[1]), 2.0), axis=1, stable=True)
    shuffled = packed_texts(jnp.take_along_axis(ids, order, 1), jnp.take_along_axis(inside, order, 1), end, pad)
    return Denoised(shuffled, mask_of(inside), packed_texts(ids, inside, end, IGNORED))


def repaired(ids: Array, read: Array, answered: Array, end: int, pad: int) -> Denoised:
    """Return the tokens that are read, and those that are answered, each with an end."""
    return Denoised(packed_texts(ids, read, end, pad), mask_of(read), packed_texts(ids, answered, end, IGNORED))


def packed_texts(ids: Array, keep: Array, end: int, fill: int) -> Array:
    """Return the tokens to `keep` [B, T] at the left, then the `end`, then `fill`: int32 [B, T]; a text that fills the
    row has no end."""
    return with_marks(ids, keep, jnp.zeros_like(keep), 0, end, fill, ids.shape[1])


def mask_of(keep: Array) -> Array:
    """Return the attention mask of `packed_texts`."""
    return marked_mask(keep, jnp.zeros_like(keep), keep.shape[1])


def behind_first(damage: Callable[[Array, Array], Denoised], ids: Array, mask: Array, first: int) -> Denoised:
    """Return the texts that `damage(ids, mask)` makes of the tokens behind the token `first` of each text.

    The model reads `first` before the damaged text, where the text began with it, and every answer begins with it. In
    texts without it at their beginning, an answer that fills the row loses its last token.

    Args:
        damage: The damage.
        ids: The tokens [B, T].
        mask: 1 for a token, 0 for padding [B, T].
        first: The token.
    """
    begins = (ids[:, :1] == first) & (mask[:, :1] > 0)

    def after(array: Array, value: int) -> Array:
        """Return the rows behind `value` in the place of their last element."""
        return jnp.concatenate([jnp.full_like(array[:, :1], value), array[:, :-1]], axis=1)

    def behind(array: Array) -> Array:
        """Return the rows without their first element, with 0, which the mask leaves out, at the end."""
        return jnp.concatenate([array[:, 1:], jnp.zeros_like(array[:, :1])], axis=1)

    texts = damage(jnp.where(begins, behind(ids), ids), jnp.where(begins, behind(mask), mask))
    read = jnp.where(begins, after(texts.ids, first), texts.ids)
    seen = jnp.where(begins, after(texts.mask, 1), texts.mask)
    answered = (texts.labels != IGNORED).any(1, keepdims=True)
    beginning = jnp.where(answered, first, IGNORED).astype(texts.labels.dtype)
    labels = jnp.concatenate([beginning, texts.labels], axis=1)
    return Denoised(read, seen, labels[:, : max(texts.labels.shape[1], ids.shape[1])])
