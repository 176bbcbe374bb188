"""Every kind of table is read to the same examples; errors name the file, the row, the column and the nearest name."""

import json

import jax
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tlx.data import (
    Arrays,
    Concat,
    Csv,
    Data,
    Folder,
    Frame,
    HfDataset,
    Jsonl,
    Parquet,
    Where,
    load,
    open_dataset,
)
from tlx.data.sources.raw_table import RawTable
from tlx.types import Column

COUNT = 60
TEXTS = [f"the review of number {n}, or so" for n in range(COUNT)]
STARS = [1 + n % 3 for n in range(COUNT)]
LANGUAGES = [("en", "de", "fr", "it")[n % 4] for n in range(COUNT)]
ROWS = [
    {"id": n, "body": text, "stars": stars, "language": language}
    for n, (text, stars, language) in enumerate(zip(TEXTS, STARS, LANGUAGES, strict=True))
]
LINES = [f"text {n}" for n in range(20)]


def csv_file(folder, rows=ROWS, name="rows.csv"):
    pd.DataFrame(rows).to_csv(folder / name, index=False)
    return str(folder / name)


def jsonl_file(folder, rows=ROWS, name="rows.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder / name)


def parquet_file(folder, rows=ROWS, name="rows.parquet"):
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return str(folder / name)


def saved_dataset(folder, rows=ROWS, splits=None):
    """Write the files that `datasets` writes with `save_to_disk`: Arrow streams and two documents."""
    for split, part in (splits or {"": rows}).items():
        place = folder / split
        place.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pylist(part)
        with pa.ipc.new_stream(place / "data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table)
        (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
        names = {"stars": {"names": ["none", "low", "mid", "high"], "_type": "ClassLabel"}}
        (place / "dataset_info.json").write_text(json.dumps({"features": names}))
    if splits:
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return str(folder)


SOURCES = {
    "csv": lambda folder: Csv(csv_file(folder)),
    "jsonl": lambda folder: Jsonl(jsonl_file(folder)),
    "parquet": lambda folder: Parquet(parquet_file(folder)),
    "pandas": lambda folder: Frame(pd.DataFrame(ROWS)),
    "arrow": lambda folder: Frame(pa.Table.from_pylist(ROWS)),
    "lists": lambda folder: Arrays({name: [row[name] for row in ROWS] for name in ROWS[0]}),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_table_has_the_same_examples_and_splits(kind, tmp_path):
    dataset = SOURCES[kind](tmp_path).open()
    reference = Csv(csv_file(tmp_path), text="body", label="stars").open()
    assert dataset.columns == reference.columns == {"text": Column("text"), "label": Column("class", ("1", "2", "3"))}
    assert "text is 'body', label is 'stars'; not used: 'id', 'language'" in dataset.notes[0]
    for split in ("train", "test"):
        assert [dict(example) for example in dataset.splits[split]] == [
            dict(example) for example in reference.splits[split]
        ]
        assert dataset.splits[split].labels().tolist() == reference.splits[split].labels().tolist()


def test_a_text_names_a_file_or_a_folder(tmp_path):
    plain = open_dataset(csv_file(tmp_path))
    assert plain.fingerprint == Csv(csv_file(tmp_path)).open().fingerprint
    assert Data(target=csv_file(tmp_path)).target == csv_file(tmp_path)
    (tmp_path / "parts").mkdir()
    csv_file(tmp_path / "parts", ROWS[:40], "train.csv")
    csv_file(tmp_path / "parts", ROWS[40:], "test.csv")
    assert {name: len(part) for name, part in open_dataset(str(tmp_path / "parts")).splits.items()} == {
        "train": 40,
        "test": 20,
    }
    (tmp_path / "table.xlsx").touch()
    (tmp_path / "rows.json").touch()
    for name, part in (("rows.cvs", "rows.csv"), ("rows.json", ".jsonl"), ("table.xlsx", "CSV")):
        with pytest.raises((ValueError, FileNotFoundError), match=part):
            open_dataset(str(tmp_path / name))


def test_a_saved_data_set_keeps_the_names_of_its_classes(tmp_path):
    dataset = open_dataset(saved_dataset(tmp_path / "saved"))
    assert dataset.classes == ("none", "low", "mid", "high")
    assert sorted(set(dataset.splits["train"].labels().tolist())) == [1, 2, 3]
    splits = {"train": ROWS[:40], "validation": ROWS[40:50], "test": ROWS[50:]}
    dataset = open_dataset(saved_dataset(tmp_path / "splits", splits=splits))
    assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 40, "validation": 10, "test": 10}
    assert dataset.splits["test"][0] == {"text": TEXTS[50], "label": STARS[50], "index": 0}


def test_a_folder_in_the_layout_of_the_hub(tmp_path):
    (tmp_path / "data").mkdir()
    table = pa.Table.from_pylist(ROWS)
    features = {"stars": {"names": ["none", "low", "mid", "high"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for part, rows in (
        ("train-00000-of-00002", (0, 30)),
        ("train-00001-of-00002", (30, 20)),
        ("test-0-of-1", (50, 10)),
    ):
        pq.write_table(table.slice(*rows), tmp_path / "data" / f"{part}.parquet")
    dataset = HfDataset(str(tmp_path)).open()
    assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 50, "test": 10}
    assert dataset.classes == ("none", "low", "mid", "high")
    assert [dataset.splits["train"][n]["text"] for n in (0, 29, 30, 49)] == [TEXTS[n] for n in (0, 29, 30, 49)]
    with pytest.raises(ValueError, match="no configuration 'de'"):
        HfDataset(str(tmp_path), config="de").open()


def test_a_name_on_the_hub_is_not_fetched_where_the_network_is_off(monkeypatch):
    monkeypatch.setenv("TLX_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"'user/reviews'.*TLX_OFFLINE"):
        open_dataset("user/reviews")


def test_a_data_set_in_the_cache_of_the_hub_needs_no_network(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TLX_OFFLINE", "1")
    home, commit = tmp_path / "datasets--user--reviews", "0" * 40
    (home / "snapshots" / commit / "default" / "train").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), home / "snapshots" / commit / "default" / "train" / "0000.parquet")
    (home / "refs" / "refs" / "convert").mkdir(parents=True)
    (home / "refs" / "refs" / "convert" / "parquet").write_text(commit)
    dataset = open_dataset("user/reviews")
    assert dataset.name == "user/reviews" and dataset.classes == ("1", "2", "3")
    assert sum(map(len, dataset.splits.values())) == COUNT


def test_a_frame_is_a_value_that_can_be_saved_and_opened_again():
    from tlx import config

    frame = Frame(pd.DataFrame(ROWS), text="body", label="stars")
    assert frame == Frame(pd.DataFrame(ROWS), text="body", label="stars") and hash(frame)
    assert frame != Frame(pd.DataFrame(ROWS[1:]), text="body", label="stars")
    again = config.load(config.dump(frame), {"Frame": Frame})
    assert again.open().fingerprint == frame.open().fingerprint
    with pytest.raises(FileNotFoundError, match="no longer in the cache"):
        Frame("0" * 32).open()


def test_images_in_memory_and_in_folders(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 5, 7, 3), np.uint8)
    dataset = Arrays({"image": pixels, "label": ["cat", "dog"] * 10}, test_share=0.0).open()
    assert dataset.columns == {"image": Column("image"), "label": Column("class", ("cat", "dog"))}
    np.testing.assert_array_equal(dataset.splits["train"][13]["image"], pixels[13])
    for n, image in enumerate(pixels):
        place = tmp_path / ("train" if n < 14 else "test") / ("cat", "dog")[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{n:02}.png")
    dataset = open_dataset(str(tmp_path))
    assert {name: len(part) for name, part in dataset.splits.items()} == {"train": 14, "test": 6}
    example = dataset.splits["test"][0]
    np.testing.assert_array_equal(example["image"], pixels[14])
    assert dataset.classes[example["label"]] == "cat"
    # The label of an example is read without its file.
    (tmp_path / "test" / "cat" / "14.png").write_bytes(b"broken")
    assert dataset.splits["test"].light(0)["label"] == 0
    with pytest.raises(ValueError, match=r"test/cat/14.png"):
        dataset.splits["test"][0]


def test_a_table_of_files_and_labels(tmp_path):
    for n in range(12):
        Image.fromarray(np.full((4, 4), n * 20, np.uint8)).save(tmp_path / f"{n}.png")
    rows = [{"file": f"{n}.png", "kind": "ab"[n % 2], "patient": n // 3} for n in range(12)]
    csv_file(tmp_path, rows, "labels.csv")
    folder = Folder(str(tmp_path), table="labels.csv", image="file", label="kind", group="patient", test_share=0.25)
    splits = load(Data(target=folder, validation=0.25), 0)
    groups = [set(part.groups.tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert all(groups) and not groups[0] & groups[1] and not (groups[0] | groups[1]) & groups[2]
    (tmp_path / "3.png").unlink()
    with pytest.raises(ValueError, match=r"labels.csv line 5: 'file' is '3.png'.*no file"):
        Folder(str(tmp_path), table="labels.csv", image="file", label="kind", test_share=0.0).open().splits["train"][3]


def test_rows_are_divided_by_group_by_time_and_by_a_column():
    rows = pd.DataFrame(ROWS).assign(
        patient=[f"p{n // 4}" for n in range(COUNT)],
        day=pd.Timestamp("2026-01-01") + pd.to_timedelta(range(COUNT), "D"),
    )
    splits = load(Data(target=Frame(rows, text="body", label="stars", group="patient")), 0)
    sets = [set(part.groups.tolist()) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, sets)) == 15 and len(set.union(*sets)) == 15 and [len(s) for s in sets][2] == 3
    mixed = rows.sample(frac=1.0, random_state=1)
    splits = load(Data(target=Frame(mixed, text="body", label="stars", time="day")), 0)
    times = [part.times for part in (splits.train, splits.validation, splits.test)]
    assert times[0].max() < times[1].min() and times[1].max() < times[2].min() and len(times[2]) == 12
    named = rows.assign(fold=["train", "dev", "test", "train"] * 15)
    splits = Frame(named, text="body", label="stars", split="fold").open().splits
    assert {name: len(part) for name, part in splits.items()} == {"train": 30, "validation": 15, "test": 15}
    with pytest.raises(ValueError, match=r"row 1.*'fold' is 'tset'.*'test'"):
        Frame(named.replace({"fold": {"dev": "tset"}}), text="body", label="stars", split="fold").open()


def test_labels_may_be_booleans_lists_or_several_columns():
    yes_no = Frame(pd.DataFrame({"text": TEXTS, "label": [n % 2 == 0 for n in range(COUNT)]})).open()
    assert yes_no.columns["label"] == Column("class", ("false", "true"))
    topics = Frame(pa.table({"text": TEXTS, "label": [["news"] * (n % 2) + ["sport"] for n in range(COUNT)]}))
    assert topics.open().columns["label"] == Column("classes", ("news", "sport"))
    assert topics.open().splits["train"][0]["label"] in ([0, 1], [1])
    marks = {"text": TEXTS, "toxic": [n % 2 for n in range(COUNT)], "rude": [int(n < 9) for n in range(COUNT)]}
    several = Frame(pd.DataFrame(marks), label=("toxic", "rude"), test_share=0.0).open()
    assert several.columns["label"] == Column("classes", ("toxic", "rude"))
    assert [several.splits["train"][n]["label"] for n in (0, 1, 10, 11)] == [[1], [0, 1], [], [0]]
    sizes = {"text": TEXTS, "width": np.linspace(0, 1, COUNT), "height": np.linspace(5, 6, COUNT)}
    real = Frame(pd.DataFrame(sizes), label=("width", "height"), test_share=0.0).open()
    assert real.columns["label"] == Column("numbers")
    np.testing.assert_allclose(real.splits["train"][COUNT - 1]["label"], [1, 6])
    vectors = Arrays({"text": TEXTS, "label": np.linspace(0, 1, 3 * COUNT).reshape(COUNT, 3)}, test_share=0.0).open()
    assert vectors.columns["label"] == Column("numbers") and len(vectors.splits["train"][7]["label"]) == 3
    joined = Frame(pd.DataFrame(ROWS), text=("language", "body"), label="stars", test_share=0.0).open()
    assert joined.splits["train"][1]["text"] == f"de\n{TEXTS[1]}"


def test_data_sets_are_joined_and_filtered(tmp_path):
    first, second = csv_file(tmp_path, ROWS[:40], "a.csv"), csv_file(tmp_path, ROWS[40:], "b.csv")
    both = Concat((first, second)).open()
    assert len(both.splits["train"]) + len(both.splits["test"]) == COUNT and both.classes == ("1", "2", "3")
    renamed = csv_file(tmp_path, [row | {"stars": row["stars"] + 1} for row in ROWS[40:]], "c.csv")
    mixed = Concat((first, renamed)).open()
    assert mixed.classes == ("1", "2", "3", "4")
    offset = len(open_dataset(first).splits["train"])
    plain, shifted = both.splits["train"].labels(), mixed.splits["train"].labels()
    np.testing.assert_array_equal(plain[:offset], shifted[:offset])
    np.testing.assert_array_equal(plain[offset:] + 1, shifted[offset:])
    german = Where(csv_file(tmp_path), column="language", values=("de", "fr")).open()
    assert sum(map(len, german.splits.values())) == COUNT // 2
    others = Where(csv_file(tmp_path), column="language", without=("de", "fr")).open()
    texts = {example["text"] for dataset in (german, others) for part in dataset.splits.values() for example in part}
    assert len(texts) == COUNT
    with pytest.raises(ValueError, match=r"'ed' in 'language'.*'de'"):
        Where(csv_file(tmp_path), column="language", values=("ed",)).open()
    with pytest.raises(ValueError, match=r"no column 'langage'.*'language'"):
        Where(csv_file(tmp_path), column="langage", values=("de",)).open()


@pytest.mark.parametrize(
    ("rows", "fields", "parts"),
    [
        (
            [{"text": "a", "label": 1}, {"text": "b", "label": "x"}],
            {},
            ("'label'", "integer (line 1)", "text (line 2)"),
        ),
        ([{"text": "a", "label": 1}, {"text": "b"}], {}, ("line 2", "'label' is empty", "missing='drop'")),
        ([{"text": "a", "label": 0.5}, {"text": "b", "label": float("nan")}], {}, ("line 2", "nan", "finite")),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "x"}], {}, ("'x' in all 2 rows", "two classes")),
        ([{"text": f"t{n}", "label": (0, 0.5, 1)[n % 3]} for n in range(60)], {}, ("0, 0.5, 1", "label_kind='class'")),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 2}], {"text": "txt"}, ("no column 'txt'", "'text'")),
    ],
)
def test_errors_of_json_lines_name_the_line_and_the_column(rows, fields, parts, tmp_path):
    with pytest.raises(ValueError) as error:
        Jsonl(jsonl_file(tmp_path, rows), **fields).open()
    assert all(part in str(error.value) for part in ("rows.jsonl", *parts)), error.value


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("is empty",)),
        ('{"text": "a", "label": 1}\n{"text": \n', ("line 2", "no JSON")),
        ('{"text": "a", "label": 1}\n[1]\n', ("line 2", "list", "object")),
        (b'{"text": "\xff", "label": 1}\n', ("line 1", "UTF-8")),
    ],
)
def test_damaged_json_lines_are_named(content, parts, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError) as error:
        Jsonl(str(file)).open()
    assert all(part in str(error.value) for part in (str(file), *parts)), error.value


def test_invalid_frames_folders_and_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'label' have different types.*integer \(row 0\).*text \(row 1\)"):
        Arrays({"text": ["a", "b"], "label": [1, "x"]}).open()
    with pytest.raises(ValueError, match="two columns with the name 'text'"):
        Frame(pd.DataFrame([["a", "b", 1]], columns=["text", "text", "label"]))
    with pytest.raises(ValueError, match=r"'text' has 2, 'label' has 1"):
        Arrays({"text": ["a", "b"], "label": [1]})
    with pytest.raises(TypeError, match=r"list.*Arrays"):
        Frame([1, 2])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"bad.parquet cannot be read"):
        Parquet(str(tmp_path / "bad.parquet")).open()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no image or sound"):
        Folder(str(tmp_path / "empty")).open()
    with pytest.raises(FileNotFoundError, match=r"no folder .*emty.*'empty'"):
        Folder(str(tmp_path / "emty")).open()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(tmp_path / "empty" / "x.png")
    with pytest.raises(ValueError, match=r"x.png is in no folder of a class"):
        Folder(str(tmp_path / "empty")).open()
    rows = {"text": ["a", "b"], "label": ["x", "y"], "day": ["2026-01-01", "soon"], "who": ["p", "q"]}
    with pytest.raises(ValueError, match=r"the group 'p' of 'who' is in the splits 'train' and 'test'"):
        Arrays(rows, test=rows, group="who").open()
    with pytest.raises(ValueError, match=r"row 1: 'day' is 'soon'"):
        Arrays(rows, time="day").open()


def test_joined_data_sets_keep_their_groups_and_times():
    rows = {"text": TEXTS, "label": STARS, "who": [n // 4 for n in range(COUNT)], "day": list(range(COUNT))}
    grouped = Concat((Arrays(rows, group="who"), Arrays({**rows, "text": TEXTS[::-1]}, group="who")))
    train, validation = (load(Data(target=grouped), 0).by_name[name] for name in ("labelled", "validation"))
    assert not set(train.groups.tolist()) & set(validation.groups.tolist())
    timed = Where(Arrays(rows, time="day"), column="label", values=(1, 2))
    splits = load(Data(target=timed), 0)
    assert splits.train.times.max() < splits.validation.times.min()


def test_errors_name_the_columns_of_the_user():
    for body, problem in ((None, "is None"), (b"\xff", "not valid UTF-8")):
        kind = pa.string() if body is None else pa.binary()
        texts = pa.array([body, *(TEXTS[1:] if body is None else [text.encode() for text in TEXTS[1:]])], kind)
        dataset = Frame(pa.table({"body": texts, "stars": STARS}), text="body", label="stars", test_share=0.0).open()
        with pytest.raises(ValueError, match=rf"row 0: 'body'.*{problem}"):
            dataset.splits["train"][0]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_blank_cells_are_missing_in_every_type_of_text(kind):
    cells = pa.array([None, " ", "", "a"])
    table = RawTable("rows", pa.table({"text": cells.cast(kind), "n": [1, None, 3, 4]}), "")
    assert table.missing("text") == 3 and table.missing("n") == 1


def test_numbers_beyond_64_bits_and_among_floats_are_read(tmp_path):
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "id": n, "ids": [n], "score": 0.5} for n in range(20)]
    rows[3] |= {"id": 2**70, "ids": [2**70], "score": 2**53 + 1}
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = Jsonl(str(path), text="text", label="label")
    assert source.open().classes == ("a", "b")
    assert source.tables()["train"].cell("score", 3) == float(2**53)
    with pytest.raises(ValueError) as error:
        Jsonl(str(path), text="text", label="id").open()
    assert all(part in str(error.value) for part in ("rows.jsonl", "'id'", "64 bits (line 4)")), error.value


def test_half_a_character_is_named(tmp_path):
    rows = [json.dumps({"text": "ab" + "\ud83d" * (n == 2), "label": "x"}) for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    with pytest.raises(ValueError) as error:
        Jsonl(str(tmp_path / "rows.jsonl")).open()
    assert all(part in str(error.value) for part in ("rows.jsonl line 3", "'text'", "ud83d")), error.value


def test_row_groups_of_parquet_may_have_dictionaries_of_their_own(tmp_path):
    labels = [pa.array(["a", "b"] * 10).dictionary_encode(), pa.array(["c", "b"] * 10).dictionary_encode()]
    table = pa.table({"text": [f"text {n}" for n in range(40)], "label": pa.chunked_array(labels)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=20)
    dataset = Parquet(str(tmp_path / "rows.parquet")).open()
    assert dataset.classes == ("a", "b", "c")


def test_images_of_different_sizes_and_arrays_of_jax_are_read():
    pixels = [np.full((4 + n % 2, 4, 3), n, np.uint8) for n in range(20)]
    for images in (pixels, [Image.fromarray(image) for image in pixels]):
        source = Arrays({"image": images, "label": jax.numpy.arange(20) % 2}, test_share=0.0)
        train = source.open().splits["train"]
        assert train.classes == ("0", "1")
        for n, example in enumerate(train):
            np.testing.assert_array_equal(example["image"], pixels[n])
    frame = pd.DataFrame({"image": pixels, "label": ["a", "b"] * 10})
    assert Frame(frame, test_share=0.0).open().splits["train"][1]["image"].shape == (5, 4, 3)
    with pytest.raises(ValueError, match=r"row 1 of 'image'.*'a'"):
        Arrays({"image": [pixels[0], "a"], "label": [0, 1]})


def test_frames_with_columns_that_are_not_used_lists_and_nan_are_read():
    frame = pd.DataFrame({"text": LINES, "label": ["a", "b"] * 10, "c": [0, 1] * 10, "d": [1, 0] * 10})
    assert Frame(frame.assign(note=[1, "x"] * 10), text="text", label="label").open().classes == ("a", "b")
    assert Frame(frame, text="text", label="label", classes=["b", "a"]).open().classes == ("b", "a")
    several = Frame(frame, text="text", label=["c", "d"])
    assert several.open().classes == ("c", "d") and hash(several) == hash(Frame(frame, text="text", label=("c", "d")))
    numbers = pa.table({"text": LINES, "label": [float("nan"), *np.linspace(0.5, 3, 19)]})
    assert len(Frame(numbers, missing="drop", test_share=0.0).open().splits["train"]) == 19


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: Arrays({"text": LINES, "label": 3}), ("'label'", "int 3", "one value for each row")),
        (lambda: Arrays({"text": LINES, "label": np.array(3)}), ("'label'", "one value for each row")),
        (lambda: Arrays({"text": LINES, "label": LINES}, classes="pos"), ("classes='pos'", "names of the classes")),
        (lambda: Where("rows.csv", column="label", values="pos"), ("values='pos'", "values=('pos',)")),
        (lambda: Where("rows.csv", column="label", without="pos"), ("without='pos'", "without=('pos',)")),
    ],
)
def test_single_values_in_the_place_of_several_are_refused(make, parts):
    with pytest.raises(ValueError) as error:
        make()
    assert all(part in str(error.value) for part in parts), error.value
