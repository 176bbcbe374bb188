"""Which cells of a study train together: recorded once in `groups.json`, kept by every worker and every later call.

    {"most": 64, "groups": [{"cells": [FINGERPRINT, ...], "decided": true, "why": "..."}, ...]}

A group that is not decided yet is a set of cells that may share a program; the worker that opens them first decides
and puts the decided groups in its place. A decided group never changes. Its order is the order of its runs.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tlx.records.log import write_json
from tlx.records.run_directory import RESULT
from tlx.records.studies import CELLS, GROUPS
from tlx.study.base import alone
from tlx.study.sweeps import Cell
from tlx.training import grouping


class Together(NamedTuple):
    """The `cells` that train together, by fingerprint, in their order; `decided` as in the head of this file."""

    cells: tuple[str, ...]
    decided: bool = False
    why: str = ""


class Recorded(NamedTuple):
    """`groups.json`: the largest group that was asked for, and the groups."""

    most: int
    groups: tuple[Together, ...]


def read(directory: Path) -> Recorded | None:
    """The groups of a study's directory; None where none are recorded yet.

    Raises:
        ValueError: the file is not one that `tlx study` wrote.
    """
    path = directory / GROUPS
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        groups = tuple(
            Together(tuple(map(str, one["cells"])), bool(one["decided"]), str(one["why"])) for one in document["groups"]
        )
        return Recorded(int(document["most"]), groups)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} does not hold the groups of a study ({type(error).__name__}: {error}); it says which cells train "
            "together, so restore it, or delete the directory and run the study again"
        ) from error


def write(directory: Path, recorded: Recorded) -> None:
    groups = [{"cells": list(one.cells), "decided": one.decided, "why": one.why} for one in recorded.groups]
    write_json(directory / GROUPS, {"most": recorded.most, "groups": groups})


def record(directory: Path, cells: Mapping[str, Cell], most: int) -> list[str]:
    """Record a group for every cell of the study that is in none, by the rule of `tlx.training.grouping.chunks`.

    Groups that are recorded stay as they are, whatever `most` is now. Only where the study has lost a cell of a group
    that is not finished, the unfinished cells of that group get a new one and train from their first step: without the
    lost cell their numbers cannot be those of the old group.

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
        done = {name for name in cells if (directory / CELLS / name / RESULT).is_file()}
        kept: list[Together] = []
        for group in recorded.groups:
            lost = [name for name in group.cells if name not in cells]
            left = [name for name in group.cells if name in cells and name not in done]
            if lost and left:
                # What is finished keeps its line, as the record of how it was trained.
                if others := tuple(name for name in group.cells if name in done):
                    kept.append(Together(others, True, f"trained in a group of {len(group.cells)} cells"))
                if group.decided and len(group.cells) > 1:
                    notes.append(
                        f"{len(left)} cells trained in a group with {len(lost)} that the study no longer has: they get "
                        "a new group and start again"
                    )
                continue
            kept.append(group)
        known = {name for group in kept for name in group.cells}
        new = [name for name in cells if name not in known and name not in done]
        if kept and new and recorded.most != most:
            notes.append(f"--most {most} is for the {len(new)} new cells; {GROUPS} keeps the groups of the others")
        elif kept and recorded.most != most and cells.keys() - done:
            notes.append(
                f"--most {most} is not used: the groups of this study were recorded with --most {recorded.most}, and "
                "the numbers depend on them; choose another --out for other groups"
            )
        parts = grouping.chunks([cells[name].recipe for name in new], most)
        kept += [Together(tuple(new[n] for n in part)) for part in parts]
        if tuple(kept) != recorded.groups or not (directory / GROUPS).is_file():
            write(directory, Recorded(most if not recorded.groups else recorded.most, tuple(kept)))
    return notes


def decide(directory: Path, group: Together, parts: Sequence[Together]) -> None:
    """Put the decided groups `parts` in the place of a group that was not decided. Cells of the group that are in no
    part (they could not be opened) are in no group then; the next call of `record` makes a new one."""
    with alone(directory):
        recorded = read(directory)
        if recorded is None:
            raise FileNotFoundError(f"{directory / GROUPS} is gone while the study runs; start the study again")
        groups: list[Together] = []
        for one in recorded.groups:
            groups += parts if one == group else [one]
        write(directory, Recorded(recorded.most, tuple(groups)))


def share_of(groups: Sequence[Any], workers: int) -> int:
    """How many of these groups one of so many workers keeps; the others are free for the rest."""
    return math.ceil(len(groups) / workers)
