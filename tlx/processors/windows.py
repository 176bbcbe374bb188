"""Windows of a long text that follows a question: each has the question, special tokens and a part of the text.

Shapes: L tokens of all windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# What a token is; see `tlx.functional.spans`.
FIRST, CONTEXT, OTHER = 1, 2, 3
# The numbers of windows that a batch may have, so that few programs are compiled.
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


def set_windows(tokenizer: Tokenizer, tokens: int, stride: int) -> None:
    """Let `tokenizer` divide the second text of a pair into windows of `tokens` tokens that share `stride` tokens.

    Raises ValueError for a stride that leaves no room for new text in a window.
    """
    room = tokens - tokenizer.num_special_tokens_to_add(is_pair=True)
    if stride >= room:
        raise ValueError(
            f"stride={stride} is not below the {room} tokens of text in a window of {tokens} (data.tokens); set a "
            f"smaller one, such as stride={max(0, room // 3)}"
        )
    tokenizer.enable_truncation(tokens, stride=stride, strategy="only_second", direction="right")
    tokenizer.no_padding()


def encoded(tokenizer: Tokenizer, question: str, text: str, tokens: int, stride: int) -> list[Encoding]:
    """Return the encodings of all windows. Raises ValueError for a question that leaves too little room for text."""
    try:
        room = tokens - len(tokenizer.encode(question, "").ids)
    except Exception:  # the library raises no other kind for a question that is too long
        room = 0
    if room <= stride:
        raise ValueError(
            f"the question leaves {room} of {tokens} tokens for its text; expected more than stride={stride}: set a "
            "smaller stride or a larger Data(tokens=), or shorten the question"
        )
    encoding = tokenizer.encode(question, text)
    return [encoding, *encoding.overflowing]


def joined(windows: Sequence[Mapping[str, np.ndarray]], tokens: int, pads: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the arrays of all windows one after the other. Of several windows each has the length `tokens`."""
    if len(windows) == 1:
        return dict(windows[0])
    return {
        name: np.concatenate(
            [
                np.pad(window[name], (0, tokens - len(window[name])), constant_values=pads.get(name, 0))
                for window in windows
            ]
        )
        for name in windows[0]
    }


def places_of(encodings: Sequence[Encoding], tokens: int) -> dict[str, np.ndarray]:
    """Return `kinds` int32[L], what each token is, and `first` and `last` int32[L], the characters of the second text
    that it stands for: from `first` up to and without `last`."""
    windows = []
    for encoding in encodings:
        # No number for special tokens, 0 in the question, 1 in the text.
        sequence = [-1 if number is None else number for number in encoding.sequence_ids]
        kinds = np.where(np.array(sequence) == 1, CONTEXT, OTHER).astype(np.int32)
        kinds[0] = FIRST
        first, last = np.array(encoding.offsets, np.int32).T
        inside = kinds == CONTEXT
        windows.append({"kinds": kinds, "first": np.where(inside, first, 0), "last": np.where(inside, last, 0)})
    return joined(windows, tokens, {})


def lengths(buckets: Sequence[int], window: int) -> tuple[int, ...]:
    """Return the lengths that a batch may have: the `buckets` up to one window, and several windows."""
    return (*sorted({bucket for bucket in buckets if bucket < window}), *(count * window for count in COUNTS))
