"""What is odd about data is said, each kind by itself, and nothing is said of what is not odd."""

from dataclasses import replace

import numpy as np
import pytest

from tlx import assets
from tlx.data import Data, Dataset, Examples, examples, load, notes, oddities
from tlx.processors import TextProcessor
from tlx.types import Column


def texts(count, start=0, word="film"):
    return [f"{word} number {n}" for n in range(start, start + count)]


def made_up(monkeypatch, target="class", kind="text", **splits):
    """Opens, in place of what lies on disk, a data set of splits of (inputs, labels)."""
    label = Column("class", ("a", "b")) if target == "class" else Column("number")
    columns = {kind: Column(kind), "label": label}

    def split(name, inputs, labels):
        records = [{kind: own, "label": truth} for own, truth in zip(inputs, labels, strict=True)]
        return Examples("made up", name, records, columns)

    found = {name: split(name, *own) for name, own in splits.items()}
    dataset = Dataset("made up", found, columns, "f")
    monkeypatch.setattr(examples, "open_dataset", lambda name: dataset)
    return Data(target="made up")


CLEAN = {
    "train": (texts(20), [0, 1] * 10),
    "validation": (texts(6, 100), [0, 1] * 3),
    "test": (texts(6, 200), [0, 1] * 3),
}


def said(monkeypatch, batch=8, processor=None, seed=0, **changes):
    data = made_up(monkeypatch, **(CLEAN | changes))
    return notes(data, load(data, seed), batch, processor)


def test_of_what_is_not_odd_nothing_is_said(monkeypatch):
    assert said(monkeypatch) == []
    images = {name: (np.arange(4 * len(own), dtype=np.uint8).reshape(-1, 2, 2, 1) + 80 * n, labels)
              for n, (name, (own, labels)) in enumerate(CLEAN.items())}  # fmt: skip
    assert said(monkeypatch, kind="image", **images) == []


def test_test_rows_that_are_copied_from_train(monkeypatch):
    copied = (texts(4, 200) + texts(2, 7), [0, 1] * 3)
    assert said(monkeypatch, test=copied) == ["2 of 6 inputs of test are also in train"]
    # Whatever their labels are, and whatever space stands around them.
    relabelled = ([" film number 3\n", *texts(5, 200)], [1, 1, 0, 1, 0, 1])
    assert said(monkeypatch, test=relabelled) == ["1 of 6 inputs of test are also in train"]


def test_validation_that_is_a_copy_of_train(monkeypatch):
    found = said(monkeypatch, validation=(texts(6), [0, 1] * 3))
    assert found == ["6 of 6 inputs of validation are also in train"]
    found = said(monkeypatch, validation=CLEAN["test"])
    assert found == ["6 of 6 inputs of test are also in validation"]


def test_copies_of_what_a_seed_leaves_out_of_training_are_none(monkeypatch):
    data = replace(made_up(monkeypatch, **(CLEAN | {"test": (texts(6, 0), [0, 1] * 3)})), shots=2)
    splits = load(data, 0)
    rows = set(splits.train.rows.tolist()) & set(range(6))
    found = notes(data, splits, 4)
    assert found == ([f"{len(rows)} of 6 inputs of test are also in train"] if rows else [])


def test_pictures_are_compared_too(monkeypatch):
    random = np.random.default_rng(0)
    images = {name: (list(random.integers(0, 256, (len(own), 2, 2, 1)).astype(np.uint8)), labels)
              for name, (own, labels) in CLEAN.items()}  # fmt: skip
    images["test"][0][3] = images["train"][0][5]
    assert said(monkeypatch, kind="image", **images) == ["1 of 6 inputs of test are also in train"]
    same = (np.zeros((20, 2, 2, 1), np.uint8), [0, 1] * 10)
    assert "all 20 inputs of train are the same" in said(monkeypatch, kind="image", **(images | {"train": same}))


def test_texts_that_are_empty(monkeypatch):
    blank = (["", " \n", *texts(18)], [0, 1] * 10)
    found = said(monkeypatch, train=blank, test=(["", *texts(5, 200)], [0, 1] * 3))
    # Nothing is no copy of nothing.
    assert found == ["2 of 20 texts of train are empty", "1 of 6 texts of test are empty"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_label_for_all(monkeypatch, split):
    inputs = CLEAN[split][0]
    found = said(monkeypatch, **{split: (inputs, [1] * len(inputs))})
    assert found == [
        f"all {len(inputs)} labels of {split} are 'b'",
        f"{split} has no example of class 'a' (of 2 classes)",
    ]
    numbers = {name: (own, np.linspace(0, 1, len(own)).tolist()) for name, (own, _) in CLEAN.items()}
    constant = numbers | {split: (inputs, [2.5] * len(inputs))}
    assert said(monkeypatch, target="number", **constant) == [f"all {len(inputs)} labels of {split} are 2.5"]


def test_a_batch_that_is_larger_than_the_data(monkeypatch):
    assert said(monkeypatch, batch=21) == [
        "train has 20 examples, fewer than the batch size 21: one step uses some examples more than once"
    ]
    assert said(monkeypatch, batch=20) == []


def test_texts_that_are_cut(monkeypatch):
    tokenizer = TextProcessor.load(assets.extract("minilm-l6"), tokens=6)
    long = (["film " * 9, "film " * 8, *texts(18)], [0, 1] * 10)
    # [CLS] film number N [SEP] are five.
    assert said(monkeypatch, processor=tokenizer, train=long) == [
        "10% of the texts of train are cut at 6 tokens (data.tokens)"
    ]
    short = replace(tokenizer, tokens=4)
    found = said(monkeypatch, processor=short)
    assert found == [f"every text of {name} is cut at 4 tokens (data.tokens)" for name in CLEAN]
    monkeypatch.setattr(oddities, "MEASURED", 5)
    found = said(monkeypatch, processor=short)
    assert found[0] == "every text of train is cut at 4 tokens (data.tokens) (in a sample of 5)"


def test_of_large_splits_a_sample_is_compared_and_the_note_says_so(monkeypatch):
    monkeypatch.setattr(oddities, "COMPARED", 10)
    found = said(monkeypatch, validation=(texts(6), [0, 1] * 3))
    assert len(found) == 1 and found[0].endswith("(in samples of 6 and 10)")
    assert said(monkeypatch, validation=(texts(6), [0, 1] * 3)) == found


def test_a_sealed_split_is_not_looked_at(monkeypatch):
    data = made_up(monkeypatch, **(CLEAN | {"test": (texts(6), [1] * 6)}))
    assert notes(data, load(data, 0, test=False), 8) == []


def test_digests_are_kept_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(oddities, "cache_dir", lambda: tmp_path)
    data = made_up(monkeypatch, **CLEAN)
    one = load(data, 0).test
    one.key = "known"
    found = oddities.digests(one)
    [file] = (tmp_path / "digests").iterdir()
    again = one.view(np.arange(6))
    again.source = ()
    np.testing.assert_array_equal(oddities.digests(again), found)
    assert file.name.startswith("known-test-") and len(set(found.tolist())) == 6


def test_runs_on_the_same_examples_share_what_is_measured_and_no_others(monkeypatch):
    data = replace(made_up(monkeypatch, **CLEAN), shots=4)
    first, again, other = load(data, 0), load(data, 0), load(data, 1)
    for splits in (again, other):
        oddities.take_over(splits, first)
    notes(data, again, 8)
    measured = [splits.streams["labelled"].measured for splits in (first, again, other)]
    assert measured[0].keys() == {"digests"}
    assert measured[0] is measured[1]
    assert measured[2] == {}
