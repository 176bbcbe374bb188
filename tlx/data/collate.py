"""Collate the arrays of examples into the arrays of a batch. Padding happens only here.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tlx.processors.base import length_of
from tlx.types import ArrayMap, Field

Fields = Mapping[str, Field]


def collate(
    rows: Sequence[ArrayMap], fields: Fields, lengths: Sequence[int] = (), longest: int | None = None
) -> dict[str, np.ndarray]:
    """Join the arrays of examples into a batch.

    Args:
        rows: The arrays of each example, by name.
        fields: The shape, type and padding of each array. Other arrays of a row are left out.
        lengths: The lengths that a ragged axis may have in a batch, ascending.
        longest: The longest example of the whole batch, where `rows` are a part of it; None for that of the rows.

    Returns:
        An array [B, ...] for each field. Every ragged axis has the shortest of `lengths` that holds the longest
        example, or, without `lengths`, just that length.

    Raises:
        ValueError: An array does not have the shape or the type that its field declares, or does not fit.
    """
    if any(None in field.shape for field in fields.values()):
        if longest is None:
            longest = max((length_of(row, fields) for row in rows), default=0)
        length = padded(longest, lengths)
    else:
        length = 0
    return {name: stacked(name, [array_of(row, name) for row in rows], field, length) for name, field in fields.items()}


def padded(longest: int, lengths: Sequence[int]) -> int:
    """Return the length of a batch that has an example of this length. Raises ValueError where none is long enough."""
    if longest and lengths and longest > max(lengths):
        raise ValueError(
            f"an example has {longest} entries along a ragged axis; expected at most {max(lengths)}, the largest "
            "length of a batch. Shorten the example, or set a larger length"
        )
    return min((length for length in lengths if length >= longest), default=longest)


def stacked(name: str, arrays: Sequence[Any], field: Field, length: int) -> np.ndarray:
    """Return one array [B, ...] of a batch, each ragged axis padded to `length` with the padding of the field."""
    shape, dtype = tuple(length if side is None else side for side in field.shape), np.dtype(field.dtype)
    if not shape and arrays and (numbers := np.asarray(arrays)).ndim == 1:
        # Labels and indices are plain numbers, which one call takes together.
        check_array(name, numbers[0], field, length)
        return numbers.astype(dtype)
    batch = np.zeros((len(arrays), *shape), dtype)
    if field.pad and None in field.shape:
        batch[:] = field.pad
    line = field.shape == (None,)
    for row, array in enumerate(map(np.asarray, arrays)):
        # The usual arrays need no slow check: token ids, and arrays of the very shape.
        if array.dtype == dtype and line and array.ndim == 1 and len(array) <= length:
            batch[row, : len(array)] = array
            continue
        if array.dtype == dtype and array.shape == shape:
            batch[row] = array
            continue
        check_array(name, array, field, length)
        place: tuple[Any, ...] = (row, *(slice(size) for size in array.shape))
        batch[place] = array
    return batch


def check_array(name: str, array: np.ndarray, field: Field, length: int) -> None:
    """Raise ValueError where the shape or the type of an array differs from its field."""
    fits = array.ndim == len(field.shape) and all(
        size <= length if side is None else size == side for size, side in zip(array.shape, field.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{name!r} of an example has the shape {list(array.shape)}; its field expects {list(field.shape)}"
            + (f", with at most {length} entries" if None in field.shape else "")
        )
    if not np.can_cast(array.dtype, field.dtype, "same_kind"):
        raise ValueError(f"{name!r} of an example has the type {array.dtype}; its field expects {field.dtype}")


def array_of(row: Mapping[str, Any], name: str) -> Any:
    """Return the array of this name. Raises ValueError where an example has none."""
    if name not in row:
        raise ValueError(
            f"an example has no array {name!r}, which a field declares; it has {', '.join(sorted(row))}. Return this "
            "array too, or remove the field"
        )
    return row[name]
