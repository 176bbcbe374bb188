"""Parts that models with an encoder and a decoder share: what the decoder reads, and the features of a text.

Shapes: B batch, T tokens, W width.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from tlx.models.heads import Head, Pooled
from tlx.models.inputs import beside_ids, token_ids
from tlx.trees import Tree
from tlx.types import Array, Carry, Context

READS = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")


def shift_right(ids: Array, start: int, pad: int = 0) -> Array:
    """Return the words that a decoder reads to predict `ids` [B, T]: `start` and all of them but the last one.

    Negative numbers, which mark words without a loss, become `pad`, as in `transformers`.
    """
    shifted = jnp.concatenate([jnp.full_like(ids[:, :1], start), ids[:, :-1]], axis=1)
    return jnp.where(shifted < 0, pad, shifted)


def decoder_inputs(
    config: Any, head: Head | None, carry: Carry, ids: Array, mask: Array, shifted: Callable[[Array], Array]
) -> Carry:
    """Return the entries that the decoder reads: its words [B, T], their mask [B, T], and for a head on the text the
    place [B] of the last end of the text, or of the last token of a text without an end.

    Without words in the inputs they are those of `shifted(ids)`.
    """
    if carry.get("decoder_input_ids") is None:
        words = shifted(ids)
    else:
        words = token_ids(carry, config.vocabulary, "decoder_input_ids")
    visible = beside_ids(carry, "decoder_attention_mask", words, jnp.ones_like(words), "decoder_input_ids")
    entries = {"decoder_input_ids": words, "decoder_attention_mask": visible}
    if isinstance(head, Pooled):
        if words.shape != ids.shape:
            raise ValueError(
                f"decoder_input_ids has the shape {words.shape}; expected {ids.shape}, the shape of input_ids, because "
                "the head reads the decoder at the end of the text: remove decoder_input_ids"
            )
        places = jnp.arange(ids.shape[1])
        ends, tokens = (jnp.where(chosen, places, -1).max(1) for chosen in ((ids == config.end) & (mask > 0), mask > 0))
        entries["end"] = jnp.where(ends < 0, jnp.maximum(tokens, 0), ends)
    return entries


def pool(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
    """Take the state of the decoder at the end of the text."""
    places = carry["end"][:, None, None]
    return carry | {"pooled": jnp.take_along_axis(carry["hidden"], places, axis=1)[:, 0]}, stats
