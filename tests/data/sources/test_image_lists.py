"""Lists of image files with their classes, and folders for each split."""

import numpy as np
import pytest
from PIL import Image

from tlx.data import Data, Folder, ImageList, load, open_dataset
from tlx.data.sources.named import source_named


def picture(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(path)


def lists(folder, place="image_list"):
    """Write 12 training and 4 test images of the classes 0, 2 and 10, in a folder for each class, and their lists."""
    (folder / place).mkdir(parents=True, exist_ok=True)
    for split, count, start in (("train", 12, 0), ("test", 4, 100)):
        lines = []
        for n in range(count):
            name = f"clipart/a {(0, 2, 10)[n % 3]}/{start + n}.png"
            picture(folder / name, start + n)
            lines.append(f"{name} {(0, 2, 10)[n % 3]}\n")
        (folder / place / f"{split}.txt").write_text("".join(lines) + "\n")
    return str(folder / place / "train.txt"), str(folder / place / "test.txt")


@pytest.mark.parametrize("place", ["image_list", "."])
def test_a_list_names_images_and_classes_in_the_order_of_their_numbers(place, tmp_path):
    train, test = lists(tmp_path, place)
    dataset = ImageList(train, test=test).open()
    assert dataset.classes == ("0", "2", "10")
    assert {split: len(part) for split, part in dataset.splits.items()} == {"train": 12, "test": 4}
    example = dataset.splits["train"][5]
    assert (int(example["image"][0, 0, 0]), example["label"]) == (5, 2)
    stated = ImageList(train, test=test, classes=tuple(map(str, range(345)))).open()
    assert len(stated.classes) == 345 and stated.splits["train"][5]["label"] == 10
    # A copy of the folder has the same fingerprint; another picture has another one.
    copy = ImageList(*lists(tmp_path / "copy", place)[:1], test=lists(tmp_path / "copy", place)[1]).open()
    assert copy.fingerprint == dataset.fingerprint
    picture(tmp_path / "copy" / "clipart" / "a 0" / "0.png", 77)
    assert (
        ImageList(str(tmp_path / "copy" / place / "train.txt")).open().fingerprint
        != ImageList(train).open().fingerprint
    )


def test_a_plain_name_means_a_list_where_its_first_line_names_an_image(tmp_path):
    train, _ = lists(tmp_path)
    assert source_named(train) == ImageList(train)
    assert open_dataset(train).classes == ("0", "2", "10")
    (tmp_path / "notes.txt").write_text("a line of text 1\n")
    with pytest.raises(ValueError, match=r"notes\.txt ends in \.txt, which tlx does not read"):
        source_named(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ("is empty", "an image and its class")),
        (
            "clipart/a 0/0.png 0\nclipart/a 0/3.png\n",
            ("line 2", "'clipart/a 0/3.png'", "expected the name of an image"),
        ),
        ("clipart/a 0/0.png 0\n\nwords 1\n", ("line 3", "'words 1'")),
        ("clipart/a 0/33.png 0\n", ("line 1", "a 0/33.png", "close: '3.png'", "folder=")),
    ],
)
def test_a_damaged_list_is_named_with_its_line(content, parts, tmp_path):
    lists(tmp_path)
    file = tmp_path / "image_list" / "bad.txt"
    file.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        ImageList(str(file)).open()
    assert all(part in str(error.value) for part in ("bad.txt", *parts))
    file.write_bytes(b"a\xff.png 0\n")
    with pytest.raises(ValueError, match="line 1 is not valid UTF-8"):
        ImageList(str(file)).open()


def test_a_folder_can_have_its_splits_in_other_folders_or_in_itself(tmp_path):
    for n in range(12):
        picture(tmp_path / "train" / ("cat", "dog")[n % 2] / f"{n}.png", n)
    for n in range(4):
        picture(tmp_path / "val" / ("cat", "dog")[n % 2] / f"{n}.png", 100 + n)
    train, val = str(tmp_path / "train"), str(tmp_path / "val")
    dataset = Folder(train, validation=val, test=val).open()
    assert {split: len(part) for split, part in dataset.splits.items()} == {"train": 12, "validation": 4, "test": 4}
    assert int(dataset.splits["test"][3]["image"][0, 0, 0]) == 103
    assert Folder(train, test=val).open().fingerprint != Folder(train).open().fingerprint
    # Transductive: the same images are trained on without labels, and tested.
    data = Data(target=Folder(train, validation=train, test=train), source=val, labels=0)
    splits = load(data, 0)
    assert len(splits.streams["unlabelled"]) == len(splits.test) == len(splits.validation) == 12
    assert not splits.streams["unlabelled"].labelled and splits.streams["source"].labelled
    with pytest.raises(FileNotFoundError, match=r"no folder .*vall.*close: 'val'"):
        Folder(train, test=str(tmp_path / "vall")).open()
    with pytest.raises(ValueError, match=r"table='labels\.csv'"):
        Folder(train, test=val, table="labels.csv", image="file", label="type")
    with pytest.raises(ValueError, match="is in no folder of a class"):
        Folder(str(tmp_path / "train" / "cat"), test=val).open()
