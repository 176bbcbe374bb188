"""The description of data states what the files contain."""

import json

import numpy as np
import pandas as pd
import pytest

from tlx import assets
from tlx.analysis.data import columns, doubts, features, labels, measure, shown, sizes
from tlx.analysis.data.distances import distance
from tlx.data import Arrays, Concat, Crop, Csv, Data, Frame, Where, load
from tlx.processors import ImageProcessor, TextProcessor

GOOD = ("a lovely warm film", "great fun and well played", "touching and very funny", "a wonderful story")
BAD = ("a dull slow film", "boring and badly played", "tedious and not funny", "a terrible story")
COUNT = 120
# Texts whose labels follow from their words, but for three rows.
FLIPPED = (4, 40, 77)


def rows():
    random = np.random.default_rng(0)
    good = np.arange(COUNT) % 3 > 0
    words = ("scene", "actor", "music", "camera", "plot", "hour", "end", "light")
    texts = [
        f"{(GOOD if is_good else BAD)[n % 4]} {' '.join(random.choice(words, 3))} {n}" for n, is_good in enumerate(good)
    ]
    stars = ["good" if is_good != (n in FLIPPED) else "bad" for n, is_good in enumerate(good)]
    patients = [n % 7 for n in range(COUNT)]
    return pd.DataFrame({"id": range(COUNT), "body": texts, "stars": stars, "patient": patients})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    frame = rows()
    frame.loc[10, "body"] = frame.loc[20, "body"]
    frame.loc[30, "body"] = ""
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    frame.to_csv(path, index=False)
    return str(path)


@pytest.fixture(scope="module")
def document(table):
    return measure(Data(target=Csv(table, text="body", label="stars")), examples=6)


def test_columns_labels_and_splits(document):
    assert [(field["name"], field["from"], field["missing"]) for field in document["fields"]] == [
        ("text", ["body"], 1),
        ("label", ["stars"], 0),
    ]
    assert [(column["name"], column["different"]) for column in document["unused"]] == [("id", COUNT), ("patient", 7)]
    counted = document["counts"]
    assert counted["classes"] == ["bad", "good"]
    assert sum(sum(row["counts"]) for row in counted["rows"]) == COUNT
    assert [row["split"] for row in counted["rows"]] == ["train", "validation", "test"]
    balance = document["imbalance"]
    assert balance["largest"]["class"] == "good" and 1.5 < balance["ratio"] < 2.5
    assert 1.8 < balance["effective"] < 2 and 0.6 < balance["constant"] < 0.7
    json.dumps(document)


def test_notes_name_what_is_unusual(document):
    notes = " ".join(document["notes"])
    for part in ("1 cells of 'body' are missing", "group='patient'", "labels of train are in doubt"):
        assert part in notes


def test_duplicates_are_counted_and_listed(document):
    found = document["duplicates"]
    assert sum(row["exact"] for row in (*found["within"], *found["across"])) == 1
    [pair] = [pair for pair in found["listed"] if pair["exact"]]
    assert {item["place"].rpartition(" ")[2] for item in pair["examples"]} == {"12", "22"}


def test_wrong_labels_are_doubted(document):
    found = document["doubts"]
    assert found["measure"] == "accuracy" and found["score"] > 0.85 > found["constant"]
    lines = [int(item["place"].rpartition(" ")[2]) - 2 for item in found["listed"]]
    train = {*load_rows(document)}
    expected = [row for row in FLIPPED if row in train]
    assert expected and set(lines[: len(expected)]) == set(expected)
    assert found["listed"][0]["suggested"] != found["listed"][0]["label"]


def load_rows(document):
    """Return the rows of the training split, as the document's own split has them."""
    splits = load(Data(target=Frame(rows(), text="body", label="stars")), 0)
    assert len(splits.train) == document["splits"][0]["examples"]
    return splits.train.source.rows[splits.train.rows].tolist()


def test_examples_are_of_every_class_in_turn(document):
    assert [item["label"] for item in document["shown"]] == ["bad", "good"] * 3
    assert all(item["place"].startswith(("/", "C")) and " line " in item["place"] for item in document["shown"])


def test_confident_classes_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.95, 0.05]])
    given = np.array([0, 0, 1, 1, 1])
    # Mean probabilities of the own class: 0.8 for class 0, (0.6 + 0.8 + 0.05) / 3 for class 1.
    suggested, margins = doubts.confident(probabilities, given)
    assert suggested.tolist() == [0, 0, 1, 1, 0]
    assert margins.tolist() == pytest.approx([0.8, 0.4, 0.2, 0.6, -0.9])


def test_a_classifier_that_knows_nothing_doubts_nothing():
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"text": [f"word{n}" for n in random.permutation(200)], "label": ["a", "b"] * 100})
    examples = load(Data(target=Frame(frame)), 0).train
    found = doubts.doubts(examples, features.FeatureSource(None, "text"))
    assert "not better" in found["why"] and found["listed"] == []


def test_numbers_far_from_their_prediction_are_doubted():
    random = np.random.default_rng(0)
    strength = random.integers(0, 5, 200)
    texts = [" ".join(["good"] * level + ["bad"] * (4 - level)) + f" {n % 9}" for n, level in enumerate(strength)]
    values = strength + random.normal(0, 0.1, 200)
    values[17] = 30.0
    source = Frame(pd.DataFrame({"text": texts, "label": values}), label_kind="number", test_share=0.0)
    train = source.open().splits["train"]
    counted = labels.counts({"train": train})
    assert counted["kind"] == "number" and counted["rows"][0]["quantiles"][-1] == 30.0
    found = doubts.doubts(train, features.FeatureSource(None, "text"))
    assert [item["place"].rpartition(" ")[2] for item in found["listed"][:1]] == ["17"]


def test_what_truncation_cuts():
    tokenizer = TextProcessor.load(assets.extract("minilm-l6"), tokens=6)
    frame = pd.DataFrame({"text": ["film " * 9, *(f"film number {n}" for n in range(9))], "label": ["a", "b"] * 5})
    train = Frame(frame, test_share=0.0).open().splits["train"]
    found = sizes.sizes({"train": train}, Data(target="x", tokens=6), tokenizer)
    [row] = [row for row in found if row["measure"] == "tokens"]
    # The long text has 9 tokens and 2 special ones; "[CLS] film number N [SEP]" has 5.
    assert (row["at"][0], row["at"][-1], row["limit"], row["cut"]) == (5.0, 11.0, 6.0, pytest.approx(0.1))
    assert row["lost"] == pytest.approx(5 / (11 + 9 * 5))
    assert sum(row["counts"]) == 10 and len(row["edges"]) == len(row["counts"]) + 1
    [cut, *_] = shown.shown(train, Data(target="x"), tokenizer, 10)
    assert cut["after"]["tokens"] == 6 and cut["after"]["cut"] == 5
    assert cut["after"]["text"] == "[CLS] film film film film [SEP]"


def test_images_are_shown_before_and_after_augmentation():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 12, 10, 3), np.uint8)
    data = Data(target=Arrays({"image": pixels, "label": ["x", "y"] * 15}), size=8, augment=(Crop(padding=2),))
    document = measure(data, examples=2)
    assert [len(item["after"]["images"]) for item in document["shown"]] == [4, 4]
    assert document["shown"][0]["size"] == "12 × 10 × 3" and document["shown"][0]["after"]["size"] == "8 × 8 × 3"
    assert document["images"] == [{"size": "12 × 10 × 3", "images": 30}]
    processor = ImageProcessor(size=(12, 10), mean=(0.5,), std=(0.5,))
    np.testing.assert_array_equal(processor.picture(processor({"image": pixels[0]})["image"]), pixels[0])


def test_lists_of_classes_are_counted():
    frame = pd.DataFrame({"text": [f"text {n}" for n in range(40)], "label": ["news;sport", "news"] * 20})
    counted = labels.counts({"train": Frame(frame, separator=";", test_share=0.0).open().splits["train"]})
    assert counted["classes"] == ["news", "sport"] and counted["rows"][0]["counts"][0] == counted["rows"][0]["examples"]


def test_the_table_of_joined_and_filtered_data_is_found(table):
    whole = Csv(table, text="body", label="stars")
    joined = Concat((whole, Csv(table, text="body", label="stars", test_share=0.3)))
    for source in (joined, Where(whole, column="stars", values=("bad", "good"))):
        splits = load(Data(target=source), 0)
        assert columns.table_rows(splits.train).roles == {"text": ("body",), "label": ("stars",)}
    assert columns.table_rows(load(Data(target="digits"), 0).train) is None


def test_distances_are_zero_for_one_distribution_and_large_for_two():
    random = np.random.default_rng(0)
    words = [f"w{n}" for n in range(60)]
    texts = {
        "target": [" ".join(random.choice(words[:40], 8)) for _ in range(160)],
        "same": [" ".join(random.choice(words[:40], 8)) for _ in range(160)],
        "other": [" ".join(random.choice(words[20:], 8)) for _ in range(160)],
    }
    parts = {
        name: Frame(pd.DataFrame({"text": side, "label": ["a", "b"] * 80}), test_share=0.0).open().splits["train"]
        for name, side in texts.items()
    }
    read = features.FeatureSource(None, "text")
    same, other = (distance(name, parts[name], parts["target"], read) for name in ("same", "other"))
    assert same["p"] > 0.05 and same["mmd"] < same["chance"] and same["a"] < 0.5
    assert other["p"] == pytest.approx(1 / 201) and other["mmd"] > other["chance"] and other["a"] > 1.2
    assert other["a_low"] <= other["a"] <= other["a_high"]


def test_another_data_set_must_differ_and_have_the_same_inputs(table, tmp_path):
    with pytest.raises(ValueError, match="are the same data set"):
        measure(Data(target=table), others=(f"{table.rpartition('/')[0]}/./reviews.csv",))
    pixels = np.zeros((20, 4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"has images, but .* has text"):
        measure(Data(target=table), others=(Arrays({"image": pixels, "label": [0, 1] * 10}),))
