"""Pictures that cannot be read, or that hold more than one picture: named in one line, or left out and counted."""

import io
import struct
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tlx.analysis.data.features import FeatureSource
from tlx.cli import main
from tlx.data import Csv, Data, Folder, RandomResizedCrop, open_dataset
from tlx.data.augment import augmented_example
from tlx.data.readers import Processed
from tlx.processors import ImageProcessor
from tlx.processors.encoded import has_frames
from tlx.processors.pictures import decode, pixels

ROWS, COLUMNS = np.mgrid[:24, :20]
ARRAY = np.stack([ROWS * 10, COLUMNS * 12, (ROWS + COLUMNS) * 5], -1).astype(np.uint8)
PICTURE = Image.fromarray(ARRAY)
NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
DEEP = Image.fromarray((ROWS * 20 + COLUMNS).astype(np.uint16) * 130)
CONFIG = '''"""A small network on a folder.   tlx run small.py"""
from tlx import Data, Recipe, Train, models, tasks
from tlx.data import Folder

def recipe():
    return Recipe(
        data=Data(target=Folder({folder!r}, broken="drop")), task=tasks.Classification(),
        model=models.Mlp(inputs=(8, 8, 3), widths=(4,)), train=Train(steps=2, batch=8),
    )
'''


def encoded(picture, form, **options):
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width, height, bits, colour, rows):
    """Return a PNG of rows of bytes; Pillow writes none of 48 bits, and none of this size in little time."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(PICTURE, "PNG", exif=exif)


def transparent():
    picture = PICTURE.convert("RGBA")
    picture.putalpha(Image.fromarray((COLUMNS * 12).astype(np.uint8)))
    return picture


SEVERAL = {"save_all": True, "append_images": [PICTURE.rotate(180), PICTURE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]}
PALETTE = PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
PALETTE_COLOURS = np.array(PALETTE.getpalette()).reshape(-1, 3)[np.asarray(PALETTE)]
GREY = PICTURE.convert("L")
WIDE = ARRAY.astype(">u2") * 257
# The bytes of a file, the pixels that a user expects, and the largest difference.
READABLE = {
    "animated.gif": (encoded(PALETTE, "GIF", **SEVERAL), PALETTE_COLOURS, 0),
    "animated.png": (encoded(PICTURE, "PNG", **SEVERAL), ARRAY, 0),
    "animated.webp": (encoded(PICTURE, "WEBP", lossless=True, **SEVERAL), ARRAY, 0),
    "pages.tif": (encoded(PICTURE, "TIFF", **SEVERAL), ARRAY, 0),
    "cmyk.jpg": (encoded(PICTURE.convert("CMYK"), "JPEG", quality=100, subsampling=0), ARRAY, 6),
    "cmyk.tif": (encoded(PICTURE.convert("CMYK"), "TIFF"), ARRAY, 1),
    "palette.png": (encoded(PALETTE, "PNG"), PALETTE_COLOURS, 0),
    "clear_palette.png": (encoded(PALETTE, "PNG", transparency=3), PALETTE_COLOURS, 0),
    "transparent.png": (encoded(transparent(), "PNG"), ARRAY, 0),
    "grey.png": (encoded(transparent().convert("LA"), "PNG"), np.asarray(GREY)[..., None], 0),
    "bit.png": (encoded(GREY.point(lambda v: 255 * (v > 90), "1"), "PNG"), 255 * (np.asarray(GREY) > 90)[..., None], 0),
    "rotated.png": (rotated(), np.rot90(ARRAY, -1), 0),
    "deep_colours.png": (png(20, 24, 16, 2, b"".join(b"\0" + row.tobytes() for row in WIDE)), ARRAY, 0),
    "thin.png": (encoded(Image.fromarray(np.full((5000, 1, 3), 7, np.uint8)), "PNG"), np.full((5000, 1, 3), 7), 0),
}
FRAMES = ("animated.gif", "animated.png", "animated.webp", "pages.tif")
BROKEN = {
    "cut.jpg": (encoded(PICTURE.resize((200, 200)), "JPEG")[:1500], "is damaged (image file is truncated"),
    "cut.png": (encoded(NOISE, "PNG")[:9000], "is damaged (image file is truncated"),
    "deep.png": (encoded(DEEP, "PNG"), "'I;16', with more than 8 bits"),
    "deep.tif": (encoded(DEEP, "TIFF"), "'I;16', with more than 8 bits"),
    "zero.png": (b"", "is not a readable image (0 bytes)"),
    "text.jpg": (b"This is no picture.\n", "is not a readable image (20 bytes)"),
    "bomb.png": (png(30_000, 30_000, 1, 0, b"\0" * 100), "has 900,000,000 pixels; expected at most 89,478,485"),
    "large.png": (png(9_000, 9_950, 1, 0, b"\0" * 100), "pixels; expected at most 89,478,485"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a folder for each of two classes: 12 ordinary pictures each, and all odd ones in the first."""
    folder = tmp_path_factory.mktemp("odd") / "pictures"
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for n in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name / f"{n}.png")
    for name, (content, *_) in (READABLE | BROKEN).items():
        (folder / "cat" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", READABLE)
def test_a_picture_of_any_form_has_the_pixels_that_a_user_expects(name):
    content, expected, difference = READABLE[name]
    array = pixels(decode(content, name))
    assert array.shape == expected.shape and array.dtype == np.uint8
    assert abs(array.astype(int) - expected).max() <= difference


def test_files_of_several_frames_are_those_that_hold_them(folder):
    names = {path.name for path in (folder / "cat").iterdir() if has_frames(path, path.read_bytes()[:4096])}
    assert names == set(FRAMES)


@pytest.mark.parametrize("name", BROKEN)
def test_a_picture_that_cannot_be_read_is_one_line_with_its_name(name):
    content, message = BROKEN[name]
    with pytest.raises(ValueError) as error:
        decode(content, f"cat/{name}")
    assert str(error.value).startswith(f"cat/{name} ") and message in str(error.value)
    assert "\n" not in str(error.value)


def command(*words, code=0):
    outcome = CliRunner().invoke(main, list(map(str, words)))
    assert outcome.exit_code == code, outcome.output
    return outcome.output


@pytest.mark.slow
def test_the_commands_name_a_broken_picture_or_leave_it_out_and_count_it(folder, tmp_path):
    line = command("data", folder, code=2)
    assert line.count("\n") == 1 and f"{folder}/cat/" in line and "broken='drop'" in line
    (tmp_path / "small.py").write_text(CONFIG.format(folder=str(folder)))
    whole = ("--set", f"data.target={folder}", "--out", tmp_path / "whole")
    line = command("run", tmp_path / "small.py", *whole, code=2).splitlines()[-1]
    assert str(folder / "cat") in line and line.endswith("broken='drop'")
    output = command("run", tmp_path / "small.py", "--out", tmp_path / "run")
    assert f"{len(BROKEN)} rows of pictures cannot be read and are not used; the first: {folder}/cat/bomb.png" in output
    assert f"{len(FRAMES)} files hold several frames or pages (cat/animated.gif" in output
    line = command("predict", tmp_path / "run", folder / "cat" / "deep.png", code=2)
    assert line.count("\n") == 1 and line.count(f"{folder}/cat/deep.png") == 1 and "8 bits per channel" in line
    output = command("predict", tmp_path / "run", folder / "cat" / "animated.webp")
    assert f"{folder}/cat/animated.webp holds several frames or pages" in output
    assert "--skip-broken" in command("predict", tmp_path / "run", folder, code=2)
    output = command("predict", tmp_path / "run", folder, "--skip-broken")
    assert f"{len(BROKEN)} rows have no answer" in output and f"{len(FRAMES)} files hold" in output
    assert sum(row.startswith("-  | ") for row in output.splitlines()) == len(BROKEN)


def test_grey_and_coloured_pictures_have_features_of_one_width(folder):
    examples = Folder(str(folder), broken="drop", test_share=0).open().splits["train"]
    features = FeatureSource(None, "image").of(examples)
    assert features.shape == (24 + len(READABLE), 12 * 12 * 3)
    row = next(n for n in range(len(examples)) if examples.place(n).endswith("grey.png"))
    assert examples[row]["image"].shape[-1] == 1 and (np.ptp(features[row].reshape(-1, 3), axis=1) == 0).all()


def test_only_the_rows_that_can_be_read_are_left(folder):
    source = Folder(str(folder), broken="drop", test_share=0)
    dataset = source.open()
    names = {dataset.splits["train"].place(row).rpartition("/")[2] for row in range(len(dataset.splits["train"]))}
    assert not names & BROKEN.keys() and READABLE.keys() < names and len(names) == 12 + len(READABLE)
    assert len(dataset.splits["train"]) == 24 + len(READABLE) == sum(1 for _ in dataset.splits["train"])
    assert dataset.splits["train"].labels().tolist().count(1) == 12
    assert any(f"{len(FRAMES)} files hold several frames or pages (cat/animated.gif" in note for note in dataset.notes)
    # The option counts in the fingerprint only where it is set.
    assert Folder(str(folder), broken="error").open().fingerprint == Folder(str(folder)).open().fingerprint
    assert Folder(str(folder)).open().fingerprint != Folder(str(folder), broken="drop").open().fingerprint


def test_a_second_start_decodes_no_file(folder, monkeypatch):
    first = Folder(str(folder), broken="drop", test_share=0.1).open()
    monkeypatch.setattr("tlx.data.sources.broken.fault_of", None)
    second = Folder(str(folder), broken="drop", test_share=0.1, missing="drop").open()
    assert second.notes == first.notes and len(second.splits["train"]) == len(first.splits["train"])


def test_a_table_names_the_line_of_a_missing_file_or_leaves_it_out(folder, tmp_path):
    names = [f"{name}/{n}.png" for n in range(12) for name in ("cat", "dog")]
    names[3:5] = ["cat/nothing.png", "cat/cut.jpg"]
    table = tmp_path / "labels.csv"
    table.write_text("file,type\n" + "".join(f"{folder}/{name},{n % 2 * 'x' or 'y'}\n" for n, name in enumerate(names)))
    columns = {"image": "file", "label": "type", "test_share": 0}
    with pytest.raises(ValueError, match=r"labels\.csv line 5: 'file' .*nothing\.png.*broken='drop'"):
        list(Csv(str(table), **columns).open().splits["train"])
    dataset = Csv(str(table), **columns, broken="drop").open()
    assert len(list(dataset.splits["train"])) == 22
    assert any("2 rows of labels.csv cannot be read" in note and "line 5" in note for note in dataset.notes)


def test_a_split_without_a_readable_row_is_an_error(tmp_path):
    for split, content in (("train", READABLE["grey.png"][0]), ("test", b"")):
        for n in range(4):
            (tmp_path / split / f"{n % 2}").mkdir(parents=True, exist_ok=True)
            (tmp_path / split / f"{n % 2}" / f"{n}.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"none of the 4 rows of the split 'test'.*0\.png is not a readable"):
        Folder(str(tmp_path), broken="drop").open()
    with pytest.raises(ValueError, match="broken='skip'; expected 'error' or 'drop'"):
        Folder(str(tmp_path), broken="skip")


def test_a_picture_that_would_fill_the_memory_after_resizing_is_named(folder):
    examples = open_dataset(str(folder)).splits["train"]
    position = next(n for n in range(len(examples)) if examples.place(int(examples.rows[n])).endswith("thin.png"))
    processor = ImageProcessor(size=256, crop=(224, 224))
    augment = (RandomResizedCrop(),)
    with pytest.raises(ValueError, match=r"cat/thin\.png: .*5,000 x 1 pixels.*1,280,000 x 256"):
        Processed(examples, processor, None)[position]
    # A crop is cut before the picture is resized.
    image = augmented_example(examples[position], processor, augment, seed=0, step=0, index=0)
    assert image.shape == (224, 224, 3)
    assert Data(target=str(folder), augment=augment)
