"""Turn texts, pairs of texts and lists of words into token ids. Shapes: T tokens."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tlx.processors import windows
from tlx.processors.base import Inputs, Processor, format_source
from tlx.processors.files import check_tokenizer
from tlx.processors.opening import (
    REGISTERED,
    WITH_TYPES,
    WITHOUT_TYPES,
    open_by_transformers,
    open_tokenizer,
    read_json,
    set_length,
)
from tlx.trees import Example

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

    from tlx.processors.columns import Columns
    from tlx.processors.words import Words
    from tlx.types import Field


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


log = logging.getLogger(__name__)
# Texts with accents, digits, white space, and none, by which two tokenizers are compared.
TRIED = ("A gorgeous, witty film!", "CAFÉ naïve don't 123", "  two\n lines", "")


@lru_cache(maxsize=8)
def glues_words(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer needs a space before a word to know that one begins, and puts none there."""
    steps = json.loads(tokenizer.to_str()).get("pre_tokenizer") or {}
    parts = [steps, *steps.get("pretokenizers", [])]
    return any(part.get("type") == "ByteLevel" and not part.get("add_prefix_space") for part in parts)


@dataclass(frozen=True, eq=False)
class TextProcessor(Processor):
    """Turns a text, a pair of texts, or a list of words into at most `tokens` token ids, special tokens included.

    `files` is the directory that the tokenizer was read from. `pad_id` fills `input_ids` up to the length of a batch,
    always on the right. Without `token_types` every token has the type 0, as for a model that reads none. `rows` and
    `type_rows` are the numbers of token ids and token types that the model has embeddings for (None: not known). With a
    `stride` the second text of a pair is not cut: the token ids are those of one or several windows of `tokens` tokens,
    which share `stride` tokens of the second text (see `tlx.processors.windows`).
    """

    tokenizer: Tokenizer
    tokens: int = DEFAULT_TOKENS
    files: Path | None = None
    pad_id: int = 0
    token_types: bool = True
    rows: int | None = None
    type_rows: int | None = None
    stride: int | None = None

    reads: ClassVar[tuple[str, ...]] = ("text", "words")
    noun: ClassVar[str] = "a tokenizer"

    def __post_init__(self) -> None:
        room = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        if self.tokens <= room:
            raise ValueError(
                f"tokens={self.tokens} leaves no room for text, because {room} tokens are special; set a larger number"
            )
        cut = self.tokenizer.truncation or {}
        if self.stride is not None:
            object.__setattr__(self, "tokenizer", type(self.tokenizer).from_str(self.tokenizer.to_str()))
            windows.set_windows(self.tokenizer, self.tokens, self.stride)
        elif cut.get("max_length") != self.tokens or self.tokenizer.padding:
            # A copy, for another processor may hold the same tokenizer with another length.
            object.__setattr__(self, "tokenizer", type(self.tokenizer).from_str(self.tokenizer.to_str()))
            set_length(self.tokenizer, self.tokens, cut.get("direction", "right"))

    @property
    def fields(self) -> Mapping[str, Field]:
        from tlx.types import Field

        return {
            "input_ids": Field((None,), "int32", self.pad_id),
            "token_type_ids": Field((None,), "int32"),
            "attention_mask": Field((None,), "int32"),
        }

    @property
    def longest(self) -> int:
        return self.tokens

    @classmethod
    def fit(
        cls,
        base: Processor | None,
        data: Any,
        columns: Columns,
        shape: tuple[int, ...] | None = None,
        example: Callable[[], Example] | None = None,
    ) -> Processor:
        """Return the tokenizer of the weights at the length of the data. Raises ValueError where there is none."""
        if base is None or not set(cls.reads) & set(base.reads):
            from tlx.processors.columns import spelled

            kind = "text" if "text" in spelled(columns) else spelled(columns)
            raise ValueError(
                f"{format_source(data.target)} has {kind}, but the weights have no tokenizer; name weights with a "
                "tokenizer"
            )
        return replace(base, tokens=data.tokens)  # type: ignore[type-var]

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
        if not cls.opens(directory):
            raise FileNotFoundError(f"{directory} has no tokenizer; expected tokenizer.json or vocab.txt")
        check_tokenizer(directory)
        opened = open_tokenizer(directory)
        if tokens is None:
            tokens = min((length for length in (opened.length, room) if length is not None), default=DEFAULT_TOKENS)
        set_length(opened.tokenizer, tokens, opened.side)
        return cls(opened.tokenizer, tokens, directory, opened.pad_id, opened.token_types)

    def __call__(self, example: Example) -> Inputs:
        """Return int32[tokens] `input_ids`, `token_type_ids` and `attention_mask`, not padded.

        The example is `{"text": str, "text_pair"?: str}` or `{"words": list of str}`. Raises ValueError for a token id
        or a token type that the model has no embedding for.
        """
        return self._joined(self.encoding(example))

    def many(self, examples: Sequence[Example]) -> list[Inputs]:
        """Return the arrays of several examples. The tokenizer works on all of them in parallel."""
        if any("words" in example for example in examples):
            return [self(example) for example in examples]
        texts = [(row["text"], row["text_pair"]) if "text_pair" in row else row["text"] for row in examples]
        if self.stride is not None:
            return [self(example) for example in examples]
        return [self._arrays(encoding) for encoding in self.tokenizer.encode_batch(texts)]

    @property
    def window(self) -> int:
        return 0 if self.stride is None else self.tokens

    def _joined(self, encoding: Encoding) -> Inputs:
        """Return the arrays of a text, or of all its windows."""
        if self.stride is None:
            return self._arrays(encoding)
        parts = [self._arrays(part) for part in (encoding, *encoding.overflowing)]
        return windows.joined(parts, self.tokens, {"input_ids": self.pad_id})

    def places(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """Return what each token of a pair of texts is, int32[T] (see `tlx.functional.spans`), and the characters of
        the second text that it stands for, from the first one up to and without the last one, int32[T, 2]."""
        encoding = self.encoding(example)
        parts = [encoding, *encoding.overflowing] if self.stride is not None else [encoding]
        places = windows.places_of(parts, self.tokens)
        return places["kinds"], np.stack([places["first"], places["last"]], -1)

    @property
    def limits(self) -> Mapping[str, int]:
        return {"input_ids": self.tokenizer.get_vocab_size(), "token_type_ids": 256, "attention_mask": 2}

    def _arrays(self, encoding: Encoding) -> Inputs:
        ids = np.asarray(encoding.ids, np.int32)
        types = np.asarray(encoding.type_ids, np.int32) if self.token_types else np.zeros_like(ids)
        self._check(ids, types)
        return {
            "input_ids": ids,
            "token_type_ids": types,
            "attention_mask": np.asarray(encoding.attention_mask, np.int32),
        }

    @cached_property
    def words(self) -> Words:
        """Return the vocabulary."""
        from tlx.processors.words import Words

        return Words(self)

    def word_ids(self, example: Example) -> np.ndarray:
        """Return int64[tokens], the number of the word of each token in `example["words"]`, -1 for special tokens.

        Words beyond `tokens` are cut off like the end of a text. Where the beginning of a text is cut off, the pieces
        of a word without its first piece have -1 too, because the first piece stands for the word. Raises TypeError for
        an example without words.
        """
        if "words" not in example:
            raise TypeError(f"an example has only {', '.join(sorted(example))}; expected a column `words`")
        encoding = self.encoding(example)
        without_first: set[int | None] = {None}
        if (self.tokenizer.truncation or {}).get("direction") == "left":
            without_first |= {number for part in encoding.overflowing for number in part.word_ids}
        return np.array([-1 if number in without_first else number for number in encoding.word_ids], np.int64)

    def measure(self, examples: Sequence[Example]) -> list[int]:
        """Return the number of tokens of each example. The tokenizer works on all of them in parallel."""
        if self.stride is not None:
            return [len(self(example)["input_ids"]) for example in examples]
        if any("words" in example for example in examples):
            return [len(self.encoding(example).ids) for example in examples]
        texts = [(row["text"], row["text_pair"]) if "text_pair" in row else row["text"] for row in examples]
        return [len(encoding.ids) for encoding in self.tokenizer.encode_batch(texts)]

    def uncut(self, examples: Sequence[Example]) -> list[int]:
        if self.stride is not None:
            return self.measure(examples)
        lengths = []
        for example in examples:
            encoding = self.encoding(example)
            # Every piece that is cut off repeats the special tokens.
            special = sum(encoding.special_tokens_mask)
            lengths.append(len(encoding.ids) + sum(max(0, len(part.ids) - special) for part in encoding.overflowing))
        return lengths

    def reading(self, example: Example) -> str:
        """Return the text of the token ids, with special tokens."""
        return str(self.tokenizer.decode(self.encoding(example).ids, skip_special_tokens=False))

    def read(self, argument: str) -> dict[str, Any]:
        return {"text": argument}

    def cuts(self, example: Example) -> bool:
        """Return whether the example is longer than `tokens`, so that its end (or its beginning) is cut off."""
        return self.stride is None and bool(self.encoding(example).overflowing)

    def cut_notes(self, examples: Iterable[Example]) -> list[str]:
        if not (cut := sum(map(self.cuts, examples))):
            return []
        count = "1 text is" if cut == 1 else f"{cut} texts are"
        return [f"{count} longer than {self.tokens} tokens, the limit of the model; the rest is cut off"]

    def within(self, rows: Mapping[str, int], room: int | None) -> TextProcessor:
        """Return the processor with the numbers of token ids, token types and positions of the model."""
        from tlx.processors import vocabulary

        if "input_ids" not in rows:
            return self
        tokens = self.tokens
        if room is not None and room < tokens:
            log.warning("texts are cut at %d tokens, not at %d, because the model has no more positions", room, tokens)
            tokens = room
        # DistilBERT reads no types, but a tokenizer of another class would produce them.
        type_rows = rows.get("token_type_ids", 0)
        types = self.token_types and type_rows > 0
        processor = replace(self, tokens=tokens, rows=rows["input_ids"], type_rows=type_rows, token_types=types)
        vocabulary.check(processor)
        return processor

    def trials(self) -> list[dict[str, Any]]:
        pairs = [(text, second) for text in TRIED for second in (None, *TRIED)]
        return [{"text": text} if second is None else {"text": text, "text_pair": second} for text, second in pairs]

    def by_transformers(self, directory: Path) -> TextProcessor:
        opened = open_by_transformers(directory)
        return TextProcessor(opened.tokenizer, opened.length or self.tokens, None, opened.pad_id, opened.token_types)

    def notes(self) -> list[str]:
        from tlx.processors.vocabulary import odd

        return odd(self)

    @property
    def identity(self) -> Any:
        stride = [] if self.stride is None else [self.stride]
        return [self.tokens, self.pad_id, self.token_types, hash_of(self.tokenizer), *stride]

    def encoding(self, example: Example) -> Encoding:
        """Return the tokens of an example as the tokenizer describes them."""
        if "words" in example:
            self._check_words()
            return self.tokenizer.encode(example["words"], is_pretokenized=True)
        if self.stride is not None:
            texts = example["text"], example.get("text_pair", "")
            return windows.encoded(self.tokenizer, *texts, self.tokens, self.stride)[0]
        return self.tokenizer.encode(example["text"], example.get("text_pair"))

    def _check_words(self) -> None:
        """Raise ValueError for a tokenizer that would glue the words of a list together."""
        if glues_words(self.tokenizer):
            raise ValueError(
                "the tokenizer separates words by spaces (ByteLevel with add_prefix_space=False), so it would read a "
                "list of words as one word; save it with add_prefix_space=True, as for token classification"
            )

    def _check(self, ids: np.ndarray, types: np.ndarray) -> None:
        if self.rows is not None and ids.size and (highest := int(ids.max())) >= self.rows:
            raise ValueError(
                f"token {self.tokenizer.id_to_token(highest)!r} has the id {highest}, but the model has embeddings for "
                f"the ids 0 to {self.rows - 1}: the tokenizer{f' of {self.files}' if self.files else ''} belongs to "
                "another model; use the tokenizer that the model was trained with"
            )
        # A model without any type embedding reads no types.
        if self.type_rows and types.size and (highest := int(types.max())) >= self.type_rows:
            raise ValueError(
                f"the tokenizer produces the token type {highest}, but the model has embeddings for the types 0 to "
                f"{self.type_rows - 1}; for a model without token types, write into tokenizer_config.json: "
                '"model_input_names": ["input_ids", "attention_mask"]'
            )

    @classmethod
    def opens(cls, directory: Path) -> bool:
        return any((directory / name).is_file() for name in TOKENIZER_FILES)

    def save(self, directory: str | Path) -> None:
        """Write the files that `load` and `transformers.AutoTokenizer.from_pretrained` read.

        The files are copied unchanged, except tokenizer_config.json: it states the length and the padding side of this
        processor, and the class that opens the files.
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
        # The code that a repository of the hub names is not copied.
        settings.pop("auto_map", None)
        settings |= {"model_max_length": self.tokens, "padding_side": "right"}
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        partial = directory / ".tokenizer_config.json.partial"
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, directory / "tokenizer_config.json")


@lru_cache(maxsize=8)
def hash_of(tokenizer: Tokenizer) -> str:
    """Return a hash of the whole tokenizer. The last few hashes are cached, because runs share tokenizers."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
