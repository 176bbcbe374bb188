"""Draw tables of rows as Vega-Lite specifications by Altair, each a `Figure`. The colours are those of the page."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt

from tlx.report.scales import categories, legend_height, numbers
from tlx.trees import Json

TABLE = "table"
Rows = list[Json]


class Figure(NamedTuple):
    """A drawing: `name` is its id on the page and the name of its files, `rows` its data, which are also in `spec`."""

    name: str
    title: str
    caption: str
    spec: Json

    @property
    def rows(self) -> Rows:
        return self.spec["datasets"][TABLE]


def data(name: str = TABLE) -> alt.NamedData:
    """Return a reference to named data. The rows are not passed to Altair: they are written once, and their number
    is unlimited."""
    return alt.NamedData(name=name)


def figure(name: str, title: str, caption: str, chart: Any, rows: Rows, *, height: Any = 220, **other: Rows) -> Figure:
    """Return a chart as wide as its place on the page. `other` are further tables."""
    spec = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)
    return Figure(name, title, caption, {**spec, "datasets": {TABLE: rows, **other}})


def steps(title: str = "step") -> alt.X:
    # For a short run, Vega would label half steps.
    axis = alt.Axis(format="~s", tickMinStep=1, labelExpr="datum.value % 1 ? '' : datum.label")
    scale = alt.Scale(zero=False, nice=False)
    return alt.X("step:Q", title=title, axis=axis, scale=scale)


def rules(*, name: str, label: str) -> alt.Chart:
    """Draw vertical lines at the steps of the table `name`, each with its `label` as tooltip."""
    lines = alt.Chart(data(name)).mark_rule(strokeDash=[3, 3], opacity=0.6)
    return lines.encode(x="step:Q", tooltip=alt.Tooltip(f"{label}:N"))


def curve(
    name: str,
    title: str,
    caption: str,
    rows: Rows,
    *,
    axis: str,
    smoothed: bool = False,
    points: bool = False,
    may_log: bool = True,
    marks: Rows | None = None,
) -> Figure:
    """Draw `value` by `step`, and `smoothed` on top if the rows have it; `marks` (`step`, `what`) are vertical lines.

    The axis is logarithmic if the values span two orders of magnitude, unless `may_log` is False.
    """
    values = [row["value"] for row in rows if row["value"] is not None]
    wide = may_log and bool(values) and min(values) > 0 and max(values) > 100 * min(values)
    scale = alt.Scale(type="log") if wide else alt.Scale(zero=False)
    tooltip = [alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".4~g", title=axis)]
    y = alt.Y("value:Q", title=axis, scale=scale, axis=numbers(tickCount=5))
    base = alt.Chart(data()).encode(x=steps())
    mark: Json = {"opacity": 0.35, "strokeWidth": 1} if smoothed else {"strokeWidth": 2}
    layers = [base.mark_line(point={"size": 26} if points else False, **mark).encode(y=y, tooltip=tooltip)]
    if smoothed:
        layers.append(base.mark_line(strokeWidth=2).encode(y=alt.Y("smoothed:Q", title=axis, scale=scale)))
    if marks:
        layers.append(rules(name="marks", label="what"))
    return figure(name, title, caption, alt.layer(*layers), rows, **({"marks": marks} if marks else {}))


def losses(
    name: str, title: str, caption: str, rows: Rows, *, axis: str, smoothed: bool, marks: Rows | None = None
) -> Figure:
    """Draw the training and the validation loss in one plot.

    Rows contain `split` ("training" or "validation"), `step`, `value`; training rows contain `smoothed` if requested.
    The axis is logarithmic as in `curve`.
    """
    values = [row["value"] for row in rows if row["value"] is not None]
    wide = bool(values) and min(values) > 0 and max(values) > 100 * min(values)
    scale = alt.Scale(type="log") if wide else alt.Scale(zero=False)
    order = ["training", "validation"]
    tooltip = ["split:N", alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".4~g", title=axis)]
    base = alt.Chart(data()).encode(x=steps(), **categories("split", order, "line"))
    y = alt.Y("value:Q", title=axis, scale=scale, axis=numbers(tickCount=5))
    training = base.transform_filter("datum.split === 'training'")
    thin: Json = {"opacity": 0.35, "strokeWidth": 1} if smoothed else {"strokeWidth": 2}
    layers = [training.mark_line(**thin).encode(y=y, tooltip=tooltip)]
    if smoothed:
        layers.append(training.mark_line(strokeWidth=2).encode(y=alt.Y("smoothed:Q", title=axis, scale=scale)))
    validation = base.transform_filter("datum.split === 'validation'")
    layers.append(validation.mark_line(strokeWidth=2, point={"size": 30}).encode(y=y, tooltip=tooltip))
    if marks:
        layers.append(rules(name="marks", label="what"))
    return figure(name, title, caption, alt.layer(*layers), rows, **({"marks": marks} if marks else {}))


def curves(name: str, title: str, caption: str, rows: Rows, *, axis: str, by: str) -> Figure:
    """Draw `value` by `step`, with one line per value of the field `by`."""
    order = list(dict.fromkeys(row[by] for row in rows))
    chart = (
        alt.Chart(data())
        .mark_line()
        .encode(
            x=steps(),
            y=alt.Y("value:Q", title=axis, scale=alt.Scale(zero=False), axis=numbers(tickCount=5)),
            tooltip=[alt.Tooltip(f"{by}:N"), alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".4~g")],
            **categories(by, order, "line", limit=260),
        )
    )
    return figure(name, title, caption, chart, rows, height=220 + legend_height(order))


def confusion(name: str, title: str, caption: str, rows: Rows, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix from rows `true`, `predicted`, `count`, `share` (of the examples of the true class)."""
    # The domain defines the order. A `sort` is written as an expression, in which not every name is valid.
    order, written = list(names), len(names) <= 20
    flat = len(names) * max(map(len, names)) <= 40
    axis = alt.Axis(labelLimit=110, labelOverlap=not written, ticks=False, domain=False)
    under = alt.Axis(labelLimit=110, labelOverlap=not written, ticks=False, domain=False, labelAngle=0 if flat else -90)
    base = alt.Chart(data()).encode(
        x=alt.X("predicted:N", sort=None, title="predicted", axis=under, scale=alt.Scale(domain=order)),
        y=alt.Y("true:N", sort=None, title="true", axis=axis, scale=alt.Scale(domain=order)),
        tooltip=["true:N", "predicted:N", alt.Tooltip("count:Q", format=","), alt.Tooltip("share:Q", format=".1%")],
    )
    colour = alt.Color("share:Q", scale=alt.Scale(domain=[0, 1], interpolate="rgb"), legend=None)
    layers = [base.mark_rect().encode(color=colour)]
    if written:
        both = len(names) <= 12
        layers += [cells(base, "count:Q", ",", shift=-7 if both else 0, points=13)]
        layers += [cells(base, "share:Q", ".0%", shift=9, points=10)] if both else []
    colours = alt.param(name="ink", value="#222"), alt.param(name="paper", value="#fff")
    chart = alt.layer(*layers).add_params(*colours)
    return figure(name, title, caption, chart, rows, height=side(len(names)))


def side(classes: int) -> int:
    """Return the height in pixels of a confusion matrix."""
    return max(300, min(560, 44 * classes))


def cells(base: alt.Chart, field: str, form: str, *, shift: int, points: int) -> alt.Chart:
    """Write numbers in the cells of a matrix, in a readable colour; an empty cell has none."""
    dark = alt.when("datum.share > 0.5").then(alt.value(alt.ExprRef("paper"))).otherwise(alt.value(alt.ExprRef("ink")))
    return (
        base.mark_text(dy=shift, fontSize=points, opacity=0.75 if shift > 0 else 1)
        .encode(text=alt.Text(field, format=form), color=dark)
        .transform_filter("datum.count > 0")
    )


def reliability(name: str, title: str, caption: str, rows: Rows, *, height: int = 300) -> Figure:
    """Draw rows `confidence`, `accuracy`, `low`, `high`, `count`; a calibrated model lies on the diagonal."""
    unit = alt.Scale(domain=[0, 1])
    axis = alt.Axis(format=".0%", tickCount=5)
    x = alt.X("confidence:Q", title="confidence of the prediction", scale=unit, axis=axis)
    tooltip = [alt.Tooltip(f"{field}:Q", format=".1%") for field in ("confidence", "accuracy", "low", "high")]
    base = alt.Chart(data()).encode(x=x, tooltip=[*tooltip, alt.Tooltip("count:Q", format=",")])
    y = alt.Y("accuracy:Q", title="share of correct predictions", scale=unit, axis=axis)
    points = base.mark_circle(opacity=0.9).encode(
        y=y, size=alt.Size("count:Q", scale=alt.Scale(range=[25, 320]), legend=None)
    )
    spans = base.mark_rule(opacity=0.5, strokeWidth=1.5).encode(y=alt.Y("low:Q", scale=unit, axis=axis), y2="high:Q")
    chart = alt.layer(diagonal("confidence", "accuracy"), spans, points)
    ends = [{"confidence": n, "accuracy": n} for n in (0, 1)]
    return figure(name, title, caption, chart, rows, height=height, ends=ends)


def scatter(name: str, title: str, caption: str, rows: Rows, *, fields: Sequence[str]) -> Figure:
    """Draw rows `true`, `predicted`, on two equal axes, with the diagonal; one colour for each of several `fields`."""
    values = [row[side] for row in rows for side in ("true", "predicted") if row[side] is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    same = alt.Scale(domain=[low, high], nice=True, zero=False)
    tooltip = [alt.Tooltip(f"{side}:Q", format=".4~g") for side in ("true", "predicted")]
    colour = {"color": alt.Color("output:N", title=None)} if len(fields) > 1 else {}
    points = (
        alt.Chart(data())
        .mark_circle(opacity=0.45, size=28)
        .encode(
            x=alt.X("true:Q", scale=same), y=alt.Y("predicted:Q", scale=same), tooltip=[*tooltip, "index:Q"], **colour
        )
    )
    chart = alt.layer(diagonal("true", "predicted"), points)
    ends = [{"true": end, "predicted": end} for end in (low, high)]
    return figure(name, title, caption, chart, rows, height=340, ends=ends)


def diagonal(x: str, y: str) -> alt.Chart:
    line = alt.Chart(data("ends")).mark_line(strokeDash=[4, 4], strokeWidth=1, opacity=0.6)
    return line.encode(x=f"{x}:Q", y=f"{y}:Q")


def staged(
    name: str,
    title: str,
    caption: str,
    rows: Rows,
    *,
    axis: str,
    by: str,
    stages: Sequence[str],
    kinds: Sequence[str],
    domain: Sequence[float] | None = None,
    may_log: bool = False,
) -> Figure:
    """Draw `value` by `stage`, with one line per value of the field `by`, and an interval from `low` to `high` if rows
    have it.

    `stages` and `kinds` define the order. The axis is logarithmic as in `curve`; zeros are then not drawn.
    """
    values = [row["value"] for row in rows if row["value"]]
    wide = may_log and bool(values) and max(values) > 100 * min(values)
    bounds = alt.Scale(type="log") if wide else alt.Scale(domain=list(domain)) if domain else alt.Scale(zero=True)
    flat = sum(map(len, stages)) <= 36
    under = alt.Axis(labelAngle=0 if flat else -40, labelLimit=110, labelOverlap=False, ticks=False)
    colour = alt.Color(f"{by}:N", title=None, scale=alt.Scale(domain=list(kinds)), legend=alt.Legend(orient="top"))
    tooltip = [alt.Tooltip("stage:N"), alt.Tooltip(f"{by}:N"), alt.Tooltip("value:Q", format=".4~g", title=axis)]
    spans = any(row.get("low") is not None for row in rows)
    tooltip += [alt.Tooltip(f"{end}:Q", format=".4~g") for end in ("low", "high")] if spans else []
    y = alt.Y("value:Q", title=axis, scale=bounds, axis=numbers(tickCount=5))
    base = alt.Chart(data()).encode(
        # The domain defines the order, as in `confusion`.
        x=alt.X("stage:N", sort=None, title=None, axis=under, scale=alt.Scale(domain=list(stages), padding=0.5)),
        **({"color": colour} if len(kinds) > 1 else {}),
    )
    base = base.transform_filter("datum.value > 0") if wide else base.transform_filter("isValid(datum.value)")
    layers = [base.mark_line(strokeWidth=2, opacity=0.8).encode(y=y, order="place:Q")]
    if spans:
        layers.append(base.mark_rule(opacity=0.5, strokeWidth=1.5).encode(y=alt.Y("low:Q", title=axis), y2="high:Q"))
    layers.append(base.mark_circle(size=46, opacity=1).encode(y=y, tooltip=tooltip))
    return figure(name, title, caption, alt.layer(*layers), rows, height=260)


def ranks(name: str, title: str, caption: str, rows: Rows, *, paths: Sequence[str], kinds: Sequence[str]) -> Figure:
    """Draw `value` of each `path`: one row per path, one dot for each `of`.

    Rows also contain `rank`, the maximum of the value, and `top`, the largest singular values in words.
    """
    tooltip = ["path:N", "of:N", "matrix:N", alt.Tooltip("value:Q", format=".4~g", title="effective rank")]
    dots = (
        alt.Chart(data())
        .mark_circle(size=46, opacity=0.9)
        .encode(
            x=alt.X(
                "value:Q",
                title="effective rank",
                scale=alt.Scale(zero=True),
                axis=alt.Axis(grid=True, format=",~f", tickCount=8),
            ),
            y=alt.Y(
                "path:N",
                sort=None,
                title=None,
                scale=alt.Scale(domain=list(paths), paddingInner=0.4),
                axis=alt.Axis(labelLimit=260, ticks=False, domain=False, labelOverlap=False),
            ),
            # Dots are side by side, so that none hides another.
            yOffset=alt.YOffset("of:N", sort=None, scale=alt.Scale(domain=list(kinds))),
            color=alt.Color(
                "of:N",
                title=None,
                scale=alt.Scale(domain=list(kinds)),
                legend=alt.Legend(orient="top", symbolType="circle", symbolStrokeWidth=0),
            ),
            tooltip=[*tooltip, alt.Tooltip("top:N", title="largest singular values")],
        )
    )
    return figure(name, title, caption, dots, rows, height=max(120, 60 + 22 * len(paths)))


def along(name: str, title: str, caption: str, rows: Rows, *, axis: str) -> Figure:
    """Draw `value` by `share`, with a band from `low` to `high` if the rows have them."""
    x = alt.X(
        "share:Q",
        title="interpolation weight: 0 initial weights, 1 fine-tuned weights",
        axis=alt.Axis(format=".0%", tickCount=5),
    )
    tooltip = [alt.Tooltip("share:Q", format=".0%"), alt.Tooltip("value:Q", format=".4~g", title=axis)]
    spans = all(row["low"] is not None for row in rows)
    tooltip += [alt.Tooltip(f"{end}:Q", format=".4~g") for end in ("low", "high")] if spans else []
    scale = alt.Scale(zero=False)
    base = alt.Chart(data()).encode(x=x)
    y = alt.Y("value:Q", title=axis, scale=scale, axis=numbers(tickCount=5))
    layers = [base.mark_line(strokeWidth=2, point={"size": 34}).encode(y=y, tooltip=tooltip)]
    if spans:
        band = base.mark_area(opacity=0.18, line=False).encode(y=alt.Y("low:Q", title=axis, scale=scale), y2="high:Q")
        layers.insert(0, band)
    return figure(name, title, caption, alt.layer(*layers), rows, height=240)
