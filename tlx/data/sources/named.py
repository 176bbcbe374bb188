"""Find the source that a plain text names: a data set by name, a file, a folder, or a name on the hub."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tlx.data import DATASETS
from tlx.data.sources.base import Source
from tlx.data.sources.csv import Csv
from tlx.data.sources.files import FileTable
from tlx.data.sources.folder import TABLES, Folder
from tlx.data.sources.hf_dataset import HfDataset
from tlx.data.sources.image_list import ImageList
from tlx.data.sources.jsonl import Jsonl
from tlx.data.sources.media import media_kind
from tlx.data.sources.parquet import Parquet
from tlx.data.sources.tfds import Tfds, prepared
from tlx.trees import near_miss

# The source for the end of a file's name.
ENDINGS: dict[str, type[FileTable]] = {
    ".csv": Csv,
    ".tsv": Csv,
    ".jsonl": Jsonl,
    ".ndjson": Jsonl,
    ".parquet": Parquet,
}
# Rows that are looked at for names of files.
LOOKED_AT = 1000
# Files that look like tables, and the way to a table that can be read.
OTHER = {
    ".json": "write one object on each line and name the file .jsonl",
    ".xlsx": "save the sheet as CSV",
    ".xls": "save the sheet as CSV",
    ".txt": "name the columns of a table in a first line and the file .csv",
    ".arrow": "give the folder that `datasets` wrote, or an Arrow table: Frame(table)",
    ".gz": "unpack it first",
    ".zip": "unpack it first",
    ".feather": "read it with pandas and give the frame: Frame(frame)",
    ".pkl": "read it and give the frame: Frame(frame)",
}


def source_named(name: str) -> Source:
    """Return the source that a text names.

    The first that fits: a data set of tlx or of TFDS on disk, a folder or file by its content or its ending, a name on
    the hub ("user/name").

    Raises:
        FileNotFoundError: There is no such data set or file; the message has the nearest names.
        ValueError: The file is of a kind that tlx does not read.
    """
    if name in DATASETS or ((Path(name) / "dataset_info.json").is_file() and not (Path(name) / "state.json").is_file()):
        return Tfds(name)
    path = Path(name)
    ending = path.suffix.lower()
    if path.is_dir():
        return source_of_folder(path)
    if ending in ENDINGS:
        return ENDINGS[ending](name)
    if path.is_file() and lists_images(path):
        return ImageList(name)
    if ending in OTHER and (path.is_file() or "/" not in name):
        raise ValueError(
            f"{name} ends in {ending}, which tlx does not read; {OTHER[ending]} (tlx reads {', '.join(ENDINGS)})"
        )
    if path.is_file():
        raise ValueError(
            f"{name} is a file of an unknown kind; expected a file that ends in {', '.join(ENDINGS)}, or name the "
            "kind: Csv(...)"
        )
    on_disk = {key for key in prepared() for key in (key, key.rpartition(":")[0])}
    if name in on_disk:
        return Tfds(name)
    if is_path(name):
        files = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FileNotFoundError(f"no file or folder {name}{near_miss(path.name, files)}; expected a data set")
    bases = {key.partition("/")[0].partition(":")[0] for key in (*DATASETS, *on_disk)}
    base = name.partition("/")[0]
    # A mistyped name of a known data set is no name on the hub.
    if is_hub_name(name) and base not in bases and not get_close_matches(base, bases, cutoff=0.75):
        return HfDataset(name)
    return Tfds(name)


def lists_images(path: Path) -> bool:
    """Return whether the first line of a text file has the name of an image and one more word."""
    if path.suffix.lower() != ".txt":
        return False
    with path.open("rb") as stream:
        parts = stream.readline(4096).decode("utf-8", "replace").rsplit(maxsplit=1)
    return len(parts) == 2 and media_kind(parts[0]) == "image"


def is_path(name: str) -> bool:
    """Return whether a text that names no file was meant as one, by its ending or its beginning."""
    path = Path(name)
    typed = near_miss(path.suffix.lower(), (*ENDINGS, *OTHER)) if path.suffix else ""
    return path.is_absolute() or name.startswith((".", "~")) or bool(typed) or path.suffix.lower() in ENDINGS


def is_hub_name(name: str) -> bool:
    """Return whether a text may be the name of a data set on the hub, and is no path of this machine."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).parent.exists()


def source_of_folder(folder: Path) -> Source:
    """Return the source for a folder, by the files in it."""
    if any((folder / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return HfDataset(str(folder))
    if next(folder.rglob("*.parquet"), None) is not None:
        return HfDataset(str(folder))
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in ENDINGS]
    splits = {file.stem.lower(): file for file in tables}
    if "train" in splits:
        kind = ENDINGS[splits["train"].suffix.lower()]
        others: dict[str, Any] = {
            split: str(splits[name])
            for split, names in (("validation", ("validation", "valid", "val", "dev")), ("test", ("test",)))
            for name in names
            if name in splits
        }
        return kind(str(splits["train"]), **others)
    if len(tables) == 1 and (files := column_of_files(folder, tables[0])):
        return Folder(str(folder), table=tables[0].name, **files)
    if len(tables) == 1 and not any(entry.is_dir() for entry in folder.iterdir()):
        return ENDINGS[tables[0].suffix.lower()](str(tables[0]))
    if folder.suffix.lower() in ENDINGS:
        raise IsADirectoryError(f"{folder} is a directory; expected {ENDINGS[folder.suffix.lower()].NOUN}")
    return Folder(str(folder))


def column_of_files(folder: Path, file: Path) -> dict[str, Any]:
    """Return the column with the names of images or sounds of the folder as {"image": column} or {"audio": column}.

    {} where the table has no such column.
    Most cells of such a column end as such a file does, and the first of these files exists.
    """
    if file.suffix.lower() not in TABLES or not any(
        entry.is_dir() or media_kind(entry.name) for entry in folder.iterdir()
    ):
        return {}
    table = ENDINGS[file.suffix.lower()](str(file)).table(str(file))
    for name in table.names:
        cells = [cell for cell in table.column(name).slice(0, LOOKED_AT).to_pylist() if isinstance(cell, str)]
        kinds = [kind for cell in cells if (kind := media_kind(cell))]
        if len(kinds) > len(cells) / 2:
            first = next(cell for cell in cells if media_kind(cell))
            if (folder / first).is_file():
                return {kinds[0]: name}
    return {}
