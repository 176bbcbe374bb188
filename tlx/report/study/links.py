"""From a study's page to the folders of its runs."""

from urllib.parse import quote

from tlx.cells import CELLS, FAILED, Cell
from tlx.folder import RECIPE, RESULT

PAGES = ("report.html", RESULT, FAILED, RECIPE)


def href(cell: Cell) -> str | None:
    """The cell's page, else its result, else why it failed, else its recipe; None where it has not begun."""
    for name in PAGES:
        if (cell.folder / name).is_file():
            return quote(f"{CELLS}/{cell.fingerprint}/{name}")
    return None
