"""Write report pages: read the raw records of a run or a study, and draw them into one file that needs no network.

`reading` reads the raw records, `intervals` computes their uncertainty, `charts` and `figures` draw, `page` is the
frame (libraries, style, security policy, downloads), `words` formats numbers, `run` is the page of one run, `study/`
the page of a study.
"""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tlx.notebooks import html_of

NEEDED = ("altair", "vl_convert", "jinja2", "scipy")


class Page(type(Path())):  # type: ignore[misc]
    """The path of a page. In a notebook it shows the run or the study of the page, and a link to it."""

    def _repr_html_(self) -> str | None:
        return html_of("tlx.report.notebook:page_html", self)


def available() -> bool:
    """Return whether the packages of the extra `tlx[report]` are installed. Imports none of them."""
    return all(find_spec(name) is not None for name in NEEDED)


def write(folder: str | Path, metric: str | None = None) -> Page:
    """Write `report.html` into the folder of a finished run or into a study's directory, and return its path.

    Raises:
        FileNotFoundError: The folder contains neither a run nor a study.
        ValueError: `metric` is given for a run.
    """
    from tlx.records.remote import edited, is_url

    if is_url(folder):
        with edited(str(folder)) as local:
            return write(local, metric)
    path = Path(folder)
    if holds_study(path):
        return write_study(path, metric)
    if metric:
        raise ValueError(
            f"{path} contains a run, and its page shows every metric; --metric is for the comparison in a study"
        )
    return write_run(path)


def holds_study(path: Path) -> bool:
    """Return whether the folder is a study's, not a run's.

    Raises:
        FileNotFoundError: It is neither.
    """
    from tlx.files.nearby import missing_directory
    from tlx.records import run_directory as runs
    from tlx.records import studies

    if not path.exists():
        raise missing_directory(path)
    if studies.is_study(path):
        return True
    if not any((path / name).is_file() for name in (runs.RECIPE, runs.RESULT)):
        raise FileNotFoundError(f"{path} contains neither a run nor a study: no {runs.RESULT} and no {studies.STUDY}")
    return False


def write_run(folder: str | Path, task: Any = None) -> Page:
    """Write `report.html` into the folder of a finished run, from the records there alone, and return its path.

    Args:
        folder: the folder of the run.
        task: as in `tlx.report.run.write`.

    Raises:
        FileNotFoundError: The folder contains no finished run.
        ImportError: The extra is missing.
    """
    needs()
    from tlx.files.locks import writing
    from tlx.report import run

    path = Path(folder)
    with writing(path) if path.is_dir() else nullcontext():
        return Page(run.write(path, task))


def write_study(folder: str | Path, metric: str | None = None) -> Page:
    """Write `report.html` into a study's directory, from the records of its runs alone, and return its path.

    Args:
        folder: the study's directory.
        metric: the metric to compare, in place of the study's own.

    Raises:
        FileNotFoundError: There is no study.
        ValueError: Nothing can be compared (no finished cell, an unknown metric or baseline).
        ImportError: The extra is missing.
    """
    needs()
    from tlx.report import study

    return Page(study.write(Path(folder), metric))


def table(folder: str | Path, form: str, metric: str | None = None) -> str:
    """Return the comparison of a study's arms as "latex" or "markdown". Raises the errors of `write_study`."""
    needs()
    if not holds_study(Path(folder)):
        raise ValueError(f"{folder} contains a run; a table compares the arms of a study")
    from tlx.records import studies
    from tlx.report.study import tables

    return tables.FORMS[form](studies.compare(studies.read(folder), metric))


def needs() -> None:
    """Raise ImportError if the extra is missing."""
    if not available():
        lacking = ", ".join(name for name in NEEDED if find_spec(name) is None)
        raise ImportError(f"a page needs {lacking}: pip install 'tlx[report]'")
