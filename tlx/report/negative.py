"""Draw the report of whether sources help or hurt, on one page, from the document `negative.json` alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from tlx.functional.metrics import find_metric
from tlx.report import charts, page, words
from tlx.report.charts import Figure, Rows
from tlx.report.scales import numbers
from tlx.trees import Json

SHOWN = {"hurts": "shown-worse", "helps": "shown-better", "not shown": "shown-none", "not compared": "shown-none"}
INKS = {"good": "#3f7d58", "warm": "#b4552d", "quiet": "#686b70", "ink": "#22252a"}


def write(path: Path, document: Json) -> Path:
    """Draw the report (see `tlx.analysis.negative`) into one file."""
    return page.write(path, draw(document))


def draw(document: Json) -> str:
    """Return the page as HTML."""
    share = find_metric(document["metric"], document.get("measures")).points
    tables = [
        {"name": name, "about": document["baselines"].get(name, "random predictions"), "rows": rows}
        for name in dict.fromkeys(gap["baseline"] for gap in document["gaps"])
        if (rows := [row(gap, share) for gap in document["gaps"] if gap["baseline"] == name])
    ]
    sources = list(dict.fromkeys(gap["source"] for gap in document["gaps"]))
    return page.render(
        "negative.html",
        title=f"{', '.join(sources)} to {document['target']}",
        card=document,
        advice=[
            {**item, "at": at[0].upper() + at[1:]}
            for item in document["advice"]
            if (at := words.granting(item["labels"]))
        ],
        sources=sources,
        metric=words.metric(document["metric"]),
        share=share,
        tables=tables,
        shown=SHOWN,
        smallest=words.number(document["smallest"] * (100 if share else 1), 3),
        maps=[figure for item in tables if (figure := over_settings(document, item["name"], share))],
        arms=[every_arm(document, labels, share) for labels in labels_of(document)],
        classes=by_class(document),
        rules=[
            {**item, "value": size(item["value"], share), "gap": size(item["gap"], share)}
            | {"span": spread(item["low"], item["high"], share)}
            for item in document["rules"]
        ],
        domains=by_distance(document, share),
        gates=[gate(item) for item in document["gated"]],
    )


def row(gap: Json, share: bool) -> Json:
    """Return a gap as text, with its folders for the links."""
    return {
        **{name: gap[name] for name in ("source", "labels", "verdict", "folders", "pairs")},
        "eps": f"{gap['eps']:g}",
        "transfer": size(gap["transfer"], share),
        "without": size(gap["without"], share),
        "gap": signed(gap["gap"], share),
        "value": gap["gap"],
        "span": spread(gap["low"], gap["high"], share),
        "boot": spread(gap["boot"][0], gap["boot"][1], share) if gap["boot"] else "",
        "holm": "–" if gap["holm"] is None else words.number(gap["holm"], 2),
        "detectable": "–" if gap["detectable"] is None else size(gap["detectable"], share),
    }


def size(value: float, share: bool) -> str:
    return f"{100 * value:.1f}" if share else words.number(value, 3)


def signed(value: float, share: bool) -> str:
    return f"{100 * value:+.1f}" if share else f"{'+' if value > 0 else ''}{words.number(value, 3)}"


def spread(low: float | None, high: float | None, share: bool) -> str:
    return "" if low is None or high is None else f"{signed(low, share)} to {signed(high, share)}"


def labels_of(document: Json) -> list[Any]:
    return [advice["labels"] for advice in document["advice"]]


def granted(labels: Any) -> str:
    """Return the number of labels of a setting in words.

    >>> granted(0), granted(0.1), granted(5)
    ('none', '10 %', '5 per class')
    """
    return "none" if not labels else f"{100 * labels:g} %" if isinstance(labels, float) else f"{labels} per class"


def ink(field: str = "verdict") -> Any:
    """Return the colour of a verdict: orange if the source hurts, green if it helps."""
    chosen = alt.when(f"datum.{field} == 'helps'").then(alt.value(alt.ExprRef("good")))
    chosen = chosen.when(f"datum.{field} == 'hurts'").then(alt.value(alt.ExprRef("warm")))
    return chosen.otherwise(alt.value(alt.ExprRef("quiet")))


def themed(chart: alt.LayerChart) -> alt.LayerChart:
    return chart.add_params(*(alt.param(name=name, value=value) for name, value in INKS.items()))


def cells(rows: Rows, x: alt.X, y: alt.Y, tooltip: Sequence[alt.Tooltip]) -> alt.LayerChart:
    """Draw a map of gaps: the colour shows the verdict, the opacity the size, and a text the number."""
    most = max([abs(row["gap"]) for row in rows], default=0.0) or 1.0
    base = alt.Chart(charts.data()).encode(x=x, y=y)
    strength = alt.Opacity("size:Q", scale=alt.Scale(domain=[0, most], range=[0.12, 0.75]), legend=None)
    fields = base.mark_rect(stroke=None).encode(color=ink(), opacity=strength, tooltip=list(tooltip))
    return alt.layer(fields, base.mark_text(fontSize=12, color=alt.ExprRef("ink")).encode(text="said:N"))


def tooltip_of(share: bool) -> list[alt.Tooltip]:
    form = ".1%" if share else ".4~g"
    return [
        alt.Tooltip("source:N"), alt.Tooltip("labels:N"), alt.Tooltip("eps:N"), alt.Tooltip("verdict:N"),
        *(alt.Tooltip(f"{name}:Q", format=form) for name in ("transfer", "without", "gap", "low", "high")),
    ]  # fmt: skip


def over_settings(document: Json, baseline: str, share: bool) -> Figure | None:
    """Draw the map: one cell per setting, labels along the axis, a line for each source and noise; None for one
    setting."""
    gaps = [gap for gap in document["gaps"] if gap["baseline"] == baseline]
    if len(gaps) < 2:
        return None
    several = len({gap["eps"] for gap in gaps}) > 1
    names = ("source", "eps", "transfer", "without", "gap", "low", "high", "verdict")
    rows: Rows = [
        {name: gap[name] for name in names}
        | {"labels": granted(gap["labels"]), "size": abs(gap["gap"]), "said": signed(gap["gap"], share)}
        | {"line": f"{gap['source']}, eps {gap['eps']:g}" if several else gap["source"]}
        for gap in gaps
    ]
    present = {row["labels"] for row in rows}
    order = [granted(labels) for labels in labels_of(document) if granted(labels) in present]
    x = alt.X("labels:N", sort=None, title="labels of the target", scale=alt.Scale(domain=order),
              axis=alt.Axis(labelAngle=0, orient="top", ticks=False, domain=False))  # fmt: skip
    lines = list(dict.fromkeys(row["line"] for row in rows))
    y = alt.Y("line:N", sort=None, title=None, scale=alt.Scale(domain=lines),
              axis=alt.Axis(labelLimit=260, ticks=False, domain=False))  # fmt: skip
    caption = (
        f"The gap to {baseline}, {'in points' if share else 'in the units of the metric'}: above 0 the source hurts, "
        "below 0 it helps. Orange: shown to hurt. Green: shown to help. Grey: not shown."
    )
    chart = themed(cells(rows, x, y, tooltip_of(share)))
    slug = "".join(letter if letter.isalnum() else "-" for letter in baseline)
    return charts.figure(f"map-{slug}", f"Against {baseline}", caption, chart, rows, height=60 + 34 * len(lines))


def every_arm(document: Json, labels: Any, share: bool) -> Figure:
    """Draw one line per arm: a point per seed, and the mean with its interval.

    The arms are those with this number of labels, and those that need none.
    """
    chosen = [arm for arm in document["arms"] if arm["labels"] in (labels, None)]
    rows: Rows = []
    means: Rows = []
    for arm in chosen:
        noise = f", eps {arm['eps']:g}" if arm["eps"] else ""
        name = f"{arm['arm']} {arm['source'] or ''}{noise}".strip()
        means.append({"name": name, **{end: arm[end] for end in ("mean", "low", "high")}})
        rows += [{"name": name, "seed": seed, "value": value} for seed, value in arm["values"].items()]
    values = [row["value"] for row in rows]
    air = 0.05 * (max(values) - min(values)) or 0.02
    scale = alt.Scale(domain=[min(values) - air, max(values) + air], nice=False, clamp=True)
    axis = alt.Axis(tickCount=6, grid=True, format=".0%") if share else numbers(tickCount=6, grid=True)
    x = alt.X("value:Q", title=words.metric(document["metric"]), scale=scale, axis=axis)
    lines = alt.Axis(labelLimit=260, ticks=False, domain=False, grid=False)
    y = alt.Y("name:N", sort=None, title=None, axis=lines, scale=alt.Scale(domain=[row["name"] for row in means]))
    form = ".2%" if share else ".4~g"
    seeds = alt.Chart(charts.data()).encode(x=x, y=y)
    points = seeds.mark_circle(size=54, opacity=0.75).encode(
        tooltip=["name:N", "seed:N", alt.Tooltip("value:Q", format=form)]
    )
    ends = alt.Chart(charts.data("means")).encode(y=y)
    span = ends.mark_rule(strokeWidth=2, yOffset=9).encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    tooltip = [alt.Tooltip(f"{end}:Q", format=form) for end in ("mean", "low", "high")]
    mean = ends.mark_tick(thickness=3, size=11, yOffset=9).encode(x=alt.X("mean:Q", scale=scale), tooltip=tooltip)
    slug = "".join(letter if letter.isalnum() else "-" for letter in str(labels))
    title = f"Every arm, target labels: {granted(labels)}"
    caption = "A point is a seed. The bar below is the mean with its 95 % t-interval."
    return charts.figure(
        f"arms-{slug}", title, caption, alt.layer(span, mean, points), rows, height=50 + 38 * len(means), means=means
    )


def by_class(document: Json) -> Figure | None:
    """Draw the gap of each class, with one line per setting; None if no predictions were kept."""
    if not document["classes"]:
        return None
    names = ("source", "eps", "transfer", "without", "gap", "low", "high", "verdict", "class", "baseline")
    rows: Rows = [
        {name: gap[name] for name in names}
        | {"labels": granted(gap["labels"]), "size": abs(gap["gap"]), "said": f"{100 * gap['gap']:+.0f}"}
        | {"line": f"{gap['source']}, {granted(gap['labels'])}" + (f", eps {gap['eps']:g}" if gap["eps"] else "")}
        for gap in document["classes"]
    ]
    order = list(dict.fromkeys(gap["class"] for gap in rows))
    x = alt.X("class:N", sort=None, title="class", scale=alt.Scale(domain=order),
              axis=alt.Axis(labelAngle=0, orient="top", ticks=False, domain=False, labelLimit=90))  # fmt: skip
    lines = list(dict.fromkeys(gap["line"] for gap in rows))
    y = alt.Y("line:N", sort=None, title=None, scale=alt.Scale(domain=lines),
              axis=alt.Axis(labelLimit=260, ticks=False, domain=False))  # fmt: skip
    tooltip = [alt.Tooltip("class:N"), alt.Tooltip("baseline:N"), *tooltip_of(True)]
    caption = (
        "Recall of a class without the source minus recall with it, in points, against A(0,T) or, without labels, "
        "source only: above 0 the source hurts this class. p is corrected over the classes of a row."
    )
    chart = themed(cells(rows, x, y, tooltip))
    return charts.figure("classes", "Class by class", caption, chart, rows, height=60 + 30 * len(lines))


def by_distance(document: Json, share: bool) -> list[Figure]:
    """Draw the gap over the distance of the source, for each baseline that several sources or noises are compared
    with."""
    distances = {(domain["source"], domain["eps"]): domain for domain in document["domains"]}
    figures = []
    for baseline in dict.fromkeys(gap["baseline"] for gap in document["gaps"]):
        gaps = [gap for gap in document["gaps"] if gap["baseline"] == baseline]
        if len({(gap["source"], gap["eps"]) for gap in gaps}) < 2:
            continue
        rows: Rows = [
            {name: gap[name] for name in ("source", "eps", "gap", "low", "high", "verdict")}
            | {"labels": granted(gap["labels"]), "a": distances[gap["source"], gap["eps"]]["a"]}
            | {"mmd": distances[gap["source"], gap["eps"]]["mmd"]}
            for gap in gaps
        ]
        x = alt.X("a:Q", title="proxy A-distance", scale=alt.Scale(zero=False), axis=numbers(tickCount=5))
        axis = alt.Axis(format=".0%", tickCount=5) if share else numbers(tickCount=5)
        base = alt.Chart(charts.data()).encode(x=x)
        tooltip = [alt.Tooltip("source:N"), alt.Tooltip("eps:N"), alt.Tooltip("labels:N"), alt.Tooltip("verdict:N")]
        tooltip += [alt.Tooltip(f"{name}:Q", format=".3~g") for name in ("a", "mmd", "gap")]
        order = [granted(labels) for labels in labels_of(document)]
        shape = alt.Shape("labels:N", scale=alt.Scale(domain=order), legend=alt.Legend(orient="top", title="labels"))
        points = base.mark_point(filled=True, size=80, opacity=0.9).encode(
            y=alt.Y("gap:Q", title="gap (above 0: the source hurts)", axis=axis),
            color=ink(),
            shape=shape,
            tooltip=tooltip,
        )
        spans = base.mark_rule(opacity=0.5).encode(
            y=alt.Y("low:Q", title="gap (above 0: the source hurts)", axis=axis), y2="high:Q", color=ink()
        )
        zero = alt.Chart(charts.data("zero")).mark_rule(strokeDash=[4, 4]).encode(y=alt.Y("at:Q", axis=axis))
        correlations = [
            f"{words.number(test['rho'], 2)} (labels {granted(test['labels'])}, p {words.number(test['p'], 2)})"
            for test in document["related"]
            if (test["baseline"], test["of"]) == (baseline, "a") and test["rho"] is not None
        ]
        caption = (
            f"Spearman's correlation: {', '.join(correlations)}." if correlations else "Too few settings to correlate."
        )
        slug = "".join(letter if letter.isalnum() else "-" for letter in baseline)
        chart = themed(alt.layer(zero, spans, points))
        title = f"Against {baseline}"
        figures.append(charts.figure(f"distance-{slug}", title, caption, chart, rows, height=280, zero=[{"at": 0}]))
    return figures


def gate(item: Json) -> Json:
    """Return the results of the gate on a source's examples."""
    noise = f", eps {item['eps']:g}" if item["eps"] else ""
    title = f"{item['source']}, labels {granted(item['labels'])}{noise}"
    shares = [n / (len(item["quantiles"]) - 1) for n in range(len(item["quantiles"]))]
    rows: Rows = [
        {"share": share, "weight": max(weight, 1e-6)} for share, weight in zip(shares, item["quantiles"], strict=True)
    ]
    x = alt.X("share:Q", title="source examples, by increasing weight", axis=alt.Axis(format=".0%", tickCount=5))
    axis = numbers(tickCount=4)
    y = alt.Y("weight:Q", title="weight divided by the mean", scale=alt.Scale(type="log"), axis=axis)
    chart = alt.Chart(charts.data()).mark_line(strokeWidth=2, point={"size": 30}).encode(x=x, y=y)
    slug = "".join(letter if letter.isalnum() else "-" for letter in title)
    caption = f"Effective share of the source at the end: {100 * item['effective']:.0f} % (seed {item['seed']})."
    if "effective_least" in item:
        least, most = 100 * item["effective_least"], words.number(item["weight_mean_most"], 3)
        caption += f" Smallest share of a batch: {least:.0f} %. Largest mean weight of a batch: {most}."
    return {**item, "title": title, "figure": charts.figure(f"gate-{slug}", title, caption, chart, rows, height=200)}
