"""Files of images and sounds: their content is in the fingerprint, and links and empty cells are named."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tlx.data import Arrays, Csv, Folder, Numbers, open_dataset
from tlx.data.sources.named import source_named
from tlx.data.sources.numbers import kept, rows_of
from tlx.files import durable


def pictures(folder, seed=0, ending="bmp"):
    """Write 24 pictures of one size in a folder for each class."""
    rng = np.random.default_rng(seed)
    for n in range(24):
        place = folder / ("cat", "dog")[n % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 80, 3), np.uint8)).save(place / f"{n}.{ending}")
    return folder


def labelled(folder, seed=0):
    """Write the same pictures with a table of names and labels."""
    pictures(folder, seed)
    names = [f"{('cat', 'dog')[n % 2]}/{n}.bmp" for n in range(24)]
    (folder / "labels.csv").write_text("file,type\n" + "".join(f"{name},{name.partition('/')[0]}\n" for name in names))
    return folder


SOURCES = {
    "classes": lambda folder: Folder(str(folder)),
    "table": lambda folder: Folder(str(folder), table="labels.csv", image="file", label="type"),
    "csv": lambda folder: Csv(str(folder / "labels.csv"), image="file", label="type"),
    "names": lambda folder: Arrays(
        {"image": [str(folder / "cat" / f"{n}.bmp") for n in range(0, 24, 2)], "label": [0, 1] * 6}
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_content_of_pictures_is_in_the_fingerprint(kind, tmp_path):
    folder = labelled(tmp_path / "a")
    source = SOURCES[kind](folder)
    before = source.open().fingerprint
    assert source.open().fingerprint == before
    # Another picture of the same size, with the same times.
    file = folder / "cat" / "0.bmp"
    status = file.stat()
    file.write_bytes(file.read_bytes()[:-9] + b"\0" * 9)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert SOURCES[kind](folder).open().fingerprint != before
    if kind != "names":
        other = SOURCES[kind](labelled(tmp_path / "b", seed=1)).open()
        copy = SOURCES[kind](labelled(tmp_path / "copy")).open()
        assert copy.fingerprint == before != other.fingerprint


def test_a_second_start_reads_no_file(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "a")
    before = Folder(str(folder)).open().fingerprint
    monkeypatch.setattr("tlx.data.sources.media.entry_of", None)
    assert Folder(str(folder)).open().fingerprint == before


def test_a_link_without_end_and_a_broken_link_are_named(tmp_path):
    folder = pictures(tmp_path / "a")
    shutil.move(folder / "dog", tmp_path / "dog")
    # A link to another folder is a folder.
    (folder / "dog").symlink_to(tmp_path / "dog")
    assert open_dataset(str(folder)).classes == ("cat", "dog")
    (folder / "cat" / "loop").symlink_to("..")
    with pytest.raises(ValueError) as error:
        open_dataset(str(folder))
    assert "cat/loop" in str(error.value) and len(str(error.value)) < 400
    (folder / "cat" / "loop").unlink()
    (folder / "cat" / "x.png").symlink_to("nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"cat/x\.png.*nowhere\.png"):
        open_dataset(str(folder))


def test_an_empty_cell_is_not_a_file(tmp_path):
    folder = labelled(tmp_path / "a")
    with (folder / "labels.csv").open("a") as stream:
        stream.write(" ,cat\n")
    dataset = Csv(str(folder / "labels.csv"), image="file", label="type", test_share=0).open()
    with pytest.raises(ValueError, match=r"labels\.csv line 26: 'file' .*empty"):
        list(dataset.splits["train"])


def test_writers_of_one_file_in_the_cache_do_not_share_a_partial_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TLX_CACHE", str(tmp_path))
    features, labels = np.random.default_rng(7).normal(size=(6, 2)), np.arange(6) % 2
    replace, partials = os.replace, []

    def replaced(source, target):
        """Let another process write the same arrays before the first one has renamed its file."""
        partials.append(str(source))
        if len(partials) == 1:
            with monkeypatch.context() as other:
                other.setattr(durable.Path, "is_file", lambda path: False)
                kept(features, labels, True, "train")
        replace(source, target)

    monkeypatch.setattr(durable.os, "replace", replaced)
    source = Numbers((features, labels), classes=("a", "b"))
    assert len(set(partials)) == len(partials) == 2
    assert rows_of(source.train, "train").labels.tolist() == labels.tolist()


@pytest.mark.parametrize("subfolders", [True, False])
def test_a_folder_with_a_table_of_its_files_is_read_by_the_table(subfolders, tmp_path):
    names = [f"{('cat/' if n % 2 else 'dog/') if subfolders else ''}{n}.PNG" for n in range(20)]
    for n, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((2, 2), n, np.uint8)).save(tmp_path / name)
    rows = "".join(f"{name},{('old', 'young')[n // 10]}\n" for n, name in enumerate(names))
    (tmp_path / "labels.csv").write_text("filename,age\n" + rows)
    assert source_named(str(tmp_path)) == Folder(str(tmp_path), table="labels.csv", image="filename")
    dataset = open_dataset(str(tmp_path))
    assert dataset.columns["image"].kind == "image" and dataset.classes == ("old", "young")
    assert dataset.splits["train"][0]["image"].shape[:2] == (2, 2)
    # Names of files that are not there are texts.
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "labels.csv").write_text("filename,age\n" + rows)
    assert source_named(str(texts)) == Csv(str(texts / "labels.csv"))
