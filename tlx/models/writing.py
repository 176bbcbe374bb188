"""Write a text for a text with an encoder and a decoder, greedily.

The encoder runs once. For each new token the decoder reads all tokens so far, without a cache, so the work grows with
the square of the answer; answers such as names of classes are short.

Shapes: B batch, S tokens of the text, N new tokens.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from tlx.models.base import build
from tlx.models.chain import forward
from tlx.models.generation import Generated
from tlx.models.heads import Vocabulary
from tlx.types import Array, ArrayMap, Model, Variables


def write(
    model: Model, variables: Variables, inputs: ArrayMap, *, longest: int, start: int, end: int, pad: int = 0
) -> Generated:
    """Write the likeliest next token until the answer ends.

    Args:
        model: A model with an encoder, a decoder and a head over the vocabulary.
        variables: Its parameters.
        inputs: `input_ids` [B, S] and `attention_mask` [B, S], with padding on either side.
        longest: N, the largest number of new tokens of an answer, its end included.
        start: The token that the decoder reads first.
        end: The token that ends an answer.
        pad: The token after the end.

    Returns:
        The new tokens [B, N], filled with padding, and their numbers [B], both arrays on the device.

    Raises:
        ValueError: The model has no decoder beside an encoder, no head over the vocabulary, or N is below 1.
    """
    if "decoder_input_ids" not in model.config.embedding_rows() or not isinstance(model.head, Vocabulary):
        raise ValueError(
            f"{type(model.config).__name__} with the head {model.head} writes no answers; expected an encoder with a "
            "decoder and Vocabulary(), such as models.T5"
        )
    if longest < 1:
        raise ValueError(f"longest is {longest}; expected 1 or more new tokens")
    read = {name: inputs[name] for name in ("input_ids", "attention_mask") if inputs.get(name) is not None}
    return Generated(*program(model.config, longest, start, end, pad)(variables, read))


@lru_cache(maxsize=16)
def program(config: Any, longest: int, start: int, end: int, pad: int) -> Any:
    """Return the compiled program of an architecture."""
    model = build(config, Vocabulary())
    names = [stage.name for stage in model.stages]
    decoder = names[names.index("decoder_stem")]

    def written(variables: Variables, inputs: ArrayMap) -> tuple[Array, Array]:
        batch = inputs["input_ids"].shape[0]
        tokens = jnp.full((batch, longest + 1), pad, jnp.int32).at[:, 0].set(start)
        entries = {"decoder_input_ids": tokens[:, :-1]}
        memory = dict(forward(model, variables, {**inputs, **entries}, stop=decoder)[0]["carry"])

        def going(state: Any) -> Array:
            return (state[0] < longest) & ~state[1].all()

        def body(state: Any) -> Any:
            number, ended, lengths, tokens = state
            carry = memory | {"decoder_input_ids": tokens[:, :-1]}
            logits = forward(model, variables, carry, start=decoder)[0]["logits"]
            likeliest = lax.dynamic_index_in_dim(logits, number, 1, keepdims=False).argmax(-1).astype(jnp.int32)
            new = jnp.where(ended, pad, likeliest)
            tokens = lax.dynamic_update_slice(tokens, new[:, None], (0, number + 1))
            return number + 1, ended | (new == end), lengths + (~ended).astype(jnp.int32), tokens

        begin = (jnp.int32(0), jnp.zeros(batch, bool), jnp.zeros(batch, jnp.int32), tokens)
        _, _, lengths, tokens = lax.while_loop(going, body, begin)
        return tokens[:, 1:], lengths

    return jax.jit(written)
