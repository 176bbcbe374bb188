"""Find the rows whose image or sound cannot be read, and leave them out where the user asks for it.

Every file is decoded once; the cache keeps which rows are broken under the content of the files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tlx.assets import cache_dir
from tlx.data.examples import check_cell, save_whole
from tlx.data.sources.labels import LabelColumn
from tlx.data.sources.media import THREADS, digest_of_files
from tlx.data.sources.raw_table import RawTable, key_of
from tlx.data.waiting import Waiting
from tlx.processors.columns import HEAVY, READERS
from tlx.processors.pictures import DECODING
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.data.sources.roles import Roles

# The end of the message about a broken row, where they are not left out.
REMEDY = "; leave such rows out with broken='drop'"


def content_of(cell: object, folder: Path | None, place: str, name: str) -> object:
    """Return the bytes of an image or a sound, or its array. Raises ValueError where its file is missing."""
    if isinstance(cell, dict):
        cell = cell["bytes"] if cell.get("bytes") is not None else cell.get("path")
    if not isinstance(cell, str):
        return cell
    path = (folder or Path()) / cell
    if not path.is_file():
        raise ValueError(f"{place}: {name!r} is {cell!r}, but there is no file {path}")
    return path.read_bytes()


def fault_of(table: RawTable, name: str, column: Column, row: int) -> str:
    """Return why an image or a sound cannot be read; "" where it can."""
    cell = table.cell(name, row)
    place = str((table.folder or Path()) / cell) if isinstance(cell, str) else table.place(row)
    try:
        content = content_of(cell, table.folder, table.place(row), name)
        check_cell({name: content}, name, place)
        READERS[column.kind](content, column, name, place)
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    return ""


def faults_of(
    table: RawTable, roles: Roles, columns: Mapping[str, Column], rows: Sequence[int], split: str
) -> dict[int, str]:
    """Return by its number each of these rows that has a broken image or sound, with the reason."""
    heavy = {name: columns[role] for role in HEAVY if role in roles for name in roles[role]}
    if not heavy:
        return {}
    files = digest_of_files(table, heavy, split)
    # The reasons name the files.
    place = [table.name, os.path.abspath(table.folder or Path())]
    key = key_of("broken", DECODING, *place, table.digest, files, list(heavy), np.asarray(rows).tolist())
    store = cache_dir() / "broken" / f"{key}.npy"
    if table.digest and store.is_file():
        stored: dict[str, str] = json.loads(str(np.load(store, allow_pickle=False)))
        return {int(row): fault for row, fault in stored.items()}
    say = Waiting(f"decoding the files of {table.name} once", "files", len(rows))
    faults = {}
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(
            lambda row: next(filter(None, (fault_of(table, name, heavy[name], row) for name in heavy)), ""), rows
        )
        for done, (row, fault) in enumerate(zip(rows, read, strict=True), 1):
            if fault:
                faults[int(row)] = fault
            say(done)
    if table.digest:
        save_whole(store, np.array(json.dumps(faults)))
    return faults


def without_broken(
    tables: Mapping[str, RawTable], roles: Roles, columns: Mapping[str, Column], label: LabelColumn, name: str
) -> LabelColumn:
    """Return the label of the rows that can be read, with a note on the number of the others.

    Args:
        tables: The table of each split.
        roles: The columns of each role.
        columns: The kind of each role.
        label: The label of all rows.
        name: The name of the source.

    Raises:
        ValueError: No row of a split can be read.
    """
    rows, labels = dict(label.rows), dict(label.labels)
    faults: dict[int, str] = {}
    count, first = 0, ""
    for split, chosen in label.rows.items():
        faults = faults_of(tables[split], roles, columns, chosen.tolist(), split)
        if not faults:
            continue
        count, first = count + len(faults), first or next(iter(faults.values()))
        is_readable = ~np.isin(chosen, list(faults))
        if not is_readable.any():
            raise ValueError(
                f"none of the {len(chosen):,} rows of the split {split!r} of {name} can be read, so broken='drop' "
                f"leaves none; the first: {first}"
            )
        rows[split], numbers = chosen[is_readable], labels[split]
        labels[split] = None if numbers is None else numbers[is_readable]
    if not count:
        return label
    which = "1 row" if count == 1 else f"{count:,} rows"
    note = f"{which} of {name} cannot be read and {'is' if count == 1 else 'are'} not used; the first: {first}"
    return replace(label, rows=rows, labels=labels, notes=(*label.notes, note))
