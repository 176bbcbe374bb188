"""The pages: what a run left behind, read back from its raw records and drawn into one file that needs no network.

`reading` is the raw records, `intervals` what they leave uncertain, `charts` and `figures` the drawings, `page` the
frame (libraries, style, security policy, downloads), `words` how numbers are written, `run` the page of one run,
`study/` that of a study.
"""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("altair", "vl_convert", "jinja2", "scipy")


def available() -> bool:
    """Whether what draws the pages is installed: the extra `tlx[report]`. Imports none of it."""
    return all(find_spec(name) is not None for name in NEEDED)


def write(folder: str | Path, metric: str | None = None) -> Path:
    """Writes `report.html` into the folder of a finished run or into a study's directory, and returns its path.

    Raises FileNotFoundError for a folder that is neither.
    """
    path = Path(folder)
    if holds_study(path):
        return write_study(path, metric)
    if metric:
        raise ValueError(f"{path} holds a run, whose page has every metric; --metric is of a study's comparison")
    return write_run(path)


def holds_study(path: Path) -> bool:
    """Whether the folder is a study's, not a run's; FileNotFoundError where it is neither."""
    from tlx.records import run_directory as runs
    from tlx.records import studies

    if studies.is_study(path):
        return True
    if not any((path / name).is_file() for name in (runs.RECIPE, runs.RESULT)):
        raise FileNotFoundError(f"{path} holds neither a run nor a study: no {runs.RESULT} and no {studies.STUDY}")
    return False


def write_run(folder: str | Path, task: Any = None) -> Path:
    """Writes `report.html` into the folder of a finished run, from the records there alone, and returns its path.
    `task` is as in `tlx.report.run.write`.

    Raises FileNotFoundError for a folder without a finished run, ImportError where the extra is missing.
    """
    needs()
    from tlx.files.locks import writing
    from tlx.report import run

    path = Path(folder)
    with writing(path) if path.is_dir() else nullcontext():
        return run.write(path, task)


def write_study(folder: str | Path, metric: str | None = None) -> Path:
    """Writes `report.html` into a study's directory, from the records of its runs alone, and returns its path. `metric`
    is compared in the place of the study's own.

    Raises FileNotFoundError where there is no study, ValueError where nothing can be compared (no finished cell, an
    unknown metric or baseline), ImportError where the extra is missing.
    """
    needs()
    from tlx.report import study

    return study.write(Path(folder), metric)


def table(folder: str | Path, form: str, metric: str | None = None) -> str:
    """The comparison of a study's arms as "latex" or "markdown". Raises as `write_study`."""
    needs()
    if not holds_study(Path(folder)):
        raise ValueError(f"{folder} holds a run; a table compares the arms of a study")
    from tlx.records import studies
    from tlx.report.study import tables

    return tables.FORMS[form](studies.compare(studies.read(folder), metric))


def needs() -> None:
    if not available():
        lacking = ", ".join(name for name in NEEDED if find_spec(name) is None)
        raise ImportError(f"a page needs {lacking}: pip install 'tlx[report]'")
