"""Write the page of a study: `report.html` beside its `study.json`, from the records of its runs alone.

`names` are the names of arms, `answer` the sentences, `filters` the choices by which arms are filtered, `seeds`,
`curves` and `spending` the drawings, `tables` the comparison as LaTeX and as Markdown.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from tlx.functional.significance import p_text
from tlx.records import studies
from tlx.records.studies import CellRecord, Comparison, StudyTable, Summary
from tlx.report import page
from tlx.report.study import axes, curves, filters, names, seeds, spending
from tlx.report.study.answer import answer, selections
from tlx.report.study.filters import name_texts
from tlx.report.study.links import anchors, href
from tlx.report.study.names import Columns, Unit, counted
from tlx.trees import Json

NAME = "report.html"
# Letters beyond which names take so much of a narrow panel that panels are made wider.
ROOM = 14


def write(folder: Path, metric: str | None = None) -> Path:
    """Draw the page of the study in `folder`. Raises the errors of `studies.read` and `studies.compare`."""
    return page.write(folder / NAME, draw(studies.compare(studies.read(folder), metric)))


def draw(table: StudyTable) -> str:
    """Return the page as HTML."""
    columns, unit = names.columns(table), names.unit(table)
    cost_kinds, arm_costs = spending.rows(table)
    study = table.study
    further = filters.further(table, columns)
    along, strips = seeds.along(table, columns, unit), seeds.strips(table, columns, unit)
    # The first screen shows the drawing that answers the question.
    picture = seeds.differences(table, columns, unit) or next(iter([*along, *strips]), None)
    return page.render(
        "study.html",
        scripts=("page.js", "study.js"),
        title=study.question or study.name or "A study",
        study=study,
        table=table,
        answer=answer(table, columns, unit),
        facts=facts(table, columns, unit),
        columns=[{"name": name, "short": names.short(name, columns.every)} for name in columns.varying],
        arms=[
            # The name of a column takes precedence over a recipe's field of the same name.
            {"arm": columns.arm(arm.names), "names": fields | name_texts(arm.names, columns)}
            for arm, fields in zip(study.arms, further, strict=True)
        ],
        filters=filters.of_columns(table, columns),
        fields=filters.of_fields(further),
        rows=[row(summary, table, columns, unit) for summary in table.summaries],
        details=[detail(item, columns, unit) for item in table.comparisons],
        picture=picture,
        strips=[item for item in strips if item is not picture],
        roomy=max(map(len, axes.labels(table, columns).values())) > ROOM,
        along=[item for item in along if item is not picture],
        along_omitted=axes.omitted(len(seeds.crossings(table, columns))),
        curves=curves.curves(table, columns, unit),
        curves_omitted=axes.omitted(len(curves.settings(table, columns))),
        costs=cost_kinds,
        spent=[
            (columns.arm(item.arm.names), name_texts(item.arm.names, columns), costs)
            for item, costs in zip(table.summaries, arm_costs, strict=True)
        ],
        scatters=spending.drawings(table, columns, unit),
        cells=[listed(cell, table, columns, unit) for cell in study.cells],
        anchors=anchors(table, columns),
        failed=[cell for cell in study.cells if cell.failed],
        href=href,
        label=columns.arm,
        plan=[decision(item, study.cells, columns) for item in study.plan()],
        stored=stored(study.cells),
        notes=notes(study.cells),
        grouped=grouped(study.cells),
        unit=unit,
        p=p_text,
        metric=names.metric(table.metric),
        repeat=table.repeat,
    )


def facts(table: StudyTable, columns: Columns, unit: Unit) -> list[tuple[str, str]]:
    """Return the facts at the top of the page, as `(name, content)`."""
    study, counts = table.study, table.study.counts
    several = {len(summary.scores) for summary in table.summaries}
    rows = [
        ("metric", names.metric(table.metric)),
        ("selection", ", ".join(dict.fromkeys(selections(table)))),
        (
            "seeds per arm" if table.repeat == "seed" else "runs per arm",
            " to ".join(map(str, sorted({min(several), max(several)}))),
        ),
        ("cells done", f"{counts['done']} of {len(study.cells)}"),
    ]
    if study.baseline:
        rows.append(("baseline", columns.label(study.baseline, list(study.baseline))))
    if table.smallest:
        rows.append(("smallest effect of interest", f"{unit.size(table.smallest)}{unit.points}"))
    return rows


def row(summary: Summary, table: StudyTable, columns: Columns, unit: Unit) -> Json:
    """Return an arm in the table of comparisons."""
    arm_names = summary.arm.names
    comparison = next((comparison for comparison in table.comparisons if comparison.arm is summary.arm), None)
    why = next((why for arm, why in table.alone if arm is summary.arm), "")
    baseline = bool(table.study.baseline) and studies.is_baseline(arm_names, table.study.baseline)
    return {
        "arm": columns.arm(arm_names),
        "names": name_texts(arm_names, columns),
        "summary": summary,
        "runs": [(seed, unit.value(score.value), href(score.cell)) for seed, score in summary.scores.items()],
        "one": comparison,
        "few": comparison is not None
        and len(comparison.seeds) < len(summary.scores)
        and counted(len(comparison.seeds), "pair"),
        "told": "baseline" if baseline else why,
    }


def detail(comparison: Comparison, columns: Columns, unit: Unit) -> Json:
    """Return a comparison in the table of all statistics; `ps` are those of the t, sign, Wilcoxon, Holm and McNemar
    tests."""
    exact = (comparison.difference.sign, comparison.difference.wilcoxon) if comparison.p is not None else (None, None)
    return {
        "arm": columns.arm(comparison.arm.names),
        "baseline": columns.method(comparison.baseline.names),
        "one": comparison,
        "ps": (comparison.p, *exact, comparison.holm, comparison.mcnemar),
        "boot": unit.gains(*comparison.boot) if comparison.boot else comparison.lacking,
        "deviation": unit.size(comparison.difference.deviation) if comparison.p is not None else "–",
    }


def listed(cell: CellRecord, table: StudyTable, columns: Columns, unit: Unit) -> Json:
    """Return a cell in the list of all cells."""
    score = next(
        (item for summary in table.summaries for item in summary.scores.values() if item.cell is cell), None
    )  # fmt: skip
    return {
        "cell": cell,
        "arm": columns.arm(cell.arm),
        "names": name_texts(cell.names, columns),
        "seed": "–" if cell.repeat is None else names.value(cell.repeat),
        "value": None if score is None else score.value,
        "told": "–" if score is None else unit.value(score.value),
        "href": href(cell),
    }


def notes(cells: tuple[CellRecord, ...]) -> list[str]:
    """Return the notes of the runs, each once, with the number of runs that have it unless all have it."""
    results = [cell.result for cell in cells if cell.result]
    counts = Counter(note for result in results for note in dict.fromkeys(result.get("notes") or ()))
    return [
        note if count == len(results) else f"{note} ({count} of {len(results)} runs)" for note, count in counts.items()
    ]


def decision(item: Json, cells: tuple[CellRecord, ...], columns: Columns) -> Json:
    """Return a decision of the planner with its arms; missing entries are empty."""
    chosen = set(item.get("cells", ()))
    return {
        "how": item.get("how", ""),
        "why": item.get("why", ""),
        "cells": len(chosen),
        "seconds": item.get("seconds_per_step") or {},
        "bytes": item.get("memory_bytes"),
        "arms": list(dict.fromkeys(columns.arm(cell.arm) for cell in cells if cell.fingerprint in chosen)),
    }


def grouped(cells: tuple[CellRecord, ...]) -> str:
    """Return how many runs trained together, and how that affects their numbers; empty if no run is done."""
    sizes = Counter((cell.result.get("pack") or {}).get("arms", 1) for cell in cells if cell.result)
    if not sizes:
        return ""
    parts = [
        f"{counted(runs, 'run')} trained alone" if size == 1 else f"{counted(runs, 'run')} in groups of {size}"
        for size, runs in sorted(sizes.items())
    ]
    sentences = f"{', '.join(parts)}. The groups follow from the study and are recorded in groups.json."
    if set(sizes) != {1}:
        sentences += (
            " A run in a group differs from the same run alone by rounding at first, and by more after many steps. A "
            "group of the same cells gives the same bits again."
        )
    return sentences


def stored(cells: tuple[CellRecord, ...]) -> list[str]:
    """Return how many runs read cached features of their frozen prefix, by the stage where the prefix ends."""
    phases = [cell.result.get("prefix") or [] for cell in cells if cell.result]
    cuts = [cut for cuts_of_run in phases for cut in dict.fromkeys(phase["cut"] for phase in cuts_of_run)]
    return [
        f"{counted(cuts.count(cut), 'run')} read cached features of the frozen stages below {cut}, which were computed "
        "once."
        for cut in dict.fromkeys(cuts)
        if cut
    ]
