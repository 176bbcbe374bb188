"""Find the runs, studies and searches below a directory, and read what a list of them shows.

This module imports neither JAX nor pandas, writes nothing, and reads a few small files of each directory.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tlx.files.documents import digests, read_json, records
from tlx.files.documents.checks import Form, Record, Rows, Text
from tlx.files.locks import in_use
from tlx.files.run_files import FAILED, RECIPE, RESULT
from tlx.records.studies.reading import CELLS, CLAIMS, REMEDY, STUDY, is_locked
from tlx.trees import Json

# The part of recipe.json that a list shows.
LISTED = Record(records.BRIEF.required, {"fingerprint": records.HASH, "changes": Rows(Rows(Text(), 3, 3))})
SEARCH, FOUND = "search.json", "tune.json"
Kind = Literal["run", "study", "search"]
# A run is "damaged" where a file of it cannot be read.
State = Literal["done", "running", "failed", "unfinished", "damaged"]
STATES: tuple[State, ...] = ("done", "running", "failed", "unfinished", "damaged")


class ListedRun(NamedTuple):
    """A run, a study or a search as a list shows it.

    Attributes:
        kind: What the directory holds.
        folder: The directory.
        state: Its state; a study is done when all of its cells are, a search when it has its result.
        date: The time of the last change of its result, else of its recipe, in seconds since the epoch.
        recipe: The dumped recipe of a run or a search; None for a study, and where it cannot be read.
        changes: The overrides of the command line that the run records: path and new value, as text.
        fingerprint: The fingerprint of that recipe; empty for a study.
        result: The content of `result.json` of a finished run.
        question: The question of a study.
        metric: The metric of a study or a search.
        cells: The number of cells of a study or a search in each state; empty for a run.
        fault: Why a file cannot be read.
    """

    kind: Kind
    folder: Path
    state: State
    date: float
    recipe: Json | None = None
    fingerprint: str = ""
    result: Json | None = None
    question: str = ""
    metric: str = ""
    cells: dict[str, int] = {}  # noqa: RUF012
    fault: str = ""
    changes: tuple[tuple[str, str], ...] = ()


def find(folder: str | Path, *, cells: bool = False) -> Iterator[ListedRun]:
    """Yield the runs, studies and searches in a directory and below it, in the order of their paths.

    Args:
        folder: The directory.
        cells: Whether the cells of studies and searches are listed too, as runs.

    Raises:
        FileNotFoundError, NotADirectoryError: There is no such directory.
    """
    root = Path(folder)
    if not root.exists():
        raise FileNotFoundError(f"there is no directory {root}; give the directory that contains the runs")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file; expected a directory with runs")
    waiting = [root]
    while waiting:
        place = waiting.pop()
        names, below = contents(place)
        if STUDY in names or SEARCH in names:
            yield read_study(place, "study" if STUDY in names else "search")
            waiting += [place / CELLS] if cells and CELLS in below else []
        elif names & {RECIPE, RESULT, FAILED}:
            yield read_run(place, names)
        else:
            waiting += [place / name for name in sorted(below, reverse=True) if not name.startswith(".")]


def contents(folder: Path) -> tuple[set[str], set[str]]:
    """Return the names of the files and of the directories in a directory; links to directories are left out."""
    files: set[str] = set()
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir(follow_symlinks=False) else files).add(entry.name)
    except PermissionError:
        # A directory of another user is not listed.
        return set(), set()
    return files, folders


def read_run(folder: Path, names: set[str]) -> ListedRun:
    """Return a run; `names` are the files in its directory."""
    state: State = "done" if RESULT in names else "failed" if FAILED in names else "unfinished"
    if state != "done" and (in_use(folder) or is_locked(claim_of(folder))):
        state = "running"
    entry = ListedRun("run", folder, state, date_of(folder, RESULT, RECIPE, FAILED))
    try:
        document = read(folder, RECIPE, LISTED) if RECIPE in names else {}
        changes = tuple((change[0], change[-1]) for change in document.get("changes", ()))
        entry = entry._replace(
            recipe=document.get("recipe"), fingerprint=document.get("fingerprint", ""), changes=changes
        )
        if state == "done":
            result = read(folder, RESULT, records.RESULT)
            entry = entry._replace(result=result, fingerprint=entry.fingerprint or result.get("fingerprint", ""))
    except (ValueError, OSError) as error:
        return entry._replace(state="damaged", fault=" ".join(str(error).split()))
    return entry


def claim_of(folder: Path) -> Path:
    """Return the claim of a run that is a cell of a study (see `tlx.records.studies`)."""
    return folder.parent.parent / CLAIMS / f"{folder.name}.lock"


def read_study(folder: Path, kind: Kind) -> ListedRun:
    """Return a study or a search, with the number of its cells in each state."""
    name = STUDY if kind == "study" else SEARCH
    entry = ListedRun(kind, folder, "unfinished", date_of(folder, FOUND, "report.html", name))
    try:
        document = read(folder, name, records.STUDY if kind == "study" else records.SEARCH, verified=False)
    except (ValueError, OSError) as error:
        return entry._replace(state="damaged", fault=" ".join(str(error).split()))
    cells = [cell["fingerprint"] for cell in document.get("cells", ())]
    if kind == "search":
        _, below = contents(folder / CELLS)
        cells = sorted(below)
    counts = dict.fromkeys(("done", "running", "failed", "waiting"), 0)
    for fingerprint in cells:
        counts[cell_state(folder, fingerprint)] += 1
    # A search also ends trials early.
    ended = (folder / FOUND).is_file() if kind == "search" else counts["done"] == len(cells)
    state: State = "done" if ended else "running" if counts["running"] else "unfinished"
    if counts["failed"] and state == "unfinished":
        state = "failed"
    return entry._replace(
        state=state, recipe=document.get("recipe"), fingerprint=document.get("fingerprint", ""),
        question=document.get("question") or "", metric=document.get("metric") or "",
        cells={name: count for name, count in counts.items() if count},
    )  # fmt: skip


def cell_state(folder: Path, fingerprint: str) -> str:
    """Return the state of a cell of a study, by its files and its claim alone."""
    place = folder / CELLS / fingerprint
    if (place / RESULT).is_file():
        return "done"
    if is_locked(folder / CLAIMS / f"{fingerprint}.lock"):
        return "running"
    return "failed" if (place / FAILED).is_file() else "waiting"


def read(folder: Path, name: str, form: Form, *, verified: bool = True) -> Any:
    """Return a JSON file of a directory; raise ValueError where a run's file was changed after the run wrote it."""
    document = read_json(folder / name, form, remedy=REMEDY, finite=False)
    if verified:
        digests.verify(folder, name)
    return document


def date_of(folder: Path, *names: str) -> float:
    """Return the time of the last change of the first of these files that exists."""
    for name in names:
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return 0.0
