"""From the numbers of a study's page to the cells that they are of, and from there to the folders of the runs."""

from urllib.parse import quote

from tlx.records.run_directory import RECIPE, RESULT
from tlx.records.studies import CELLS, FAILED, Cell, Table
from tlx.report.study.names import Columns

PAGES = ("report.html", RESULT, FAILED, RECIPE)


def href(cell: Cell) -> str | None:
    """The cell's page, else its result, else why it failed, else its recipe; None where it has not begun."""
    for name in PAGES:
        if (cell.folder / name).is_file():
            return quote(f"{CELLS}/{cell.fingerprint}/{name}")
    return None


def anchors(table: Table, columns: Columns) -> dict[str, str]:
    """Where the runs of each arm are listed on the page, by what the arm is called there: `#arm-0`, ..."""
    called = dict.fromkeys(columns.arm(arm.names) for arm in table.study.arms)
    return {name: f"#arm-{place}" for place, name in enumerate(called)}
