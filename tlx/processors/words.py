"""The vocabulary of a tokenizer: the tokens with a meaning, and which tokens of a text language models learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.functional.losses import IGNORED
from tlx.processors.opening import read_json
from tlx.trees import Example

if TYPE_CHECKING:
    from tlx.processors.texts import TextProcessor

# The usual spellings of tokens with a meaning, for tokenizers without a tokenizer_config.json.
USUAL = {
    "mask_token": ("[MASK]", "<mask>"),
    "eos_token": ("</s>", "<|endoftext|>", "<eos>", "<|end_of_text|>", "<|im_end|>"),
    "sep_token": ("[SEP]",),
}
# The marks of hidden spans: those of T5, and the unused words of BERT. Their numbers descend from the first mark.
MARKS = ("<extra_id_{}>", "[unused{}]")
MOST_MARKS = 100


@dataclass(frozen=True, eq=False)
class Words:
    """The vocabulary of a text processor."""

    processor: TextProcessor

    @property
    def count(self) -> int:
        """Return the number of tokens."""
        return int(self.processor.tokenizer.get_vocab_size())

    @cached_property
    def mask(self) -> int | None:
        """Return the token for a hidden word; None where there is none."""
        return self.named("mask_token")

    @cached_property
    def end(self) -> int | None:
        """Return the token that ends a text: that of the tokenizer, else the one that separates texts; None for
        none."""
        end = self.named("eos_token")
        return self.named("sep_token") if end is None else end

    def named(self, role: str) -> int | None:
        """Return the token with this role in tokenizer_config.json, or of one of its usual spellings."""
        files = self.processor.files
        stated = read_json(files / "tokenizer_config.json").get(role) if files is not None else None
        spelling = stated.get("content") if isinstance(stated, dict) else stated
        for text in (spelling,) if spelling else USUAL[role]:
            number = self.processor.tokenizer.token_to_id(text)
            if number is not None:
                return int(number)
        return None

    @cached_property
    def marks(self) -> tuple[int, int] | None:
        """Return the first mark of hidden spans and how many marks follow each other downwards; None for none."""
        for pattern in MARKS:
            numbers = [self.processor.tokenizer.token_to_id(pattern.format(n)) for n in range(MOST_MARKS)]
            known = [int(number) for number in numbers if number is not None]
            if known:
                # T5 numbers its marks downwards, BERT its unused words upwards.
                first, have = max(known), set(known)
                return first, next((n for n in range(len(known)) if first - n not in have), len(known))
        return None

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens, without special ones."""
        return str(self.processor.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def hideable(self, example: Example, whole_words: bool = False) -> dict[str, np.ndarray]:
        """Return `label` int32[T], the tokens of a text with `IGNORED` for special ones, and with `whole_words` the
        number of the `word` int32[T] of each token, ascending; -1 for special ones."""
        encoding = self.processor.encoding(example)
        special = np.asarray(encoding.special_tokens_mask) > 0
        arrays = {"label": np.where(special, IGNORED, encoding.ids).astype(np.int32)}
        if whole_words:
            arrays["word"] = numbered_words(encoding)
        return arrays

    def counted(self, example: Example, second: bool = False, end: int | None = None) -> np.ndarray:
        """Return the tokens of a text int32[T] with `IGNORED` for special ones, except an `end` at the end, and with
        `second` for those of the first text of a pair."""
        encoding = self.processor.encoding(example)
        ignored = np.asarray(encoding.special_tokens_mask) > 0
        ids = np.asarray(encoding.ids, np.int32)
        if second:
            ignored |= np.array([number != 1 for number in encoding.sequence_ids], bool)
        label = np.where(ignored, IGNORED, ids).astype(np.int32)
        if end is not None and len(ids) and ids[-1] == end:
            label[-1] = end
        return label

    def answer(self, text: str, end: int | None, first: int | None = None) -> np.ndarray:
        """Return the tokens of a text that a model is to write, behind the token `first`, cut to the length of a text
        with the token `end`, int32[T]."""
        encoding = self.processor.encoding({"text": text})
        special = np.asarray(encoding.special_tokens_mask) > 0
        tokens = np.asarray(encoding.ids, np.int32)[~special]
        tokens = tokens if first is None else np.append(np.int32(first), tokens)
        if end is None:
            return tokens
        return np.append(tokens[: self.processor.tokens - 1], np.int32(end))


def numbered_words(encoding: Any) -> np.ndarray:
    """Return the number of the word of each token int32[T], over both texts of a pair; -1 for special tokens."""
    numbers, before, last = np.full(len(encoding.ids), -1, np.int32), None, -1
    for place, word in enumerate(zip(encoding.sequence_ids, encoding.word_ids, strict=True)):
        if word[1] is None:
            continue
        last += word != before
        numbers[place], before = last, word
    return numbers
