"""Generate text with a decoder: greedy or sampled, in batches, with a cache of keys and values.

A prompt runs once through a first program, then a second one decodes token after token. Shapes: B batch, T tokens of
the longest prompt, N new tokens, S = T + N places of the caches, V words.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.layers import Cache, empty_cache
from tlx.models.base import build
from tlx.models.chain import forward, prefix_length, prompt_length
from tlx.models.heads import Vocabulary
from tlx.models.inputs import check_length, check_rows
from tlx.trees import subtree
from tlx.types import Array, ArrayMap, Key, Model, Variables

Caches = tuple[Cache, ...]


class Generated(NamedTuple):
    """New tokens: `tokens` [B, N], filled with padding after the end of a text, and `lengths` [B], the number of new
    tokens of each text with those that stopped it."""

    tokens: np.ndarray
    lengths: np.ndarray


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
    stop: Sequence[int | Sequence[int]] = (),
    dtype: str = "float32",
) -> Generated:
    """Continue texts with a decoder that has a head over the vocabulary.

    Args:
        model: The model.
        variables: Its parameters.
        inputs: `input_ids` [B, T] and optionally `attention_mask` [B, T], with padding on either side.
        longest: N, the largest number of new tokens of a text.
        key: The key of the random choices; None always takes the likeliest token. The choices for a text depend on the
            key and its row alone.
        temperature: The logits are divided by it.
        top_k: A token is drawn among this many likeliest ones; None for all.
        top_p: A token is drawn among the likeliest ones that together have this probability (Holtzman et al., 2020);
            None for all.
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
    ids, mask = aligned(inputs, words)
    check_length(int(model.config.longest_text() or ids.shape[1] + longest), ids.shape[1] + longest)
    prefill, decode = programs(model.config, sampling)
    logits, caches = prefill(variables, ids, mask)
    tokens, lengths = decode(variables, logits, caches, mask, jax.random.key(0) if key is None else key)
    return Generated(np.asarray(tokens), np.asarray(lengths))


def check_model(model: Model, variables: Variables) -> None:
    """Raise ValueError for a model that does not decode with a cache."""
    if model.config.key_shape() is None:
        raise ValueError(f"{type(model.config).__name__} does not generate text; use a decoder, such as Gpt2 or Llama")
    if not isinstance(model.head, Vocabulary):
        raise ValueError(f"the model has the head {model.head}; generation requires Vocabulary()")
    if prompt_length(model, variables.params) or prefix_length(model, variables.params):
        raise ValueError("a model with a learned prompt or prefix does not generate text; use LoRA, for example")


def check_sampling(sampling: Sampling) -> None:
    """Raise ValueError for a setting out of its range, or one of sampling without a key."""
    if sampling.longest < 1:
        raise ValueError(f"longest is {sampling.longest}; expected 1 or more new tokens")
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


def aligned(inputs: ArrayMap, words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask [B, T] with all padding on the left, and as little as possible.

    Raises ValueError for inputs that are no texts, and for a text without tokens.
    """
    if inputs.get("input_ids") is None:
        raise ValueError(f"the model reads 'input_ids', but the inputs have {sorted(inputs)}")
    ids = np.asarray(inputs["input_ids"])
    mask = np.ones_like(ids) if inputs.get("attention_mask") is None else np.asarray(inputs["attention_mask"])
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or mask.shape != ids.shape:
        raise ValueError(
            f"input_ids is {ids.dtype}{list(ids.shape)} and attention_mask has the shape {list(mask.shape)}; expected "
            "integers [batch, tokens] and a mask of the same shape"
        )
    check_rows("input_ids", ids[mask > 0], words, "word embeddings")
    rows = [row[seen > 0] for row, seen in zip(ids, mask, strict=True)]
    if empty := [number for number, row in enumerate(rows) if not len(row)]:
        raise ValueError(f"text {empty[0]} has no token; begin it with one, such as the first token of every text")
    width = max(map(len, rows))
    left = [np.pad(row, (width - len(row), 0)) for row in rows]
    seen = [np.arange(width) >= width - len(row) for row in rows]
    return np.stack(left).astype(np.int32), np.stack(seen).astype(np.int32)


@lru_cache(maxsize=16)
def programs(config: Any, sampling: Sampling) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the two compiled programs of a decoder: that of the prompts, and that of the new tokens."""
    model = build(config, Vocabulary())
    pad = getattr(config, "pad", None) or 0

    def prefill(variables: Variables, ids: Array, mask: Array) -> tuple[Array, Caches]:
        batch, tokens = ids.shape
        heads, size = config.key_shape()
        empty = empty_cache(batch, tokens + sampling.longest, heads, size, sampling.dtype)
        places = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        return step(model, variables, ids, places, mask, seen(mask), (empty,) * len(blocks_of(model)), sampling.dtype)

    def seen(mask: Array) -> Array:
        return jnp.pad(mask, [(0, 0), (0, sampling.longest)], constant_values=1)

    def decode(variables: Variables, logits: Array, caches: Caches, mask: Array, key: Key) -> tuple[Array, Array]:
        batch, count = len(mask), mask.sum(1)
        width = max(map(len, sampling.stop), default=1) - 1

        def going(state: Any) -> Array:
            return (state[0] < sampling.longest) & ~state[3].all()

        def body(state: Any) -> Any:
            number, logits, caches, ended, lengths, tokens = state
            new = jnp.where(ended, pad, chosen(sampling, logits, jax.random.fold_in(key, number)))
            tokens = lax.dynamic_update_slice(tokens, new[:, None], (0, width + number))
            lengths = lengths + (~ended).astype(jnp.int32)
            ended = ended | stopped(sampling.stop, tokens, width + number + 1)

            def following() -> tuple[Array, Caches]:
                places = (count + number)[:, None]
                ones = jnp.ones_like(places)
                return step(model, variables, new[:, None], places, ones, seen(mask), caches, sampling.dtype)

            # The last token needs no logits of another one.
            last = (number + 1 >= sampling.longest) | ended.all()
            logits, caches = lax.cond(last, lambda: (logits, caches), following)
            return number + 1, logits, caches, ended, lengths, tokens

        # No id is -1, so nothing before the new tokens ends a text.
        tokens = jnp.full((batch, width + sampling.longest), -1, jnp.int32)
        start = (jnp.int32(0), logits, caches, jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32), tokens)
        _, _, _, _, lengths, tokens = lax.while_loop(going, body, start)
        tokens = tokens[:, width:]
        return jnp.where(jnp.arange(sampling.longest) < lengths[:, None], tokens, pad), lengths

    return jax.jit(prefill), jax.jit(decode)


def blocks_of(model: Model) -> list[str]:
    """Return the names of the stages with attention."""
    return [stage.name for stage in model.stages if subtree(model.params, f"{stage.name}/attention")]


def step(
    model: Model,
    variables: Variables,
    ids: Array,
    places: Array,
    mask: Array,
    seen: Array,
    caches: Caches,
    dtype: str,
) -> tuple[Array, Caches]:
    """Run the next tokens through the model.

    Args:
        model: The model.
        variables: Its parameters.
        ids: The next tokens, [B, T].
        places: Their places in their text, [B, T].
        mask: 1 for a token, 0 for padding, [B, T].
        seen: The same for the places of the caches, [B, S].
        caches: The cache of each block.
        dtype: The type of the activations.

    Returns:
        The logits [B, V] of the token after the last one, and the caches with the new tokens.
    """
    carry: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    blocks, names = blocks_of(model), [stage.name for stage in model.stages]
    new_caches: list[Cache] = []
    for name, following in zip(names, [*names[1:], None], strict=True):
        if name in blocks:
            carry |= {"mask": seen, "cache": caches[len(new_caches)]}
        elif len(new_caches) == len(blocks):
            carry["hidden"] = carry["hidden"][:, -1:]
        carry = dict(forward(model, variables, carry, start=name, stop=following, dtype=dtype)[0]["carry"])
        if name in blocks:
            new_caches.append(carry.pop("cache"))
    return carry["logits"][:, 0], tuple(new_caches)


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


def stopped(stop: tuple[tuple[int, ...], ...], tokens: Array, end: Array) -> Array:
    """Return whether each text ends with one of the sequences: `tokens` [B, ...] up to the place `end` -> [B]."""
    ends = jnp.zeros(len(tokens), bool)
    for entry in stop:
        last = lax.dynamic_slice_in_dim(tokens, end - len(entry), len(entry), axis=1)
        ends = ends | (last == jnp.array(entry)).all(1)
    return ends
