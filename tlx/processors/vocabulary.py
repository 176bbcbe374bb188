"""Check whether a tokenizer belongs to a model: compare its ids with the rows of the model's word embedding."""

from __future__ import annotations

from typing import Any

from tlx.processors.base import Processor
from tlx.processors.texts import TextProcessor

# Vocabularies are padded to multiples of at most this many rows (30,522 words in 30,528 or 30,592 rows).
PADDING = 128
# No model is trained on a vocabulary of which its tokenizer reaches less than this share.
SHARE = 0.25


def check(processor: TextProcessor) -> None:
    """Raise ValueError where the tokenizer and the model of `processor` cannot belong together.

    That is: the embedding has no row for the id of a word, of a special token that is added to every text, or of the
    padding; or fewer than a quarter of the rows have a word. An added token beyond the rows is refused only when a text
    holds it.
    """
    rows = processor.rows
    if rows is None:
        return
    tokenizer, where = processor.tokenizer, f"{processor.files or 'the processor'}"
    words = tokenizer.get_vocab(with_added_tokens=False)
    beyond = {text: number for text, number in words.items() if number >= rows}
    beyond |= {text: n for text, n in zip(*_always(tokenizer), strict=True) if n >= rows}
    if processor.pad_id >= rows:
        beyond["(padding)"] = processor.pad_id
    if beyond:
        text = max(beyond, key=lambda token: beyond[token])
        raise ValueError(
            f"{where}: the tokenizer has {len(beyond)} tokens beyond the model's {rows} word embeddings (the last "
            f"token is {text!r} with the id {beyond[text]}), so it belongs to another model; use the tokenizer that "
            "the model was trained with"
        )
    if (count := _reached(processor)) < SHARE * rows:
        raise ValueError(
            f"{where}: the tokenizer has {count} entries, but the model has {rows} word embeddings, so the tokenizer "
            "belongs to another model; use the tokenizer that the model was trained with"
        )


def notes(processor: Processor | None) -> list[str]:
    """Return notes on oddities of the processor of a model, where it has one, that are not certain mistakes."""
    return [] if processor is None else processor.notes()


def odd(processor: TextProcessor) -> list[str]:
    """Return notes on oddities of the tokenizer of a model that are not certain mistakes."""
    if processor.rows is None:
        return []
    rows, notes = processor.rows, []
    if rows - (count := _reached(processor)) >= PADDING:
        notes.append(
            f"the tokenizer has {count} entries, but the model has {rows} word embeddings; check that the model "
            "was trained with this tokenizer"
        )
    added = processor.tokenizer.get_added_tokens_decoder()
    if beyond := [f"{token.content!r} ({number})" for number, token in sorted(added.items()) if number >= rows]:
        notes.append(
            f"the tokenizer has {len(beyond)} added tokens beyond the model's {rows} word embeddings, such as "
            f"{beyond[0]}; tlx raises an error for a text that contains one of them"
        )
    return notes


def _reached(processor: TextProcessor) -> int:
    """Return the number of rows of the embedding that the tokenizer has an entry for."""
    numbers = set(processor.tokenizer.get_vocab(with_added_tokens=True).values())
    return sum(number < (processor.rows or 0) for number in numbers)


def _always(tokenizer: Any) -> tuple[list[str], list[int]]:
    """Return the special tokens of an empty text, and their ids."""
    encoding = tokenizer.encode("")
    return encoding.tokens, encoding.ids
