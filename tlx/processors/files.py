"""Open the files of a processor. Their form is checked first; every library error becomes one line with the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tlx.files.documents import DocumentError, parse_json, read_json, read_text
from tlx.files.documents import processors as forms
from tlx.files.documents.checks import Form
from tlx.files.documents.reading import FETCH, read_bytes
from tlx.trees import Json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
PREPROCESSOR = "preprocessor_config.json"
MOST_BYTES = 512 * 2**20
FORMS: dict[str, Form] = {
    SETTINGS: forms.TOKENIZER_CONFIG,
    "special_tokens_map.json": forms.SPECIAL_TOKENS,
    "added_tokens.json": forms.VOCABULARY,
    "vocab.json": forms.VOCABULARY,
}
# Texts that meet most parts of a tokenizer: words, digits, accents, another script, nothing.
TRIALS = ("", "A b, c1 - d!", "naïve 电影", "x" * 120)
Result = TypeVar("Result")


def check_tokenizer(directory: Path) -> None:
    """Check the form of every file of a tokenizer in `directory`, and that tokenizer.json opens.

    Raises:
        DocumentError: Names the file, the place, the value received and the value expected.
    """
    for name, form in FORMS.items():
        if (directory / name).exists():
            read_json(directory / name, form, most_bytes=MOST_BYTES)
    for name in ("vocab.txt", "merges.txt"):
        if (directory / name).exists():
            check_vocabulary(directory / name)
    if (directory / TOKENIZER).exists():
        open_tokenizer(directory / TOKENIZER)


def check_vocabulary(path: Path) -> None:
    """Check a vocabulary of one token a line, or merges of two parts a line."""
    lines = read_text(path, most_bytes=MOST_BYTES).split("\n")
    if not any(lines):
        raise DocumentError(f"{path} is empty; expected one token per line; {FETCH}")
    if path.name == "merges.txt":
        for number, line in enumerate(lines, 1):
            if line.strip() and not line.startswith("#version") and len(line.split(" ")) != 2:
                raise DocumentError(
                    f"{path} line {number} is {line[:40]!r}; expected two parts with one space between them; {FETCH}"
                )


def open_tokenizer(path: Path) -> Tokenizer:
    """Open a tokenizer.json, and encode a few texts with it.

    Raises:
        DocumentError: The file does not have the form of a tokenizer, or the tokenizers library refuses it.
    """
    from tokenizers import Tokenizer

    content = read_bytes(path, MOST_BYTES, FETCH)
    document = parse_json(content, path, forms.TOKENIZER)
    check_words(document, path)
    tokenizer = refused(lambda: Tokenizer.from_str(content.decode("utf-8")), path)
    try_out(tokenizer, path)
    return tokenizer


def check_words(document: Json, path: Path) -> None:
    """Raise DocumentError where two tokens of a vocabulary share an id, or the vocabulary lacks the token for unknown
    words."""
    model = document["model"]
    words = model["vocab"]
    if not words:
        raise DocumentError(f"{path}: model.vocab is empty; expected the tokens of the model; {FETCH}")
    names = words if isinstance(words, dict) else {word[0]: n for n, word in enumerate(words)}
    if isinstance(words, dict) and len(set(words.values())) < len(words):
        name_of: dict[int, str] = {}
        for name, number in words.items():
            if number in name_of:
                raise DocumentError(
                    f"{path}: model.vocab has the id {number} for {name_of[number]!r} and for {name!r}; expected a "
                    f"different id for each token; {FETCH}"
                )
            name_of[number] = name
    added = {token["content"]: token["id"] for token in document.get("added_tokens") or []}
    for name, number in added.items():
        if isinstance(words, dict) and words.get(name, number) != number:
            raise DocumentError(
                f"{path}: the token {name!r} has the id {number} in added_tokens and {words[name]} in model.vocab; "
                f"expected the same id; {FETCH}"
            )
    unknown = model.get("unk_token")
    if unknown is not None and model.get("type") != "Unigram" and unknown not in names:
        raise DocumentError(f"{path}: model.unk_token is {unknown!r}; expected a token of model.vocab; {FETCH}")


def try_out(tokenizer: Tokenizer, path: Path) -> None:
    """Raise DocumentError where a tokenizer opens but fails on an ordinary text."""
    for text in TRIALS:
        refused(lambda text=text: tokenizer.encode(text), path)  # type: ignore[misc]


def refused(make: Callable[[], Result], path: Path) -> Result:
    """Return the result of `make`. Any error of it, the library's panics included, becomes a DocumentError about
    `path`."""
    try:
        return make()
    except (KeyboardInterrupt, SystemExit, MemoryError, ImportError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        if type(error).__name__ == "PanicException" or isinstance(error, Exception):
            reason = " ".join(str(error).split())[:160]
            raise DocumentError(
                f"{path} is not a usable tokenizer ({reason}); expected a tokenizer that transformers saved; {FETCH}"
            ) from None
        raise


def read_preprocessor(directory: Path, form: Form = forms.PREPROCESSOR) -> Json:
    """Read preprocessor_config.json; raise DocumentError or FileNotFoundError where it has another form."""
    return read_json(directory / PREPROCESSOR, form)
