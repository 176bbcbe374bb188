"""Two data sets in one experiment: the streams, which labels they have, and which settings are refused."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tlx import Recipe, Train, Weights, models, tasks, terms
from tlx.data import Data, Dataset, Examples, examples, load, train_batches
from tlx.processors import ImageProcessor
from tlx.training.prepare import levelled, open_data, prepare, training_batches
from tlx.types import Column, Field

BOTH = Data(source="mnist5k", target="digits", labels=0, size=8)


@pytest.mark.parametrize(
    ("fields", "streams"),
    [
        ({}, ("labelled",)),
        ({"labels": 0.1}, ("labelled", "unlabelled")),
        ({"labels": 0}, ("unlabelled",)),
        ({"source": "mnist5k"}, ("source", "labelled", "unlabelled")),
        ({"source": "mnist5k", "labels": 3}, ("source", "labelled", "unlabelled")),
        ({"source": "mnist5k", "labels": 0.0}, ("source", "unlabelled")),
    ],
)
def test_the_streams_follow_from_the_kind_of_transfer(fields, streams):
    data = Data(target="digits", **fields)
    assert data.stream_names == streams
    splits = load(data, 0)
    assert tuple(splits.streams) == streams
    assert splits.train is splits.streams[streams[0]]
    assert list(splits.by_name) == [*streams, "validation", "test"]


def test_labels_grants_some_labels_and_the_unlabelled_stream_keeps_all_examples():
    few, more = (load(replace(BOTH, labels=count), 3) for count in (2, 5))
    assert np.bincount(few.streams["labelled"].labels()).tolist() == [2] * 10
    assert set(few.streams["labelled"].rows) < set(more.streams["labelled"].rows)
    everything = load(Data(target="digits"), 3).train
    assert few.streams["unlabelled"].rows.tolist() == everything.rows.tolist()
    share = load(replace(BOTH, labels=0.1), 3).streams["labelled"]
    assert len(share) == pytest.approx(0.1 * len(everything), abs=5)
    assert few.fingerprint != more.fingerprint != load(BOTH, 3).fingerprint


def test_a_hidden_label_is_in_no_example_and_no_batch():
    splits = load(BOTH, 0)
    hidden = splits.streams["unlabelled"]
    for view in (hidden, hidden.view(range(5)), hidden.whole()):
        assert view[0].keys() == {"image", "index"}
        with pytest.raises(
            PermissionError, match=r"^the labels of digits train are not available to training in this setting$"
        ):
            view.labels()
    batch = next(train_batches(hidden, ImageProcessor(size=(8, 8), channels=1), batch=4, seed=0))
    assert batch.keys() == {"image", "index"}


def recipe_of(data):
    return Recipe(
        data=data,
        task=tasks.Classification(classes=10),
        model=models.Mlp(inputs=(8, 8, 1), widths=(4,)),
        objective=(*(terms.Supervised(on=name) for name in data.stream_names if name != "unlabelled"), terms.Mcc()),
        train=Train(steps=2, batch=8),
    )


def test_every_step_has_a_batch_of_each_stream_in_a_separate_order():
    data = replace(BOTH, labels=0.5)
    splits = load(data, 0)
    ready = prepare(recipe_of(data), splits)
    first, second = itertools.islice(training_batches(ready, splits), 2)
    assert first.keys() == {"labelled", "source", "unlabelled"}
    for name, batch in first.items():
        assert ("label" in batch) == (name != "unlabelled")
        assert batch["image"].shape == (8, 8, 8, 1)
        assert not np.array_equal(batch["index"], second[name]["index"])
        truth = splits.streams[name].whole()
        if name != "unlabelled":
            assert batch["label"].tolist() == truth.labels()[batch["index"]].tolist()
    (resumed,) = itertools.islice(training_batches(ready, splits, first=1), 1)
    for name, batch in second.items():
        assert resumed[name]["index"].tolist() == batch["index"].tolist()
    # Two streams with equal numbers of examples do not have the same order.
    most = Data(target="digits", labels=0.9999)
    same = load(most, 0)
    assert len(same.streams["labelled"]) == len(same.streams["unlabelled"])
    both = next(training_batches(prepare(recipe_of(most), same), same))
    assert both["labelled"]["index"].tolist() != both["unlabelled"]["index"].tolist()


def fake_datasets(monkeypatch, **sets):
    """Replace the data sets on disk by data sets of given classes and labels of each split."""

    def dataset(name):
        classes, kind, splits = sets[name.replace(" ", "_")]
        columns = {kind: Column(kind), "label": Column("class", classes)}
        labelled_splits = {
            split: Examples(name, split, [{"text": b"a", "label": value} for value in values], columns)
            for split, values in splits.items()
        }
        return Dataset(name, labelled_splits, columns, name)

    monkeypatch.setattr(examples, "open_dataset", dataset)


TARGET = (("cat", "dog", "owl"), "text", {"train": [0, 1, 2] * 4, "validation": [0, 1, 2], "test": [0, 1, 2]})


def test_source_classes_are_matched_by_name_or_by_position(monkeypatch):
    fake_datasets(monkeypatch, near=TARGET, far=(("owl", "cat"), "text", {"train": [0, 1, 1]}))
    source = load(Data(source="far", target="near", labels=0), 0).streams["source"]
    assert source.labels().tolist() == [2, 0, 0] and source.classes == ("cat", "dog", "owl")
    assert [source[n]["label"] for n in range(3)] == [2, 0, 0]
    assert source.view([2, 0]).labels().tolist() == [0, 2] and source.whole().labels().tolist() == [2, 0, 0]
    by_position = load(Data(source="far", target="near", labels=0, match="position"), 0).streams["source"]
    assert by_position.labels().tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("source", "fields", "message"),
    [
        (
            (("cat", "bee"), "text", {"train": [0, 1]}),
            {},
            "class 'bee' of source 'far' ... class of target 'near' (cat, dog, owl); "
            "Data(match='position') ... Data(source_classes=...)",
        ),
        (
            (("a", "b", "c", "d"), "text", {"train": [0, 1]}),
            {"match": "position"},
            "source 'far' has 4 classes ... target 'near' has 3 ... match='position'",
        ),
        (
            (("cat",), "image", {"train": [0]}),
            {},
            "source 'far' ... images with a class ... target 'near' ... text with a class",
        ),
        ((("cat",), "text", {"test": [0]}), {}, "source 'far' has no 'train' split"),
        ((("cat",), "text", {"train": []}), {}, "data set 'far' has no examples in its split 'train'"),
    ],
)
def test_data_sets_that_do_not_fit_together_are_refused(monkeypatch, source, fields, message):
    fake_datasets(monkeypatch, near=TARGET, far=source)
    with pytest.raises(ValueError) as error:
        load(Data(source="far", target="near", labels=0, **fields), 0)
    for part in message.split(" ... "):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "digits"}, "source and target are both 'digits' ... source"),
        *(
            (
                {"labels": labels},
                f"labels={labels} ... number of examples per class ... share below 1.0",
            )
            for labels in (-1, -0.5, 1.0, 1.5)
        ),
        ({"match": "names"}, "match is 'names'; expected one of 'name', 'position'; close: 'name'"),
    ],
)
def test_invalid_settings_are_refused(fields, message):
    with pytest.raises(ValueError) as error:
        Data(target="digits", **fields)
    for part in message.split(" ... "):
        assert part in str(error.value)


def refusal(objective, **fields):
    with pytest.raises(ValueError) as error:
        prepare(replace(recipe_of(BOTH), objective=objective, **fields))
    return str(error.value)


def test_terms_without_their_streams_are_refused_before_training():
    there = "which does not exist; the streams are: source, unlabelled"
    assert refusal((terms.Supervised(),)) == f"Supervised reads the stream 'labelled', {there}"
    for term in (terms.Supervised, terms.LabelSmoothing, terms.RDrop, terms.Mixup):
        message = refusal((terms.Supervised(on="source"), term(on="unlabelled")))
        assert message == f"{term.__name__} reads labels, but the stream 'unlabelled' has no labels"
    assert refusal((terms.Mcc(),)).startswith("no term reads the source: ")


def test_selection_by_hidden_labels_is_named_oracle():
    with pytest.raises(ValueError) as error:
        replace(recipe_of(BOTH), train=Train(steps=2, batch=8, select="best-validation"))
    for part in ("data.labels is 0", "train.select 'best-validation'", "'last'", "'snd'", "'oracle'"):
        assert part in str(error.value)
    with pytest.raises(ValueError) as error:
        replace(recipe_of(Data(target="digits")), train=Train(steps=2, batch=8, select="oracle"))
    for part in ("data.labels is None", "train.select 'oracle'", "'best-validation'"):
        assert part in str(error.value)


def test_streams_that_no_term_reads_are_not_drawn():
    only = replace(recipe_of(BOTH), objective=(terms.Supervised(on="source"),))
    splits = open_data(only)
    assert list(splits.streams) == ["source"]
    assert next(training_batches(prepare(only, splits), splits)).keys() == {"source"}


def test_an_unlabelled_example_is_read_even_if_its_label_is_missing(monkeypatch):
    fake_datasets(monkeypatch, near=(TARGET[0], "text", {**TARGET[2], "train": [-1, -1]}), far=TARGET)
    splits = load(Data(source="far", target="near", labels=0), 0)
    assert splits.streams["unlabelled"][1] == {"text": "a", "index": 1}


def test_several_sources_are_separate_streams(monkeypatch):
    one = (("owl", "cat"), "text", {"train": [0, 1, 1]})
    fake_datasets(monkeypatch, near=TARGET, far=TARGET, one=one)
    data = Data(source=("far", "one"), target="near", labels=1)
    assert data.stream_names == ("source/0", "source/1", "labelled", "unlabelled")
    splits = load(data, 0)
    assert tuple(splits.streams) == data.stream_names and splits.train is splits.streams["source/0"]
    assert splits.streams["source/0"].labels().tolist() == [0, 1, 2] * 4
    assert splits.streams["source/1"].labels().tolist() == [2, 0, 0]
    assert load(replace(data, labels=0), 0).labelled.name == "far"
    assert splits.fingerprint != load(replace(data, source=("one", "far")), 0).fingerprint
    # A tuple with one source equals that source.
    alone, named = (load(replace(data, source=source), 0) for source in (("far",), "far"))
    assert tuple(alone.streams) == tuple(named.streams) and alone.fingerprint == named.fingerprint
    # The settings of the source apply to each source, with separate random draws.
    twin = Data(source=("far", "twin"), target="near", labels=0, eps_y=1.0, source_classes=("cat", "owl"))
    fake_datasets(monkeypatch, near=TARGET, far=TARGET, twin=TARGET)
    first, second = (stream.labels() for name, stream in load(twin, 0).streams.items() if name != "unlabelled")
    assert set(first.tolist()) == set(second.tolist()) == {0, 2} and first.tolist() != second.tolist()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((), "source=(); expected one data set, or several different data"),
        (("a", "a"), "source=('a', 'a'); expected one data set, or several different data"),
        (("a", "digits"), "source and target are both 'digits' ... source"),
    ],
)
def test_invalid_sources_are_refused(source, message):
    with pytest.raises(ValueError) as error:
        Data(source=source, target="digits")
    for part in message.split(" ... "):
        assert part in str(error.value)


def test_one_source_under_two_names_is_refused(monkeypatch):
    fake_datasets(monkeypatch, near=TARGET, far=TARGET)
    monkeypatch.setattr(
        examples, "open_dataset", lambda name, found=examples.open_dataset: found(name.partition(":")[0])
    )
    with pytest.raises(ValueError) as error:
        load(Data(source=("far", "far:1.0.0"), target="near", labels=0), 0)
    assert str(error.value) == "sources 'far' and 'far:1.0.0' are the same data set; remove one of them"


def test_one_data_set_under_two_names_is_refused(monkeypatch):
    fake_datasets(monkeypatch, near=TARGET)
    monkeypatch.setattr(examples, "open_dataset", lambda name, found=examples.open_dataset: found("near"))
    with pytest.raises(ValueError) as error:
        load(Data(source="near:1.0.0", target="near", labels=0), 0)
    assert str(error.value) == "source 'near:1.0.0' and target 'near' are the same data set; remove the source"


def test_a_class_with_fewer_examples_than_labels_is_named(monkeypatch):
    fake_datasets(monkeypatch, near=TARGET, far=TARGET)
    with pytest.raises(ValueError, match=r"^class 'cat' has 4 training examples, fewer than labels=5$"):
        load(Data(source="far", target="near", labels=5), 0)


def test_texts_of_all_streams_have_the_same_length():
    recipe = Recipe(
        data=Data(source="sentiment/nyt", target="sentiment/tweets", tokens=64, buckets=(8, 16, 32), labels=0),
        task=tasks.Classification(classes=2),
        weights=Weights("minilm-l6"),
        objective=(terms.Supervised(on="source"), terms.Mcc()),
        train=Train(steps=2, batch=4),
    )
    splits = open_data(recipe)
    ready = prepare(recipe, splits)
    apart = [train_batches(stream, ready.processor, batch=4, seed=0, buckets=recipe.data.lengths)
             for stream in splits.streams.values()]  # fmt: skip
    pairs = itertools.islice(zip(*apart, strict=True), 12)
    assert any(one["input_ids"].shape != two["input_ids"].shape for one, two in pairs)
    for batches in itertools.islice(training_batches(ready, splits), 12):
        assert len({batch["input_ids"].shape for batch in batches.values()}) == 1
        for batch in batches.values():
            assert (batch["input_ids"][batch["attention_mask"] == 0] == ready.processor.pad_id).all()
            assert batch["attention_mask"].any(1).all()


def test_padding_uses_the_token_of_the_tokenizer():
    short = {"input_ids": np.array([[5, 6]]), "attention_mask": np.array([[1, 1]]), "index": np.array([0])}
    long = {"input_ids": np.array([[7, 8, 9]]), "attention_mask": np.array([[1, 1, 1]]), "index": np.array([1])}
    # A name in the feature cache may be a path.
    short["blocks/00"], long["blocks/00"] = np.ones((1, 2, 4)), np.ones((1, 3, 4))
    padded = levelled({"source": short, "unlabelled": long}, {"input_ids": Field((None,), "int32", 1)})
    assert padded["source"]["blocks/00"].sum((0, 2)).tolist() == [4, 4, 0]
    assert padded["source"]["input_ids"].tolist() == [[5, 6, 1]]
    assert padded["source"]["attention_mask"].tolist() == [[1, 1, 0]]
    assert padded["unlabelled"]["input_ids"].tolist() == [[7, 8, 9]] and padded["source"]["index"].tolist() == [0]
