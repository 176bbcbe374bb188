"""Draw the page that compares runs, from the document `compare.json` alone."""

from pathlib import Path

import altair as alt

from tlx.functional.significance import p_text
from tlx.report import charts, page, words
from tlx.report.charts import Figure
from tlx.report.scales import numbers
from tlx.trees import Json


def write(path: Path, document: Json) -> Path:
    """Draw the page of a comparison (see `tlx.analysis.compare_runs`) into one file."""
    return page.write(path, draw(document))


def draw(document: Json) -> str:
    """Return the page as HTML."""
    return page.render(
        "comparison.html",
        title=", ".join(run["name"] for run in document["runs"]),
        document=document,
        metric=document["metric"],
        drawing=drawing(document),
        rows=[
            {"name": row["name"], "values": [None if value is None else value_text(value) for value in row["values"]]}
            for row in document["metrics"]
        ],
        comparisons=[
            (run, difference_text(item), p_text(item["holm"]), item)
            for run, item in zip(document["runs"][1:], document["comparisons"], strict=True)
        ],
        number=lambda value: "–" if value is None else f"{value:+.4f}",
        p=p_text,
        duration=words.duration,
    )


def value_text(value: Json) -> dict[str, str]:
    """Return a value and its interval as text."""
    span = "" if value["low"] is None else f"{value['low']:.4f} – {value['high']:.4f}"
    return {"value": f"{value['value']:.4f}", "span": span, "method": value["method"]}


def difference_text(item: Json) -> str:
    """Return a difference and its interval as text.

    >>> difference_text({"difference": 0.1, "low": -0.05, "high": 0.25})
    '+0.1000 [-0.0500, +0.2500]'
    """
    if item["difference"] is None:
        return "–"
    span = "" if item["low"] is None else f" [{item['low']:+.4f}, {item['high']:+.4f}]"
    return f"{item['difference']:+.4f}{span}"


def drawing(document: Json) -> Figure | None:
    """Draw the compared metric of each run with its interval; None if fewer than two runs have it."""
    values = next(row["values"] for row in document["metrics"] if row["name"] == document["metric"])
    rows = [
        {"run": run["name"], **{name: value[name] for name in ("value", "low", "high")}}
        for run, value in zip(document["runs"], values, strict=True)
        if value is not None
    ]
    if len(rows) < 2:
        return None
    axis = alt.Axis(format=".1%") if document["points"] else numbers(tickCount=5)
    x = alt.X("value:Q", title=document["metric"], scale=alt.Scale(zero=False), axis=axis)
    tooltip = ["run:N", *(alt.Tooltip(f"{name}:Q", format=".4~g") for name in ("value", "low", "high"))]
    base = alt.Chart(charts.data()).encode(y=alt.Y("run:N", sort=None, title=None), tooltip=tooltip)
    spans = base.mark_rule(strokeWidth=2, opacity=0.5).encode(x=alt.X("low:Q"), x2="high:Q")
    points = base.mark_circle(size=70, opacity=1).encode(x=x)
    caption = "Value and 95 % interval over the examples of the split. Where the runs share the examples, the paired "
    caption += "comparison at the top is sharper than these intervals."
    return charts.figure(
        "metric", f"{document['metric']} of each run", caption, alt.layer(spans, points), rows,
        height=40 + 34 * len(rows),
    )  # fmt: skip
