"""The columns of a data set: which are inputs, which one is the label, and how a cell of each kind is read.

The name of a column is its role: `text`, `text_pair`, `words`, `image`, `audio` and any other name are
inputs, `label` is the target. A source renames its columns to these names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.processors.pictures import decode, pixels
from tlx.processors.sounds import decoded

if TYPE_CHECKING:
    from tlx.types import Column

    Columns = Mapping[str, Column]

LABEL = "label"
# The plural of each kind of input, for sentences.
PLURAL = {
    "image": "images",
    "text": "text",
    "audio": "sounds",
    "words": "lists of words",
    "number": "numbers",
    "numbers": "lists of numbers",
}
# Kinds that take long to read; neither labels nor lengths need them.
HEAVY = ("image", "audio")


def inputs(columns: Columns) -> dict[str, Column]:
    """Return all columns but the label."""
    return {name: column for name, column in columns.items() if name != LABEL}


def kind_of(columns: Columns) -> str:
    """Return the kind of the first input."""
    return next((column.kind for column in inputs(columns).values()), "nothing")


def spelled(columns: Columns) -> str:
    """Return the inputs in words: "images", "pairs of texts", "sounds at 8,000 samples a second"."""
    columns = inputs(columns)
    kinds = [column.kind for column in columns.values()]
    if kinds == ["text", "text"]:
        return "pairs of texts"
    parts = []
    for column in columns.values():
        at = f" at {column.rate:,} samples per second" if column.kind == "audio" and column.rate else ""
        parts.append(PLURAL.get(column.kind, column.kind) + at)
    return " and ".join(parts) or "nothing"


def read_cell(content: object, column: Column, name: str, place: str) -> Any:
    """Return the value of a cell that is an input, as examples hold it.

    Args:
        content: The cell of a source: a str or UTF-8 bytes, uint8[H, W, C] or the bytes of an image file, float32[T]
            or the bytes of a sound file, a list of words, a number, or several.
        column: The description of the column.
        name: The name of the column, for the error.
        place: The example, for the error.

    Raises:
        ValueError: The cell cannot be read; the message names the example and the column.
    """
    return READERS[column.kind](content, column, name, place)


def text_of(content: object, column: Column, name: str, place: str) -> str:
    """Return a text. Raises ValueError for bytes that are not UTF-8, and for anything but a text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, bytes | bytearray | np.bytes_):
        raise ValueError(f"{place}: {name!r} is {type(content).__name__} {content!r:.40}; expected a text")
    try:
        return bytes(content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: {name!r} is not valid UTF-8"
            f" (byte 0x{content[error.start]:02x} at {error.start}); decode it when the data set is built"
        ) from None


def words_of(content: Any, column: Column, name: str, place: str) -> list[str]:
    """Return a list of words. Raises ValueError for an empty list, and for a text in its place."""
    if isinstance(content, str | bytes):
        raise ValueError(
            f"{place}: {name!r} is one text; expected a list of words: split the text when you read the data"
        )
    if not hasattr(content, "__len__"):
        raise ValueError(f"{place}: {name!r} is {type(content).__name__} {content!r:.40}; expected a list of words")
    if not len(content):
        raise ValueError(f"{place}: {name!r} has no words; remove such examples")
    return [text_of(word, column, name, place) for word in content]


def image_of(content: Any, column: Column, name: str, place: str) -> np.ndarray:
    """Return uint8[H, W, C] of a PNG, a JPEG or an array. Raises ValueError for another type of pixels."""
    if not isinstance(content, np.ndarray):
        return pixels(decode(content, place))
    if content.dtype != np.uint8:
        spoilt = ""
        if np.issubdtype(content.dtype, np.floating) and np.isnan(content).any():
            spoilt = " with NaN values"
        raise ValueError(
            f"{place}: the pixels are {content.dtype}{list(content.shape)}{spoilt}; expected uint8[height, width, "
            "channels]"
        )
    return content[..., None] if content.ndim == 2 else content


def audio_of(content: object, column: Column, name: str, place: str) -> np.ndarray:
    """Return float32[T] of a sound file, at the rate of the column, or of samples."""
    if isinstance(content, bytes | np.bytes_):
        return decoded(bytes(content), column.rate, place)
    return np.asarray(content, np.float32)


def number_of(content: Any, column: Column, name: str, place: str) -> float:
    """Return a finite number."""
    try:
        number = float(content)
    except (TypeError, ValueError):
        raise ValueError(f"{place}: {name!r} is {content!r:.40}; expected a number") from None
    if not np.isfinite(number) or abs(number) > float(np.finfo(np.float32).max):
        raise ValueError(
            f"{place}: {name!r} is {number}; expected a finite number of float32: remove such examples "
            "when you build the data set"
        )
    return number


def numbers_of(content: Any, column: Column, name: str, place: str) -> np.ndarray:
    """Return float32[K], all finite."""
    try:
        numbers = np.ravel(np.asarray(content, np.float64))
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if (np.abs(numbers) <= float(np.finfo(np.float32).max)).all():
        return numbers.astype(np.float32)
    # One of them is no such number; the error names it.
    return np.array([number_of(number, column, name, place) for number in np.ravel(content)], np.float32)


def class_of(content: Any, column: Column, name: str, place: str) -> int:
    """Return the number of a class."""
    count = len(column.classes)
    try:
        label = int(content)
        whole = not isinstance(content, float | np.floating) or label == content
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        hint = f"; it is the name of class {column.classes.index(content)}" if content in column.classes else ""
        raise ValueError(f"{place}: {name} is {content!r:.40}; expected the number of a class, 0..{count - 1}{hint}")
    if not 0 <= label < count:
        raise ValueError(f"{place}: {name} is {label}; expected one of the {count} classes 0..{count - 1}")
    return label


def classes_of(content: Any, column: Column, name: str, place: str) -> list[int]:
    """Return the numbers of several classes, or of one class for each word."""
    return [class_of(label, column, name, place) for label in np.ravel(content)]


READERS: Mapping[str, Callable[[Any, Column, str, str], Any]] = {
    "text": text_of,
    "words": words_of,
    "image": image_of,
    "audio": audio_of,
    "number": number_of,
    "numbers": numbers_of,
    "class": class_of,
    "classes": classes_of,
    "tags": classes_of,
}
