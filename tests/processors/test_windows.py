"""Windows of a long context: every token of it is in one, neighbours share the stride, and tokens know characters."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models

from tlx.assets import extract
from tlx.data import Examples, evaluation_batches
from tlx.processors import TextProcessor
from tlx.processors.windows import lengths
from tlx.tasks import QuestionAnswering
from tlx.types import Column

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "?", "anna", "saw", "the", "cafe", "##s", "in", "rome", "."]
CONTEXT = "Anna saw the  Cafés in Rome. Anna saw Rome."
EXAMPLE = {"text": "Who?", "text_pair": CONTEXT}
# [CLS] who ? [SEP] CONTEXT [SEP], of which the context has 12 tokens.
TOKENS, STRIDE = 10, 2


@pytest.fixture(scope="module")
def processor():
    raw = Tokenizer(tokenizer_models.WordPiece({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return TextProcessor(raw, 32)


@pytest.fixture(scope="module")
def windowed(processor):
    return replace(processor, tokens=TOKENS, stride=STRIDE)


def test_windows_hold_the_whole_context_and_share_the_stride(processor, windowed):
    whole = processor(EXAMPLE)["input_ids"][4:-1]
    arrays = windowed(EXAMPLE)
    ids = arrays["input_ids"].reshape(-1, TOKENS)
    assert ids.shape == (4, TOKENS) and windowed.measure([EXAMPLE]) == windowed.uncut([EXAMPLE]) == [4 * TOKENS]
    assert (ids[:, :4] == [2, 4, 5, 3]).all()
    parts = [row[4 : row.tolist().index(3, 4)] for row in ids]
    for before, after in pairwise(parts):
        np.testing.assert_array_equal(before[-STRIDE:], after[:STRIDE])
    np.testing.assert_array_equal(np.concatenate([parts[0], *(part[STRIDE:] for part in parts[1:])]), whole)
    # The last window is padded to the length of the others.
    mask, real = arrays["attention_mask"].reshape(-1, TOKENS), ids != 0
    np.testing.assert_array_equal(mask > 0, real)
    assert not windowed.cuts(EXAMPLE) and windowed.window == TOKENS and windowed.identity != processor.identity


def test_a_text_of_one_window_is_read_as_without_a_stride(processor, windowed):
    short = EXAMPLE | {"text_pair": "Anna saw"}
    for name, array in processor(short).items():
        np.testing.assert_array_equal(windowed(short)[name], array)
        np.testing.assert_array_equal(windowed.many([short])[0][name], array)


def test_windows_are_those_of_transformers(windowed):
    import transformers

    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(windowed.tokenizer.to_str()), pad_token="[PAD]"
    )
    expected = fast(
        EXAMPLE["text"], CONTEXT, max_length=TOKENS, stride=STRIDE, truncation="only_second", padding="max_length",
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    arrays = windowed(EXAMPLE)
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        np.testing.assert_array_equal(arrays[name], np.ravel(expected[name]))
    kinds, characters = windowed.places(EXAMPLE)
    inside = np.ravel([[number == 1 for number in expected.sequence_ids(n)] for n in range(4)])
    np.testing.assert_array_equal(kinds == 2, inside)
    np.testing.assert_array_equal(characters[inside], np.concatenate(expected["offset_mapping"])[inside])


def test_tokens_know_their_characters_in_the_context(processor):
    kinds, characters = processor.places(EXAMPLE)
    assert kinds.tolist() == [1, 3, 3, 3, *[2] * 12, 3]
    texts = [CONTEXT[first:last] for first, last in characters[kinds == 2]]
    # Accents and case of the characters are those of the context, whatever the tokens are.
    assert texts[:7] == ["Anna", "saw", "the", "Café", "s", "in", "Rome"]
    assert not characters[kinds != 2].any()


@pytest.mark.parametrize("kind", ["pieces", "bytes"])
def test_an_answer_of_whole_words_is_found_in_any_script(kind):
    text = "Zoë naïvely asked: “où est 北京 (Beijing)?” — 12,5 €\u00a0in İzmir\n\tand 😀 Ünïcode CAFÉ, don't!"
    if kind == "pieces":
        processor = TextProcessor.load(extract("minilm-l6"), 128)
    else:
        letters = pre_tokenizers.ByteLevel.alphabet()
        names = ["<s>", "<pad>", "</s>", *sorted(letters)]
        raw = Tokenizer(tokenizer_models.BPE({name: n for n, name in enumerate(names)}, []))
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
        processor = TextProcessor(raw, 256)
    task, stop = QuestionAnswering(), 0
    for word in text.split():
        start = text.index(word, stop)
        stop = start + len(word)
        label = {"text": [word], "answer_start": [start]}
        arrays = task.targets({"text": "Où?", "text_pair": text, "label": label}, processor)
        begin, end = (int(np.flatnonzero(arrays["answer_marks"] & mark)[0]) for mark in (1, 2))
        assert text[arrays["first_characters"][begin] : arrays["last_characters"][end]].strip() == word


def target_words(task, processor, label, text="Who?"):
    """Return for each window the characters of its target; None where the target is its first token."""
    arrays = task.targets({"text": text, "text_pair": CONTEXT, "label": label}, processor)
    size = processor.tokens if len(arrays["token_kinds"]) > processor.tokens else len(arrays["token_kinds"])
    words = []
    for start in range(0, len(arrays["token_kinds"]), size):
        part = {name: array[start : start + size] for name, array in arrays.items()}
        begins, ends = ([int(n) for n in np.flatnonzero(part["answer_marks"] & mark)] for mark in (1, 2))
        assert len(begins) == len(ends) == 1
        is_first = part["token_kinds"][begins[0]] == 1
        text = CONTEXT[part["first_characters"][begins[0]] : part["last_characters"][ends[0]]]
        words.append(None if is_first else text)
    return words


def test_the_target_of_a_window_without_the_whole_answer_is_its_first_token(processor, windowed):
    task = QuestionAnswering(stride=STRIDE)
    answer = {"text": ["Cafés in"], "answer_start": [CONTEXT.index("Cafés")]}
    assert target_words(task, processor, answer) == ["Cafés in"]
    # Windows: Anna saw the Café s | Café s in Rome . | Rome . Anna saw Rome | saw Rome .
    assert target_words(task, windowed, answer) == [None, "Cafés in", None, None]
    assert target_words(task, windowed, {"text": [], "answer_start": []}) == [None] * 4
    # An answer that begins or ends inside of a token has the whole token.
    inner = {"text": ["afé"], "answer_start": [CONTEXT.index("afé")]}
    assert target_words(task, windowed, inner) == ["Café", "Café", None, None]


def test_batches_hold_whole_windows(windowed):
    texts = ["Anna", CONTEXT, CONTEXT + " " + CONTEXT, "Anna saw the"]
    columns = {"text": Column("text"), "text_pair": Column("text")}
    records = [{"text": "Who?", "text_pair": text} for text in texts]
    batches = list(evaluation_batches(Examples("w", "test", records, columns), windowed, batch=2, buckets=(8, TOKENS)))
    assert [batch["input_ids"].shape for batch in batches] == [(2, 8), (2, 8 * TOKENS)]
    assert lengths((4, 8, 10, 99), 10)[:6] == (4, 8, 10, 20, 30, 40)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda p, w: replace(p, tokens=8, stride=5), ("stride=5", "5 tokens of text", "window of 8")),
        (lambda p, w: w({"text": "Who? " * 3, "text_pair": "Anna"}), ("leaves 1 of 10", "stride=2")),
        (lambda p, w: w({"text": "Who? " * 30, "text_pair": "Anna"}), ("leaves 0 of 10",)),
        (
            lambda p, w: QuestionAnswering().targets(EXAMPLE | {"label": {"text": []}}, replace(p, tokens=12)),
            ("more than 12 tokens", "stride=4"),
        ),
        (
            lambda p, w: QuestionAnswering(stride=4, window=64).reader(p),
            ("window has 64 tokens", "32", "Data(tokens=32)"),
        ),
    ],
)
def test_what_does_not_fit_is_named_in_the_error(make, parts, processor, windowed):
    with pytest.raises(ValueError) as error:
        make(processor, windowed)
    assert all(part in str(error.value) for part in parts), error.value
    assert "\n" not in str(error.value)
