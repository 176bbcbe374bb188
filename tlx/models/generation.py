"""Generate text with a language model: greedy, sampled or by beam search, in batches, with a cache of keys and values.

The texts run once through a first program, then a second one decodes token after token (see `decoding`). Shapes: B
batch, T tokens of the longest text, N new tokens, K beams, R returned texts, V words.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.models.base import build
from tlx.models.beams import Search, check_search, search_program
from tlx.models.chain import prefix_length, prompt_length
from tlx.models.decoding import Decoding, next_pass, prefill_program, read_texts, stopped, with_forced
from tlx.models.heads import Vocabulary
from tlx.models.inputs import check_length, check_rows
from tlx.sharding import beside, on_host
from tlx.types import Array, ArrayMap, Key, Model, Variables


class Generated(NamedTuple):
    """New tokens: `tokens` [B, N], filled with padding after the end of a text, and `lengths` [B], the number of new
    tokens of each text with those that stopped it."""

    tokens: np.ndarray
    lengths: np.ndarray


class Ranked(NamedTuple):
    """The best new texts of a beam search, the best one first: `tokens` [B, R, N] and `lengths` [B, R] as in
    `Generated`, and `scores` [B, R], the logarithms of their probabilities divided by their penalties."""

    tokens: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray


class Sampling(NamedTuple):
    """How a token is chosen, and when a text ends; the fields are as in `generate`."""

    longest: int
    sampled: bool
    temperature: float
    top_k: int | None
    top_p: float | None
    stop: tuple[tuple[int, ...], ...]
    dtype: str


def generate(
    model: Model,
    variables: Variables,
    inputs: ArrayMap,
    *,
    longest: int,
    key: Key | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    stop: Sequence[int | Sequence[int]] = (),
    dtype: str = "float32",
) -> Generated:
    """Continue texts with a decoder, or answer them with an encoder and a decoder.

    Args:
        model: A model with a head over the vocabulary.
        variables: Its parameters.
        inputs: `input_ids` [B, T] and optionally `attention_mask` [B, T], with padding on either side.
        longest: N, the largest number of new tokens of a text.
        key: The key of the random choices; None always takes the likeliest token. The choices for a text depend on the
            key and its row alone.
        temperature: The logits are divided by it.
        top_k: A token is drawn among this many likeliest ones; None for all.
        top_p: A token is drawn among the likeliest ones that together have this probability (Holtzman et al., 2020);
            None for all.
        beams: K, the number of texts that a beam search keeps for each text (see `beam_search`); 1 for no search.
        length_penalty: As in `beam_search`.
        early_stopping: As in `beam_search`.
        stop: Token ids, or sequences of them, that end a text.
        dtype: The type of the activations and of the cache.

    Returns:
        The new tokens.

    Raises:
        ValueError: The model cannot decode, a text is empty or becomes too long, or a setting is out of its range.
    """
    check_model(model, variables)
    words = model.config.embedding_rows()["input_ids"]
    sampling = Sampling(longest, key is not None, temperature, top_k, top_p, sequences(stop, words), dtype)
    check_sampling(sampling)
    if beams != 1:
        if sampling.sampled:
            raise ValueError(f"beams is {beams} beside a key; a beam search takes no random choices: pass key=None")
        settings: Any = {"length_penalty": length_penalty, "early_stopping": early_stopping, "stop": stop}
        best = beam_search(model, variables, inputs, longest=longest, beams=beams, dtype=dtype, **settings)
        return Generated(best.tokens[:, 0], best.lengths[:, 0])
    if (length_penalty, early_stopping) != (1.0, False):
        raise ValueError("length_penalty and early_stopping are for beam search; pass beams=4, for example")
    logits, state = prefilled(model, variables, inputs, longest, dtype)
    decode = decode_program(model.config, sampling)
    tokens, lengths = decode(variables, logits, state, jax.random.key(0) if key is None else key)
    return Generated(*on_host((tokens, lengths)))


def beam_search(
    model: Model,
    variables: Variables,
    inputs: ArrayMap,
    *,
    longest: int,
    beams: int,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    returned: int = 1,
    stop: Sequence[int | Sequence[int]] = (),
    dtype: str = "float32",
) -> Ranked:
    """Search the likeliest new texts, as `generate` of `transformers` with `num_beams`.

    Args:
        model: As in `generate`.
        variables: As in `generate`.
        inputs: As in `generate`.
        longest: As in `generate`.
        beams: K, the number of texts that the search keeps at every step.
        length_penalty: The logarithm of the probability of an ended text is divided by (number of new tokens) to this
            power, so more than 0 favours long texts, and less than 0 short ones.
        early_stopping: When the search for a text ends. True: as soon as K texts have ended. False: when the best text
            that goes on would score less than the K ended ones, if it ended now. "never": when it cannot score more,
            with `longest` tokens if `length_penalty` is above 0.
        returned: R, the number of texts that are returned, at most K.
        stop: As in `generate`.
        dtype: As in `generate`.

    Returns:
        The best texts, their lengths and their scores.

    Raises:
        ValueError: As in `generate`.
    """
    check_model(model, variables)
    words = model.config.embedding_rows()["input_ids"]
    search = Search(longest, beams, returned, early_stopping not in (False, "never"), sequences(stop, words), dtype)
    check_search(search, length_penalty, early_stopping)
    logits, state = prefilled(model, variables, inputs, longest, dtype)
    penalties = np.arange(1, longest + 1, dtype=float) ** length_penalty
    # The lengths that a text which goes on is judged by.
    hoped = np.full(longest, penalties[-1]) if early_stopping == "never" and length_penalty > 0 else penalties
    arrays = search_program(model.config, search)(variables, logits, state, *map(np.float32, (penalties, hoped)))
    return Ranked(*on_host(arrays))


def prefilled(model: Model, variables: Variables, inputs: ArrayMap, longest: int, dtype: str) -> tuple[Array, Decoding]:
    """Return the logits [B, V] of the first new token, and the state after the texts. Raises ValueError for texts that
    are wrong or too long."""
    config = model.config
    if longest < 1:
        raise ValueError(f"longest is {longest}; expected 1 or more new tokens")
    room = config.longest_text()
    ids, mask = read_texts(config, inputs, None if room is None else room - longest)
    if room is not None:
        # A decoder beside an encoder reads a first word and all new tokens but the last one.
        check_length(room, ids.shape[1] + (longest if config.first_word() is None else 0))
        if longest > room:
            raise ValueError(f"longest is {longest}, but the model has positions for {room}; use {room} or less")
    return prefill_program(config, longest, dtype)(variables, *beside(variables.params, (ids, mask)))


def check_model(model: Model, variables: Variables) -> None:
    """Raise ValueError for a model that does not decode with a cache."""
    if model.config.key_shape() is None:
        raise ValueError(
            f"{type(model.config).__name__} does not generate text; use a model with a decoder, such as Gpt2, T5 or "
            "Bart"
        )
    if not isinstance(model.head, Vocabulary):
        raise ValueError(f"the model has the head {model.head}; generation requires Vocabulary()")
    if prompt_length(model, variables.params) or prefix_length(model, variables.params):
        raise ValueError("a model with a learned prompt or prefix does not generate text; use LoRA, for example")


def check_sampling(sampling: Sampling) -> None:
    """Raise ValueError for a setting out of its range, or one of sampling without a key."""
    if not sampling.temperature > 0:
        raise ValueError(f"temperature is {sampling.temperature}; expected a number above 0, or key=None for no chance")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise ValueError(f"top_k is {sampling.top_k}; expected 1 or more tokens, or None")
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise ValueError(f"top_p is {sampling.top_p}; expected a probability above 0 and up to 1, or None")
    if not sampling.sampled and (sampling.temperature, sampling.top_k, sampling.top_p) != (1.0, None, None):
        raise ValueError("temperature, top_k and top_p are for sampling; pass key=jax.random.key(SEED)")


def sequences(stop: Sequence[int | Sequence[int]], words: int) -> tuple[tuple[int, ...], ...]:
    """Return the sequences that end a text. Raises ValueError for an empty one, and for an id without a word."""
    listed = tuple((int(entry),) if isinstance(entry, int | np.integer) else tuple(map(int, entry)) for entry in stop)
    for entry in listed:
        if not entry:
            raise ValueError("stop has an empty sequence; expected one token id or more")
        check_rows("stop", np.array(entry), words, "words")
    return listed


@lru_cache(maxsize=16)
def decode_program(config: Any, sampling: Sampling) -> Callable[..., tuple[Array, Array]]:
    """Return the compiled program of the new tokens."""
    model = build(config, Vocabulary())
    pad = getattr(config, "pad", None) or 0

    def decode(variables: Variables, logits: Array, state: Decoding, key: Key) -> tuple[Array, Array]:
        batch = len(logits)
        width = max(map(len, sampling.stop), default=1) - 1

        def going(loop: Any) -> Array:
            return (loop[0] < sampling.longest) & ~loop[3].all()

        def body(loop: Any) -> Any:
            number, logits, state, ended, lengths, tokens = loop
            allowed = with_forced(logits, config.forced_words(), number, sampling.longest)
            new = jnp.where(ended, pad, chosen(sampling, allowed, jax.random.fold_in(key, number)))
            tokens = lax.dynamic_update_slice(tokens, new[:, None], (0, width + number))
            lengths = lengths + (~ended).astype(jnp.int32)
            ended = ended | stopped(sampling.stop, tokens, width + number + 1)
            # The last token needs no logits of another one.
            last = (number + 1 >= sampling.longest) | ended.all()
            logits, state = lax.cond(
                last, lambda: (logits, state), lambda: next_pass(model, variables, new, state, sampling.dtype)
            )
            return number + 1, logits, state, ended, lengths, tokens

        # No id is -1, so nothing before the new tokens ends a text.
        tokens = jnp.full((batch, width + sampling.longest), -1, jnp.int32)
        start = (jnp.int32(0), logits, state, jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32), tokens)
        _, _, _, _, lengths, tokens = lax.while_loop(going, body, start)
        tokens = tokens[:, width:]
        return jnp.where(jnp.arange(sampling.longest) < lengths[:, None], tokens, pad), lengths

    return jax.jit(decode)


def chosen(sampling: Sampling, logits: Array, key: Key) -> Array:
    """Return a token for each text from the `logits` [B, V]: [B]."""
    if not sampling.sampled:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = limited(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(logits)))
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def limited(logits: Array, top_k: int | None, top_p: float | None) -> Array:
    """Return the logits [B, V] with -inf for tokens that are not among the likeliest ones."""
    if top_k is not None and top_k < logits.shape[-1]:
        lowest = lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < lowest, -jnp.inf, logits)
    if top_p is not None:
        ranked = -jnp.sort(-logits, axis=-1)
        shares = jax.nn.softmax(ranked, -1)
        # Tokens whose more likely ones have `top_p` already are left out; the likeliest one never is.
        inside = (jnp.cumsum(shares, axis=-1) - shares) < top_p
        lowest = jnp.where(inside, ranked, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < lowest, -jnp.inf, logits)
    return logits
