"""Perturbed sources and targets: noise in labels and inputs, fewer classes, long tails."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tlx.data import Data, Dataset, Examples, examples, load, notes, train_batches
from tlx.data.perturbation import Perturbation
from tlx.data.shifts import Blur, Contrast, DropWords, GaussianNoise, Rotate
from tlx.data.subsets import long_tail
from tlx.processors import ImageProcessor
from tlx.types import Column

BOTH = Data(source="mnist5k", target="digits", labels=0, size=8)
TEXT = "It is a truth universally acknowledged, that 1 man in possession of a good fortune must be in want of a wife."


def random(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(BOTH, eps_y=1.5), "eps_y=1.5; expected a probability, 0 to 1"),
        (lambda: replace(BOTH, eps_x=-0.1), "eps_x=-0.1; expected a probability, 0 to 1"),
        (
            lambda: replace(BOTH, imbalance=0.5),
            "imbalance=0.5; expected 1 ... more ... class ... class",
        ),
        (
            lambda: Data(target="digits", eps_y=0.3),
            "eps_y=0.3 ... source ... source ... source=...",
        ),
        (
            lambda: Data(target="digits", target_classes=("1", "1")),
            "target_classes=('1', '1') ... class twice ... class",
        ),
    ],
)
def test_invalid_perturbations_are_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    for part in message.split(" ... "):
        assert part in str(error.value)


def source(seed=0, **fields):
    return load(replace(BOTH, **fields), seed).streams["source"]


def test_labels_are_replaced_at_random_nested_and_over_all_classes():
    clean = source().labels()
    noisy = {eps: source(eps_y=eps).labels() for eps in (0.3, 0.7, 1.0)}
    for eps, labels in noisy.items():
        assert labels.dtype == np.int32
        # A tenth of the draws give the original class.
        assert (labels != clean).mean() == pytest.approx(0.9 * eps, abs=0.025)
        # Labels replaced at a smaller eps have the same replacement at a larger eps.
        assert ((labels == clean) | (labels == noisy[1.0])).all()
    assert ((noisy[0.3] == clean) | (noisy[0.3] == noisy[0.7])).all()
    # The new label is uniform and independent of the original: a table of 10 x 10 with about 35 in each cell.
    table = np.zeros((10, 10))
    np.add.at(table, (clean, noisy[1.0]), 1)
    assert ((table - 35) ** 2 / 35).sum() < 99 + 4 * math.sqrt(2 * 99)
    assert not np.array_equal(noisy[0.7], source(eps_y=0.7, seed=1).labels())
    np.testing.assert_array_equal(noisy[0.7], source(eps_y=0.7, subset_seed=0, seed=1).labels())


def test_every_way_to_read_a_label_gives_the_same_label():
    noisy = source(eps_y=0.7)
    rows = random().choice(len(noisy), 20, replace=False)
    expected = noisy.labels()[rows]
    assert [noisy[row]["label"] for row in rows] == noisy.view(rows).labels().tolist() == expected.tolist()
    fresh = load(replace(BOTH, eps_y=0.7), 0).streams["source"]
    assert fresh.view(rows).labels().tolist() == expected.tolist()
    processor = ImageProcessor(size=(8, 8), channels=1)
    batch = next(train_batches(fresh, processor, batch=32, seed=0))
    assert batch["label"].tolist() == noisy.whole().labels()[batch["index"]].tolist()
    # The inputs are unchanged.
    np.testing.assert_array_equal(noisy[3]["image"], source()[3]["image"])


def changed(one, other):
    return {n for n in range(300) if not np.array_equal(one[n]["image"], other[n]["image"])}


def test_inputs_are_perturbed_at_random_nested_and_without_their_labels():
    clean, less, more, every = (source(eps_x=eps) for eps in (0.0, 0.3, 0.7, 1.0))
    assert changed(clean, less) < changed(clean, more) < changed(clean, every) == set(range(300))
    assert len(changed(clean, more)) == pytest.approx(210, abs=4 * math.sqrt(300 * 0.21))
    for n in changed(clean, less):
        np.testing.assert_array_equal(less[n]["image"], every[n]["image"])
    np.testing.assert_array_equal(clean.labels(), every.labels())
    assert changed(every, source(eps_x=1.0, seed=1)) == set(range(300))
    # The choice of inputs is independent of the choice of labels.
    noisy = source(eps_x=0.5, eps_y=0.5)
    both = changed(clean, noisy) & set(np.flatnonzero(noisy.labels()[:300] != clean.labels()[:300]))
    assert len(both) == pytest.approx(300 * 0.5 * 0.45, abs=4 * math.sqrt(300 * 0.2))


def test_named_shifts_are_applied_in_order():
    turned = source(eps_x=1.0, shift=(Rotate(degrees=90.0), Contrast(factor=0.5)))
    plain = source()[7]["image"]
    expected = Contrast(factor=0.5)(np.rot90(plain), random())
    np.testing.assert_array_equal(turned[7]["image"], expected)
    # The default is Gaussian noise, drawn separately for each example.
    noise = [source(eps_x=1.0)[n]["image"].astype(float) - source()[n]["image"] for n in (7, 8)]
    assert np.std(noise[0]) > 30 and not np.array_equal(*noise)


def test_both_texts_of_a_pair_are_perturbed():
    columns = {"text": Column("text"), "text_pair": Column("text"), "label": Column("class", ("a", "b"))}
    examples = Examples("pairs", "train", [{"text": TEXT, "text_pair": TEXT, "label": 0}], columns)
    perturbed = examples.perturbed(Perturbation(0, "pairs", inputs=1.0, shifts=(DropWords(share=0.5),)))[0]
    assert len({perturbed["text"], perturbed["text_pair"], TEXT}) == 3 and perturbed["label"] == 0


def test_the_target_shift_applies_to_all_examples_and_is_equal_for_all_seeds():
    plain = load(BOTH, 0)
    first, other = (load(replace(BOTH, target_shift=(GaussianNoise(std=0.3),)), seed) for seed in (0, 1))
    for name in ("unlabelled", "validation", "test"):
        before, one, two = (splits.by_name[name] for splits in (plain, first, other))
        for n in range(0, len(one), 40):
            assert not np.array_equal(before[n]["image"], one[n]["image"])
            np.testing.assert_array_equal(one[n]["image"], two[n]["image"])
    assert changed(plain.streams["source"], first.streams["source"]) == set()
    # An example with the same number in another split has different noise.
    assert not np.array_equal(
        first.test[0]["image"].astype(int) - plain.test[0]["image"],
        first.streams["unlabelled"][0]["image"].astype(int) - plain.streams["unlabelled"][0]["image"],
    )
    hidden = first.streams["unlabelled"]
    for view in (hidden, hidden.view(range(5)), hidden.whole()):
        assert view[0].keys() == {"image", "index"}
        with pytest.raises(PermissionError):
            view.labels()


def test_the_fingerprint_depends_on_the_perturbation():
    fields = (
        {},
        {"eps_y": 0.3},
        {"eps_y": 0.7},
        {"eps_x": 0.3},
        {"eps_x": 0.3, "shift": (Blur(sigma=1.0),)},
        {"imbalance": 5.0},
        {"source_classes": ("1", "2")},
        {"target_classes": ("1", "2")},
        {"target_shift": (Blur(sigma=1.0),)},
    )
    prints = [load(replace(BOTH, **changes), 0).fingerprint for changes in fields]
    assert len(set(prints)) == len(prints)
    assert load(replace(BOTH, eps_y=0.3), 1).fingerprint not in prints
    assert load(replace(BOTH, shift=(Blur(sigma=1.0),)), 1).fingerprint == prints[0]
    sealed = load(replace(BOTH, target_shift=(Blur(sigma=1.0),)), 0, test=False)
    assert sealed.fingerprint == prints[-1]
    with pytest.raises(PermissionError):
        sealed.test[0]


def test_source_and_target_may_have_a_subset_of_the_classes():
    data = replace(BOTH, source_classes=("0", "1", "2", "3"), target_classes=("5", "3", "2"), labels=2)
    splits, everything = load(data, 0), load(BOTH, 0)
    assert set(splits.streams["source"].labels().tolist()) == {0, 1, 2, 3}
    assert set(splits.streams["labelled"].labels().tolist()) == {2, 3, 5}
    assert len(splits.streams["labelled"]) == 6 and splits.classes == everything.classes
    for name in ("validation", "test"):
        kept_examples, every = getattr(splits, name), getattr(everything, name)
        assert kept_examples.rows.tolist() == every.rows[np.isin(every.labels(), [2, 3, 5])].tolist()
    truth = everything.streams["unlabelled"].whole()
    classes = examples.open_dataset("digits").splits["train"].labels()[splits.streams["unlabelled"].rows]
    assert set(classes.tolist()) == {2, 3, 5} and len(truth) > len(classes)
    # Labels are replaced by classes of the source only.
    noisy = load(replace(data, eps_y=1.0), 0).streams["source"].labels()
    assert np.bincount(noisy).min() > 0.2 * len(noisy) and noisy.max() == 3
    sealed = load(data, 0, test=False)
    assert sealed.fingerprint == splits.fingerprint and len(sealed.test) == len(splits.test)


@pytest.mark.parametrize("imbalance", [2.0, 10.0, 100.0])
def test_a_long_tail_falls_exponentially_to_its_share(imbalance):
    labels = np.repeat([4, 0, 2], [300, 400, 300])
    rows = long_tail(labels, imbalance, seed=3)
    # The most frequent class is first; equally frequent classes are ordered by number.
    expected = {0: 400, 2: min(300, round(400 / imbalance**0.5)), 4: min(300, round(400 / imbalance))}
    assert {label: int((labels[rows] == label).sum()) for label in expected} == expected
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert set(long_tail(labels, 2 * imbalance, seed=3)) < set(rows)
    assert long_tail(labels, imbalance, seed=4).tolist() != rows.tolist()
    assert np.bincount(labels[long_tail(labels, 1e9, seed=0)]).tolist() == [400, 0, 1, 0, 1]
    counts = np.bincount(source(imbalance=imbalance).labels())
    assert counts.max() / counts.min() == pytest.approx(imbalance, rel=0.15)


class Unreadable(tuple):
    """Records that must not be read."""

    def __getitem__(self, row):
        raise AssertionError(f"record {row} was read")


def fake_datasets(monkeypatch, **sets):
    """Replace the data sets on disk by data sets `name=(classes, kind, {split: labels})`."""

    def dataset(name):
        classes, kind, splits = sets[name]
        columns = {kind: Column(kind), "label": Column("class", classes) if classes else Column("number")}
        labelled_splits = {
            split: Examples(name, split, [{"text": TEXT.encode(), "label": value} for value in values], columns)
            if values is not None
            else Examples(name, split, Unreadable(range(4)), columns)
            for split, values in splits.items()
        }
        return Dataset(name, labelled_splits, columns, name)

    monkeypatch.setattr(examples, "open_dataset", dataset)


NEAR = (("cat", "dog", "owl"), "text", {"train": [0, 1, 2] * 4, "validation": [0, 1, 2], "test": [0, 1, 2]})
CLOSED = (("cat", "dog", "owl"), "text", {"train": None, "validation": None, "test": None})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"shift": (Blur(sigma=1.0),)},
            "shift: Blur(sigma=1.0) ... images ... 'near' ... text ... text are: DropWords, Typos",
        ),
        (
            {"target_shift": (DropWords(share=0.5), Rotate(degrees=5.0))},
            "target_shift: Rotate(degrees=5.0) ... images ... 'near' ... text ... text are: DropWords, Typos",
        ),
        (
            {"target_classes": ("cow",)},
            "target_classes: target 'near' has no class 'cow'; close: 'owl'",
        ),
    ],
)
def test_invalid_settings_are_refused_before_data_are_read(monkeypatch, fields, message):
    fake_datasets(monkeypatch, near=CLOSED, far=CLOSED)
    with pytest.raises(ValueError) as error:
        load(Data(source="far", target="near", labels=0, **fields), 0)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_a_source_class_that_the_target_lacks_can_be_left_out(monkeypatch):
    far = (("bee", "owl", "cat"), "text", {"train": [0, 1, 1, 2, 0]})
    fake_datasets(monkeypatch, near=NEAR, far=far)
    data = Data(source="far", target="near", labels=0, source_classes=("cat", "owl"), eps_y=0.0)
    assert load(data, 0).streams["source"].labels().tolist() == [2, 2, 0]
    assert set(load(replace(data, eps_y=1.0), 0).streams["source"].labels().tolist()) <= {0, 2}
    with pytest.raises(ValueError, match=r"^source_classes: source 'far' has no class 'cow'; close: "):
        load(replace(data, source_classes=("cow",)), 0)
    fake_datasets(monkeypatch, near=NEAR, far=(far[0], "text", {"train": [0, 1]}))
    with pytest.raises(ValueError) as error:
        load(data, 0)
    assert str(error.value) == "source_classes: the training split of source 'far' has no example of class 'cat'"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"eps_y": 0.5}, "eps_y=0.5 ... classes ... labels of source 'far' ... numbers"),
        ({"imbalance": 5.0}, "imbalance=5.0 ... classes ... labels of source 'far' ... numbers"),
        ({"target_classes": ("cat",)}, "target_classes: ... target 'near' ... numbers"),
    ],
)
def test_numbers_have_no_classes(monkeypatch, fields, message):
    numbers = ((), "text", {"train": [0.5] * 8, "validation": [0.5], "test": [0.5]})
    fake_datasets(monkeypatch, near=numbers, far=numbers)
    with pytest.raises(ValueError) as error:
        load(Data(source="far", target="near", labels=0, **fields), 0)
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_texts_lose_words_by_default(monkeypatch):
    fake_datasets(monkeypatch, near=NEAR, far=NEAR)
    source = load(Data(source="far", target="near", labels=0, eps_x=1.0), 0).streams["source"]
    sizes = [len(source[n]["text"].split()) for n in range(12)]
    assert np.mean(sizes) == pytest.approx(0.5 * len(TEXT.split()), abs=2) and len(set(sizes)) > 1


def test_a_small_source_and_a_missing_class_are_noted(monkeypatch):
    fake_datasets(monkeypatch, near=NEAR, far=(("cat", "owl"), "text", {"train": [0] * 10}))
    data = Data(source="far", target="near", labels=1)

    def notes_of(batch):
        """Return the notes about numbers and classes; another note says that all texts here are equal."""
        return [note for note in notes(data, load(data, 0), batch) if "example" in note]

    few = "labelled has 3 examples, fewer than the batch size {}: one step uses some examples more than once"
    assert notes_of(10) == ["source has no example of classes 'dog', 'owl' (of 3 classes)", few.format(10)]
    assert notes_of(16)[:3] == [
        "source has 10 examples, fewer than the batch size 16: one step uses some examples more than once",
        "source has no example of classes 'dog', 'owl' (of 3 classes)",
        few.format(16),
    ]
    fake_datasets(monkeypatch, near=(NEAR[0], "text", {**NEAR[2], "train": [0, 2] * 4}), far=NEAR)
    data = replace(data, labels=0.5)
    assert notes_of(4) == ["labelled has no example of class 'dog' (of 3 classes)"]
    # There is no note about requested settings.
    data = replace(data, target_classes=("cat", "owl"), source_classes=("cat",))
    assert notes_of(4) == []


def test_values_that_are_not_numbers_are_named():
    image = np.full((2, 2, 1), np.nan, np.float32)
    columns = {"image": Column("image"), "label": Column("class", ("a", "b"))}
    records = [{"image": image, "label": 0} for image in (np.zeros((2, 2), np.uint8), image)]
    examples = Examples("scans", "train", records, columns)
    assert examples[0]["image"].shape == (2, 2, 1)
    with pytest.raises(ValueError) as error:
        examples[1]
    assert str(error.value) == (
        "scans train[1]: the pixels are float32[2, 2, 1] with NaN values; expected uint8[height, width, channels]"
    )
    columns = {"text": Column("text"), "label": Column("number")}
    examples = Examples("scores", "test", [{"text": b"", "label": value} for value in (0.5, np.nan)], columns)
    for read in (examples.labels, lambda: examples[1]):
        with pytest.raises(ValueError) as error:
            read()
        assert str(error.value) == (
            "scores test[1]: 'label' is nan; expected a finite number of float32: remove such examples "
            "when you build the data set"
        )
