"""Draw the card of the benefit of transfer on one page, from the document `benefit.json` alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import altair as alt

from tlx.functional.metrics import find_metric
from tlx.report import charts, page, words
from tlx.report.charts import Figure, Rows
from tlx.report.scales import numbers
from tlx.trees import Json

ARMS = ("pretrained", "scratch")
LEGEND = alt.Legend(orient="top", symbolType="circle", symbolStrokeWidth=0, symbolOpacity=1)
BOUNDS = {"": "", "at least": "≥ ", "at most": "≤ "}


def write(path: Path, document: Json) -> Path:
    """Draw the card (see `tlx.analysis.benefit`) into one file."""
    return page.write(path, draw(document))


def draw(document: Json) -> str:
    """Return the page as HTML."""
    share = find_metric(document["metric"], document.get("declared")).points
    final = document["measures"][0]
    return page.render(
        "benefit.html",
        title=words.headline(document["recipe"]),
        card=document,
        metric=words.metric(document["metric"]),
        share=share,
        final=final,
        headline=headline(final, share),
        rows=[row(measure, share and measure["name"] == "final") for measure in document["measures"]],
        older=[
            (unit, side(document["strubell"][name], False, 1000))
            for name, unit in (("kwh", "Wh"), ("co2e_kg", "g CO2e"))
        ],
        drawings=drawings(document, share),
    )


def headline(final: Json, share: bool) -> dict[str, str]:
    """Return the difference at the end, with its interval."""
    gain = final["gain"]
    parts = {end: signed(gain[end], share) for end in ("value", "low", "high")}
    return {"value": parts["value"], "span": f"{parts['low']} to {parts['high']}" if gain["low"] is not None else ""}


def signed(value: float | None, share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:+.1f}" if share else f"{'+' if value > 0 else ''}{words.number(value, 3)}"


def row(measure: Json, share: bool) -> Json:
    """Return a measure as text, with its folders for the links."""
    factor, unit = words.scaled(max(measure[arm]["mean"] for arm in ARMS), measure["unit"])
    return {
        "name": measure["name"],
        "title": words.metric(measure["title"].removesuffix(" at the end")) + " at the end"
        if share
        else measure["title"],
        "unit": unit,
        "scratch": side(measure["scratch"], share, factor),
        "pretrained": side(measure["pretrained"], share, factor),
        "gain": gain_text(measure["gain"], share),
        "folders": measure["folders"],
    }


def side(estimate: Json, share: bool, factor: float) -> dict[str, str]:
    """Return an arm's mean and interval as text."""

    def show(value: float) -> str:
        return words.percent(value) if share else words.number(factor * value, 3)

    return {
        "mean": BOUNDS[estimate["bound"]] + show(estimate["mean"]),
        "span": spread([estimate["low"], estimate["high"]], show),
    }


def spread(ends: Sequence[float | None], show: Callable[[float], str]) -> str:
    """Return an interval as text; empty if both ends are open."""
    return " – ".join("open" if end is None else show(end) for end in ends) if set(ends) != {None} else ""


def gain_text(gain: Json, share: bool) -> dict[str, str]:
    """Return the gain as text: a difference, or a factor."""
    ends = [gain["low"], gain["high"]]
    if gain["kind"] == "difference":
        unit = " points" if share else ""
        return {"value": signed(gain["value"], share) + unit, "span": spread(ends, lambda end: signed(end, share))}
    times = f"{BOUNDS[gain['bound']]}{words.number(gain['value'], 3)} ×"
    return {"value": times, "span": spread(ends, lambda end: words.number(end, 3))}


def drawings(document: Json, share: bool) -> list[Figure]:
    """Return the learning curve, if there is one, and the validation curves over time."""
    return [*([learning(document, share)] if len(document["labels"]) > 1 else []), over_time(document, share)]


def colour() -> alt.Color:
    return alt.Color("arm:N", title=None, scale=alt.Scale(domain=list(ARMS)), legend=LEGEND)


def upwards(field: str, title: str, share: bool) -> alt.Y:
    axis = alt.Axis(format=".0%", tickCount=5) if share else numbers(tickCount=5)
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False), axis=axis)


def banded(rows: Rows, x: alt.X, title: str, share: bool, tooltip: list[alt.Tooltip]) -> list[alt.Chart]:
    """Return a line of means, in a band from `low` to `high` if the rows have both."""
    base = alt.Chart(charts.data()).encode(x=x, color=colour())
    line = base.mark_line(strokeWidth=2, point={"size": 34}).encode(y=upwards("mean", title, share), tooltip=tooltip)
    if any(row["low"] is None or row["high"] is None for row in rows):
        return [line]
    return [base.mark_area(opacity=0.16, line=False).encode(y=upwards("low", title, share), y2="high:Q"), line]


def learning(document: Json, share: bool) -> Figure:
    """Draw the metric on the test split by the number of labels."""
    rows: Rows = [
        {name: point[name] for name in ("arm", "labels", "mean", "low", "high")} | {"seeds": len(point["values"])}
        for point in document["learning"]
    ]
    title = f"test {words.metric(document['metric'])}"
    ticks = alt.Axis(values=document["labels"], format="~s", labelOverlap=True)
    x = alt.X("labels:Q", title="labels", scale=alt.Scale(type="log", nice=False), axis=ticks)
    tooltip = ["arm:N", alt.Tooltip("labels:Q", format=","), alt.Tooltip("mean:Q", format=".4~g"), "seeds:Q"]
    layers = banded(rows, x, title, share, tooltip)
    ends = [row["mean"] for row in rows if row["arm"] == "scratch" and row["labels"] == document["labels"][-1]]
    level = alt.Chart(charts.data("level")).mark_rule(strokeDash=[4, 4]).encode(y=upwards("mean", title, share))
    caption = "Mean and 95 % t-interval over the seeds. Dashed: from scratch with all labels."
    return charts.figure(
        "learning", "By number of labels", caption, alt.layer(*layers, level), rows, height=300,
        level=[{"arm": "scratch", "mean": mean} for mean in ends],
    )  # fmt: skip


def over_time(document: Json, share: bool) -> Figure:
    """Draw the metric on the validation split by the time of training."""
    title = f"validation {words.metric(document['metric'])}"
    x = alt.X("seconds:Q", title="seconds of training steps", axis=numbers(tickCount=6))
    tooltip = ["arm:N", alt.Tooltip("step:Q", format=","), alt.Tooltip("seconds:Q", format=".3~g")]
    tooltip.append(alt.Tooltip("mean:Q", format=".4~g"))
    layers = banded(document["training"], x, title, share, tooltip)
    level = alt.Chart(charts.data("level")).mark_rule(strokeDash=[4, 4]).encode(y=upwards("mean", title, share))
    caption = (
        "With all labels. Line: mean over the seeds. Band: lowest to highest seed. Dashed: final value from scratch."
    )
    return charts.figure(
        "time", "By time", caption, alt.layer(*layers, level), list(document["training"]), height=300,
        level=[{"arm": "scratch", "mean": document["threshold"]}],
    )  # fmt: skip
