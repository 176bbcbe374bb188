"""Files of images and sounds that a table names: their kinds, and a hash of their content.

The content of 100,000 pictures takes minutes to read, so the hash is of samples: the size of each file, and the
`BLOCK` bytes at its beginning, in its middle and at its end (docs/decisions/folders-by-names-and-sizes.md). The hash of
a file is kept in the cache with its size and times, so a second start asks for the status of each file and reads none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tlx.assets import cache_dir
from tlx.data.sources.raw_table import RawTable, key_of
from tlx.data.waiting import Waiting
from tlx.files.durable import write_whole
from tlx.processors.encoded import has_frames

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".gsm", ".opus", ".aiff", ".au")
# Bytes of a sample.
BLOCK = 4096
# Files that are read at the same time: opening a file is mostly waiting for the disk.
THREADS = 16

# The size, the two times (nanoseconds) and the hash of a file, and whether it holds several frames.
Entry = tuple[int, int, int, str, bool]


def media_kind(name: str) -> str:
    """Return "image", "audio" or "" by the end of the name of a file."""
    ending = os.path.splitext(name)[1].lower()
    return "image" if ending in IMAGES else "audio" if ending in SOUNDS else ""


def file_names(table: RawTable, column: str) -> list[str]:
    """Return the different names of files in a column; [] where its cells hold the content itself."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = table.column(column)
    if pa.types.is_struct(cells.type) and {"bytes", "path"} <= {part.name for part in cells.type}:
        outside = pc.is_null(pc.struct_field(cells, "bytes"))
        cells = pc.filter(pc.struct_field(cells, "path"), outside)
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return []
    return [name for name in pc.unique(cells).to_pylist() if name]


def digest_of_files(table: RawTable, columns: Collection[str], split: str) -> str:
    """Return a hash of the content of the files that some columns of a split name; "" where they name none.

    It depends on the names as the table spells them, on sizes and on samples of the content, not on the folder and not
    on times: a copy of the data has the same hash. A file that is missing counts as such; reading it is an error later.
    """
    return digest_of_entries(entries_of(table, columns, split))


def digest_of_entries(entries: Mapping[str, Entry | None]) -> str:
    """Return the hash of the content of files; "" where there are none."""
    content = [(name, entry and (entry[0], entry[3])) for name, entry in entries.items()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest() if content else ""


def frames_note(entries: Mapping[str, Entry | None]) -> tuple[str, ...]:
    """Return a note where files hold several frames or pages, of which the first one is read; () where none does."""
    names = [name for name, entry in entries.items() if entry is not None and entry[4]]
    if not names:
        return ()
    if len(names) == 1:
        return (f"{names[0]} holds several frames or pages; only the first one is read",)
    named = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (f"{len(names):,} files hold several frames or pages ({named}); only the first one of each is read",)


def entries_of(table: RawTable, columns: Collection[str], split: str) -> dict[str, Entry | None]:
    """Return by its name the entry of each file that some columns of a split name, None where it is missing."""
    names = sorted({name for column in columns for name in file_names(table, column)})
    if not names:
        return {}
    folder = table.folder or Path()
    store = cache_dir() / "files" / f"{key_of('files', os.path.abspath(folder), table.name, split)}.json"
    known = stored_entries(store)
    entries: dict[str, Entry | None] = {}
    changed = []
    for name in names:
        status = status_of(folder / name)
        entries[name] = None if status is None else known.get(name)
        if status is not None and (entries[name] or ())[:3] != status:
            changed.append(name)
    if changed:
        say = Waiting(f"looking at the files of {table.name} once", "files", len(changed))
        with ThreadPoolExecutor(THREADS) as pool:
            results = pool.map(lambda name: entry_of(folder / name), changed)
            for done, (name, entry) in enumerate(zip(changed, results, strict=True), 1):
                entries[name] = entry
                say(done)
        keep(store, {name: entry for name, entry in entries.items() if entry is not None})
    return entries


def without_blanks(table: RawTable, columns: Collection[str]) -> RawTable:
    """Return a table in which the blank cells of some columns of file names are missing cells."""
    import pyarrow as pa
    import pyarrow.compute as pc

    arrow = table.arrow
    for name in columns:
        if pa.types.is_string(arrow[name].type) or pa.types.is_large_string(arrow[name].type):
            blank = pc.equal(pc.utf8_trim_whitespace(arrow[name]), "")
            if pc.any(blank).as_py():
                cells = pc.if_else(blank, pa.scalar(None, arrow[name].type), arrow[name])
                place = arrow.column_names.index(name)
                arrow = arrow.set_column(place, arrow.schema.field(place), cells)
    return table if arrow is table.arrow else replace(table, arrow=arrow)


def status_of(path: Path) -> tuple[int, int, int] | None:
    """Return the size and the times of a file, None where it is missing."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def entry_of(path: Path) -> Entry | None:
    """Return the size, the times and the hash of the samples of a file, None where it cannot be read."""
    status = status_of(path)
    if status is None:
        return None
    size = status[0]
    starts = (0,) if size <= 3 * BLOCK else (0, (size - BLOCK) // 2, size - BLOCK)
    blocks = []
    try:
        with path.open("rb", buffering=0) as stream:
            for start in starts:
                stream.seek(start)
                blocks.append(stream.read(BLOCK if len(starts) > 1 else -1))
    except OSError:
        return None
    content = hashlib.sha256(b"".join(blocks)).hexdigest()[:32]
    return (*status, content, media_kind(path.name) != "audio" and has_frames(path, blocks[0]))


def stored_entries(store: Path) -> dict[str, Entry]:
    """Return the entries that the cache keeps; {} where there are none, or they cannot be read."""
    try:
        with store.open(encoding="utf-8") as stream:
            return {
                name: (int(size), int(modified), int(changed), str(text), bool(frames))
                for name, (size, modified, changed, text, frames) in json.load(stream).items()
            }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep(store: Path, entries: dict[str, Entry]) -> None:
    """Write entries into the cache, if the disk takes them: they only save time."""
    with contextlib.suppress(OSError):
        store.parent.mkdir(parents=True, exist_ok=True)
        write_whole(store, [json.dumps(entries).encode()], shared=True)
