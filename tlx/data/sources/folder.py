"""Read folders of images or sounds: a folder for each class, or a table of files and labels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tlx.data.sources.csv import Csv
from tlx.data.sources.jsonl import Jsonl
from tlx.data.sources.media import IMAGES, SOUNDS, media_kind
from tlx.data.sources.parquet import Parquet
from tlx.data.sources.raw_table import RawTable
from tlx.data.sources.tabular import Tabular
from tlx.trees import near_miss

SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
# The readers of a table of files, by the end of its name.
TABLES = {".csv": Csv, ".tsv": Csv, ".jsonl": Jsonl, ".parquet": Parquet}


@dataclass(frozen=True, kw_only=True)
class Folder(Tabular):
    """A folder of images or sounds.

        Folder("pictures")                       # pictures/cat/1.png, pictures/dog/2.png, ...
        Folder("pictures")                       # pictures/train/cat/1.png, pictures/test/cat/7.png, ...
        Folder("pictures", test="others")        # pictures/cat/1.png, ..., others/cat/7.png, ...
        Folder("cells", table="labels.csv", image="file", label="type")

    No file is decoded before it is needed. The fingerprint is of the names, the sizes and samples of the content of the
    files (see `tlx.data.sources.media`).

    Args:
        path: The folder.
        table: A CSV, JSON Lines or Parquet file inside the folder with the names of the files (in the column `image` or
            `audio`) and their labels.
        validation: Another folder, with the files of the validation split in a folder for each class.
        test: The same for the test split. It may be `path` itself: the training examples are then tested, as in
            transductive domain adaptation, where they are trained on without their labels.

    The other fields are those of every table (see `tlx.data.sources.tabular.Tabular`).
    """

    path: str = field(kw_only=False)
    table: str | None = None
    validation: str | None = None
    test: str | None = None

    PLACES: ClassVar[tuple[str, ...]] = ("path", "validation", "test")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.table is None and isinstance(self.label, str | tuple) and self.label != "label":
            raise ValueError(
                f"label={self.label!r}: a folder without a table takes its labels from the names of its folders; set "
                "table='labels.csv' for labels in a file"
            )
        if self.others and (self.table is not None or self.split is not None):
            raise ValueError(
                f"{', '.join(f'{split}={path!r}' for split, path in self.others.items())} and table={self.table!r}, "
                f"split={self.split!r} are both set; name the splits by folders or by a column of the table"
            )

    @property
    def others(self) -> dict[str, str]:
        """Return the further folders, by their split."""
        folders = {"validation": self.validation, "test": self.test}
        return {split: path for split, path in folders.items() if path is not None}

    def __str__(self) -> str:
        return Path(self.path).name or self.path

    def stamps(self) -> tuple[Any, ...]:
        """Return the names and sizes of all files. Raises FileNotFoundError or NotADirectoryError."""
        for path in (self.path, *self.others.values()):
            check_folder(Path(path))
        folder = Path(self.path)
        if self.table is not None:
            return TABLES[self._ending()](str(folder / self.table)).stamps()
        return tuple(tuple(sorted(files_of(Path(path)))) for path in (self.path, *self.others.values()))

    def _ending(self) -> str:
        ending = Path(str(self.table)).suffix.lower()
        if ending not in TABLES:
            raise ValueError(f"table={self.table!r}; expected a file that ends in {', '.join(TABLES)}")
        return ending

    def tables(self) -> dict[str, RawTable]:
        """Return the table of files of each split."""
        folder = Path(self.path)
        if self.table is not None:
            file = TABLES[self._ending()](str(folder / self.table))
            raw = file.table(str(folder / self.table))
            return {"train": RawTable(raw.name, raw.arrow, raw.digest, folder, raw.kinds)}
        files: dict[str, list[tuple[str, str, int]]] = {}
        kinds = set()
        for name, size in sorted(files_of(folder)):
            parts = name.split("/")
            split = SPLITS[parts[0].lower()] if len(parts) > 2 and parts[0].lower() in SPLITS else ""
            classes = parts[1:-1] if split else parts[:-1]
            files.setdefault(split, []).append((name, "/".join(classes), size))
            kinds.add(media_kind(name))
        kind = kind_of(kinds, folder)
        if "" in files and len(files) > 1:
            raise ValueError(
                f"{folder} has {files[''][0][0]!r} beside the folders of splits ({', '.join(sorted(files)[1:])}); "
                "move it into one of them"
            )
        named = {split or "train": entries for split, entries in files.items()}
        if "train" not in named:
            raise ValueError(f"{folder} has the splits {', '.join(named)} and no folder 'train'; expected one")
        if both := sorted(named.keys() & self.others.keys()):
            raise ValueError(
                f"{folder} has a folder of the split {both[0]!r}, and {both[0]}={self.others[both[0]]!r} is set; "
                "remove one of them"
            )
        tables = {split: file_table(folder, entries, kind) for split, entries in named.items()}
        return tables | {split: table_of(Path(path), kind) for split, path in self.others.items()}


def check_folder(folder: Path) -> None:
    """Raise NotADirectoryError or FileNotFoundError, with the nearest name, for a path that is no folder."""
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file; expected a folder of images or sounds")
    if not folder.is_dir():
        names = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise FileNotFoundError(
            f"no folder {folder}{near_miss(folder.name, names)}; expected a folder of images or sounds"
        )


def kind_of(kinds: set[str], folder: Path) -> str:
    """Return what the files of a folder are. Raises ValueError where there are none, or both images and sounds."""
    if not kinds:
        raise ValueError(
            f"{folder} has no image or sound in it (files that end in {', '.join((*IMAGES[:4], *SOUNDS[:3]))}, "
            "...); expected a folder for each class"
        )
    if len(kinds) > 1:
        raise ValueError(f"{folder} holds images and sounds; expected one of them")
    return next(iter(kinds))


def table_of(folder: Path, expected: str) -> RawTable:
    """Return the table of the files of one split. Raises ValueError where they are of another kind than expected."""
    entries = [(name, "/".join(name.split("/")[:-1]), size) for name, size in sorted(files_of(folder))]
    kind = kind_of({media_kind(name) for name, _, _ in entries}, folder)
    if kind != expected:
        raise ValueError(f"{folder} holds {kind} files, but the training split holds {expected} files")
    return file_table(folder, entries, kind)


def files_of(folder: Path, prefix: str = "", above: tuple[tuple[int, int], ...] = ()) -> Iterator[tuple[str, int]]:
    """Yield the path below the folder and the size in bytes of each image and sound; hidden files are left out.

    `prefix` and `above` are the path and the (device, inode) of the folders above this one.

    Raises:
        ValueError: A link leads to a folder above it.
        FileNotFoundError: A link leads to no file.
    """
    status = folder.stat()
    if (status.st_dev, status.st_ino) in above:
        raise ValueError(
            f"{folder} is a link to {os.path.realpath(folder)}, a folder that it lies in, so its files have no end; "
            "remove the link"
        )
    above = (*above, (status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files_of(Path(entry.path), f"{prefix}{entry.name}/", above)
            elif media_kind(entry.name):
                try:
                    yield prefix + entry.name, entry.stat().st_size
                except FileNotFoundError:
                    raise FileNotFoundError(
                        f"{entry.path} is a link to {os.path.realpath(entry.path)}, which does not exist; remove the "
                        "link, or restore the file"
                    ) from None


def file_table(folder: Path, entries: list[tuple[str, str, int]], kind: str) -> RawTable:
    """Return the table of files with the columns `image` or `audio`, and `label`.

    Raises ValueError for a file outside of the folders of classes.
    """
    import pyarrow as pa

    if loose := [name for name, label, _ in entries if not label]:
        raise ValueError(
            f"{folder / loose[0]} is in no folder of a class; expected a folder for each class, such as "
            f"{folder}/cat/1.png, or table='labels.csv'"
        )
    names, labels, _ = zip(*entries, strict=True)
    digest = hashlib.sha256(json.dumps(entries).encode()).hexdigest()
    arrow = pa.table({kind: pa.array(names, pa.string()), "label": pa.array(labels, pa.string())})
    return RawTable(str(folder), arrow, digest, folder, {kind: kind})
