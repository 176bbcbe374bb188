"""The pages: what a run left behind, read back from its raw records and drawn into one file that needs no network.

`reading` is the raw records, `intervals` what they leave uncertain, `charts` and `figures` the drawings, `page` the
frame (libraries, style, security policy, downloads), `words` how numbers are written, `run` the page of one run.
"""

from importlib.util import find_spec
from pathlib import Path

NEEDED = ("altair", "vl_convert", "jinja2", "scipy")


def available() -> bool:
    """Whether what draws the pages is installed: the extra `tlx[report]`. Imports none of it."""
    return all(find_spec(name) is not None for name in NEEDED)


def write_run(folder: str | Path) -> Path:
    """Writes `report.html` into the folder of a finished run, from the records there alone, and returns its path.

    Raises FileNotFoundError for a folder without a finished run, ImportError where the extra is missing.
    """
    if not available():
        lacking = ", ".join(name for name in NEEDED if find_spec(name) is None)
        raise ImportError(f"a page needs {lacking}: pip install 'tlx[report]'")
    from tlx.report import run

    return run.write(Path(folder))
