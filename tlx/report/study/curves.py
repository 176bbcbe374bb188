"""Draw training and validation curves of a study: one line per arm, with a band over its seeds."""

import math
from collections.abc import Sequence

import altair as alt

from tlx.records.studies import Arm, StudyTable
from tlx.report import charts
from tlx.report.charts import Figure, Rows
from tlx.report.figures import slug
from tlx.report.reading import smooth
from tlx.report.scales import NUMBERS, categories, legend_height, numbers
from tlx.report.study.axes import PANELS, PERCENT, headed, labels, spread
from tlx.report.study.names import Columns, Unit, metric
from tlx.trees import Json

POINTS = 120
LOSS = "train/loss"
TITLES = {LOSS: "training loss"}


def curves(table: StudyTable, columns: Columns, unit: Unit) -> list[Figure]:
    """Draw the study's metric on validation and the training loss, one panel per setting, for at most `PANELS`
    settings."""
    runs_by_arm = {id(summary.arm): [cell.curves() for cell in summary.arm.done_cells] for summary in table.summaries}
    logged = list(dict.fromkeys(name for runs in runs_by_arm.values() for run in runs for name in run))
    validation = f"validation/{table.metric.rpartition('/')[2]}"
    curve_names = [name for name in (validation, LOSS) if name in logged]
    labels_by_name = labels(table, columns)
    figures = []
    for name in curve_names:
        panels = {
            setting: [
                row
                for summary in table.summaries
                if columns.setting(summary.arm.names) == setting
                for row in banded(summary.arm, runs_by_arm[id(summary.arm)], name, columns, labels_by_name)
            ]
            for setting in settings(table, columns)[:PANELS]
        }
        all_rows = [row for rows in panels.values() for row in rows]
        axis = upwards(name, [row[end] for row in all_rows for end in ("low", "high")], unit)
        figures += [
            drawing(name, setting, rows, axis, labels_by_name) for setting, rows in panels.items() if varied(rows)
        ]
    return figures


def settings(table: StudyTable, columns: Columns) -> list[str]:
    return list(dict.fromkeys(columns.setting(summary.arm.names) for summary in table.summaries))


def varied(rows: Rows) -> bool:
    return len({row["step"] for row in rows}) > 1


def upwards(name: str, values: Sequence[float], unit: Unit) -> Json:
    """Return the vertical axis that all panels of one metric share; logarithmic for a loss over several orders of
    magnitude."""
    low, high = min(values), max(values)
    title = TITLES.get(name) or metric(name)
    if name == LOSS:
        if low > 0 and high > 100 * low:
            decades = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
            scale = alt.Scale(type="log", domain=[decades[0], decades[-1]])
            return {"title": title, "scale": scale, "axis": numbers(values=decades)}
        bounds = spread(values, unit._replace(share=False)) if low > high / 2 else [min(0.0, low), high]
        return {"title": title, "scale": alt.Scale(domain=bounds), "axis": numbers(tickCount=5)}
    axis = alt.Axis(tickCount=5, labelExpr=PERCENT if unit.share else NUMBERS)
    scale = alt.Scale(domain=spread(values, unit), nice=True, zero=False)
    return {"title": title + (", %" if unit.share else ""), "scale": scale, "axis": axis}


def banded(
    arm: Arm, runs: list[dict[str, dict[int, float]]], name: str, columns: Columns, labels_by_name: dict[str, str]
) -> Rows:
    """Return mean, lowest and highest over the seeds at the steps that all seeds have, at most `POINTS`; a loss of
    batches is smoothed first, separately for each seed."""
    series = [run[name] for run in runs if name in run]
    steps = sorted(set.intersection(*map(set, series))) if series else []
    lines = [[values_by_step[step] for step in steps] for values_by_step in series]
    if name == LOSS and len(steps) >= 25:
        lines = [smooth(line, max(4, len(steps) / 25)) for line in lines]
    chosen_steps = (
        steps if len(steps) <= POINTS else [steps[round(n * (len(steps) - 1) / (POINTS - 1))] for n in range(POINTS)]
    )
    place = {step: n for n, step in enumerate(steps)}
    rows: Rows = []
    for step in chosen_steps:
        values = [line[place[step]] for line in lines]
        rows.append(
            arm.names
            | {"arm": columns.arm(arm.names), "label": labels_by_name[columns.method(arm.names)], "step": step}
            | {"mean": sum(values) / len(values), "low": min(values), "high": max(values), "seeds": len(values)}
        )
    return rows


def drawing(name: str, setting: str, rows: Rows, axis: Json, labels_by_name: dict[str, str]) -> Figure:
    """Draw the curves of one metric in one setting."""
    tooltip = [alt.Tooltip("arm:N"), alt.Tooltip("step:Q", format=",")]
    tooltip += [alt.Tooltip(f"{field}:Q", format=".4~g") for field in ("mean", "low", "high")] + [
        alt.Tooltip("seeds:Q")
    ]
    tints = categories("label", labels_by_name.values(), "line")
    base = alt.Chart(charts.data()).encode(x=charts.steps(), color=tints["color"])
    band = base.mark_area(opacity=0.16, line=False).encode(y=alt.Y("low:Q", **axis), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y=alt.Y("mean:Q", **axis), tooltip=tooltip, **tints)
    title = TITLES.get(name) or metric(name)
    figure = f"{slug(name)}" + (f"-{slug(setting)}" if setting else "")
    height = 230 + legend_height(labels_by_name.values())
    return charts.figure(figure, headed(title, setting), "", alt.layer(band, line), rows, height=height)
