"""Notes about unusual data: one note for each kind, and no note about usual data."""

from dataclasses import replace

import numpy as np
import pytest

from tlx import assets
from tlx.data import Data, Dataset, Examples, examples, load, notes, oddities
from tlx.data.duplicates import sketches
from tlx.processors import TextProcessor
from tlx.types import Column


def texts(count, start=0, word="film"):
    return [f"{word} number {n}" for n in range(start, start + count)]


def pictures(count, seed):
    return list(np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 1)).astype(np.uint8))


def fake_dataset(monkeypatch, target="class", kind="text", **splits):
    """Replace the data sets on disk by one data set with splits of (inputs, labels)."""
    label = Column("class", ("a", "b")) if target == "class" else Column("number")
    columns = {kind: Column(kind), "label": label}

    def split(name, inputs, labels):
        records = [{kind: value, "label": truth} for value, truth in zip(inputs, labels, strict=True)]
        return Examples("made up", name, records, columns)

    all_splits = {name: split(name, *arrays) for name, arrays in splits.items()}
    dataset = Dataset("made up", all_splits, columns, "f")
    monkeypatch.setattr(examples, "open_dataset", lambda name: dataset)
    return Data(target="made up")


CLEAN = {
    "train": (texts(20), [0, 1] * 10),
    "validation": (texts(6, 100), [0, 1] * 3),
    "test": (texts(6, 200), [0, 1] * 3),
}


def notes_of(monkeypatch, batch=8, processor=None, seed=0, **changes):
    data = fake_dataset(monkeypatch, **(CLEAN | changes))
    return notes(data, load(data, seed), batch, processor)


def test_usual_data_have_no_notes(monkeypatch):
    assert notes_of(monkeypatch) == []
    images = {name: (pictures(len(inputs), n), labels) for n, (name, (inputs, labels)) in enumerate(CLEAN.items())}
    assert notes_of(monkeypatch, kind="image", **images) == []


def test_test_rows_copied_from_train(monkeypatch):
    copied = (texts(4, 200) + texts(2, 7), [0, 1] * 3)
    assert notes_of(monkeypatch, test=copied) == ["2 of 6 inputs of test are also in train"]
    # The labels and the surrounding white space do not matter.
    relabelled = ([" film number 3\n", *texts(5, 200)], [1, 1, 0, 1, 0, 1])
    assert notes_of(monkeypatch, test=relabelled) == ["1 of 6 inputs of test are also in train"]


def test_validation_rows_copied_from_train(monkeypatch):
    messages = notes_of(monkeypatch, validation=(texts(6), [0, 1] * 3))
    assert messages == ["6 of 6 inputs of validation are also in train"]
    messages = notes_of(monkeypatch, validation=CLEAN["test"])
    assert messages == ["6 of 6 inputs of test are also in validation"]


def test_copies_of_examples_outside_the_subset_do_not_count(monkeypatch):
    data = replace(fake_dataset(monkeypatch, **(CLEAN | {"test": (texts(6, 0), [0, 1] * 3)})), shots=2)
    splits = load(data, 0)
    rows = set(splits.train.rows.tolist()) & set(range(6))
    messages = notes(data, splits, 4)
    assert messages == ([f"{len(rows)} of 6 inputs of test are also in train"] if rows else [])


def test_images_are_compared_too(monkeypatch):
    images = {name: (pictures(len(inputs), n), labels) for n, (name, (inputs, labels)) in enumerate(CLEAN.items())}
    images["test"][0][3] = images["train"][0][5]
    assert notes_of(monkeypatch, kind="image", **images) == ["1 of 6 inputs of test are also in train"]
    images["test"][0][4] = (images["validation"][0][1] * 0.9).astype(np.uint8)
    assert "1 of 6 inputs of test are nearly the same as one in validation" in notes_of(
        monkeypatch, kind="image", **images
    )
    same = (np.zeros((20, 16, 16, 1), np.uint8), [0, 1] * 10)
    assert "all 20 inputs of train are the same" in notes_of(monkeypatch, kind="image", **(images | {"train": same}))


LONG = "there are few films of which one wants to see the last hour a second time, and this is one of them"


def test_inputs_that_repeat_another_one(monkeypatch):
    inputs = [*texts(14), "Film  NUMBER 3", "film number 5", LONG, LONG.replace("second", "2nd"), *texts(2, 50)]
    labels = [0, 1] * 10
    assert notes_of(monkeypatch, train=(inputs, labels)) == [
        "2 of 20 inputs of train repeat another one, 1 of them with another label, which data.drop_duplicates=True "
        "leaves out",
        "1 of 20 inputs of train nearly repeats another one, which data.drop_duplicates=True leaves out",
    ]
    test = ([LONG.replace("few", "two"), LONG, *texts(4, 200)], [0, 1] * 3)
    assert notes_of(monkeypatch, train=(inputs, labels), test=test)[2:] == [
        "1 of 6 inputs of test nearly repeats another one",
        "1 of 6 inputs of test are also in train",
        "1 of 6 inputs of test are nearly the same as one in train",
    ]


def test_empty_texts(monkeypatch):
    blank = (["", " \n", *texts(18)], [0, 1] * 10)
    messages = notes_of(monkeypatch, train=blank, test=(["", *texts(5, 200)], [0, 1] * 3))
    # Two empty texts do not count as copies.
    assert messages == ["2 of 20 texts of train are empty", "1 of 6 texts of test are empty"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_label_for_all_examples(monkeypatch, split):
    inputs = CLEAN[split][0]
    messages = notes_of(monkeypatch, **{split: (inputs, [1] * len(inputs))})
    assert messages == [
        f"all {len(inputs)} labels of {split} are 'b'",
        f"{split} has no example of class 'a' (of 2 classes)",
    ]
    numbers = {name: (rows, np.linspace(0, 1, len(rows)).tolist()) for name, (rows, _) in CLEAN.items()}
    constant = numbers | {split: (inputs, [2.5] * len(inputs))}
    assert notes_of(monkeypatch, target="number", **constant) == [f"all {len(inputs)} labels of {split} are 2.5"]


def test_a_batch_larger_than_the_data(monkeypatch):
    assert notes_of(monkeypatch, batch=21) == [
        "train has 20 examples, fewer than the batch size 21: one step uses some examples more than once"
    ]
    assert notes_of(monkeypatch, batch=20) == []


def test_truncated_texts(monkeypatch):
    tokenizer = TextProcessor.load(assets.extract("minilm-l6"), tokens=6)
    long = (["film " * 9, "good " * 8, *texts(18)], [0, 1] * 10)
    # "[CLS] film number N [SEP]" has five tokens.
    assert notes_of(monkeypatch, processor=tokenizer, train=long) == [
        "10% of the texts of train are cut at 6 tokens (data.tokens)"
    ]
    short = replace(tokenizer, tokens=4)
    messages = notes_of(monkeypatch, processor=short)
    assert messages == [f"every text of {name} is cut at 4 tokens (data.tokens)" for name in CLEAN]
    monkeypatch.setattr(oddities, "MEASURED", 5)
    messages = notes_of(monkeypatch, processor=short)
    assert messages[0] == "every text of train is cut at 4 tokens (data.tokens) (in a sample of 5)"


def test_of_large_splits_only_a_sample_is_compared_and_the_note_says_so(monkeypatch):
    monkeypatch.setattr(sketches.sample, "__defaults__", (10,))
    messages = notes_of(monkeypatch, validation=(texts(6), [0, 1] * 3))
    assert len(messages) == 1 and messages[0].endswith("(in samples of 6 and 10)")
    assert notes_of(monkeypatch, validation=(texts(6), [0, 1] * 3)) == messages


def test_a_sealed_split_is_not_read(monkeypatch):
    data = fake_dataset(monkeypatch, **(CLEAN | {"test": (texts(6), [1] * 6)}))
    assert notes(data, load(data, 0, test=False), 8) == []


def test_only_runs_on_the_same_examples_share_measurements(monkeypatch):
    data = replace(fake_dataset(monkeypatch, **CLEAN), shots=4)
    first, same, other = load(data, 0), load(data, 0), load(data, 1)
    for splits in (same, other):
        oddities.take_over(splits, first)
    notes(data, same, 8)
    measured = [splits.streams["labelled"].measured for splits in (first, same, other)]
    assert {name for name, _ in measured[0]} == {"sketch", "groups"}
    assert measured[0] is measured[1]
    assert measured[2] == {}
