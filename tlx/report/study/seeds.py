"""Every seed, every difference, and what grows with a number: the drawings of a study's metric."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt

from tlx.cells import Summary, Table
from tlx.report import charts
from tlx.report.charts import Figure, Rows
from tlx.report.figures import slug
from tlx.report.study.links import href
from tlx.report.study.names import Columns, Unit, metric, numeric, short

PANELS = 12
# What the axis below the lines of a drawing takes, in pixels; `page.js` knows it too.
FOOT = 48
PERCENT = "format(datum.value * 100, '~g')"
SIGNED = "format(datum.value * {scale}, '+~g')"


def strips(table: Table, columns: Columns, unit: Unit) -> list[Figure]:
    """A panel a setting: a point a seed, a line through the points of one seed, below them the mean and its interval.
    All panels have one axis."""
    settings = list(dict.fromkeys(columns.setting(summary.arm.names) for summary in table.summaries))
    apart = len(settings) <= PANELS
    values = [score.value for summary in table.summaries for score in summary.scores.values()]
    ends = [end for one in table.summaries for end in (one.low, one.high) if math.isfinite(end)]
    domain = spread([*values, *ends], unit)
    made = []
    for setting in settings if apart else [""]:
        chosen = [one for one in table.summaries if not apart or columns.setting(one.arm.names) == setting]
        named = [(columns.method if apart else columns.arm)(one.arm.names) for one in chosen]
        rows = [
            one.arm.names
            | {"arm": columns.arm(one.arm.names), "method": name, "setting": columns.setting(one.arm.names)}
            | {"seed": seed, "place": place, "value": score.value}
            | {"fingerprint": score.cell.fingerprint, "href": href(score.cell)}
            for place, (one, name) in enumerate(zip(chosen, named, strict=True))
            for seed, score in one.scores.items()
        ]
        means = [
            {"arm": columns.arm(one.arm.names), "method": name, "mean": one.mean}
            | {"low": finite(one.low), "high": finite(one.high), "seeds": len(one.scores)}
            for one, name in zip(chosen, named, strict=True)
        ]
        title = setting or "Every seed"
        chart = strip(named, methods(table, columns) if apart else named, domain, metric(table.metric), unit)
        name = f"seeds-{slug(setting)}" if setting else "seeds"
        made.append(charts.figure(name, title, "", chart, rows, height=FOOT + 46 * len(named), means=means))
    return made


def methods(table: Table, columns: Columns) -> list[str]:
    """In the order of the study, which is that of the colours in every drawing."""
    return list(dict.fromkeys(columns.method(summary.arm.names) for summary in table.summaries))


def colour(order: Sequence[str], *, legend: bool = True) -> Any:
    shown = (
        alt.Legend(orient="top", labelLimit=220, symbolType="circle", symbolStrokeWidth=0, symbolOpacity=1)
        if legend
        else None
    )
    return alt.Color("method:N", title=None, scale=alt.Scale(domain=list(order)), legend=shown)


def spread(values: Sequence[float], unit: Unit) -> list[float]:
    """From the lowest to the highest with a little air; a share stays one."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return [max(0.0, low - air), min(1.0, high + air)] if unit.share else [low - air, high + air]


def across(field: str, title: str, scale: Any, unit: Unit, **given: Any) -> Any:
    """A value along the axis; a share in per cent."""
    axis = alt.Axis(tickCount=5, grid=True, **({"labelExpr": PERCENT} if unit.share else {"format": "~g"}), **given)
    return alt.X(f"{field}:Q", title=title + (", %" if unit.share else ""), scale=scale, axis=axis)


def upright(field: str, title: str, scale: Any, unit: Unit) -> Any:
    axis = alt.Axis(tickCount=5, **({"labelExpr": PERCENT} if unit.share else {"format": "~g"}))
    return alt.Y(f"{field}:Q", title=title + (", %" if unit.share else ""), scale=scale, axis=axis)


def lines_of(field: str, order: Sequence[str], limit: int = 170) -> Any:
    """A line of the drawing a value of `field`, in this order."""
    axis = alt.Axis(labelLimit=limit, ticks=False, domain=False, labelPadding=8, grid=False)
    return alt.Y(f"{field}:N", sort=None, title=None, axis=axis, scale=alt.Scale(domain=list(dict.fromkeys(order))))


def strip(named: Sequence[str], order: Sequence[str], domain: list[float], title: str, unit: Unit) -> Any:
    x = across("value", title, alt.Scale(domain=domain, nice=False, zero=False), unit)
    y, form = lines_of("method", named), f".{unit.digits}%" if unit.share else ".5~g"
    told = [
        alt.Tooltip("arm:N"), alt.Tooltip("seed:N"), alt.Tooltip("value:Q", format=form, title=title),
        alt.Tooltip("fingerprint:N", title="run"),
    ]  # fmt: skip
    base = alt.Chart(charts.data()).encode(x=x, y=y)
    tints = colour(order, legend=False)
    joined = base.mark_line(strokeWidth=1, opacity=0.3, color=alt.ExprRef("quiet")).encode(
        detail="seed:N", order="place:Q"
    )
    points = base.mark_circle(size=64, opacity=0.85).encode(color=tints, tooltip=told, href="href:N")
    means = alt.Chart(charts.data("means")).encode(y=y, color=tints)
    ends = [alt.Tooltip(f"{name}:Q", format=form) for name in ("mean", "low", "high")]
    span = means.mark_rule(strokeWidth=2, yOffset=12, opacity=0.9).encode(x=alt.X("low:Q"), x2="high:Q")
    mean = means.mark_tick(thickness=3, size=12, yOffset=12, opacity=1).encode(
        x=alt.X("mean:Q"), tooltip=[alt.Tooltip("arm:N"), *ends, alt.Tooltip("seeds:Q")]
    )
    return alt.layer(joined, span, mean, points).add_params(alt.param(name="quiet", value="#686b70"))


def differences(table: Table, columns: Columns, unit: Unit) -> Figure | None:
    """A line a comparison of several seeds: the difference with both intervals, over what could have been seen."""
    found = [one for one in table.comparisons if one.p is not None]
    if not found:
        return None
    rows: Rows = []
    for one in found:
        gap = one.difference
        low, high = one.boot or (None, None)
        rows.append(
            one.arm.names
            | {"arm": columns.arm(one.arm.names), "baseline": columns.arm(one.baseline.names)}
            | {"difference": gap.mean, "low": gap.low, "high": gap.high, "pairs": gap.pairs, "p": one.p}
            | {"holm": one.holm, "verdict": one.verdict, "detectable": one.detectable}
            | {"below": -(one.detectable or 0.0), "bootstrap_low": low, "bootstrap_high": high}
        )
    scale = 100 if unit.share else 1
    axis = alt.Axis(tickCount=6, grid=True, labelExpr=SIGNED.format(scale=scale))
    title = f"difference to the baseline{', points' if unit.share else ''}"
    y = lines_of("arm", [row["arm"] for row in rows], 230)
    ink = alt.when("datum.verdict == 'better'").then(alt.value(alt.ExprRef("good")))
    ink = ink.when("datum.verdict == 'worse'").then(alt.value(alt.ExprRef("warm")))
    ink = ink.otherwise(alt.value(alt.ExprRef("quiet")))
    base = alt.Chart(charts.data()).encode(y=y)

    def x(field: str) -> Any:
        return alt.X(f"{field}:Q", title=title, axis=axis)

    told = [alt.Tooltip("arm:N"), alt.Tooltip("baseline:N"), alt.Tooltip("verdict:N")]
    told += [alt.Tooltip(f"{name}:Q", format="+.4~g") for name in ("difference", "low", "high")]
    told += [alt.Tooltip("holm:Q", format=".3~g", title="p, Holm"), alt.Tooltip("detectable:Q", format=".4~g")]
    marks = [{"at": at} for at in dict.fromkeys((-table.smallest, 0.0, table.smallest))]
    upright_lines = alt.Chart(charts.data("marks")).mark_rule(strokeDash=[3, 3], opacity=0.8).encode(x=x("at"))
    layers = [
        base.mark_bar(height=18, opacity=0.9, color=alt.ExprRef("fill")).encode(x=x("below"), x2="detectable:Q"),
        upright_lines,
        base.mark_rule(strokeWidth=2.5).encode(x=x("low"), x2="high:Q", color=ink),
        base.mark_rule(strokeWidth=1, yOffset=7, opacity=0.8)
        .encode(x=x("bootstrap_low"), x2="bootstrap_high:Q", color=ink)
        .transform_filter("isValid(datum.bootstrap_low)"),
        base.mark_circle(size=90, opacity=1).encode(x=x("difference"), color=ink, tooltip=told),
    ]
    params = [alt.param(name=name, value="#686b70") for name in ("quiet", "good", "warm", "fill")]
    smallest = f" The dashed lines are at 0 and at {unit.size(table.smallest)}{unit.points}," if table.smallest else ""
    smallest += " the smallest difference of interest." if table.smallest else ""
    caption = (
        "Green is better, orange worse, grey no difference shown. Thick: the paired 95 % t-interval over seeds; thin: "
        "the bootstrap over seeds and test examples. Behind: what these seeds would have shown four times in five."
        f"{smallest}"
    )
    chart = alt.layer(*layers).add_params(*params)
    return charts.figure(
        "differences", "Differences to the baseline", caption, chart, rows, height=FOOT + 34 * len(rows), marks=marks
    )


def along(table: Table, columns: Columns, unit: Unit) -> list[Figure]:
    """The metric over each column of numbers: a line a method, and a drawing for every setting of the other columns."""
    made = []
    for name in (*columns.context, *columns.treatment):
        found = [one for one in table.summaries if numeric(one.arm.names.get(name))]
        ats = sorted({one.arm.names[name] for one in found})
        if len(ats) < 2 or len(found) < len(table.summaries):
            continue
        rest = columns._replace(
            treatment=tuple(other for other in columns.treatment if other != name),
            context=tuple(other for other in columns.context if other != name),
        )
        settings = list(dict.fromkeys(rest.setting(one.arm.names) for one in found))
        for setting in settings[:PANELS]:
            chosen = [one for one in found if rest.setting(one.arm.names) == setting]
            made.append(over(name, ats, setting, chosen, table, columns, rest, unit))
    return made


def over(
    name: str, ats: Sequence[float], setting: str, chosen: Sequence[Summary], table: Table, columns: Columns,
    rest: Columns, unit: Unit,
) -> Figure:  # fmt: skip
    called = short(name, rest.every)
    wide = ats[0] > 0 and ats[-1] > 5 * ats[0]
    named = [rest.method(one.arm.names) if rest.treatment else "all" for one in chosen]
    order = methods(table, rest) if rest.treatment else ["all"]
    rows: Rows = []
    means: Rows = []
    for one, method in zip(chosen, named, strict=True):
        at = one.arm.names[name]
        beside = aside(at, ats, order.index(method) - (len(order) - 1) / 2, len(order), wide)
        kept = {"arm": columns.arm(one.arm.names), "method": method, "at": at, "beside": beside}
        means.append(kept | {"mean": one.mean, "low": finite(one.low), "high": finite(one.high)})
        rows += [
            one.arm.names | kept | {"seed": seed, "value": score.value, "href": href(score.cell)}
            for seed, score in one.scores.items()
        ]
    scale = alt.Scale(type="log", nice=False, padding=18) if wide else alt.Scale(zero=False, nice=False, padding=18)
    x = alt.X(
        "beside:Q",
        title=called,
        scale=scale,
        axis=alt.Axis(values=list(ats), format="~g", labelOverlap=True, labelFlush=True),
    )
    title, form = metric(table.metric), f".{unit.digits}%" if unit.share else ".5~g"
    values = alt.Scale(zero=False)
    told = [alt.Tooltip("arm:N"), alt.Tooltip("seed:N"), alt.Tooltip("value:Q", format=form, title=title)]
    base = alt.Chart(charts.data("means")).encode(x=x, color=colour(order))
    ends = [alt.Tooltip(f"{end}:Q", format=form) for end in ("mean", "low", "high")]
    layers = [
        alt.Chart(charts.data()).mark_circle(size=26, opacity=0.35).encode(
            x=x, y=upright("value", title, values, unit), color=colour(order), tooltip=told, href="href:N"
        ),
        base.mark_line(strokeWidth=2, opacity=0.85).encode(y=upright("mean", title, values, unit)),
        base.mark_rule(strokeWidth=1.5, opacity=0.75).encode(y=upright("low", title, values, unit), y2="high:Q"),
        base.mark_circle(size=70, opacity=1).encode(
            y=upright("mean", title, values, unit), tooltip=[alt.Tooltip("arm:N"), *ends]
        ),
    ]  # fmt: skip
    caption = "Means with 95 % t-intervals over seeds; a small point is a run and opens it."
    if len(order) > 1:
        caption += " What has one value is drawn side by side."
    head = f"{title[0].upper()}{title[1:]} by {called}" + (f": {setting}" if setting else "")
    figure = f"by-{slug(called)}" + (f"-{slug(setting)}" if setting else "")
    return charts.figure(figure, head, caption, alt.layer(*layers), rows, height=320, means=means)


def aside(at: float, ats: Sequence[float], place: float, count: int, wide: bool) -> float:
    """A little to the side of its value, so that the intervals of several methods do not hide one another."""
    if count < 2:
        return at
    if wide:
        gap = min(math.log(b / a) for a, b in pairwise(ats))
        return at * math.exp(place * min(0.05, 0.5 / count) * gap)
    gap = min(b - a for a, b in pairwise(ats))
    return at + place * min(0.05, 0.5 / count) * gap


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
