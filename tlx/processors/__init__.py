"""From a raw example to the inputs of a model: tokens of text, pixels of an image.

The files read and written are those of Hugging Face directories (`tokenizer.json`, `preprocessor_config.json`, ...), so
a model saved with its processor opens in transformers and the other way round.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tlx.processors.files import check_tokenizer
from tlx.processors.opening import REGISTERED, WITH_TYPES, WITHOUT_TYPES, open_tokenizer, read_json, set_length
from tlx.processors.pictures import ImageProcessor, Inputs

if TYPE_CHECKING:
    from tokenizers import Tokenizer


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# The length at which texts are cut where neither the tokenizer nor the model has one.
DEFAULT_TOKENS = 512


@dataclass(frozen=True, eq=False)
class TextProcessor:
    """Text to token ids, at most `tokens` of them, special tokens included.

    `files` is the directory that the tokenizer was read from; `pad_id` fills `input_ids` up to a batch's length, always
    on the right. Without `token_types` every token has the type 0, as for a model that reads none. `rows` and
    `type_rows` are how many token ids and token types the model has embeddings for (None: not known).
    """

    tokenizer: Tokenizer
    tokens: int = DEFAULT_TOKENS
    files: Path | None = None
    pad_id: int = 0
    token_types: bool = True
    rows: int | None = None
    type_rows: int | None = None

    def __post_init__(self) -> None:
        room = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        if self.tokens <= room:
            raise ValueError(f"tokens={self.tokens} leaves no room for text: {room} are special; give more")
        cut = self.tokenizer.truncation or {}
        if cut.get("max_length") != self.tokens or self.tokenizer.padding:
            # A copy, for another processor may hold the same tokenizer with another length.
            object.__setattr__(self, "tokenizer", type(self.tokenizer).from_str(self.tokenizer.to_str()))
            set_length(self.tokenizer, self.tokens, cut.get("direction", "right"))

    @classmethod
    def load(cls, directory: str | Path, tokens: int | None = None, room: int | None = None) -> Self:
        """Read the tokenizer of a Hugging Face directory; never run code from it.

        Args:
            directory: The folder of tokenizer.json, vocab.txt, ...
            tokens: The length at which texts are cut. None takes the length that tokenizer_config.json states, but no
                more than `room`; where it states none, `room`.
            room: How many tokens the model has positions for, None where there is no model.

        Raises:
            FileNotFoundError: The directory holds no tokenizer.
            ValueError: The tokenizer has no fast form, or cannot be read.
        """
        directory = Path(directory)
        if not any((directory / name).is_file() for name in TOKENIZER_FILES):
            raise FileNotFoundError(f"{directory} has no tokenizer; expected tokenizer.json or vocab.txt")
        check_tokenizer(directory)
        opened = open_tokenizer(directory)
        if tokens is None:
            tokens = min((length for length in (opened.length, room) if length is not None), default=DEFAULT_TOKENS)
        set_length(opened.tokenizer, tokens, opened.side)
        return cls(opened.tokenizer, tokens, directory, opened.pad_id, opened.token_types)

    def __call__(self, example: Mapping[str, Any]) -> Inputs:
        """`{"text": str, "text_pair"?: str}` to int32[tokens] `input_ids`, `token_type_ids` and `attention_mask`, not
        padded.

        Raises ValueError for a token id or a token type that the model has no embedding for.
        """
        encoding = self.tokenizer.encode(example["text"], example.get("text_pair"))
        ids = np.asarray(encoding.ids, np.int32)
        types = np.asarray(encoding.type_ids, np.int32) if self.token_types else np.zeros_like(ids)
        self._check(ids, types)
        return {
            "input_ids": ids,
            "token_type_ids": types,
            "attention_mask": np.asarray(encoding.attention_mask, np.int32),
        }

    def cuts(self, example: Mapping[str, Any]) -> bool:
        """Return whether the example is longer than `tokens`, so that its end (or its beginning) is not read."""
        return bool(self.tokenizer.encode(example["text"], example.get("text_pair")).overflowing)

    def _check(self, ids: np.ndarray, types: np.ndarray) -> None:
        if self.rows is not None and ids.size and (highest := int(ids.max())) >= self.rows:
            raise ValueError(
                f"token {self.tokenizer.id_to_token(highest)!r} has the id {highest}, and the model has embeddings for "
                f"the ids 0 to {self.rows - 1}: the tokenizer{f' of {self.files}' if self.files else ''} is not this "
                "model's; use the tokenizer that the model was trained with"
            )
        # A model without any type embedding reads no types.
        if self.type_rows and types.size and (highest := int(types.max())) >= self.type_rows:
            raise ValueError(
                f"the tokenizer gives the token type {highest}, and the model has embeddings for the types 0 to "
                f"{self.type_rows - 1}; for a model that reads no types, write into tokenizer_config.json: "
                '"model_input_names": ["input_ids", "attention_mask"]'
            )

    def pad(self, examples: Sequence[Inputs], length: int) -> Inputs:
        """Arrays int32[batch, length] of examples that are no longer than `length` (ValueError)."""
        longest = max((len(example["input_ids"]) for example in examples), default=0)
        if longest > length:
            raise ValueError(f"an example of {longest} tokens does not fit into {length}")
        batch = {
            "input_ids": np.full((len(examples), length), self.pad_id, np.int32),
            "token_type_ids": np.zeros((len(examples), length), np.int32),
            "attention_mask": np.zeros((len(examples), length), np.int32),
        }
        for row, example in enumerate(examples):
            for name, array in batch.items():
                array[row, : len(example[name])] = example[name]
        return batch

    def save(self, directory: str | Path) -> None:
        """Write what `load` and `transformers.AutoTokenizer.from_pretrained` read.

        The files are copied as they came. Only tokenizer_config.json changes: it states the length and the padding
        side of this processor, and the class that opens the files.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        present = [self.files / name for name in TOKENIZER_FILES if (self.files / name).is_file()] if self.files else []
        settings: dict[str, Any] = {}
        if self.files is not None and present:
            settings = read_json(self.files / "tokenizer_config.json")
            if "tokenizer_class" not in settings:
                document = read_json(self.files / "config.json")
                name = document.get("tokenizer_class") or REGISTERED.get(document.get("model_type", ""))
                settings |= {"tokenizer_class": name} if name else {}
        for file in present:
            if file.resolve() != (directory / file.name).resolve():
                shutil.copyfile(file, directory / file.name)
        if not present:
            self.tokenizer.save(str(directory / "tokenizer.json"))
            pad = self.tokenizer.id_to_token(self.pad_id)
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", **({"pad_token": pad} if pad else {})}
        # Classes differ in this from one version of transformers to the next.
        settings["model_input_names"] = list(WITH_TYPES if self.token_types else WITHOUT_TYPES)
        # The code that a hub's repository names does not go along.
        settings.pop("auto_map", None)
        settings |= {"model_max_length": self.tokens, "padding_side": "right"}
        written = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        partial = directory / ".tokenizer_config.json.partial"
        partial.write_text(written, encoding="utf-8")
        os.replace(partial, directory / "tokenizer_config.json")


Processor = TextProcessor | ImageProcessor


def load(directory: str | Path, tokens: int | None = None, room: int | None = None) -> Processor | None:
    """Read the processor whose files lie in a directory; None where there is none. An image processor goes before a
    tokenizer. `tokens` and `room` are those of `TextProcessor.load`.
    """
    directory = Path(directory)
    if (directory / "preprocessor_config.json").exists():
        from tlx.processors import sounds

        kind = read_json(directory / "preprocessor_config.json").get("feature_extractor_type")
        return (sounds.SoundProcessor if kind == sounds.KIND else ImageProcessor).load(directory)
    if any((directory / name).is_file() for name in TOKENIZER_FILES):
        return TextProcessor.load(directory, tokens, room)
    return None
