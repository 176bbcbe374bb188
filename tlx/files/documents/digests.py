"""Record the sha256 of the files of a finished run in `files.json`. A file that was changed since is refused, never
read.

    {"version": 1, "sha256": {"model/model.safetensors": "9f...", "result.json": "3c...", ...}}

A folder without `files.json` belongs to an older version, or to a run that is not finished: nothing is verified there.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from tlx.files.documents.checks import Mapped, OneOf, Record, Text
from tlx.files.documents.reading import holds_file, read_json

FILES, RESULT = "files.json", "result.json"
FORM = Record(
    {"version": OneOf((1,)), "sha256": Mapped(Text(r"[0-9a-f]{64}", "64 hexadecimal digits"))},
)
REMEDY = "restore the file, or run again with --overwrite"
# Other files of a folder belong to the user, and are not read.
READ = (".json", ".safetensors", ".txt", ".model")


class Changed(ValueError):
    """A file differs from the one that the run wrote."""


def write(folder: Path, pending: Mapping[str, str] | None = None) -> None:
    """Write `files.json` of the files that a run left in `folder`.

    Args:
        folder: The run's folder.
        pending: The texts of files that are about to be written, by name.
    """
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in (pending or {}).items()}
    names = (*PARTS, *(path.name for path in folder.iterdir() if path.name in SINGLE))
    for name in names:
        for path in files_below(folder / name):
            place = path.relative_to(folder).as_posix()
            if place not in digests:
                digests[place] = digest(path)
    partial = folder / f".{FILES}.partial"
    partial.write_text(json.dumps({"version": 1, "sha256": dict(sorted(digests.items()))}, indent=2) + "\n", "utf-8")
    os.replace(partial, folder / FILES)


PARTS = ("model", "adapter", "predictions")
SINGLE = (
    "recipe.json",
    RESULT,
    "metrics.jsonl",
    "learned.safetensors",
    "mistakes.json",
    "parameters.json",
    "weights.json",
    "environment.json",
)


def files_below(path: Path) -> Iterable[Path]:
    """Return the files below a directory, without hidden ones, or the file itself."""
    if path.is_dir():
        return sorted(inner for inner in path.rglob("*") if inner.is_file() and not inner.name.startswith("."))
    return [path] if path.is_file() else []


def digest(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read(folder: Path) -> dict[str, str]:
    """Return the digests in `files.json`; nothing where there is no file, or the run is not finished."""
    path = folder / FILES
    if not holds_file(folder / RESULT) or not path.exists():
        return {}
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _read(path: Path, stamp: int) -> dict[str, str]:
    return read_json(path, FORM, remedy=REMEDY)["sha256"]


def verify(folder: Path, name: str) -> None:
    """Raise Changed where the file `name` of a finished run differs from the one that the run wrote."""
    if (expected := read(folder).get(name)) is None:
        return
    path = folder / name
    if not holds_file(path, REMEDY):
        raise Changed(f"{path} is missing; {folder / FILES} lists it: {REMEDY}")
    if (received := digest(path)) != expected:
        raise Changed(
            f"{path} was changed after the run wrote it: its sha256 is {received[:12]}..., but {FILES} states "
            f"{expected[:12]}...; {REMEDY}"
        )


def verify_below(directory: Path) -> None:
    """Raise Changed where `directory`, a part of a finished run such as `model/`, differs from what the run wrote."""
    folder, start = directory.parent, f"{directory.name}/"
    listed = [name for name in read(folder) if name.startswith(start)]
    for name in listed:
        verify(folder, name)
    if not listed:
        return
    for path in files_below(directory):
        if path.suffix in READ and path.relative_to(folder).as_posix() not in listed:
            raise Changed(f"the run did not write {path}, but tlx would read it with the files of the run: remove it")
