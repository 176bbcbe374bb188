"""Decode token after token with caches of keys and values: the first pass over the texts, then one pass a token.

A model of one stack reads a text and continues it. A model of two stacks reads the text with its encoder, once; its
decoder then begins at the stage `decoder_stem`. Its blocks project the states of the encoder in the first pass and keep
the projections. Shapes: B batch, T tokens of the longest text, N new tokens, S places of the caches, V words.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tlx.layers import Cache, KeyValue, empty_cache
from tlx.models.base import Architecture, build
from tlx.models.chain import forward
from tlx.models.heads import Vocabulary
from tlx.models.inputs import check_rows
from tlx.trees import subtree
from tlx.types import Array, ArrayMap, Model, Variables

# The first stage of the decoder of a model that has an encoder, too.
DECODER = "decoder_stem"
BEGINNINGS = ("decoder_input_ids", "decoder_attention_mask")
# The texts of a batch are as long as a multiple of this number of tokens.
WIDTH = 16


class Decoding(NamedTuple):
    """The state between two tokens.

    Attributes:
        caches: The keys and values of the tokens so far, for each block.
        memory: The keys and values of the states of the encoder, for each block; none in a model of one stack.
        memory_mask: Which of them a token may see, [B, T]; None in a model of one stack.
        seen: Which places of the caches a token may see, [B, S].
        lengths: The number of tokens of each text so far, [B].
    """

    caches: tuple[Cache, ...]
    memory: tuple[KeyValue, ...]
    memory_mask: Array | None
    seen: Array
    lengths: Array


def blocks_of(model: Model) -> list[str]:
    """Return the names of the stages with causal attention."""
    return [stage.name for stage in decoder_stages(model) if subtree(model.params, f"{stage.name}/attention")]


def decoder_stages(model: Model) -> list[Any]:
    """Return the stages that run once for each token."""
    names = [stage.name for stage in model.stages]
    return list(model.stages[names.index(DECODER) if DECODER in names else 0 :])


@lru_cache(maxsize=16)
def prefill_program(config: Any, longest: int, dtype: str) -> Callable[..., tuple[Array, Decoding]]:
    """Return the compiled first pass, with places for `longest` new tokens."""
    model = build(config, Vocabulary())

    def prefill(variables: Variables, ids: Array, mask: Array) -> tuple[Array, Decoding]:
        return first_pass(model, variables, ids, mask, longest, dtype)

    return jax.jit(prefill)


def first_pass(
    model: Model, variables: Variables, ids: Array, mask: Array, longest: int, dtype: str
) -> tuple[Array, Decoding]:
    """Read the texts.

    Args:
        model: The model.
        variables: Its parameters.
        ids: The texts, [B, T]; for a model of one stack with the padding on the left.
        mask: 1 for a token, 0 for padding, [B, T].
        longest: N, the largest number of new tokens.
        dtype: The type of the activations and of the caches.

    Returns:
        The logits [B, V] of the first new token, and the state after the texts.
    """
    first, memory = model.config.first_word(), None
    carry: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if first is not None:
        memory, ids = mask, jnp.full((len(ids), 1), first, jnp.int32)
        mask = jnp.ones_like(ids)
        carry |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        carry = dict(forward(model, variables, carry, stop=DECODER, dtype=dtype)[0]["carry"])
    batch, tokens = ids.shape
    heads, size = model.config.key_shape()
    empty = empty_cache(batch, tokens + longest, heads, size, dtype)
    seen = jnp.pad(mask, [(0, 0), (0, longest)], constant_values=1)
    state = Decoding((empty,) * len(blocks_of(model)), (), memory, seen, mask.sum(1))
    places = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
    return step(model, variables, carry | words_of(model, ids, mask, places), state, dtype)


def next_pass(model: Model, variables: Variables, words: Array, state: Decoding, dtype: str) -> tuple[Array, Decoding]:
    """Read one new token of each text, `words` [B]: the logits [B, V] of the token after it, and the state after it."""
    ids = words[:, None]
    carry = words_of(model, ids, jnp.ones_like(ids), state.lengths[:, None])
    logits, state = step(model, variables, carry, state, dtype)
    return logits, state._replace(lengths=state.lengths + 1)


def words_of(model: Model, ids: Array, mask: Array, places: Array) -> dict[str, Any]:
    """Return the entries of the carry for the words that the decoder reads next."""
    kind = "" if model.config.first_word() is None else "decoder_"
    return {f"{kind}input_ids": ids, f"{kind}attention_mask": mask, f"{kind}position_ids": places}


def step(
    model: Model, variables: Variables, carry: dict[str, Any], state: Decoding, dtype: str
) -> tuple[Array, Decoding]:
    """Run the words in the carry through the decoder.

    Returns the logits [B, V] of the token after the last one, and the state with the new keys and values.
    """
    blocks, names = blocks_of(model), [stage.name for stage in decoder_stages(model)]
    if state.memory_mask is not None:
        carry = carry | {"memory_mask": state.memory_mask}
    caches: list[Cache] = []
    memory: list[KeyValue] = []
    for name, following in zip(names, [*names[1:], None], strict=True):
        if name in blocks:
            carry |= {"mask": state.seen, "cache": state.caches[len(caches)]}
            if state.memory:
                carry["memory_keys"] = state.memory[len(memory)]
        elif len(caches) == len(blocks):
            carry["hidden"] = carry["hidden"][:, -1:]
        carry = dict(forward(model, variables, carry, start=name, stop=following, dtype=dtype)[0]["carry"])
        if name in blocks:
            caches.append(carry.pop("cache"))
            memory += [carry.pop("memory_keys")] if "memory_keys" in carry else []
    return carry["logits"][:, 0], state._replace(caches=tuple(caches), memory=tuple(memory))


def with_rows(caches: tuple[Cache, ...], rows: Array) -> tuple[Cache, ...]:
    """Return the caches of the texts `rows` [R], in this order."""
    return tuple(Cache(cache.key[rows], cache.value[rows], cache.length) for cache in caches)


def repeated(state: Decoding, count: int) -> Decoding:
    """Return the state with each text `count` times: the copies of a text follow one another."""

    def copies(array: Array) -> Array:
        return jnp.repeat(array, count, axis=0)

    caches = with_rows(state.caches, copies(jnp.arange(len(state.seen))))
    return Decoding(caches, *jax.tree.map(copies, state[1:]))


def stopped(stop: tuple[tuple[int, ...], ...], tokens: Array, end: Array) -> Array:
    """Return whether each text ends with one of the sequences: `tokens` [B, ...] up to the place `end` -> [B]."""
    ends = jnp.zeros(len(tokens), bool)
    for entry in stop:
        last = lax.dynamic_slice_in_dim(tokens, end - len(entry), len(entry), axis=1)
        ends = ends | (last == jnp.array(entry)).all(1)
    return ends


def with_forced(logits: Array, forced_words: tuple[int | None, int | None], number: Array, longest: int) -> Array:
    """Return the logits [B, V] of the next word, of which only the forced word is possible at the first and at the last
    place (see `Architecture.forced_words`); `number` new words come before it."""
    for word, place in zip(forced_words, (0, longest - 1), strict=True):
        if word is not None:
            certain = jnp.where(jnp.arange(logits.shape[-1]) == word, 0.0, -jnp.inf)
            logits = jnp.where(number == place, certain, logits)
    return logits


def read_texts(config: Architecture, inputs: ArrayMap, room: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask [B, T] of the texts, checked.

    For a model of one stack all padding is on the left, up to a multiple of `WIDTH` tokens, so that few lengths are
    compiled; up to the longest text where no more than `room` tokens fit. An encoder reads the texts as they are,
    because its positions may count padding.

    Raises ValueError for inputs that are no texts, and for a text without tokens.
    """
    if inputs.get("input_ids") is None:
        raise ValueError(f"the model reads 'input_ids', but the inputs have {sorted(inputs)}")
    if ignored := [name for name in BEGINNINGS if inputs.get(name) is not None]:
        raise ValueError(f"generation begins with the first word of the decoder: remove {ignored[0]!r} from the inputs")
    words = config.embedding_rows()["input_ids"]
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
    if config.first_word() is not None:
        return np.where(mask > 0, ids, 0).astype(np.int32), (mask > 0).astype(np.int32)
    longest = max(map(len, rows))
    width = min(ids.shape[1], -(-longest // WIDTH) * WIDTH)
    if room is not None and width > room:
        width = longest
    left = [np.pad(row, (width - len(row), 0)) for row in rows]
    seen = [np.arange(width) >= width - len(row) for row in rows]
    return np.stack(left).astype(np.int32), np.stack(seen).astype(np.int32)
