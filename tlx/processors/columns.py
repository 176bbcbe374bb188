"""The columns of a data set: which are inputs, which one is the label, and how a cell of each kind is read.

The name of a column is its role: `text`, `text_pair`, `words`, `image`, `audio` and any other name are
inputs, `label` is the target. A source renames its columns to these names.
"""

from __future__ import annotations

import json
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


def answers_of(content: Any, column: Column, name: str, place: str) -> dict[str, list[Any]]:
    """Return the answers to a question, as SQuAD has them: `text`, and `answer_start`, the number of the character of
    the text at which each begins. Both are empty where the text has no answer.

    The content is such a mapping, its JSON text, or a list of mappings with one answer each.
    """
    sides = parsed_answers(content)
    if sides is None:
        raise ValueError(
            f"{place}: {name!r} is {content!r:.60}; expected the answers as in SQuAD: "
            '{"text": ["...", ...], "answer_start": [0, ...]}, with empty lists for no answer'
        )
    texts, starts = sides
    if len(texts) != len(starts):
        raise ValueError(
            f"{place}: {name!r} has {len(texts)} texts and {len(starts)} numbers in answer_start; expected one number "
            "for each text"
        )
    return {"text": texts, "answer_start": starts}


def parsed_answers(content: Any) -> tuple[list[str], list[int]] | None:
    """Return the texts and the beginnings of the answers in a cell; None where it holds no answers."""
    if isinstance(content, str):
        try:
            content = json.loads(content)
        except (ValueError, RecursionError):
            return None
    if isinstance(content, Mapping) and {"text", "answer_start"} <= content.keys():
        sides = content["text"], content["answer_start"]
        texts, starts = (list(side) if isinstance(side, list | tuple | np.ndarray) else [side] for side in sides)
    elif isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content):
        if not all({"text", "answer_start"} <= part.keys() for part in content):
            return None
        texts, starts = ([part[side] for part in content] for side in ("text", "answer_start"))
    else:
        return None
    if not all(isinstance(text, str) for text in texts):
        return None
    whole = [isinstance(start, int | np.integer) and not isinstance(start, bool) for start in starts]
    return (texts, [int(start) for start in starts]) if all(whole) else None


def check_answers(answers: Mapping[str, Any], context: str, place: str) -> None:
    """Raise ValueError for an answer that is not in its text at the place that it states."""
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        there = context[start : start + len(text)] if start >= 0 else ""
        if there == text and text:
            continue
        if not text:
            remedy = "an answer is a part of the text; write empty lists for no answer"
        elif (elsewhere := context.find(text)) >= 0:
            remedy = f"it begins at character {elsewhere}: correct answer_start"
        else:
            remedy = "the text does not contain it: correct the answer, or leave it out"
        raise ValueError(f"{place}: the answer {text!r:.60} is not at character {start} of its text; {remedy}")


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
    "answers": answers_of,
}
