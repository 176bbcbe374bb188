"""The directory of a tokenizer gives the token ids of `transformers`, whichever of its files has the settings."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors as post

from tlx import processors
from tlx.processors import TextProcessor, opening

WORDS = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "film", "##s", "good", "Good", "cafe", "café", "!", "b", "##ad",
    "电",
]  # fmt: skip
TEXTS = (
    "A good film",
    "Good films! café CAFÉ",
    "",
    " film a",
    "[MASK] film [SEP] <mask> <new> good",
    "电film bad " * 12,
    "é\tb\n",
)
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
BPE_TEXT = ["a good film", "good films! café", "films bad"] * 3


def bert(folder):
    """A directory as `BertTokenizer.save_pretrained` writes it, with consistent files."""
    raw = Tokenizer(models.WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.post_processor = post.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    raw.add_special_tokens(WORDS[:5])
    raw.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "bert", "vocab_size": 32, "pad_token_id": 0})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 20})
    write(folder, "special_tokens_map.json", {"cls_token": "[CLS]", "sep_token": "[SEP]"})
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")


def roberta(folder):
    """As `bert`, for `RobertaTokenizer`."""
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*names, *sorted(pre_tokenizers.ByteLevel.alphabet()), "go", "od", "good", "Ġg", "fi", "film"]
    merges = [("g", "o"), ("o", "d"), ("go", "od"), ("Ġ", "g"), ("f", "i")]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False)
    raw = Tokenizer(model)
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    raw.post_processor = post.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    raw.add_special_tokens(names)
    raw.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "roberta", "vocab_size": 300, "pad_token_id": 1})
    write(folder, "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", "model_max_length": 20})
    write(folder, "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")


def plain(folder):
    """As `bert`, for a tokenizer without a separate class."""
    bert(folder)
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})


def write(folder, name, document):
    (folder / name).write_text(json.dumps(document), encoding="utf-8")


def settings(**fields):
    """Return a change of tokenizer_config.json; a field of None is removed."""

    def change(folder):
        document = json.loads((folder / "tokenizer_config.json").read_text()) | fields
        write(folder, "tokenizer_config.json", {name: value for name, value in document.items() if value is not None})

    return change


def form(**fields):
    """Return a change of tokenizer.json; a field that is a dict without a type is merged into the existing one."""

    def change(folder):
        document = json.loads((folder / "tokenizer.json").read_text())
        for name, value in fields.items():
            old = document.get(name)
            merged = isinstance(value, dict) and isinstance(old, dict) and "type" not in value
            document[name] = old | value if merged else value
        write(folder, "tokenizer.json", document)

    return change


def file(name, document):
    return lambda folder: write(folder, name, document)


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def more(*changes):
    return lambda folder: [change(folder) for change in changes]


def added(*tokens):
    """Return a change of tokenizer.json: other added tokens after the existing ones."""

    def change(folder):
        document = json.loads((folder / "tokenizer.json").read_text())
        document["added_tokens"] += [{"id": number, "content": text} | FLAGS | flags for number, text, flags in tokens]
        write(folder, "tokenizer.json", document)

    return change


def decoder(**fields):
    """Return a change of tokenizer_config.json: the added tokens of tokenizer.json, with `fields` changed in all of
    them.
    """

    def change(folder):
        tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        stated = {str(value.pop("id")): value | fields for value in tokens}
        settings(added_tokens_decoder=stated)(folder)

    return change


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
ROBERTA_POST = {
    "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": True,
}  # fmt: skip
LEFT = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 2}
FILL = {
    "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 4, "pad_type_id": 0,
    "pad_token": "[MASK]",
}  # fmt: skip
# The directory, the change, and whether tokenizer.json alone determines the result.
CASES = {
    "bert as saved": (bert, more(), True),
    "bert with decoder": (bert, decoder(), True),
    "bert cased in both": (bert, more(settings(do_lower_case=False), form(normalizer={"lowercase": False})), True),
    "bert without settings": (bert, without("tokenizer_config.json", "special_tokens_map.json"), True),
    "bert of electra": (bert, file("config.json", {"model_type": "electra"}), True),
    "bert of distilbert": (
        bert,
        more(settings(tokenizer_class=None), file("config.json", {"model_type": "distilbert"})),
        True,
    ),
    "distilbert's class": (bert, settings(tokenizer_class="DistilBertTokenizerFast"), True),
    "electra's class": (bert, settings(tokenizer_class="ElectraTokenizer"), False),
    "bert without post-processor": (bert, form(post_processor=None), False),
    "bert without [CLS]": (bert, form(post_processor={"single": [{"Sequence": {"id": "A", "type_id": 0}}]}), False),
    "bert with another template": (
        bert,
        form(post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}),
        False,
    ),
    "bert cased in settings": (bert, settings(do_lower_case=False), False),
    "bert cased in form": (bert, form(normalizer={"lowercase": False}), False),
    "bert keeps accents": (bert, settings(strip_accents=False), False),
    "bert strips accents": (bert, settings(strip_accents=True, do_lower_case=False), False),
    "bert splits no Chinese": (bert, settings(tokenize_chinese_chars=False), False),
    "bert without normalizer": (bert, form(normalizer=None), False),
    "bert splits at whitespace": (bert, form(pre_tokenizer={"type": "Whitespace"}), False),
    "bert of short words": (bert, form(model={"max_input_chars_per_word": 3}), False),
    "bert of other pieces": (bert, form(model={"continuing_subword_prefix": "@@"}), False),
    "bert's other [CLS]": (bert, more(without("special_tokens_map.json"), settings(cls_token="[MASK]")), False),
    "bert's map says [CLS]": (bert, file("special_tokens_map.json", {"cls_token": "[MASK]"}), False),
    "bert's map says nothing": (bert, more(decoder(), file("special_tokens_map.json", {"cls_token": "[MASK]"})), True),
    "bert's map adds": (bert, file("special_tokens_map.json", {"additional_special_tokens": ["<new>"]}), False),
    "bert's settings add": (bert, settings(additional_special_tokens=["<new>"]), False),
    "bert's settings add more": (bert, settings(extra_special_tokens={"image_token": "<new>"}), False),
    "bert's added tokens": (bert, file("added_tokens.json", {"<new>": 16}), False),
    "bert adds in the form": (bert, added((16, "<new>", {"special": False})), False),
    "bert adds a word": (bert, added((6, "film", {"special": False})), True),
    "bert's decoder adds": (
        bert,
        more(decoder(), settings(added_tokens_decoder={"16": {"content": "<new>"} | FLAGS})),
        False,
    ),
    "bert's decoder strips": (bert, decoder(lstrip=True), False),
    "bert's pad is lost": (bert, settings(pad_token="<pad>"), False),
    "bert's newer vocabulary": (
        bert,
        lambda folder: (folder / "vocab.txt").write_text("\n".join(reversed(WORDS)) + "\n"),
        True,
    ),
    "bert from words alone": (bert, without("tokenizer.json"), False),
    "bert cuts on the left": (bert, settings(truncation_side="left"), True),
    "bert's form cuts on the left": (bert, form(truncation=LEFT), True),
    "bert pads on the left": (bert, settings(padding_side="left"), True),
    "bert without types": (bert, settings(model_input_names=["input_ids", "attention_mask"]), True),
    "bert splits specials": (bert, settings(split_special_tokens=True), False),
    "bert opened as roberta": (bert, file("config.json", {"model_type": "roberta"}), True),
    "bert opened as it is": (bert, more(settings(tokenizer_class="TokenizersBackend"), form(normalizer=None)), True),
    "of tlx": (bert, file("config.json", {"model_type": "tlx"}), True),
    "of tlx without a class": (
        bert,
        more(file("config.json", {"model_type": "tlx"}), settings(tokenizer_class=None)),
        True,
    ),
    "plain": (plain, more(), True),
    "plain without post-processor": (plain, form(post_processor=None), False),
    "plain of other words": (plain, form(normalizer=None, pre_tokenizer={"type": "Whitespace"}), True),
    "plain adds": (plain, settings(additional_special_tokens=["<new>"]), False),
    "plain names a new token": (plain, settings(mask_token="<mask>"), False),
    "plain wants a beginning": (plain, settings(add_bos_token=True, bos_token="[CLS]"), True),
    "plain pads by the form": (plain, more(settings(pad_token=None), form(padding=FILL)), True),
    "roberta as saved": (roberta, more(), True),
    "roberta with decoder": (roberta, decoder(), True),
    "roberta's mask strips": (
        roberta,
        more(decoder(), settings(mask_token={"__type": "AddedToken", "content": "<mask>"} | FLAGS | {"lstrip": True})),
        True,
    ),
    "roberta's space in settings": (roberta, settings(add_prefix_space=True), False),
    "roberta's space in the form": (roberta, form(pre_tokenizer=BYTES), False),
    "roberta's space in both": (
        roberta,
        more(settings(add_prefix_space=True), form(pre_tokenizer=BYTES, post_processor=ROBERTA_POST)),
        True,
    ),
    "roberta without post-processor": (roberta, form(post_processor=None), False),
    "roberta lowercases": (roberta, form(normalizer={"type": "Lowercase"}), False),
    "roberta from words alone": (roberta, without("tokenizer.json"), False),
    "roberta's unknown": (roberta, form(model={"unk_token": "<unk>"}), False),
    "roberta skips merges": (roberta, form(model={"ignore_merges": True}), False),
    "roberta's other end": (roberta, settings(sep_token="<mask>"), False),
}


def same_inputs(processor, reference, text, pair):
    built = processor({"text": text} if pair is None else {"text": text, "text_pair": pair})
    wanted = reference(text, pair, truncation=True, max_length=processor.tokens)
    # A model whose tokenizer gives no token types reads zeros.
    wanted = {"token_type_ids": [0] * len(wanted["input_ids"]), **wanted}
    return all(built[name].tolist() == list(wanted[name]) for name in built)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_the_token_ids_are_those_of_transformers(tmp_path, name):
    import transformers

    make, change, alone = CASES[name]
    make(tmp_path)
    change(tmp_path)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    processor = TextProcessor.load(tmp_path, 16)
    for text in TEXTS:
        for pair in (None, "good film", TEXTS[5]):
            assert same_inputs(processor, reference, text, pair), (text, pair)
    if reference.pad_token_id is not None:
        assert processor.pad_id == reference.pad_token_id
    assert TextProcessor.load(tmp_path).tokens == min(reference.model_max_length, 512)
    assert (opening.open_alone(tmp_path) is not None) == alone


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_a_saved_tokenizer_is_the_same_in_both_libraries(tmp_path, name):
    import transformers

    make, change, _ = CASES[name]
    (tmp_path / "before").mkdir()
    make(tmp_path / "before")
    change(tmp_path / "before")
    processor = TextProcessor.load(tmp_path / "before", 12)
    processor.save(tmp_path / "after")
    shutil.copy(tmp_path / "before" / "config.json", tmp_path / "after")
    reopened = TextProcessor.load(tmp_path / "after")
    reference_side = transformers.AutoTokenizer.from_pretrained(tmp_path / "after")
    assert reopened.tokens == reference_side.model_max_length == 12
    assert reference_side.padding_side == "right" and reopened.pad_id == processor.pad_id
    for text in TEXTS:
        for pair in (None, "good film"):
            assert same_inputs(processor, reference_side, text, pair)
            assert reopened({"text": text, "text_pair": pair})["input_ids"].tolist() == (
                processor({"text": text, "text_pair": pair})["input_ids"].tolist()
            )


@pytest.mark.parity
def test_a_tokenizer_without_config_files_opens_in_transformers_unchanged(tmp_path):
    """transformers does not rebuild it with the class of the model type."""
    import transformers

    raw = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "good": 2, "Good": 3}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = post.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    processor = TextProcessor(raw, 6, pad_id=0, token_types=False)
    processor.save(tmp_path)
    write(tmp_path, "config.json", {"model_type": "bert"})
    reference_side = transformers.AutoTokenizer.from_pretrained(tmp_path)
    reopened = processors.load(tmp_path)
    assert (
        reference_side("Good good x")["input_ids"]
        == reopened({"text": "Good good x"})["input_ids"].tolist()
        == [3, 2, 1]
    )
    assert list(reference_side("a", "b")) == ["input_ids", "attention_mask"]
    assert reopened.tokens == reference_side.model_max_length == 6
    assert not reopened({"text": "good", "text_pair": "good"})["token_type_ids"].any()


def test_a_tokenizer_that_cannot_be_read_is_refused_with_its_directory(tmp_path):
    bert(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordPiece"')
    with pytest.raises(ValueError, match=rf"{tmp_path}.*tokenizer.json is not JSON"):
        TextProcessor.load(tmp_path)
