"""Draw runs, studies, recipes and pages as small pieces of HTML for notebooks.

A piece needs no network and no script, is below 100 kB, and takes the colours of the notebook, light or dark. The
values that it shows name the functions of this module by place, because this module is above some of them.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tlx import config
from tlx.files.documents import holds_file
from tlx.files.run_files import PAGE, RESULT
from tlx.records import studies
from tlx.report import available, page, words
from tlx.report.recipe_file import code
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.recipe import Recipe
    from tlx.records.studies import StudyRecords
    from tlx.tasks import Task

# Rows of a list that are shown; the page has all.
MISTAKES, CELLS, ARMS = 5, 12, 20
# Letters of a text that are shown.
LETTERS = 300
# The largest pictures of mistakes together, in bytes of their data URIs.
PICTURES = 40_000
# Colours that read on white and on black alike, by the role that they have in a drawing.
INK, QUIET, LINE, ACCENT, WARM = "#010101", "#020202", "#030303", "#3b86bd", "#c9683b"
GOOD, OTHER = "#3f9d68", "#8f7ad1"
INKS = {"ink": INK, "quiet": QUIET, "line": LINE, "fill": LINE, "accent": ACCENT, "warm": WARM, "good": GOOD}
# Points of a curve.
POINTS = 200
# The forms of runs that were drawn last, by the folder and the time of the result.
DRAWN: dict[tuple[Path, int], str] = {}
MOST_DRAWN = 16


def run_html(folder: Path, task: "Task") -> str | None:
    """Return the form of a finished run: its metrics with intervals, its curves, its worst mistakes.

    Args:
        folder: The folder of the run.
        task: The task of the run, with its classes.

    Returns:
        The HTML; None where the extra that draws it is not installed.
    """
    if not available() or not holds_file(folder / RESULT):
        return None
    # A cell of a notebook is run many times, and intervals take a second.
    key = folder.resolve(), (folder / RESULT).stat().st_mtime_ns
    if key not in DRAWN:
        if len(DRAWN) >= MOST_DRAWN:
            DRAWN.pop(next(iter(DRAWN)))
        DRAWN[key] = drawn_run(folder, task)
    return DRAWN[key]


def drawn_run(folder: Path, task: "Task") -> str:
    """Return the form of a finished run."""
    from tlx.report import figures, reading, run

    try:
        records = reading.read(folder, task)
    except FileNotFoundError:
        # The run of a study keeps only its result and its predictions.
        return render("run", folder=folder, result=run_result(folder), records=None, page_exists=False)
    drawings = [*figures.training(records)[:1], *figures.validation(records)[:1]]
    return render(
        "run",
        folder=folder,
        result=records.result,
        records=records,
        title=words.headline(records.recipe),
        answer=run.answer(records),
        measured=run.measured(records),
        curves=[(figure.title, picture(figure)) for figure in drawings],
        mistakes=shown([run.card(mistake) for mistake in records.mistakes[:MISTAKES]]),
        page_exists=(folder / PAGE).is_file(),
    )


def run_result(folder: Path) -> Json:
    """Return `result.json`."""
    from tlx.records import run_directory

    result: Json = run_directory.read(folder)
    return result


def shown(cards: list[Json]) -> list[Json]:
    """Return mistakes with short texts, and without pictures beyond `PICTURES` bytes."""
    room = PICTURES
    for card in cards:
        card["texts"] = [text if len(text) <= LETTERS else f"{text[:LETTERS]} ..." for text in card["texts"]]
        size = len(card["image"] or "")
        room -= size
        if room < 0:
            card["image"] = None
    return cards


def recipe_html(recipe: "Recipe") -> str | None:
    """Return the form of a recipe: the code that makes it, without the fields at their defaults."""
    if not available():
        return None
    return render("recipe", code=code(recipe), fingerprint=config.fingerprint(recipe))


def study_html(study: Any) -> str | None:
    """Return the form of a study that has not run: its question, its columns and its cells.

    Args:
        study: A `tlx.Study`.
    """
    if not available():
        return None
    cells = list(study.by_fingerprint.values())
    columns = list(dict.fromkeys(name for cell in cells for name in cell.names))
    counts = {name: list(dict.fromkeys(str(cell.names.get(name)) for cell in cells)) for name in columns}
    return render("study", study=study, columns=counts, cells=cells[:CELLS], count=len(cells))


def results_html(records: "StudyRecords") -> str | None:
    """Return the form of the results of a study: the answer, the arms with their intervals, and the differences."""
    if not available():
        return None
    from tlx.report import study as pages
    from tlx.report.study import names, seeds
    from tlx.report.study.answer import answer

    if not records.counts["done"]:
        return render("results", study=records, rows=[], answer=None, curves=[])
    table = studies.compare(records)
    columns, unit = names.columns(table), names.unit(table)
    drawing = seeds.differences(table, columns, unit)
    return render(
        "results",
        study=records,
        metric=names.metric(table.metric),
        columns=[names.short(name, columns.every) for name in columns.varying],
        answer=answer(table, columns, unit),
        rows=[pages.row(summary, table, columns, unit) for summary in table.summaries[:ARMS]],
        varying=columns.varying,
        count=len(table.summaries),
        unit=unit,
        warnings=table.warnings,
        curves=[(drawing.title, picture(drawing))] if drawing else [],
    )


def page_html(path: Path) -> str | None:
    """Return the form of a page: that of its run or of its study. None for another file: a parent of the page, say."""
    folder = Path(path).parent
    if path.name != PAGE:
        return None
    if studies.is_study(folder):
        return results_html(studies.read(folder))
    from tlx.report.reading import read_recipe, read_task

    task = read_task(read_recipe(folder)["recipe"]["task"], run_result(folder))
    return run_html(folder, task)


def render(template: str, **context: Any) -> str:
    """Return a piece of HTML by its template. All of `context` is escaped."""
    return str(page.environment().get_template("notebook.html").render(form=template, style=style(), **context))


def style() -> str:
    return page.text("notebook.css")


def picture(figure: Any) -> Markup:
    """Return a figure of a page as an inline SVG in the colours of the notebook."""
    import vl_convert

    from tlx.report.plots import inlined

    spec = unlinked(figure.spec)
    spec = {**inlined(spec, thinned(spec.pop("datasets"))), "width": 340, "height": min(200, spec["height"])}
    # Parameters are the colours of a page, by the names of its style sheet.
    spec["params"] = [
        param | {"value": INKS.get(param["name"], param.get("value"))} for param in spec.get("params", ())
    ]
    svg = vl_convert.vegalite_to_svg(spec | {"config": theme()})
    for colour, share in ((INK, "1"), (QUIET, "0.7"), (LINE, "0.25")):
        svg = re.sub(rf'(fill|stroke)="{colour}"', rf'\1="currentColor" \1-opacity="{share}"', svg)
    # A description would be read twice, for the heading names the drawing.
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1))


def unlinked(part: Any) -> Any:
    """Return a specification without links: the anchors of a page lead nowhere in a notebook."""
    if isinstance(part, list):
        return [unlinked(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {name: unlinked(value) for name, value in part.items() if name != "href"}


def thinned(datasets: Json) -> Json:
    """Return the rows of curves with at most `POINTS` for each line."""
    from tlx.report.reading import thin

    result = {}
    for name, rows in datasets.items():
        groups: dict[Any, list[Json]] = {}
        for row in rows:
            groups.setdefault(row.get("split"), []).append(row)
        parts = []
        for group in groups.values():
            values: list[Any] = [row.get("value") for row in group]
            whole = len(group) <= POINTS or not all(isinstance(value, int | float) for value in values)
            parts += group if whole else [group[place] for place in thin(values, POINTS)]
        result[name] = parts
    return result


def theme() -> Json:
    """Return the settings of Vega for a drawing without a background."""
    axis = {"gridColor": LINE, "domainColor": LINE, "tickColor": LINE, "labelColor": QUIET, "titleColor": QUIET}
    sizes = {
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "gridDash": [2, 3],
        "labelOverlap": "greedy",
    }
    return {
        "background": None, "font": "sans-serif", "view": {"stroke": None}, "padding": 2,
        "mark": {"color": ACCENT}, "line": {"color": ACCENT}, "circle": {"color": ACCENT}, "rule": {"color": QUIET},
        "text": {"color": INK}, "range": {"category": [ACCENT, WARM, GOOD, OTHER]},
        "axis": axis | sizes, "axisX": {"grid": False}, "legend": {"labelColor": INK, "titleColor": QUIET},
    }  # fmt: skip
