"""Draw the page of a search, with its best trial, its history and the importances, from the document `tune.json`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt

from tlx.functional.metrics import find_metric
from tlx.records.studies import CELLS
from tlx.report import charts, page, words
from tlx.report.charts import Figure, Rows
from tlx.report.scales import numbers
from tlx.trees import Json

STATES = ("done", "stopped", "failed")
SAMPLERS = {"tpe": "TPE", "random": "random", "grid": "grid", "cmaes": "CMA-ES"}


def write(path: Path, document: Json) -> Path:
    """Draw the page of a search (see `tlx.tune`) into one file, beside the folders of its trials."""
    return page.write(path, draw(document, path.parent))


def draw(document: Json, folder: Path) -> str:
    """Return the page as HTML; a trial is linked if its run has left files in `folder`."""
    trials = document["trials"]
    best = next((trial for trial in trials if trial["number"] == document["best"]), None)
    paths = list(document["space"])
    return page.render(
        "search.html",
        title=words.headline(document["recipe"]),
        search=document,
        sampler=SAMPLERS[document["sampler"]],
        metric=words.metric(document["metric"]),
        share=find_metric(document["metric"], document.get("measures")).points,
        best=best,
        paths=paths,
        hrefs={trial["number"]: href(trial, folder) for trial in trials},
        counts={state: sum(trial["state"] == state for trial in trials) for state in STATES},
        seconds=sum(trial["seconds"] or 0.0 for trial in trials),
        drawings=drawings(document),
        slices=slices(document, paths),
    )


def href(trial: Json, folder: Path) -> str | None:
    """Return the folder of a trial's run; None if its worker died early, or its recipe could not begin."""
    path = f"{CELLS}/{trial['fingerprint']}/"
    return path if trial["fingerprint"] and (folder / path).is_dir() else None


def drawings(document: Json) -> list[Figure]:
    """Return history, importances and, for two or more paths, parallel coordinates."""
    figures = [history(document)]
    if document["importances"]:
        figures.append(importances(document["importances"]))
    if len(document["space"]) > 1:
        figures.append(parallel(document))
    return figures


def measured(document: Json) -> list[Json]:
    return [trial for trial in document["trials"] if trial["value"] is not None]


def history(document: Json) -> Figure:
    """Draw the value of every trial in order, and the best of those done so far."""
    rows: Rows = []
    pick = max if document["direction"] == "maximize" else min
    best: float | None = None
    for trial in measured(document):
        if trial["state"] == "done":
            best = trial["value"] if best is None else pick(best, trial["value"])
        rows.append({"trial": trial["number"] + 1, "value": trial["value"], "state": trial["state"], "best": best})
    axis = words.metric(document["metric"])
    x = alt.X("trial:Q", title="trial", axis=alt.Axis(tickMinStep=1, format="d"), scale=alt.Scale(nice=False))
    y = {"title": axis, "scale": alt.Scale(zero=False), "axis": numbers(tickCount=5)}
    base = alt.Chart(charts.data()).encode(x=x)
    kinds = [state for state in STATES if any(row["state"] == state for row in rows)]
    legend = alt.Legend(orient="top", symbolType="circle", symbolStrokeWidth=0) if len(kinds) > 1 else None
    colour = alt.Color("state:N", title=None, scale=alt.Scale(domain=kinds), legend=legend)
    tooltip = [alt.Tooltip("trial:Q"), "state:N", alt.Tooltip("value:Q", format=".4~g", title=axis)]
    line = base.mark_line(interpolate="step-after", strokeWidth=1.5, opacity=0.7).transform_filter(
        "isValid(datum.best)"
    )
    dots = base.mark_circle(size=52, opacity=0.9).encode(y=alt.Y("value:Q", **y), color=colour, tooltip=tooltip)
    chart = alt.layer(line.encode(y=alt.Y("best:Q", **y)), dots)
    return charts.figure(
        "history", "Trial by trial", "Each dot is a trial. The line is the best value so far.", chart, rows
    )


def importances(shares: Mapping[str, float]) -> Figure:
    """Draw the importance of each path."""
    rows: Rows = [{"path": path, "share": share} for path, share in shares.items()]
    chart = (
        alt.Chart(charts.data())
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="share", axis=alt.Axis(format=".0%", tickCount=5, grid=True)),
            y=alt.Y("path:N", title=None, sort=None, scale=alt.Scale(domain=list(shares)), axis=field_axis()),
            tooltip=["path:N", alt.Tooltip("share:Q", format=".1%")],
        )
    )
    caption = (
        "Importance of each field for the difference between the best trials and the others (PED-ANOVA). With few "
        "trials it is only a hint."
    )
    return charts.figure(
        "importances", "Importance of the fields", caption, chart, rows, height=max(110, 50 + 34 * len(shares))
    )


def field_axis() -> alt.Axis:
    return alt.Axis(labelLimit=220, ticks=False, domain=False, labelOverlap=False)


def parallel(document: Json) -> Figure:
    """Draw one line per trial through its position on the axis of every path, in the colour of its value."""
    places = {path: placed(document, path) for path in document["space"]}
    rows: Rows = [
        {
            "trial": trial["number"] + 1,
            "path": path,
            "place": places[path][trial["number"]],
            "at": words.number(at) if isinstance(at := trial["point"][path], float) else str(at),
            "value": trial["value"],
        }
        for trial in measured(document)
        for path in document["space"]
    ]
    domain = alt.Scale(domain=list(document["space"]), padding=0.2)
    under = alt.Axis(labelAngle=0, labelLimit=200, ticks=False, labelOverlap=False, grid=True)
    axis = words.metric(document["metric"])
    descending = document["direction"] == "minimize"
    tooltip = ["trial:Q", "path:N", alt.Tooltip("at:N", title="value there")]
    tooltip.append(alt.Tooltip("value:Q", title=axis, format=".4~g"))
    chart = (
        alt.Chart(charts.data())
        .mark_line(strokeWidth=1.6, opacity=0.75, point=alt.OverlayMarkDef(size=24))
        .encode(
            x=alt.X("path:N", sort=None, title=None, scale=domain, axis=under),
            y=alt.Y("place:Q", title="from low to high", axis=alt.Axis(labels=False, ticks=False, tickCount=2)),
            detail="trial:N",
            color=alt.Color(
                "value:Q",
                title=axis,
                scale=alt.Scale(zero=False, reverse=descending),
                legend=alt.Legend(orient="top", gradientLength=160, format="~g", tickCount=3),
            ),
            tooltip=tooltip,
        )
    )
    caption = (
        "Each line is a trial. Each axis goes from the lowest to the highest tried value (logarithmic if the search "
        "was)."
    )
    return charts.figure("parallel", "All fields at once", caption, chart, rows, height=300)


def placed(document: Json, path: str) -> dict[int, float]:
    """Return the position of every measured trial between the lowest and the highest value of a path, in [0, 1]."""
    values = {trial["number"]: trial["point"][path] for trial in measured(document)}
    if document["kinds"][path] == "choice":
        order = {name: n for n, name in enumerate(sorted({str(value) for value in values.values()}))}
        scaled = {number: float(order[str(value)]) for number, value in values.items()}
    elif document["kinds"][path] == "log":
        scaled = {number: math.log(value) for number, value in values.items()}
    else:
        scaled = {number: float(value) for number, value in values.items()}
    low, high = min(scaled.values(), default=0.0), max(scaled.values(), default=1.0)
    return {number: (value - low) / (high - low) if high > low else 0.5 for number, value in scaled.items()}


def slices(document: Json, paths: Sequence[str]) -> list[Figure]:
    """Draw the value against each path separately."""
    return [slice_of(document, path, f"slice-{number}") for number, path in enumerate(paths)]


def slice_of(document: Json, path: str, name: str) -> Figure:
    """Draw the value of every measured trial against one path."""
    kind = document["kinds"][path]
    rows: Rows = [
        {"trial": trial["number"] + 1, "at": trial["point"][path] if kind != "choice" else str(trial["point"][path]),
         "value": trial["value"], "state": trial["state"]}
        for trial in measured(document)
    ]  # fmt: skip
    axis = words.metric(document["metric"])
    if kind == "choice":
        x = alt.X("at:N", title=None, axis=alt.Axis(labelAngle=0, labelLimit=160, labelOverlap=False, ticks=False))
    else:
        scale = alt.Scale(type="log") if kind == "log" else alt.Scale(zero=False)
        x = alt.X("at:Q", title=None, scale=scale, axis=numbers(tickCount=5))
    y = alt.Y("value:Q", title=axis, scale=alt.Scale(zero=False), axis=numbers(tickCount=4))
    tooltip = ["trial:Q", "state:N", "at:N" if kind == "choice" else "at:Q", alt.Tooltip("value:Q", format=".4~g")]
    chart = alt.Chart(charts.data()).mark_circle(size=52, opacity=0.8).encode(x=x, y=y, tooltip=tooltip)
    return charts.figure(name, path, "The other fields vary too.", chart, rows, height=190)
