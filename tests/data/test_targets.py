"""Label arrays of tasks: several classes per example, one tag per word, and any name."""

from dataclasses import dataclass

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tlx.data import Examples, evaluation_batches, inputs_of, train_batches
from tlx.data.readers import Targets
from tlx.data.table import Leaf, Table
from tlx.processors import ImageProcessor, TextProcessor
from tlx.processors.opening import set_length
from tlx.tasks import TokenClassification
from tlx.types import Column, Field

WORDS = [["the", "unhappy", "cat"], ["cat"], ["a", "b", "c", "d", "e", "f"]]
TAGS = [[0, 1, 1], [1], [0, 0, 0, 0, 0, 1]]
PIECES = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "the", "un", "##happy", "cat", *"abcdef"]


@pytest.fixture(scope="module")
def processor():
    raw = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return TextProcessor(raw, 6)


@dataclass(frozen=True)
class Tags(Targets):
    """A task that puts the tag of each word on its first token."""

    def fields(self):
        return {"label": Field((None,), "int32", -100), "count": Field((), "int32")}

    def targets(self, example, processor):
        words = processor.word_ids(example)
        first = (words >= 0) & (np.diff(words, prepend=-1) != 0)
        label = np.where(first, np.array(example["label"])[np.maximum(words, 0)], -100)
        return {"label": label, "count": np.int32(first.sum())}


@dataclass(frozen=True)
class Several(Targets):
    """A task with 1 for each class of the example."""

    def fields(self):
        return {"label": Field((3,), "float32")}

    def targets(self, example, processor):
        return {"label": np.eye(3, dtype=np.float32)[example["label"]].sum(0)}


def tagged():
    records = [{"words": words, "label": tags} for words, tags in zip(WORDS, TAGS, strict=True)]
    return Examples("tags", "train", records, {"words": Column("words"), "label": Column("tags", ("O", "NAME"))})


def test_each_token_has_the_number_of_its_word(processor):
    assert processor({"words": WORDS[0]})["input_ids"].tolist() == [1, 4, 5, 6, 7, 2]
    assert processor.word_ids({"words": WORDS[0]}).tolist() == [-1, 0, 1, 1, 2, -1]
    assert processor.measure([{"words": words} for words in WORDS]) == [6, 3, 6]
    assert processor.cuts({"words": WORDS[2]}) and not processor.cuts({"words": WORDS[0]})
    with pytest.raises(TypeError, match=r"only text; .*`words`"):
        processor.word_ids({"text": "the cat"})


@pytest.mark.parametrize(
    ("tokens", "numbers"), [(6, [-1, 0, 1, 1, 2, -1]), (5, [-1, 1, 1, 2, -1]), (4, [-1, -1, 2, -1]), (3, [-1, 2, -1])]
)
def test_a_word_whose_first_piece_is_cut_off_has_no_number(processor, tokens, numbers):
    raw = Tokenizer.from_str(processor.tokenizer.to_str())
    set_length(raw, tokens, "left")
    left = TextProcessor(raw, tokens)
    assert left.word_ids({"words": WORDS[0]}).tolist() == numbers
    labels = TokenClassification(names=("O", "NAME")).targets({"words": WORDS[0], "label": [0, 0, 1]}, left)["label"]
    assert (labels >= 0).sum() == len({number for number in numbers if number >= 0})


def test_a_word_whose_end_is_cut_off_keeps_its_number(processor):
    assert TextProcessor(processor.tokenizer, 4).word_ids({"words": WORDS[0]}).tolist() == [-1, 0, 1, -1]


def test_an_example_has_the_value_of_its_label_column():
    assert tagged()[0] == {"words": WORDS[0], "label": TAGS[0], "index": 0}
    assert "label" not in tagged().unlabelled()[0]
    with pytest.raises(TypeError, match=r"each label of tags train is a list \(tags\)"):
        tagged().labels()


def test_tags_are_padded_as_their_field_declares(processor):
    (batch,) = evaluation_batches(tagged(), processor, batch=3, buckets=(4, 8), targets=Tags())
    assert batch["label"].shape == batch["input_ids"].shape == (3, 6)
    by_index = dict(zip(batch["index"].tolist(), batch["label"].tolist(), strict=True))
    assert by_index[0] == [-100, 0, 1, -100, 1, -100] and by_index[1] == [-100, 1, -100, -100, -100, -100]
    assert sorted(batch["count"].tolist()) == [1, 3, 4]
    assert inputs_of(batch, Tags()).keys() == {"input_ids", "token_type_ids", "attention_mask"}


def test_several_classes_are_one_array(processor):
    columns = {"text": Column("text"), "label": Column("classes", ("a", "b", "c"))}
    records = [{"text": "the cat", "label": label} for label in ([0, 2], [], [1])]
    batch = next(train_batches(Examples("m", "train", records, columns), processor, batch=3, seed=0, targets=Several()))
    expected = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert batch["label"].tolist() == [expected[index] for index in batch["index"]]
    assert batch["label"].dtype == np.float32


def test_labels_can_be_read_without_the_images(tmp_path):
    class Unread(dict):
        def __getitem__(self, name):
            assert name != "image", "the image was read"
            return super().__getitem__(name)

    columns = {"image": Column("image"), "label": Column("classes", ("a", "b", "c"))}
    examples = Examples("m", "train", [Unread(label=[n % 3]) for n in range(4)], columns)
    table = Table(tmp_path / "t", [Leaf(("pooled",), False)], processor=ImageProcessor(size=(2, 2)))
    table = table.grown(np.arange(4), None, [np.arange(8.0).reshape(4, 2)])
    (batch,) = evaluation_batches(examples, table, batch=4, targets=Several())
    assert batch["label"].argmax(1).tolist() == [0, 1, 2, 0] and batch["pooled"].shape == (4, 2)


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"words": ["a"], "label": [0, 1]}, ("tags train[0]", "1 words", "2 tags")),
        ({"words": ["a"], "label": [2]}, ("label is 2", "2 classes")),
        ({"words": "a cat", "label": [0]}, ("'words'", "one text")),
        ({"words": [], "label": []}, ("'words'", "no words")),
    ],
)
def test_words_and_tags_of_different_length_are_refused(record, parts):
    examples = Examples("tags", "train", [record], tagged().columns)
    with pytest.raises(ValueError) as error:
        examples[0]
    assert all(part in str(error.value) for part in parts), error.value
