"""Texts that a model reads in windows: folded into more rows before the first stage, and joined again after the last.

Shapes: B batch, W windows of a text, T tokens of a window, L = W T tokens.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from tlx.types import Array, Carry

MASK = "attention_mask"


def windows_of(head: Any, inputs: Mapping[str, Any]) -> int:
    """Return the number of windows in a text of a batch, from the window of the head.

    Raises ValueError for texts that do not end with a window.
    """
    window, ids = getattr(head, "window", None), inputs.get("input_ids")
    # A program for any number of tokens reads one window.
    if window is None or ids is None or not isinstance(ids.shape[1], int) or ids.shape[1] <= window:
        return 1
    if ids.shape[1] % window:
        raise ValueError(f"a text has {ids.shape[1]} tokens; expected at most {window}, or a multiple of it (windows)")
    return int(ids.shape[1]) // window


def folded(inputs: Mapping[str, Array], windows: int) -> dict[str, Array]:
    """Return the inputs with a row for each window: [B, L] -> [B W, T]. Other arrays, which no stage reads, stay."""
    length = inputs["input_ids"].shape[1]
    rows = {
        name: jnp.reshape(array, (array.shape[0] * windows, -1)) if array.shape[1:] == (length,) else array
        for name, array in inputs.items()
    }
    if MASK in rows:
        # A window of padding still needs a token to attend to; nothing reads its outputs.
        rows[MASK] = jnp.asarray(rows[MASK]).at[:, 0].set(1)
    return rows


def folded_offset(offset: Any, windows: int) -> Any:
    """Return the offsets (see `types.Context`) of the rows of windows, so that the noise of a window follows from the
    place of its text: of one number, or of a number for each text."""
    if getattr(offset, "ndim", 0) == 0:
        return offset * windows
    return jnp.repeat(offset * windows, windows)


def unfolded(taps: Carry, windows: int) -> Carry:
    """Return the taps [B W, T, ...] with the windows of a text one after the other, [B, L, ...]."""

    def joined(array: Any) -> Any:
        if getattr(array, "ndim", 0) < 2:
            return array
        return array.reshape(array.shape[0] // windows, windows * array.shape[1], *array.shape[2:])

    return {name: tap if isinstance(tap, Mapping) else joined(tap) for name, tap in taps.items()}
