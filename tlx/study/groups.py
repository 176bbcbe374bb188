"""Record in `groups.json` which cells of a study train together; every worker and every later call keeps these groups.

    {"most": 64, "groups": [{"cells": [FINGERPRINT, ...], "decided": true, "why": "..."}, ...]}

A group that is not decided yet is a set of cells that may share a program. The worker that opens them first decides,
and replaces the group by the decided groups. A decided group never changes. Its order is the order of its runs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from tlx.records.log import write_json
from tlx.records.run_directory import RESULT
from tlx.records.studies import CELLS, GROUPS
from tlx.study.base import alone
from tlx.study.sweeps import Cell
from tlx.training import grouping

ALONE = "no other cell may share its program"


class Together(NamedTuple):
    """Cells that train together, by fingerprint, in their order; `decided` as explained at the top of this file."""

    cells: tuple[str, ...]
    decided: bool = False
    why: str = ""

    @classmethod
    def of(cls, cells: Sequence[str], decided: bool, why: str) -> "Together":
        """Return a group that was sent to another process as JSON."""
        return cls(tuple(cells), decided, why)


class Recorded(NamedTuple):
    """Content of `groups.json`: the largest size of a group, as requested, and the groups."""

    most: int
    groups: tuple[Together, ...]


def read(directory: Path) -> Recorded | None:
    """Return the groups of a study's directory; None if none are recorded yet.

    Raises:
        ValueError: The file was not written by `tlx study`.
    """
    path = directory / GROUPS
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return _read(path, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, ...]) -> Recorded:
    """Read the file, of which each version has another `stamp`. Every claim asks for the groups, and those of 10,000
    cells take tens of milliseconds to parse.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        groups = tuple(
            Together(tuple(map(str, item["cells"])), bool(item["decided"]), str(item["why"]))
            for item in document["groups"]
        )
        return Recorded(int(document["most"]), groups)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} does not contain the groups of a study ({type(error).__name__}: {error}); this file records "
            "which cells train together, so restore it, or delete the directory and run the study again"
        ) from error


def write(directory: Path, recorded: Recorded) -> None:
    """Write `groups.json`."""
    groups = [{"cells": list(group.cells), "decided": group.decided, "why": group.why} for group in recorded.groups]
    write_json(directory / GROUPS, {"most": recorded.most, "groups": groups})


def record(directory: Path, cells: Mapping[str, Cell], most: int) -> list[str]:
    """Record a group for every cell of the study that has none, by the rule of `tlx.training.grouping.chunks`.

    Recorded groups stay as they are, whatever `most` is now. There is one exception: if the study no longer has a cell
    of a group that is not finished, the unfinished cells of that group get a new group and train from their first step,
    because without the lost cell their numbers cannot be those of the old group.

    Args:
        directory: the study's directory.
        cells: the study's cells by fingerprint, in their order.
        most: the largest number of cells in a new group.

    Returns:
        Notes for the user.
    """
    notes: list[str] = []
    with alone(directory):
        recorded = read(directory) or Recorded(most, ())
        done_cells = {name for name in cells if (directory / CELLS / name / RESULT).is_file()}
        groups: list[Together] = []
        for group in recorded.groups:
            lost = [name for name in group.cells if name not in cells]
            unfinished = [name for name in group.cells if name in cells and name not in done_cells]
            if lost and unfinished:
                # Finished cells keep their entry, as the record of how they were trained.
                if finished := tuple(name for name in group.cells if name in done_cells):
                    groups.append(Together(finished, True, f"trained in a group of {len(group.cells)} cells"))
                if group.decided and len(group.cells) > 1:
                    notes.append(
                        f"{len(unfinished)} cells trained in a group with {len(lost)} cells that the study no longer "
                        "has: they get a new group and start again"
                    )
                continue
            groups.append(group)
        grouped_cells = {name for group in groups for name in group.cells}
        new = [name for name in cells if name not in grouped_cells and name not in done_cells]
        if groups and new and recorded.most != most:
            notes.append(
                f"--together {most} applies to the {len(new)} new cells only; {GROUPS} keeps the groups of the other "
                "cells"
            )
        elif groups and recorded.most != most and cells.keys() - done_cells:
            notes.append(
                f"--together {most} is not used, because the groups of this study were recorded with --together "
                f"{recorded.most}, and the results depend on the groups; choose another --out for other groups"
            )
        parts = grouping.chunks([cells[name].recipe for name in new], most)
        for part in parts:
            members = tuple(new[n] for n in part)
            # There is nothing to decide about a cell that trains alone, and deciding rewrites the whole file.
            groups.append(Together(members, True, ALONE) if len(part) == 1 else Together(members))
        if tuple(groups) != recorded.groups or not (directory / GROUPS).is_file():
            write(directory, Recorded(most if not recorded.groups else recorded.most, tuple(groups)))
    return notes


def decide(directory: Path, group: Together, parts: Sequence[Together]) -> None:
    """Replace a group that was not decided by the decided groups `parts`.

    Cells of the group that are in no part (they could not be opened) then have no group; the next call of `record`
    creates one.
    """
    with alone(directory):
        recorded = read(directory)
        if recorded is None:
            raise FileNotFoundError(
                f"{directory / GROUPS} was removed while the study was running; start the study again"
            )
        groups: list[Together] = []
        for recorded_group in recorded.groups:
            groups += parts if recorded_group == group else [recorded_group]
        write(directory, Recorded(recorded.most, tuple(groups)))


def share_of(groups: Sequence[Any], workers: int) -> int:
    """Return how many of these groups one of `workers` workers keeps; the others are free for the other workers."""
    return math.ceil(len(groups) / workers)
