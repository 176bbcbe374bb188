import itertools
from typing import Any

import numpy as np
import pytest

from tlx import assets
from tlx.data import Crop, Data, Flip, Noise, evaluation_batches, load, readers, train_batches
from tlx.data.augment import Augmentation, augmented
from tlx.processors import ImageProcessor, TextProcessor

BUCKETS = (8, 16, 32)
AUGMENT = (Crop(padding=1), Flip(), Noise(std=0.1))


@pytest.fixture(scope="module")
def text():
    return load(Data(target="sentiment/movies", shots=25), 0), TextProcessor.load(assets.extract("minilm-l6"), 48)


@pytest.fixture(scope="module")
def image():
    return load(Data(target="digits", shots=7), 0), ImageProcessor(size=(8, 8), channels=1)


def take(batches, count):
    return list(itertools.islice(batches, count))


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_batch_has_the_values_of_its_examples(text):
    splits, processor = text
    by_index = {int(row): position for position, row in enumerate(splits.train.rows)}
    for batch in take(train_batches(splits.train, processor, batch=8, seed=0, buckets=BUCKETS), 5):
        assert {name: str(array.dtype) for name, array in batch.items()} == dict.fromkeys(
            ("input_ids", "token_type_ids", "attention_mask", "label", "index"), "int32"
        )
        length = batch["input_ids"].shape[1]
        longest = int(batch["attention_mask"].sum(1).max())
        assert length == min(bucket for bucket in (*BUCKETS, 48) if bucket >= longest)
        for row, index in enumerate(batch["index"].tolist()):
            example = splits.train[by_index[index]]
            assert batch["label"][row] == example["label"]
            ids = processor(example)["input_ids"]
            assert batch["input_ids"][row, : len(ids)].tolist() == ids.tolist()


def test_every_epoch_has_every_example_once_in_a_separate_order(text):
    splits, processor = text
    indices = [batch["index"] for batch in take(train_batches(splits.train, processor, batch=8, seed=3), 25)]
    epochs = np.concatenate(indices).reshape(4, 50)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == sorted(splits.train.rows.tolist())
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_the_data(image):
    splits, processor = image
    batch = next(train_batches(splits.train.view(range(3)), processor, batch=8, seed=0))
    assert np.unique(batch["index"], return_counts=True)[1].sum() == 8 and len(set(batch["index"].tolist())) == 3


@pytest.mark.parametrize("augment", [(), AUGMENT])
def test_batches_depend_on_the_seed_only(image, augment):
    splits, processor = image
    runs = [take(train_batches(splits.train, processor, batch=8, seed=seed, augment=augment), 12) for seed in (0, 0, 1)]
    assert_same(runs[0], runs[1])
    assert runs[0][0]["index"].tolist() != runs[2][0]["index"].tolist()


@pytest.mark.parametrize("stop", [0, 1, 7, 9])
def test_a_restored_iterator_equals_one_that_was_not_stopped(image, stop):
    splits, processor = image
    options: dict[str, Any] = {"batch": 16, "seed": 5, "augment": AUGMENT}
    batches = take(train_batches(splits.train, processor, **options), 15)
    first = train_batches(splits.train, processor, **options)
    take(first, stop)
    state = first.get_state()
    take(first, 2)
    second = train_batches(splits.train, processor, **options)
    second.set_state(state)
    assert_same(take(second, 15 - stop), batches[stop:])
    first.set_state(state)
    assert_same(take(first, 15 - stop), batches[stop:])


@pytest.mark.parametrize("count", [2, 4])
def test_the_slices_of_the_processes_form_the_global_batch(text, image, count):
    for (splits, processor), augment in ((text, ()), (image, AUGMENT)):
        options: dict[str, Any] = {"batch": 8, "seed": 1, "buckets": BUCKETS, "augment": augment}
        batches = take(train_batches(splits.train, processor, **options), 10)
        shares = [
            take(train_batches(splits.train, processor, **options, process_index=index, process_count=count), 10)
            for index in range(count)
        ]
        joined = [
            {name: np.concatenate([share[name] for share in parts]) for name in parts[0]}
            for parts in zip(*shares, strict=True)
        ]
        assert_same(joined, batches)


def test_a_group_of_text_batches_has_the_same_examples_with_less_padding(text):
    splits, processor = text
    options: dict[str, Any] = {"batch": 8, "seed": 1, "buckets": (8, 16, 24, 32, 48, 64)}
    plain, grouped = (take(train_batches(splits.train, processor, **options, group=group), 12) for group in (1, 4))
    for n in (0, 4, 8):
        drawn = [np.sort(np.concatenate([b["index"] for b in some[n : n + 4]])) for some in (plain, grouped)]
        np.testing.assert_array_equal(*drawn)
    assert sum(b["input_ids"].size for b in grouped) < 0.9 * sum(b["input_ids"].size for b in plain)
    iterator = train_batches(splits.train, processor, **options, group=4)
    take(iterator, 6)
    resumed = train_batches(splits.train, processor, **options, group=4)
    resumed.set_state(iterator.get_state())
    assert_same(take(resumed, 6), grouped[6:])


def test_text_evaluation_is_sorted_by_length_and_keeps_positions(text):
    splits, processor = text
    batches = list(evaluation_batches(splits.validation, processor, batch=64, buckets=(16, 32, 64)))
    real = [batch["weight"] > 0 for batch in batches]
    lengths = np.concatenate([b["attention_mask"].sum(1)[keep] for b, keep in zip(batches, real, strict=True)])
    assert (np.diff(lengths) >= 0).all()
    position = np.concatenate([b["position"][keep] for b, keep in zip(batches, real, strict=True)])
    labels = np.concatenate([b["label"][keep] for b, keep in zip(batches, real, strict=True)])
    assert sorted(position) == list(range(len(splits.validation)))
    np.testing.assert_array_equal(labels, splits.validation.labels()[position])


def test_evaluation_reads_every_example_once_in_order(image):
    splits, processor = image
    batches = list(evaluation_batches(splits.test, processor, batch=100))
    assert [batch["image"].shape for batch in batches] == [(100, 8, 8, 1)] * 4
    weight = np.concatenate([batch["weight"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    assert weight.dtype == np.float32 and weight.tolist() == [1] * 359 + [0] * 41
    assert index[weight == 1].tolist() == list(range(359))
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels[:359], splits.test.labels())
    halves = [
        list(evaluation_batches(splits.test, processor, batch=100, process_index=part, process_count=2))
        for part in (0, 1)
    ]
    assert_same(
        [{name: np.concatenate([one[name], two[name]]) for name in one} for one, two in zip(*halves, strict=True)],
        batches,
    )


@pytest.mark.parametrize("count", [2, 9])
def test_processes_that_share_whole_batches_read_those_of_one(image, count):
    """Nine processes share eight batches: the last one has none."""
    splits, processor = image
    examples = splits.validation.view(np.arange(60))
    whole = list(evaluation_batches(examples, processor, batch=8))
    shares = [
        list(
            evaluation_batches(
                examples, processor, batch=8, process_index=n, process_count=count, whole_batches=True,
                gather=lambda array: array[None],
            )
        )
        for n in range(count)
    ]  # fmt: skip
    for n, share in enumerate(shares):
        assert_same(share, whole[n::count])
    assert sum(map(len, shares)) == len(whole) == 8


def test_no_examples_give_no_evaluation_batches(image):
    splits, processor = image
    assert list(evaluation_batches(splits.test.view([]), processor, batch=4)) == []


def test_a_full_cache_changes_nothing(image, monkeypatch):
    splits, processor = image
    remembered = take(train_batches(splits.train, processor, batch=8, seed=0), 12)
    monkeypatch.setattr(readers, "CACHE_BYTES", 5000)
    view = splits.train.view(range(len(splits.train)))
    assert_same(take(train_batches(view, processor, batch=8, seed=0), 12), remembered)
    (ready,) = view.memory.values()
    assert 0 < len(ready.cache) < len(view)


def test_augmentation_depends_on_seed_step_and_index():
    picture = np.random.default_rng(0).random((6, 6, 1), np.float32)
    keys = list(itertools.product((0, 1), repeat=3))
    images = [
        augmented(picture, (Noise(std=1.0),), seed=seed, step=step, index=index).tobytes() for seed, step, index in keys
    ]
    assert len(set(images)) == len(keys)
    assert images[3] == augmented(picture, (Noise(std=1.0),), seed=0, step=1, index=1).tobytes()


def test_augmentations_keep_the_shape_and_have_the_documented_effect():
    picture = np.arange(36, dtype=np.float32).reshape(6, 6, 1)
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(Flip(probability=1)(picture, rng), picture[:, ::-1])
    np.testing.assert_array_equal(Flip(probability=0)(picture, rng), picture)
    moved = {Crop(padding=1)(picture, rng)[2, 2, 0] for _ in range(200)}
    assert moved == {picture[row, column, 0] for row in (1, 2, 3) for column in (1, 2, 3)}
    for augmentation in AUGMENT:
        assert isinstance(augmentation, Augmentation)
        augmented = augmentation(picture, rng)
        assert augmented.shape == picture.shape and augmented.dtype == np.float32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flip(probability=2), "probability=2; expected 0 to 1"),
        (lambda: Crop(padding=0), "padding=0; expected at least 1 pixel"),
        (lambda: Noise(std=0), "std=0; expected more than 0"),
    ],
)
def test_invalid_augmentations_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


def test_invalid_batches_are_refused(text, image):
    splits, processor = image
    for options, message in (
        ({"batch": 6, "process_count": 4}, "batch of 6 ... cannot be ... 4 processes ... multiple"),
        ({"batch": 8, "process_count": 2, "process_index": 2}, "process_index=2; expected 0 to 1"),
    ):
        with pytest.raises(ValueError) as error:
            train_batches(splits.train, processor, seed=0, **options)
        for part in message.split(" ... "):
            assert part in str(error.value)
    with pytest.raises(ValueError) as error:
        train_batches(splits.train.view([]), processor, seed=0, batch=2)
    assert str(error.value) == "Examples('digits', 'train', 0 of 1258) is empty; expected at least one training example"
    splits, processor = text
    with pytest.raises(ValueError) as error:
        train_batches(splits.train, processor, seed=0, batch=2, augment=(Flip(),))
    assert str(error.value) == "augment=(Flip(probability=0.5),) applies to images, but 'sentiment/movies' has text"
