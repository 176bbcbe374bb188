from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tlx import assets
from tlx.data import Data, Dataset, Examples, examples, has_test, load, notes, subset
from tlx.processors import ImageProcessor, TextProcessor, fit
from tlx.types import Column

LABELS = np.repeat([0, 1, 2], [40, 60, 100])


@pytest.mark.parametrize("seed", range(3))
def test_subsets_of_one_seed_are_nested_and_have_every_class(seed):
    subsets = [set(subset(LABELS, shots=shots, seed=seed).tolist()) for shots in (1, 8, 16, 40)]
    for shots, small, large in zip((1, 8, 16), subsets, subsets[1:], strict=False):
        assert small < large
        assert np.bincount(LABELS[sorted(small)]).tolist() == [shots] * 3
    shares = [subset(LABELS, fraction=fraction, seed=seed) for fraction in (0.001, 0.1, 0.5, 1.0)]
    for small, large in pairwise(shares):
        assert set(small.tolist()) < set(large.tolist())
    assert [np.bincount(LABELS[rows]).tolist() for rows in shares] == [
        [1, 1, 1],
        [4, 6, 10],
        [20, 30, 50],
        [40, 60, 100],
    ]


def test_subsets_depend_on_the_seed_only():
    assert subset(LABELS, shots=4, seed=0).tolist() == subset(LABELS, shots=4, seed=0).tolist()
    assert subset(LABELS, shots=4, seed=0).tolist() != subset(LABELS, shots=4, seed=1).tolist()
    # These values are fixed, because results of different years are compared on these subsets.
    assert subset(LABELS, shots=2, seed=7).tolist() == [6, 37, 51, 65, 114, 156]


def test_a_class_with_too_few_examples_is_named():
    with pytest.raises(ValueError) as error:
        subset([0, 0, 1], shots=2, seed=0, classes={0: "negative", 1: "positive"})
    assert str(error.value) == "class 'positive' has 1 training examples, fewer than shots=2"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target": ""}, "target is empty; name a data set, such as 'sentiment/movies'"),
        ({"shots": 4, "fraction": 0.1}, "shots=4 and fraction=0.1 are both ... one"),
        ({"shots": 0}, "shots=0; expected at least 1"),
        ({"fraction": 0.0}, "fraction=0.0; expected more than 0 and at most 1"),
        ({"fraction": 1.5}, "fraction=1.5; expected more than 0 and at most 1"),
        ({"validation": 1.0}, "validation=1.0; expected a share between 0 and 1"),
        ({"tokens": 0}, "tokens=0, buckets=(32, 64, 128); expected lengths of at least 1"),
        ({"size": 0}, "size=0; expected at least 1 pixel"),
        ({"before_crop": 9}, "before_crop=9 and size=None; expected sides of at least `size` pixels"),
        ({"before_crop": (9, 7), "size": 8}, "before_crop=(9, 7) and size=8; expected sides of at least"),
        ({"channels": 2}, "channels=2; expected 1 (grey) or 3 (colour)"),
    ],
)
def test_invalid_data_are_refused(fields, message):
    with pytest.raises(ValueError) as error:
        Data(**{"target": "digits", **fields})
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_the_longest_bucket_equals_tokens():
    assert Data(target="digits", tokens=48).lengths == (32, 48)
    assert Data(target="digits", tokens=512, buckets=(64, 32)).lengths == (32, 64, 512)


def test_shots_reduce_train_only_and_change_the_fingerprint():
    data = Data(target="digits")
    everything, few, other_seed = load(data, 0), load(replace(data, shots=8), 0), load(replace(data, shots=8), 1)
    assert np.bincount(few.train.labels()).tolist() == [8] * 10
    assert len(few.validation) == len(everything.validation) and len(few.test) == len(everything.test)
    assert set(few.train.rows.tolist()) < set(load(replace(data, shots=16), 0).train.rows.tolist())
    assert len({everything.fingerprint, few.fingerprint, other_seed.fingerprint}) == 3
    assert (
        load(replace(data, shots=8, subset_seed=0), 1).fingerprint
        == few.fingerprint
        == load(replace(data, shots=8), 0).fingerprint
    )
    with pytest.raises(ValueError) as error:
        load(replace(data, shots=200), 0)
    assert str(error.value) == "class '0' has 125 training examples, fewer than shots=200"


def fake_dataset(monkeypatch, target="class", **labels):
    """Replace the data set on disk by one with these splits."""
    label = Column("class", ("a", "b")) if target == "class" else Column("number")
    columns = {"text": Column("text"), "label": label}

    def split(name, values):
        return Examples("made up", name, [{"text": b"", "label": value} for value in values], columns)

    dataset = Dataset("made up", {name: split(name, values) for name, values in labels.items()}, columns, "f")
    monkeypatch.setattr(examples, "open_dataset", lambda name: dataset)
    return Data(target="made up")


def test_validation_is_split_from_train_if_it_is_missing(monkeypatch):
    data = fake_dataset(monkeypatch, train=[0, 1] * 50, test=[0, 1])
    first, second = load(data, 0), load(data, 1)
    assert np.bincount(first.validation.labels()).tolist() == [5, 5]
    assert sorted([*first.train.rows, *first.validation.rows]) == list(range(100))
    assert first.validation.rows.tolist() == second.validation.rows.tolist()


@pytest.mark.parametrize(
    ("test", "why"),
    [({}, "has no test split"), ({"test": [-1, -1]}, "does not publish the labels of its test split")],
    ids=["none", "withheld"],
)
def test_without_test_labels_there_is_no_test_split(monkeypatch, test, why):
    data = fake_dataset(monkeypatch, train=[0, 1] * 50, validation=[0, 1, 1], **test)
    splits = load(data, 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (100, 3, 0)
    assert splits.untested == f"data set 'made up' {why} (data.test_on='validation' tests on the validation split)"
    assert splits.page_split == "validation" and not has_test(data)
    assert f"this run has no test score: {splits.untested}" in notes(data, splits, 8)
    with pytest.raises(PermissionError):
        splits.test.labels()
    # A choice of target classes leaves an empty test split empty, and sealing changes nothing.
    chosen = load(replace(data, target_classes=("a", "b")), 0, test=False)
    assert (len(chosen.test), len(chosen.validation)) == (0, 3)


@pytest.mark.parametrize("test", [{}, {"test": [-1, -1]}, {"test": [0, 1]}], ids=["none", "withheld", "there"])
def test_validation_is_the_test_split_if_requested(monkeypatch, test):
    data = fake_dataset(monkeypatch, train=[0, 1] * 50, validation=[0, 1, 1], **test)
    data = replace(data, test_on="validation")
    splits = load(data, 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (90, 10, 3)
    assert splits.validation.split == "train" and splits.test.split == "validation"
    assert not splits.untested and has_test(data)
    assert any(
        "validation split of 'made up', because data.test_on='validation'" in note for note in notes(data, splits, 8)
    )


@pytest.mark.parametrize(
    ("train", "test", "withheld"),
    [([0.0, 5.0], [-1.0, -1.0], True), ([-1.0, 5.0], [-1.0, 2.0], False), ([0.0, 5.0], [float("nan")] * 2, True),
     ([0.0, 5.0], [0.0, 1.0], False)],
)  # fmt: skip
def test_missing_numbers_are_recognised(monkeypatch, train, test, withheld):
    """STS-B has test labels of -1, and other labels in [0, 5]."""
    data = fake_dataset(monkeypatch, "number", train=train * 10, validation=[0.5, 1.0], test=test)
    assert bool(load(data, 0).untested) == withheld


def test_a_missing_test_split_is_refused(monkeypatch):
    data = replace(fake_dataset(monkeypatch, train=[0, 1] * 9, test=[0, 1]), test_on="validation")
    with pytest.raises(
        ValueError, match=r"data.test_on is 'validation', but data set 'made up' has no validation split"
    ):
        load(data, 0)
    with pytest.raises(ValueError, match=r"test_on is 'train'; expected one of 'test', 'validation'"):
        replace(data, test_on="train")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_label_of_minus_one_among_other_labels_is_refused(monkeypatch, split):
    labels = {"train": [0, 1] * 9, "validation": [0, 1], "test": [0, 1]}
    data = fake_dataset(monkeypatch, **(labels | {split: [*labels[split], -1]}))
    with pytest.raises(
        ValueError, match=rf"made up {split}\[{len(labels[split])}\]: label is -1; expected one of the 2 classes"
    ):
        load(data, 0)


def test_subsets_of_numbers_are_not_stratified(monkeypatch):
    data = fake_dataset(monkeypatch, "number", train=np.linspace(0, 1, 50).tolist(), validation=[0.5], test=[0.5])
    assert len(load(replace(data, shots=7), 0).train) == 7
    assert len(load(replace(data, fraction=0.5), 0).train) == 25


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"test": [0]}, "data set 'made up' has no 'train' split; it has 'test'"),
        ({"train": [0, 1]}, "data set 'made up' ... 'test' split ... 'validation' split"),
        ({"train": [], "validation": [0], "test": [0]}, "data set 'made up' has no examples in its split 'train'"),
        ({"train": [0], "validation": [0], "test": []}, "data set 'made up' has no examples in its split 'test'"),
        ({"train": [0, 5], "validation": [0], "test": [0]}, "made up train[1]: label is 5 ... 2 classes 0..1"),
    ],
)
def test_unusable_splits_are_refused(monkeypatch, labels, message):
    with pytest.raises(ValueError) as error:
        load(fake_dataset(monkeypatch, **labels), 0)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_the_processor_follows_from_the_data_and_the_weights():
    digits = Data(target="digits")
    splits = load(digits, 0)

    def processor_for(data, splits, pretrained=None):
        return fit(data, splits.columns, pretrained, example=lambda: splits.validation[0])

    assert processor_for(digits, splits).shape == (8, 8, 1)
    assert processor_for(replace(digits, size=28, channels=3), splits).shape == (28, 28, 3)
    pretrained = ImageProcessor(size=40, crop=(32, 32), mean=(0.2, 0.4, 0.6), std=(0.5,))
    assert processor_for(digits, splits, pretrained) == pretrained
    processor = processor_for(replace(digits, size=16, channels=1), splits, pretrained)
    assert processor.shape == (16, 16, 1) and processor.mean == pytest.approx((0.4,))

    tokenizer = TextProcessor.load(assets.extract("minilm-l6"))
    with pytest.raises(ValueError) as error:
        processor_for(digits, splits, tokenizer)
    assert (
        str(error.value) == "'digits' has images, but the weights have a tokenizer; name the weights of an image model"
    )
    movies = Data(target="sentiment/movies", tokens=16)
    assert processor_for(movies, load(movies, 0), tokenizer).tokens == 16
    with pytest.raises(ValueError) as error:
        processor_for(movies, load(movies, 0))
    assert (
        str(error.value)
        == "'sentiment/movies' has text, but the weights have no tokenizer; name weights with a tokenizer"
    )


def test_a_sealed_split_has_a_length_but_no_content(monkeypatch):
    splits, sealed = (load(Data(target="digits"), 0, test=test) for test in (True, False))
    assert len(sealed.test) == len(splits.test) and sealed.fingerprint == splits.fingerprint
    with pytest.raises(PermissionError) as error:
        sealed.test[0]
    assert str(error.value) == "digits test is sealed: this run does not read this split"
    for read in (sealed.test.labels, lambda: list(sealed.test), lambda: sealed.test.source[0]):
        with pytest.raises((PermissionError, IndexError)):
            read()
