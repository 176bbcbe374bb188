"""Draw the metric of a study: every seed, every difference, and the dependence on a number."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import altair as alt

from tlx.records.studies import StudyTable, Summary
from tlx.records.studies.comparing import Comparison
from tlx.report import charts
from tlx.report.charts import Figure, Rows
from tlx.report.figures import slug
from tlx.report.scales import categories, legend_height, numbers
from tlx.report.study.axes import (
    FOOT,
    PANELS,
    across,
    brief,
    finite,
    form,
    headed,
    labels,
    lines_of,
    reach,
    upright,
)
from tlx.report.study.links import anchors, href
from tlx.report.study.names import BETWEEN, Columns, Unit, metric, numeric, short
from tlx.trees import Json


def strips(table: StudyTable, columns: Columns, unit: Unit) -> list[Figure]:
    """Draw one panel per setting: a point per seed, a line through the points of one seed, below them the mean and its
    interval.

    All panels share one axis.
    """
    settings = list(dict.fromkeys(columns.setting(summary.arm.names) for summary in table.summaries))
    apart = len(settings) <= PANELS
    call = columns.method if apart else columns.arm
    labels_by_name = labels(table, columns) if apart else brief(call(summary.arm.names) for summary in table.summaries)
    x = across("value", metric(table.metric), reach(table, unit), unit)
    anchor = anchors(table, columns)
    figures = []
    for setting in settings if apart else [""]:
        chosen = [summary for summary in table.summaries if not apart or columns.setting(summary.arm.names) == setting]
        rows: Rows = []
        means: Rows = []
        for place, summary in enumerate(chosen):
            arm = columns.arm(summary.arm.names)
            facts = summary.arm.names | {"arm": arm, "label": labels_by_name[call(summary.arm.names)], "place": place}
            ends = {"mean": summary.mean, "low": finite(summary.low), "high": finite(summary.high)}
            means.append(facts | ends | {"anchor": anchor[arm]})
            rows += [
                facts | {"seed": seed, "value": score.value}
                | {"fingerprint": score.cell.fingerprint, "href": href(score.cell)}
                for seed, score in summary.scores.items()
            ]  # fmt: skip
        chart = strip(
            x,
            [row["label"] for row in means],
            categories("label", labels_by_name.values(), "point", legend=False),
            metric(table.metric),
            unit,
        )
        name, height = f"seeds-{slug(setting)}" if setting else "seeds", FOOT + 46 * len(chosen)
        figures.append(
            charts.figure(name, setting or f"Every {table.repeat}", "", chart, rows, height=height, means=means)
        )
    return figures


def strip(x: alt.X, order: Sequence[str], tints: Json, title: str, unit: Unit) -> alt.LayerChart:
    """Draw the panel of one setting."""
    y = lines_of("label", order)
    tooltip = [alt.Tooltip("arm:N"), alt.Tooltip("seed:N"), alt.Tooltip("value:Q", format=form(unit), title=title)]
    tooltip.append(alt.Tooltip("fingerprint:N", title="run"))
    base = alt.Chart(charts.data()).encode(x=x, y=y)
    joined = base.mark_line(strokeWidth=1, opacity=0.3, color=alt.ExprRef("quiet"))
    points = base.mark_point(filled=True, size=64, opacity=0.85).encode(tooltip=tooltip, href="href:N", **tints)
    ends = [alt.Tooltip("arm:N"), *(alt.Tooltip(f"{name}:Q", format=form(unit)) for name in ("mean", "low", "high"))]
    means = alt.Chart(charts.data("means")).encode(y=y, color=tints["color"], tooltip=ends, href="anchor:N")
    span = means.mark_rule(strokeWidth=2, yOffset=12, opacity=0.9).encode(x=alt.X("low:Q"), x2="high:Q")
    mean = means.mark_tick(thickness=3, size=12, yOffset=12, opacity=1).encode(x=alt.X("mean:Q"))
    layers = (joined.encode(detail="seed:N", order="place:Q"), span, mean, points)
    return alt.layer(*layers).add_params(alt.param(name="quiet", value="#686b70"))


def differences(table: StudyTable, columns: Columns, unit: Unit) -> Figure | None:
    """Draw one line per comparison of several seeds: the difference with both intervals, over the minimum detectable
    difference."""
    comparisons = [comparison for comparison in table.comparisons if comparison.p is not None]
    if not comparisons:
        return None
    rows = difference_rows(table, columns, comparisons)
    signed = f"format(datum.value * {100 if unit.share else 1}, '+~g')"
    axis = alt.Axis(tickCount=6, grid=True, labelExpr=signed)
    better = "" if table.higher else " (below 0 is better)"
    title = f"difference{', points' if unit.share else ''}{better}"
    ink = alt.when("datum.verdict == 'better'").then(alt.value(alt.ExprRef("good")))
    ink = ink.when("datum.verdict == 'worse'").then(alt.value(alt.ExprRef("warm")))
    ink = ink.otherwise(alt.value(alt.ExprRef("quiet")))
    base = alt.Chart(charts.data()).encode(y=lines_of("label", [row["label"] for row in rows]))

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=title, axis=axis)

    tooltip = [alt.Tooltip("arm:N"), alt.Tooltip("baseline:N"), alt.Tooltip("verdict:N"), alt.Tooltip("pairs:Q")]
    tooltip += [alt.Tooltip(f"{name}:Q", format="+.4~g") for name in ("difference", "low", "high")]
    tooltip += [alt.Tooltip("holm:Q", format=".3~g", title="p, Holm"), alt.Tooltip("detectable:Q", format=".4~g")]
    marks = [{"at": at} for at in dict.fromkeys((-table.smallest, 0.0, table.smallest))]
    layers = [
        base.mark_bar(height=18, opacity=0.9, color=alt.ExprRef("fill"))
        .encode(x=x("below"), x2="detectable:Q")
        .transform_filter("isValid(datum.detectable)"),
        alt.Chart(charts.data("marks")).mark_rule(strokeDash=[3, 3], opacity=0.8).encode(x=x("at")),
        base.mark_rule(strokeWidth=2.5).encode(x=x("low"), x2="high:Q", color=ink),
        base.mark_rule(strokeWidth=1, yOffset=7, opacity=0.8)
        .encode(x=x("bootstrap_low"), x2="bootstrap_high:Q", color=ink)
        .transform_filter("isValid(datum.bootstrap_low)"),
        base.mark_circle(size=90, opacity=1).encode(x=x("difference"), color=ink, tooltip=tooltip, href="anchor:N"),
    ]
    caption = (
        f"Green: better. Orange: worse. Grey: no difference shown. Thick line: paired 95 % t-interval over "
        f"{table.repeat}s. Grey box: smaller differences than these {table.repeat}s could show."
    )
    if any(comparison.boot for comparison in comparisons):
        caption += " Thin line: bootstrap over seeds and test examples."
    if table.smallest:
        caption += f" The dashed lines are at 0 and at {unit.size(table.smallest)}{unit.points}, "
        caption += "the smallest difference of interest."
    chart = alt.layer(*layers).add_params(
        *(alt.param(name=name, value="#686b70") for name in ("quiet", "good", "warm", "fill"))
    )
    height = FOOT + 34 * len(rows)
    return charts.figure(
        "differences", "Differences to the baseline", caption, chart, rows, height=height, marks=marks
    )  # fmt: skip


def difference_rows(table: StudyTable, columns: Columns, comparisons: Sequence[Comparison]) -> Rows:
    """Return a row of the drawing of differences for each comparison of the table."""
    labels_by_name, anchor = labels(table, columns), anchors(table, columns)
    rows: Rows = []
    for comparison in comparisons:
        gap, setting = comparison.difference, columns.setting(comparison.arm.names)
        low, high = comparison.boot or (None, None)
        rows.append(
            comparison.arm.names
            | {"arm": columns.arm(comparison.arm.names), "baseline": columns.arm(comparison.baseline.names)}
            | {
                "label": labels_by_name[columns.method(comparison.arm.names)]
                + (f"{BETWEEN}{setting}" if setting else "")
            }
            | {"difference": gap.mean, "low": gap.low, "high": gap.high, "pairs": gap.pairs, "p": comparison.p}
            | {"holm": comparison.holm, "verdict": comparison.verdict, "detectable": comparison.detectable}
            | {"below": None if comparison.detectable is None else -comparison.detectable}
            | {"bootstrap_low": low, "bootstrap_high": high}
            | {"anchor": anchor[columns.arm(comparison.arm.names)]}
        )
    return rows


class Crossing(NamedTuple):
    """A drawing of the metric over the numbers `ats` of the column `name`.

    The arms `chosen` share a `setting` of the other columns; `rest` are the columns without `name`.
    """

    name: str
    ats: list[Any]
    setting: str
    chosen: list[Summary]
    rest: Columns


def crossings(table: StudyTable, columns: Columns) -> list[Crossing]:
    """Return each column of numbers in every setting of the other columns."""
    drawings: list[Crossing] = []
    for name in (*columns.context, *columns.treatment):
        ats = {summary.arm.names.get(name) for summary in table.summaries}
        if len(ats) < 2 or not all(map(numeric, ats)):
            continue
        rest = columns._replace(
            treatment=tuple(column for column in columns.treatment if column != name),
            context=tuple(column for column in columns.context if column != name),
        )
        groups: dict[str, list[Summary]] = {}
        for summary in table.summaries:
            groups.setdefault(rest.setting(summary.arm.names), []).append(summary)
        drawings += [Crossing(name, sorted(ats), setting, chosen, rest) for setting, chosen in groups.items()]
    return drawings


def along(table: StudyTable, columns: Columns, unit: Unit) -> list[Figure]:
    """Draw the metric over each column of numbers: one line per method, one drawing for every setting of the other
    columns, at most `PANELS` drawings."""
    return [over(crossing, table, columns, unit) for crossing in crossings(table, columns)[:PANELS]]


def over(crossing: Crossing, table: StudyTable, columns: Columns, unit: Unit) -> Figure:
    """Draw one crossing."""
    name, ats, setting, chosen, rest = crossing
    axis_name, title = short(name, rest.every), metric(table.metric)
    wide = ats[0] > 0 and ats[-1] > 5 * ats[0]
    labels_by_name = labels(table, rest) if rest.treatment else {"all": "all"}
    order, anchor = list(labels_by_name.values()), anchors(table, columns)
    rows: Rows = []
    means: Rows = []
    for summary in chosen:
        at, label = summary.arm.names[name], labels_by_name[rest.method(summary.arm.names) if rest.treatment else "all"]
        beside = aside(at, ats, order.index(label) - (len(order) - 1) / 2, len(order), wide)
        arm = columns.arm(summary.arm.names)
        facts = summary.arm.names | {"arm": arm, "label": label, "at": at, "beside": beside}
        bounds = {"mean": summary.mean, "low": finite(summary.low), "high": finite(summary.high)}
        means.append(facts | bounds | {"anchor": anchor[arm]})
        rows += [
            facts | {"seed": seed, "value": score.value, "href": href(score.cell)}
            for seed, score in summary.scores.items()
        ]
    scale = alt.Scale(nice=False, padding=18, **({"type": "log"} if wide else {"zero": False}))
    axis = numbers(values=list(ats), labelOverlap=True, labelFlush=True)
    x = alt.X("beside:Q", title=axis_name, scale=scale, axis=axis)

    def y(field: str) -> alt.Y:
        return upright(field, title, reach(table, unit), unit)

    tooltip = [alt.Tooltip("arm:N"), alt.Tooltip("seed:N"), alt.Tooltip("value:Q", format=form(unit), title=title)]
    ends = [alt.Tooltip("arm:N"), *(alt.Tooltip(f"{end}:Q", format=form(unit)) for end in ("mean", "low", "high"))]
    lines = categories("label", labels_by_name.values(), "line")
    runs = alt.Chart(charts.data()).encode(x=x, color=lines["color"])
    base = alt.Chart(charts.data("means")).encode(x=x, color=lines["color"])
    layers = [
        runs.mark_circle(size=26, opacity=0.35).encode(y=y("value"), tooltip=tooltip, href="href:N"),
        base.mark_line(strokeWidth=2, opacity=0.85).encode(y=y("mean"), **lines),
        base.mark_rule(strokeWidth=1.5, opacity=0.75).encode(y=y("low"), y2="high:Q"),
        base.mark_circle(size=70, opacity=1).encode(y=y("mean"), tooltip=ends, href="anchor:N"),
    ]
    caption = (
        f"Means with 95 % t-intervals over {table.repeat}s. A small point is a run; click a point to open its runs."
    )
    if len(order) > 1:
        caption += f" Arms with the same {axis_name} are drawn side by side."
    figure = f"by-{slug(axis_name)}" + (f"-{slug(setting)}" if setting else "")
    head, height = headed(f"{title} by {axis_name}", setting), 320 + legend_height(labels_by_name.values())
    return charts.figure(figure, head, caption, alt.layer(*layers), rows, height=height, means=means)


def aside(at: float, ats: Sequence[float], place: float, count: int, wide: bool) -> float:
    """Shift a position slightly, so that the intervals of several methods do not hide one another."""
    if count < 2:
        return at
    share = place * min(0.05, 0.5 / count)
    if wide:
        return at * math.exp(share * min(math.log(b / a) for a, b in pairwise(ats)))
    return at + share * min(b - a for a, b in pairwise(ats))
