"""Read lists of image files: one file and its class on each line, without a header."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tlx.data.sources.cells import Kind
from tlx.data.sources.files import FileTable
from tlx.data.sources.media import media_kind
from tlx.data.sources.raw_table import LINE, RawTable, chunks, key_of, stored
from tlx.files.durable import sha256_once
from tlx.trees import near_miss

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class ImageList(FileTable):
    """A text file with the name of an image and its class on each line, as published for DomainNet and VTAB-1k.

        clipart/aircraft_carrier/clipart_001_000001.jpg 0

    The class is the text after the last white space. Numbers are classes in their order.

    Args:
        path: The list of the training examples, or the only list.
        validation: The list of the validation split, if there is one.
        test: The list of the test split. Without one the share `test_share` of `path` is held out.
        folder: The folder that the names of files are relative to. None is the folder of the list, or the one above it,
            where the first file exists.

    The other fields are those of every table (see `tlx.data.sources.tabular.Tabular`).
    """

    label_kind: Kind | None = "class"
    folder: str | None = None

    PLACES: ClassVar[tuple[str, ...]] = ("path", "validation", "test", "folder")
    NOUN: ClassVar[str] = "a text file with an image and its class on each line"

    def table(self, path: str) -> RawTable:
        """Return the names of the images and their classes.

        Raises:
            ValueError: A line has no class, or names no image.
            FileNotFoundError: The first image is not in the folder.
        """
        digest = sha256_once(Path(path))
        arrow = stored(key_of("image list", digest), lambda: batches(path), path)
        return RawTable(path, arrow, digest, self._folder(path, arrow["image"][0].as_py()), {"image": "image"})

    def _folder(self, path: str, first: str) -> Path:
        """Return the folder that has the `first` image of a list."""
        beside = Path(path).absolute().parent
        folders = (Path(self.folder),) if self.folder is not None else (beside, beside.parent)
        for folder in folders:
            if (folder / first).is_file():
                return folder
        missing = next((folder / first for folder in folders if (folder / first).parent.is_dir()), folders[0] / first)
        names = [file.name for file in missing.parent.iterdir()] if missing.parent.is_dir() else []
        raise FileNotFoundError(
            f"{path} line 1: no file {missing}{near_miss(missing.name, names)}; set the folder that the names are "
            "relative to: ImageList(..., folder=...)"
        )


def batches(path: str) -> Iterable[pa.RecordBatch]:
    """Yield the rows of a list as Arrow arrays."""
    import pyarrow as pa

    kinds = pa.schema([(LINE, pa.int64()), ("image", pa.string()), ("label", pa.string())])
    for part in chunks(rows(path)):
        yield pa.RecordBatch.from_arrays([pa.array(column) for column in zip(*part, strict=True)], schema=kinds)


def rows(path: str) -> Iterable[tuple[int, str, str]]:
    """Yield the number of each line, the name of its image and its class; empty lines are left out.

    Raises ValueError for a line of another form, and for a list without a line.
    """
    count = 0
    for number, content in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            line = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} line {number} is not valid UTF-8 ({error.reason}); convert the file") from None
        if not line:
            continue
        name, *label = line.rsplit(maxsplit=1)
        if not label or media_kind(name) != "image":
            raise ValueError(
                f"{path} line {number} is {line!r:.60}; expected the name of an image and its class, such as "
                "'clipart/apple/1.jpg 8'"
            )
        count += 1
        yield number, name, label[0]
    if not count:
        raise ValueError(f"{path} is empty; expected the name of an image and its class on each line")
