"""Open the tokenizer of a Hugging Face directory so that its token ids are exactly those of `transformers`.

`transformers` does not read `tokenizer.json` alone. Classes such as `BertTokenizer` build the tokenizer again from its
vocabulary and from `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`. Importing that library
takes more than a second, so `tokenizers` alone opens a directory with files that agree with each other. `transformers`
opens every other directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tlx.files import documents
from tlx.processors.files import MOST_BYTES, refused
from tlx.trees import Json

if TYPE_CHECKING:
    from tokenizers import Tokenizer


# `transformers` writes 1e30 for a tokenizer without a length.
LONGEST = 10**6
BERT_NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
ROBERTA_NAMES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
WITH_TYPES, WITHOUT_TYPES = ("input_ids", "token_type_ids", "attention_mask"), ("input_ids", "attention_mask")


class Kind(NamedTuple):
    """A class of `transformers`: the form of the tokenizers that it builds, and its default inputs."""

    form: str
    inputs: tuple[str, ...]


KINDS = {
    "BertTokenizer": Kind("bert", WITH_TYPES),
    "DistilBertTokenizer": Kind("bert", WITHOUT_TYPES),
    "RobertaTokenizer": Kind("roberta", WITHOUT_TYPES),
    "PreTrainedTokenizer": Kind("as it is", WITHOUT_TYPES),
    "TokenizersBackend": Kind("as it is", WITHOUT_TYPES),
}
# The class of `transformers` for a model_type where tokenizer_config.json names none.
REGISTERED = {
    "bert": "BertTokenizer",
    "electra": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
}
SETTINGS_OF = {
    "bert": {"do_lower_case", "tokenize_chinese_chars", "strip_accents"},
    "roberta": {"add_prefix_space", "trim_offsets", "errors"},
    "as it is": set(),
}
# Keys of tokenizer_config.json that change no token id, or that `Opened` carries.
HARMLESS = {
    "add_bos_token",
    "add_eos_token",
    "additional_special_tokens",
    "added_tokens_decoder",
    "backend",
    "clean_up_tokenization_spaces",
    "do_basic_tokenize",
    "extra_special_tokens",
    "is_local",
    "local_files_only",
    "max_length",
    "model_input_names",
    "model_max_length",
    "name_or_path",
    "never_split",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "padding_side",
    "processor_class",
    "special_tokens_map_file",
    "stride",
    "tokenizer_class",
    "tokenizer_file",
    "truncation_side",
    "truncation_strategy",
}


class Opened(NamedTuple):
    """A tokenizer and its settings.

    `pad_id` pads its batches, `token_types` says whether its models read token types, `side` is the side on which it
    cuts long texts, and `length` is the length that tokenizer_config.json states (None where it states none).
    """

    tokenizer: Tokenizer
    pad_id: int
    token_types: bool
    side: str
    length: int | None


def open_tokenizer(directory: Path) -> Opened:
    """Open the tokenizer of `directory`; never run code from it.

    Raises FileNotFoundError where there is none, ValueError where it has no fast form or cannot be read.
    """
    return open_alone(directory) or open_by_transformers(directory)


def open_by_transformers(directory: Path) -> Opened:
    """Open the tokenizer of `directory` by `transformers.AutoTokenizer`."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # `AutoTokenizer` asks for a config.json even where there is but one way to read a tokenizer.json.
    alone = not any((directory / name).is_file() for name in ("config.json", "tokenizer_config.json"))
    opener = PreTrainedTokenizerFast if alone else AutoTokenizer
    tokenizer = refused(
        lambda: opener.from_pretrained(directory, trust_remote_code=False, local_files_only=True), directory
    )
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise ValueError(
            f"the tokenizer of {directory} has no fast version; save it with transformers as tokenizer.json first"
        )
    pad = tokenizer.pad_token_id
    return Opened(
        fast,
        configured_pad(directory) if pad is None else pad,
        "token_type_ids" in tokenizer.model_input_names,
        tokenizer.truncation_side,
        stated_length({"model_max_length": tokenizer.model_max_length}),
    )


def open_alone(directory: Path) -> Opened | None:
    """Open tokenizer.json without `transformers`; None where `transformers` might build a different tokenizer."""
    if not (directory / "tokenizer.json").is_file() or (directory / "added_tokens.json").is_file():
        return None
    try:
        settings, form = read_json(directory / "tokenizer_config.json"), read_json(directory / "tokenizer.json")
        kind = KINDS.get(class_name(directory, settings) or "")
        if kind is None or not settings.keys() <= HARMLESS | ROBERTA_NAMES.keys() | SETTINGS_OF[kind.form]:
            return None
        names = special_tokens(directory, settings, kind)
        if names is None or not tokens_agree(form, settings, names, kind):
            return None
        if not {"bert": bert_agrees, "roberta": roberta_agrees, "as it is": whole}[kind.form](form, settings, names):
            return None
        cut, fill = form.get("truncation") or {}, form.get("padding") or {}
        pad = names.get("pad_token") or (fill.get("pad_token") if kind.form == "as it is" else None)
    except (KeyError, TypeError, AttributeError, ValueError):
        # The files hold something unknown to this reader; transformers reports the fault.
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception:  # tokenizers raises bare exceptions
        return None
    pad_id = None if pad is None else tokenizer.token_to_id(pad)
    return Opened(
        tokenizer,
        configured_pad(directory) if pad_id is None else pad_id,
        "token_type_ids" in settings.get("model_input_names", kind.inputs),
        settings.get("truncation_side") or cut.get("direction", "right").lower(),
        stated_length(settings),
    )


def class_name(directory: Path, settings: Json) -> str | None:
    """Return the class, without "Fast", with which `transformers` opens `directory`; None where only `transformers`
    knows."""
    document = read_json(directory / "config.json")
    kind = document.get("model_type")
    if "auto_map" in settings or "fast_tokenizer_files" in settings or "tokenizer_class" in document:
        return None
    if kind not in (None, "tlx", *REGISTERED):
        return None
    # Where nothing names a class, the file is taken as it is.
    name = settings.get("tokenizer_class") or REGISTERED.get(kind or "") or "TokenizersBackend"
    return name.removesuffix("Fast")


def special_tokens(directory: Path, settings: Json, kind: Kind) -> dict[str, str] | None:
    """Return the text of each named special token, merged from the files as in `transformers`; None where this function
    cannot merge them."""
    unnamed: dict[str, str | None] = dict.fromkeys(ROBERTA_NAMES)
    by_form: dict[str, Mapping[str, str | None]] = {"bert": BERT_NAMES, "roberta": ROBERTA_NAMES, "as it is": unnamed}
    expected = by_form[kind.form]
    tokens = {name: settings[name] for name in ROBERTA_NAMES if name in settings}
    if any(isinstance(token, dict) and token.get("__type") != "AddedToken" for token in tokens.values()):
        return None
    if "added_tokens_decoder" not in settings:
        tokens |= read_json(directory / "special_tokens_map.json")
    extra = [tokens.pop(name, None) for name in ("additional_special_tokens", "extra_special_tokens")]
    if any(extra) or not tokens.keys() <= expected.keys():
        return None
    if kind.form != "as it is" and any(value is None for value in tokens.values()):
        return None
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in {**expected, **texts}.items() if text is not None}


def tokens_agree(form: Json, settings: Json, names: Mapping[str, str], kind: Kind) -> bool:
    """Return whether the added tokens of tokenizer.json are those that `transformers` adds, with the same ids and
    flags."""
    added = {token["content"]: token for token in form["added_tokens"]}
    if any(text not in added for text in names.values()):
        return False
    if any(settings.get(name) for name in ("additional_special_tokens", "extra_special_tokens")):
        return False
    if "added_tokens_decoder" in settings:
        stated = [{"id": int(n), **token} for n, token in settings["added_tokens_decoder"].items()]
        if sorted(stated, key=lambda token: token["id"]) != sorted(form["added_tokens"], key=lambda token: token["id"]):
            return False
    vocabulary = form["model"]["vocab"]
    if kind.form == "as it is":
        # A larger vocabulary is one of those that transformers may patch.
        return len(vocabulary) + len(added) < 100_000
    special = all(added[text]["special"] is True for text in names.values())
    return special and all(vocabulary.get(text) == token["id"] for text, token in added.items())


def whole(form: Json, settings: Json, names: Mapping[str, str]) -> bool:
    """Return whether tokenizer.json is complete: without a post-processor `transformers` makes one."""
    del settings, names
    return form.get("post_processor") is not None


def bert_agrees(form: Json, settings: Json, names: Mapping[str, str]) -> bool:
    """Return whether tokenizer.json equals the tokenizer that `BertTokenizer` builds."""
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
        "strip_accents": settings.get("strip_accents"),
        "lowercase": settings.get("do_lower_case", True),
    }
    model = {
        "type": "WordPiece",
        "unk_token": names["unk_token"],
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    }
    cls, sep = names["cls_token"], names["sep_token"]
    vocabulary = form["model"]["vocab"]

    def special(text: str, kind: int) -> Json:
        return {"SpecialToken": {"id": text, "type_id": kind}}

    def part(name: str, kind: int) -> Json:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special(cls, 0), part("A", 0), special(sep, 0)]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, part("B", 1), special(sep, 1)],
        "special_tokens": {text: {"id": text, "ids": [vocabulary[text]], "tokens": [text]} for text in (cls, sep)},
    }
    return (
        form.get("normalizer") == normalizer
        and form.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and {name: value for name, value in form["model"].items() if name != "vocab"} == model
        and form.get("post_processor") == template
    )


def roberta_agrees(form: Json, settings: Json, names: Mapping[str, str]) -> bool:
    """Return whether tokenizer.json equals the tokenizer that `RobertaTokenizer` builds."""
    space, trim = settings.get("add_prefix_space", False), settings.get("trim_offsets", True)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
    }
    newer = {"byte_fallback": False, "ignore_merges": False}
    vocabulary = form["model"]["vocab"]
    sep, cls = names["sep_token"], names["cls_token"]
    pieces = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True}
    return (
        form.get("normalizer") is None
        and form.get("pre_tokenizer") in (pieces, pieces | {"use_regex": True})
        and newer | {name: value for name, value in form["model"].items() if name not in ("vocab", "merges")}
        == newer | model
        and form.get("post_processor")
        == {
            "type": "RobertaProcessing",
            "sep": [sep, vocabulary[sep]],
            "cls": [cls, vocabulary[cls]],
            "trim_offsets": trim,
            "add_prefix_space": space,
        }
    )


def stated_length(settings: Json) -> int | None:
    """Return the number of tokens at which tokenizer_config.json cuts a text; None where it states none."""
    length = settings.get("model_max_length")
    is_valid = isinstance(length, int | float) and not isinstance(length, bool) and 0 < length <= LONGEST
    return int(length) if is_valid and length is not None else None


def configured_pad(directory: Path) -> int:
    """Return the padding id of a tokenizer without a padding token: that of the model, else 0."""
    pad = read_json(directory / "config.json").get("pad_token_id")
    return 0 if pad is None else pad


def set_length(tokenizer: Tokenizer, tokens: int, side: str) -> None:
    """Cut the texts of `tokenizer` at `tokens`, and pad none: tokenizer.json holds the lengths of its last user.

    `TextProcessor` raises the error for a length that leaves no room for text.
    """
    if tokens > tokenizer.num_special_tokens_to_add(is_pair=False):
        tokenizer.enable_truncation(tokens, strategy="longest_first", direction=side)
    tokenizer.no_padding()


def read_json(file: Path) -> Json:
    """Read the object in a JSON file, empty where there is no file. Raises ValueError for another content."""
    return documents.read_json(file, most_bytes=MOST_BYTES) if file.is_file() else {}
