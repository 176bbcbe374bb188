"""Check the inputs of a model before they are read: JAX itself reads the last row for every index beyond it.

A wrong array raises ValueError. Inside a compiled function the values are not known yet; there `tlx.layers.embed`
returns NaN for an index without a row.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.types import Array, ArrayMap

# Inputs of `transformers` models that change the outputs and that no model of tlx reads.
UNREAD = (
    "bool_masked_pos",
    "encoder_attention_mask",
    "encoder_hidden_states",
    "head_mask",
    "inputs_embeds",
    "past_key_values",
    "position_ids",
)


def refuse_unread(inputs: ArrayMap, reads: tuple[str, ...]) -> None:
    """Raise ValueError for an input that changes the outputs of `transformers` and that this model ignores."""
    if ignored := [name for name in UNREAD if name in inputs and name not in reads and inputs[name] is not None]:
        raise ValueError(
            f"the model does not read {ignored[0]!r}; it reads {', '.join(reads)}: remove {ignored[0]!r} from the "
            "inputs"
        )


def token_ids(inputs: ArrayMap, rows: int, name: str = "input_ids") -> Array:
    """Return the words `name` [B, T]. Raises ValueError if they are missing, not integers, or not below `rows`."""
    if inputs.get(name) is None:
        raise ValueError(f"the model reads {name!r}, but the inputs have {sorted(inputs)}")
    ids = jnp.asarray(inputs[name])
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name} is {ids.dtype}{list(ids.shape)}; expected integers [batch, tokens]")
    check_rows(name, ids, rows, "word embeddings")
    return ids


def beside_ids(inputs: ArrayMap, name: str, ids: Array, default: Array, words: str = "input_ids") -> Array:
    """Return the input `name`, with one number for each token of `words`; `default` if it is absent."""
    if inputs.get(name) is None:
        return default
    array = jnp.asarray(inputs[name])
    if array.shape != ids.shape:
        raise ValueError(f"{name} has the shape {array.shape}; expected {ids.shape}, the shape of {words}")
    return array


def placed(places: Any, ids: Array) -> Array:
    """Return `position_ids` [T], [1, T] or [B, T] for the tokens `ids` [B, T]. Raises ValueError for another shape."""
    array = jnp.asarray(places)
    if array.shape not in (ids.shape, ids.shape[1:], (1, ids.shape[1])) or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"position_ids is {array.dtype}{list(array.shape)}; expected integers [batch, tokens], with the shape "
            f"{list(ids.shape)} of input_ids"
        )
    return array


def check_length(room: int, tokens: int) -> None:
    """Raise ValueError for more tokens than positions: JAX would read the row of the last position for all others."""
    if tokens > room:
        raise ValueError(
            f"the text has {tokens} tokens, but the model has positions for {room}: reduce Data(tokens=...)"
        )


def check_rows(name: str, indices: Any, rows: int, what: str) -> None:
    """Raise ValueError if `indices` are beyond the `rows` of an embedding; do nothing inside a compiled function."""
    if isinstance(indices, jax.core.Tracer):
        return
    array = np.asarray(indices)
    if array.size and (array.min() < 0 or array.max() >= rows):
        index = int(array.max() if array.max() >= rows else array.min())
        raise ValueError(
            f"{name} contains {index}, but the model has {rows} {what} (0 to {rows - 1}): use the tokenizer that "
            "belongs to the model"
        )
