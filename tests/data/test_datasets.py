import gzip
import json
import logging
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from PIL import Image

from tlx.data import DATASETS, open_dataset
from tlx.data.datasets import emoji, fashion_mnist, solar_cells
from tlx.data.datasets.sentiment import sentences
from tlx.data.datasets.splits import by_hash, stratified
from tlx.data.examples import Examples
from tlx.types import Column

SIZES = {
    "sentiment/tweets": (2375, 325, 672),
    "sentiment/movies": (7014, 986, 2070),
    "sentiment/amazon": (2106, 227, 644),
    "sentiment/nyt": (1971, 340, 620),
    "digits": (1258, 180, 359),
    "mnist5k": (3500, 500, 1000),
}
TEXT = {"text": Column("text"), "label": Column("class", ("bad", "good"))}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Build every data set anew, because the cache may hold data sets of an older builder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        return {name: open_dataset(name) for name in SIZES}


@pytest.mark.parametrize("name", SIZES)
def test_splits_have_the_documented_sizes_and_classes(opened, name):
    dataset = opened[name]
    assert tuple(len(dataset.splits[split]) for split in ("train", "validation", "test")) == SIZES[name]
    assert dataset.classes == DATASETS[name].classes
    for split in dataset.splits.values():
        labels = split.labels()
        assert labels.dtype == np.int32 and set(labels.tolist()) == set(range(len(dataset.classes)))
        for position in (0, len(split) - 1):
            assert split[position]["label"] == labels[position] and split[position]["index"] == position


@pytest.mark.parametrize("name", [name for name in SIZES if name.startswith("sentiment")])
def test_sentences_are_clear_distinct_and_split_by_document(opened, name):
    labels_seen, documents, texts = set(), {}, set()
    for split, examples in opened[name].splits.items():
        for record in examples.source:
            identity, document = record["id"].decode(), record["document"].decode()
            assert identity not in labels_seen
            labels_seen.add(identity)
            assert abs(record["rating"]) >= 0.5 and record["label"] == (record["rating"] > 0)
            assert documents.setdefault(document or identity, split) == split
            words = record["text"].decode().lower()
            assert words not in texts
            texts.add(words)
    by_document = name in ("sentiment/amazon", "sentiment/nyt")
    assert (len(documents) < len(labels_seen)) == by_document


def test_a_ground_truth_file_is_read_as_documented():
    lines = "1_1\t0.5\tGood.\n1_2\t-0.5\tBad.\n1_3\t0.49\tSo so.\n2_1\t-3\tgood. \n\n"
    assert [tuple(sentence) for sentence in sentences("nyt", lines)] == [
        ("nyt/1_1", "nyt/1", 0.5, "Good."),
        ("nyt/1_2", "nyt/1", -0.5, "Bad."),
    ]


def test_images_equal_the_originals(opened):
    from sklearn.datasets import load_digits

    original = {image.tobytes() for image in np.round(load_digits().images * 255 / 16).astype(np.uint8)}
    images = [split[position]["image"] for split in opened["digits"].splits.values() for position in range(len(split))]
    assert images[0].shape == (8, 8, 1) and images[0].dtype == np.uint8
    assert {image.tobytes() for image in images} == original and len(images) == 1797
    image = opened["mnist5k"].splits["train"][0]["image"]
    assert image.shape == (28, 28, 1) and image.max() > 200 and image[:2].max() == 0


def test_the_things_of_emoji_have_one_code_point_and_one_of_six_categories():
    entry = {"unified": "1F34C", "name": "BANANA", "short_name": "banana", "category": "Food & Drink"}
    entries = [
        entry,
        entry | {"unified": "2615-FE0F", "name": None, "short_name": "coffee"},
        entry | {"unified": "1F468-200D-1F33E"},
        entry | {"category": "Flags"},
    ]
    document = json.dumps(entries).encode()
    assert [tuple(thing) for thing in emoji.things(document)] == [
        ("1F34C", "banana", "Food & Drink"),
        ("2615", "coffee", "Food & Drink"),
    ]


def test_transparent_parts_of_an_emoji_are_white():
    picture = Image.new("RGBA", (36, 36))
    picture.putpixel((0, 0), (255, 0, 0, 255))
    flat = np.asarray(emoji.on_white(picture))
    assert flat.shape == (72, 72, 3) and (flat[10:] == 255).all() and flat[0, 0, 0] > flat[0, 0, 1] + 99


def test_solar_cells_that_divided_the_experts_are_left_out():
    table = "a.png  1.0   mono\nb.png  0.3333333333333333 mono\nc.png 0.6666666666666666 mono\nd.png 0.0 poly\n"
    assert solar_cells.cells("mono", table) == [("a.png", 1), ("c.png", 1)]
    assert solar_cells.cells("poly", table) == [("d.png", 0)]


@pytest.mark.slow
def test_all_styles_draw_the_same_things_and_divide_them_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    ids = []
    for style in emoji.STYLES:
        splits = open_dataset(f"emoji/{style}").splits
        assert [len(splits[name]) for name in ("train", "validation", "test")] == [693, 101, 211]
        ids.append({name: [record["id"] for record in examples.source] for name, examples in splits.items()})
        image = splits["test"][0]["image"]
        assert image.shape == (72, 72, 3) and 0 < (image < 250).mean() < 0.9
    assert ids[0] == ids[1] == ids[2]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "sizes"), [("mono", (670, 95, 192)), ("poly", (960, 138, 274))])
def test_solar_cells_have_the_documented_sizes(kind, sizes, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    splits = open_dataset(f"solar_cells/{kind}").splits
    assert tuple(len(splits[name]) for name in ("train", "validation", "test")) == sizes
    assert splits["test"][0]["image"].shape == (300, 300, 1)


def test_splits_depend_on_identity_only():
    assert by_hash("movies/1") == by_hash("movies/1")
    names = [by_hash(str(number)) for number in range(5000)]
    for name, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
        assert abs(names.count(name) / 5000 - share) < 0.02
    labels = np.repeat(np.arange(3), [10, 50, 100])
    parts = stratified(labels, "any")
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(160))
    assert [np.bincount(labels[rows]).tolist() for rows in parts.values()] == [[7, 35, 70], [1, 5, 10], [2, 10, 20]]


def _open(name: str) -> tuple[str, int]:
    dataset = open_dataset(name)
    return dataset.fingerprint, len(dataset.splits["train"])


@pytest.mark.slow
def test_two_processes_that_prepare_one_data_set_agree(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "digits" / "incomplete.ABC_1.0.0").mkdir(parents=True)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        assert set(pool.map(_open, ["digits"] * 2)) == {(opened["digits"].fingerprint, 1258)}
    assert sorted(file.name for file in (tmp_path / "digits").iterdir()) == [".lock", "1.0.0"]


def test_preparation_prints_one_line(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with caplog.at_level(logging.INFO, "tlx"):
        open_dataset("digits")
    lines = [record.message for record in caplog.records if record.name.startswith("tlx")]
    assert lines == [f"preparing data set digits in {tmp_path / 'digits' / '1.0.0'}"]
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A data set that exists only on disk: a copy of digits under another name."""
    open_dataset("digits")
    from tlx.data.sources.tfds import data_dir

    folder = tmp_path / "figures" / "large" / "1.0.0"
    shutil.copytree(data_dir() / "digits" / "1.0.0", folder)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


@pytest.mark.parametrize("name", ["figures/large", "figures/large:1.0.0", "{folder}"])
def test_any_data_set_on_disk_opens_by_its_name(foreign, name):
    dataset = open_dataset(name.format(folder=foreign))
    assert dataset.splits["train"][3]["image"].shape == (8, 8, 1)


def test_a_data_set_that_needs_tensorflow_is_refused(foreign):
    info = foreign / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError) as error:
        open_dataset("figures/large")
    assert str(error.value) == (
        "data set 'figures/large' has the file format tfrecord, which only TensorFlow reads; convert it once:"
        f" `tfds convert_format --dataset_dir={foreign} --out_file_format=array_record`"
    )


def test_a_data_set_without_a_label_is_refused(foreign):
    for name in ("features.json", "dataset_info.json"):
        content = json.loads((foreign / name).read_text().replace('"label"', '"what"'))
        content.pop("supervisedKeys", None)
        (foreign / name).write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        open_dataset("figures/large")
    assert str(error.value) == (
        "data set 'figures/large' has the features image, what; expected an image, one or two texts, or the bytes "
        "of a sound file with the name 'audio', and one label (class or number)"
    )


def test_idx_files_are_read(monkeypatch):
    content = bytes([0, 0, 8, 2]) + np.array([2, 3], ">u4").tobytes() + bytes(range(6))
    monkeypatch.setattr(fashion_mnist.assets, "open_member", lambda name, member: gzip.compress(content))
    np.testing.assert_array_equal(fashion_mnist._idx("any"), np.arange(6, dtype=np.uint8).reshape(2, 3))


@pytest.mark.parametrize(("variable", "network"), [("0", ""), ("1", " (TLX_OFFLINE is set)")])
def test_a_missing_data_set_names_the_nearest_name(foreign, monkeypatch, variable, network):
    monkeypatch.setenv("TLX_OFFLINE", variable)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TLX_CACHE", "/cache")
    with pytest.raises(FileNotFoundError) as error:
        open_dataset("figure/large")
    home = foreign.parents[2]
    assert str(error.value) == (
        f"data set 'figure/large' is not on disk in {home}, {home}/tensorflow_datasets, /cache/tfds, and tlx"
        f" downloads only its own data sets{network}; close: 'figures/large'; prepare it as"
        " array_record or Parquet where TensorFlow is installed, or name a file (.csv, .jsonl, .parquet), a folder of"
        " images or sounds, or a data set of the hub (user/name)"
    )


def test_the_error_for_text_that_is_not_utf8_names_the_place():
    examples = Examples("reviews", "train", [{"text": b"fine", "label": 0}, {"text": b"caf\xe9", "label": 0}], TEXT)
    assert examples[0]["text"] == "fine"
    with pytest.raises(ValueError) as error:
        examples.view([1])[0]
    assert str(error.value) == (
        "reviews train[1]: 'text' is not valid UTF-8 (byte 0xe9 at 3); decode it when the data set is built"
    )


@pytest.mark.parametrize("label", [2, -1])
def test_the_error_for_a_label_out_of_range_names_the_place(label):
    examples = Examples("reviews", "train", [{"text": b"", "label": 1}, {"text": b"", "label": label}], TEXT)
    for read in (examples.labels, lambda: examples[1]):
        with pytest.raises(ValueError) as error:
            read()
        assert str(error.value) == f"reviews train[1]: label is {label}; expected one of the 2 classes 0..1"


def test_text_pairs_with_numbers_as_labels():
    columns = {"text": Column("text"), "text_pair": Column("text"), "label": Column("number")}
    examples = Examples("pairs", "train", [{"text": b"a", "text_pair": b"b", "label": np.float32(0.5)}], columns)
    assert examples[0] == {"text": "a", "text_pair": "b", "label": 0.5, "index": 0}
    assert examples.labels().dtype == np.float32


def test_views_keep_the_index_of_the_whole_split(opened):
    train = opened["mnist5k"].splits["train"]
    view = train.view(np.arange(100, 200)).view([5, 3])
    assert [view[position]["index"] for position in range(2)] == [105, 103]
    np.testing.assert_array_equal(view.labels(), train.labels()[[105, 103]])
    np.testing.assert_array_equal(view[1]["image"], train[103]["image"])
