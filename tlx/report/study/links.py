"""Link the numbers of a study's page to their cells, and the cells to the folders of the runs."""

from urllib.parse import quote

from tlx.records.run_directory import RECIPE, RESULT
from tlx.records.studies import CELLS, FAILED, CellRecord, StudyTable
from tlx.report.study.names import Columns

PAGES = ("report.html", RESULT, FAILED, RECIPE)


def href(cell: CellRecord) -> str | None:
    """Return the cell's page, else its result, else its failure, else its recipe; None if it has not begun."""
    for name in PAGES:
        if (cell.folder / name).is_file():
            return quote(f"{CELLS}/{cell.fingerprint}/{name}")
    return None


def anchors(table: StudyTable, columns: Columns) -> dict[str, str]:
    """Return the anchor of each arm's runs on the page, by the arm's label there: `#arm-0`, ..."""
    labels = dict.fromkeys(columns.arm(arm.names) for arm in table.study.arms)
    return {name: f"#arm-{place}" for place, name in enumerate(labels)}
