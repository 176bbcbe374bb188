"""Beam search with a cache of keys and values, as `transformers` computes it.

At every step the likeliest continuations of all K texts of a row are ranked. Those that end are compared with the K
best ended ones; the K best others go on. Shapes: B batch, K beams, M continuations that are ranked, N new tokens, V
words, R returned texts.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from tlx.models.base import build
from tlx.models.decoding import Decoding, next_pass, repeated, stopped, with_forced, with_rows
from tlx.models.heads import Vocabulary
from tlx.types import Array, Variables

# The score of a text that is none, as in `transformers`; added to a score it puts a text behind all others.
NONE = -1e9


class Search(NamedTuple):
    """The settings of a search; the fields are as in `generation.beam_search`."""

    longest: int
    beams: int
    returned: int
    early: bool
    stop: tuple[tuple[int, ...], ...]
    dtype: str


class Texts(NamedTuple):
    """Texts of each row: `tokens` [B, K, ...], their `scores` [B, K], their `lengths` [B, K] in new tokens, and whether
    each one has `ended` [B, K]."""

    tokens: Array
    scores: Array
    lengths: Array
    ended: Array


def check_search(search: Search, length_penalty: float, early_stopping: bool | str) -> None:
    """Raise ValueError for a setting out of its range."""
    if search.beams < 2:
        raise ValueError(f"beams is {search.beams}; expected 2 or more, or generate(...) without a search")
    if not 1 <= search.returned <= search.beams:
        raise ValueError(f"returned is {search.returned}; expected 1 to {search.beams}, the number of beams")
    if early_stopping not in (True, False, "never"):
        raise ValueError(f"early_stopping is {early_stopping!r}; expected True, False or 'never'")
    if not abs(length_penalty) < float("inf"):
        raise ValueError(f"length_penalty is {length_penalty}; expected a finite number")


@lru_cache(maxsize=16)
def search_program(config: Any, search: Search) -> Callable[..., tuple[Array, Array, Array]]:
    """Return the compiled program of the new tokens.

    It takes the variables, the logits [B, V] of the first new token, the state after the texts, and for 1 to N new
    tokens the penalties [N] of ended texts and those [N] that texts which go on are judged by. It returns the tokens
    [B, R, N], the lengths [B, R] and the scores [B, R] of the best texts.
    """
    model = build(config, Vocabulary())
    pad, beams = getattr(config, "pad", None) or 0, search.beams
    width = max(map(len, search.stop), default=1) - 1

    def decode(
        variables: Variables, logits: Array, state: Decoding, penalties: Array, hoped: Array
    ) -> tuple[Array, Array, Array]:
        batch = len(logits)
        going, ended = begun(search, batch, width, pad)
        first = jnp.repeat(logits, beams, axis=0)

        def body(loop: Any) -> Any:
            number, _, logits, state, going, ended, hopeful = loop
            logs = with_forced(jax.nn.log_softmax(logits), config.forced_words(), number, search.longest)
            ranked, origins = continuations(search, logs, going, width, number)
            ended = with_ended(search, ranked, ended, hopeful, penalties[number])
            going, chosen = those_that_go_on(search, ranked)
            possible = going.scores[:, :1] / hoped[number]
            worst = jnp.where(ended.ended, ended.scores.min(1, keepdims=True), NONE)
            hopeful = hopeful & (possible > worst).any(1)
            open_rows = jnp.bool(True) if not search.early else ~ended.ended.all()
            more = hopeful.any() & open_rows & ~ranked.ended.all()
            rows = (jnp.arange(batch)[:, None] * beams + jnp.take_along_axis(origins, chosen, 1)).reshape(-1)
            words = lax.dynamic_index_in_dim(going.tokens, width + number, 2, keepdims=False).reshape(-1)

            def following() -> tuple[Array, Decoding]:
                moved = state._replace(caches=with_rows(state.caches, rows))
                return next_pass(model, variables, words, moved, search.dtype)

            # The last token needs no logits of another one.
            logits, state = lax.cond(more, following, lambda: (logits, state))
            return number + 1, more, logits, state, going, ended, hopeful

        start = (jnp.int32(0), jnp.bool(True), first, repeated(state, beams), going, ended, jnp.ones(batch, bool))
        best = lax.while_loop(lambda loop: loop[1], body, start)[5]
        tokens, scores, lengths, _ = jax.tree.map(lambda array: array[:, : search.returned], best)
        kept = jnp.arange(search.longest) < lengths[..., None]
        return jnp.where(kept, tokens[..., width:], pad), lengths, scores

    return jax.jit(decode)


def begun(search: Search, batch: int, width: int, pad: int) -> tuple[Texts, Texts]:
    """Return the texts that go on and those that have ended, before the first new token.

    All K texts of a row are equal, so only the first one is continued. There are `width` places before the new tokens;
    no id is -1, so they end no text.
    """
    tokens = jnp.full((batch, search.beams, width + search.longest), -1, jnp.int32)
    none = jnp.full((batch, search.beams), NONE, jnp.float32)
    lengths, no = jnp.zeros(none.shape, jnp.int32), jnp.zeros(none.shape, bool)
    return Texts(tokens, none.at[:, 0].set(0.0), lengths, no), Texts(tokens, none, lengths, no)


def continuations(search: Search, logs: Array, going: Texts, width: int, number: Array) -> tuple[Texts, Array]:
    """Return the M likeliest continuations of each row by one token, and the beam [B, M] that each one continues.

    M leaves K texts that go on, even if each of the K texts is ended in every way that is likelier.

    Args:
        search: The settings.
        logs: The logarithms of the probabilities of the next token, [B K, V].
        going: The texts.
        width: The number of places before the new tokens.
        number: The number of new tokens so far.
    """
    batch, beams, _ = going.tokens.shape
    words = logs.shape[-1]
    total = logs.reshape(batch, beams, words) + going.scores[..., None]
    count = min(max(2, 1 + len(search.stop)) * beams, beams * words)
    scores, places = lax.top_k(total.reshape(batch, beams * words), count)
    origins, new = places // words, (places % words).astype(jnp.int32)
    tokens = jnp.take_along_axis(going.tokens, origins[..., None], 1)
    tokens = lax.dynamic_update_slice(tokens, new[..., None], (0, 0, width + number))
    rows = tokens.reshape(batch * count, -1)
    ended = stopped(search.stop, rows, width + number + 1).reshape(batch, count) | (number + 1 >= search.longest)
    return Texts(tokens, scores, jnp.full(origins.shape, number + 1), ended), origins


def those_that_go_on(search: Search, ranked: Texts) -> tuple[Texts, Array]:
    """Return the K best continuations that have not ended, and their places [B, K] among `ranked`."""
    scores, places = lax.top_k(ranked.scores + jnp.where(ranked.ended, NONE, 0.0), search.beams)
    return at(ranked, places)._replace(scores=scores), places


def with_ended(search: Search, ranked: Texts, ended: Texts, hopeful: Array, penalty: Array) -> Texts:
    """Return the K best ended texts of each row, after the continuations `ranked`.

    Only a continuation among the K best ones may end. A row that has `hopeful` [B] False, or K ended texts with
    `early_stopping=True`, gets no other texts.
    """
    new = ranked.ended & (jnp.arange(ranked.ended.shape[1]) < search.beams)
    closed = ~hopeful[:, None]
    scores = ranked.scores / penalty
    if search.early:
        scores += jnp.where(ended.ended.all(1, keepdims=True), NONE, 0.0)
    scores += jnp.where(closed, NONE, 0.0)
    scores += jnp.where(new, 0.0, NONE)
    candidates = ranked._replace(scores=scores, ended=new)
    both = Texts(*(jnp.concatenate(pair, axis=1) for pair in zip(ended, candidates, strict=True)))
    return at(both, lax.top_k(both.scores, search.beams)[1])


def at(texts: Texts, places: Array) -> Texts:
    """Return the texts at the `places` [B, K] of each row."""
    arrays = (jnp.take_along_axis(array, places, 1) for array in texts[1:])
    return Texts(jnp.take_along_axis(texts.tokens, places[..., None], 1), *arrays)
