"""Draw the page of a plan from the document `plan.json` alone: memory, bounds, time and cost on each target."""

from collections.abc import Sequence
from pathlib import Path

import altair as alt

from tlx.report import charts, page, plan_words, words
from tlx.report.charts import Figure, Rows
from tlx.report.scales import ROW
from tlx.trees import Json

# The terms of a bound, in the words of the page.
TERMS = {"compute": "operations", "memory": "memory", "interconnect": "collectives"}


def write(path: Path, document: Json) -> Path:
    """Draw the page of a plan (see `tlx.plan`) into one file."""
    return page.write(path, draw(document))


def draw(document: Json) -> str:
    """Return the page as HTML."""
    study = "targets" in document
    plans = [row for target in document["targets"] for row in target["programs"]] if study else document["plans"]
    compiled = [plan for plan in plans if "error" not in plan]
    labels = plan_words.labels_of(compiled)
    return page.render(
        "plan.html",
        title=document["name"],
        document=document,
        study=study,
        plans=list(zip(labels, compiled, strict=True)),
        errors=[plan for plan in plans if "error" in plan],
        best=[] if study or not any(plan["settings"] for plan in plans) else document["best"],
        drawings=[memory(compiled, labels), *bounds(compiled, labels)] if compiled else [],
        notes=plan_words.notes_of(compiled),
        terms=TERMS,
        settings=plan_words.settings_text,
        hours=plan_words.hours_text,
        dollars=plan_words.dollars_text,
        energy=plan_words.energy_text,
        seconds=plan_words.step_text,
    )


def coloured(field: str, order: Sequence[str]) -> alt.Color:
    """Return colours with a legend of two columns, which a telephone has room for."""
    legend = alt.Legend(orient="top", columns=2, symbolType="circle", symbolStrokeWidth=0, symbolOpacity=1)
    return alt.Color(f"{field}:N", title=None, scale=alt.Scale(domain=list(order)), legend=legend)


def height_of(plans: Sequence[Json], order: Sequence[str]) -> int:
    """Return the height of a drawing with a row for each plan and a legend of two columns."""
    return 60 + 30 * len(plans) + ROW * (-(-len(order) // 2))


def memory(plans: Sequence[Json], labels: Sequence[str]) -> Figure:
    """Draw the bytes of one device by their parts, and the usable memory where the drawing reaches so far."""
    order = [part for part in plans[0]["memory"] if any(plan["memory"][part] for plan in plans)]
    rows: Rows = [
        {"plan": label, "part": part, "order": number, "bytes": plan["memory"][part],
         "size": words.size(plan["memory"][part]), "share": plan["memory"][part] / plan["usable"]}
        for label, plan in zip(labels, plans, strict=True)
        for number, part in enumerate(order)
        if plan["memory"][part]
    ]  # fmt: skip
    largest = max(plan["needed"] for plan in plans)
    limits: Rows = [
        {"plan": label, "bytes": plan["usable"], "size": words.size(plan["usable"])}
        for label, plan in zip(labels, plans, strict=True)
        if plan["usable"] <= 4 * largest
    ]
    tooltip = ["plan:N", "part:N", "size:N", alt.Tooltip("share:Q", format=".2%", title="of the usable memory")]
    y = alt.Y("plan:N", sort=list(labels), title=None, axis=alt.Axis(labelLimit=110))
    x = alt.X("bytes:Q", title="bytes", axis=alt.Axis(format="~s", tickCount=4))
    bars = alt.Chart(charts.data()).mark_bar().encode(y=y, x=x, order=alt.Order("order:Q"), tooltip=tooltip,
                                                      color=coloured("part", order))  # fmt: skip
    ticks = alt.Chart(charts.data("limits")).mark_tick(thickness=3, size=26).encode(y=y, x=x, tooltip=["size:N"])
    caption = "A tick is the memory that a program may use; a bar beyond it does not fit."
    if not limits:
        share = max(plan["needed"] / plan["usable"] for plan in plans)
        caption = f"Every program needs {words.percent(share)} of the usable memory, or less."
    return charts.figure(
        "memory", "Memory of one device", caption, alt.layer(bars, ticks), rows, height=height_of(plans, order),
        limits=limits,
    )  # fmt: skip


def bounds(plans: Sequence[Json], labels: Sequence[str]) -> list[Figure]:
    """Draw the time that the operations, the memory and the collectives of a step take at least; nothing where no
    program was found."""
    rows: Rows = [
        {"plan": label, "term": word, "seconds": plan["bound"][term], "time": plan_words.step_text(plan["bound"][term])}
        for label, plan in zip(labels, plans, strict=True)
        if plan["bound"] is not None
        for term, word in TERMS.items()
        if plan["bound"][term] > 0
    ]
    if not rows:
        return []
    order = list(TERMS.values())
    points = (
        alt.Chart(charts.data())
        .mark_circle(size=90, opacity=1)
        .encode(
            y=alt.Y("plan:N", sort=list(labels), title=None, axis=alt.Axis(labelLimit=110)),
            x=alt.X(
                "seconds:Q",
                title="seconds of a step, at least",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~s", tickCount=4),
            ),
            tooltip=["plan:N", "term:N", "time:N"],
            color=coloured("term", order),
        )
    )
    caption = "A step takes at least the time of its rightmost point. The others may happen at the same time."
    return [
        charts.figure(
            "bounds",
            "Bounds on the time of a step",
            caption,
            points,
            rows,
            height=height_of(plans, order),
        )
    ]
