"""Draw the page of a plan from the document `plan.json` alone: memory, bounds, time and cost on each target."""

from collections.abc import Sequence
from pathlib import Path

import altair as alt

from tlx.report import charts, page, words
from tlx.report.charts import Figure, Rows
from tlx.report.scales import categories, legend_height
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
    labels = labels_of(compiled)
    return page.render(
        "plan.html",
        title=document["name"],
        document=document,
        study=study,
        plans=list(zip(labels, compiled, strict=True)),
        errors=[plan for plan in plans if "error" in plan],
        best=[] if study or not any(plan["settings"] for plan in plans) else document["best"],
        drawings=[memory(compiled, labels), *bounds(compiled, labels)] if compiled else [],
        notes=notes(compiled),
        terms=TERMS,
        settings=settings_text,
        span=span,
        hours=lambda ends: span(ends and [3600 * end for end in ends], words.duration),
        dollars=lambda ends: span(ends, lambda value: f"${value:.3g}"),
        energy=lambda ends: span(ends, lambda value: f"{value:.3g} kWh"),
        seconds=step_text,
    )


def labels_of(plans: Sequence[Json]) -> list[str]:
    """Return a short name for each plan: its target, and its settings or its mesh."""
    labels = []
    for plan in plans:
        label = f"{plan['target']} · {settings_text(plan) or plan['mesh']}"
        labels.append(label if label not in labels else f"{label} ({len(labels) + 1})")
    return labels


def settings_text(plan: Json) -> str:
    """Return the settings of a plan of a sweep, or the names of a study's cell.

    >>> settings_text({"settings": {"train.batch": "64", "mesh": "data=-1"}})
    'train.batch=64 mesh=data=-1'
    """
    return " ".join(f"{name}={value}" for name, value in plan["settings"].items())


def span(ends: Sequence[float] | None, text: object = None) -> str:
    """Return a range as text; a dash where it is unknown."""
    if ends is None or not callable(text):
        return "–"
    return f"{text(ends[0])} – {text(ends[1])}"


def step_text(seconds: float) -> str:
    r"""Return the time of a step in a unit that suits it.

    >>> step_text(2.5e-4), step_text(0.02)
    ('250\xa0µs', '20\xa0ms')
    """
    factor, unit = words.scaled(seconds, "s")
    return f"{seconds * factor:.3g}\N{NO-BREAK SPACE}{unit}"


def notes(plans: Sequence[Json]) -> list[str]:
    """Return the changes and the notes of all plans, each once."""
    lines: dict[str, None] = {}
    for plan in plans:
        for path, before, after in plan["changes"]:
            lines[f"{plan['target']}: {path} is {after} in the place of {before}, which its chips cannot share"] = None
        lines |= dict.fromkeys(plan["notes"])
    return list(lines)


def memory(plans: Sequence[Json], labels: Sequence[str]) -> Figure:
    """Draw the parts of the memory of one device, as shares of what a program may use."""
    order = [part for part in plans[0]["memory"] if any(plan["memory"][part] for plan in plans)]
    rows: Rows = [
        {
            "plan": label,
            "part": part,
            "order": number,
            "share": plan["memory"][part] / plan["usable"],
            "bytes": words.size(plan["memory"][part]),
        }
        for label, plan in zip(labels, plans, strict=True)
        for number, part in enumerate(order)
        if plan["memory"][part]
    ]
    limit = alt.Chart(charts.data("limit")).mark_rule(strokeDash=[4, 3], strokeWidth=2).encode(x="share:Q")
    tooltip = ["plan:N", "part:N", "bytes:N", alt.Tooltip("share:Q", format=".2%", title="of the usable memory")]
    bars = (
        alt.Chart(charts.data())
        .mark_bar()
        .encode(
            y=alt.Y("plan:N", sort=list(labels), title=None, axis=alt.Axis(labelLimit=150)),
            x=alt.X("share:Q", title="share of the usable memory of a device", axis=alt.Axis(format=".0%", tickCount=5)),
            order=alt.Order("order:Q"),
            tooltip=tooltip,
            **categories("part", order, "point"),
        )
    )
    caption = "The dashed line is all memory that a program may use; a bar beyond it does not fit."
    return charts.figure(
        "memory", "Memory of one device", caption, alt.layer(bars, limit), rows,
        height=60 + 30 * len(plans) + legend_height(order), limit=[{"share": 1.0}],
    )  # fmt: skip


def bounds(plans: Sequence[Json], labels: Sequence[str]) -> list[Figure]:
    """Draw the time that the operations, the memory and the collectives of a step take at least; nothing where no
    program was found."""
    rows: Rows = [
        {"plan": label, "term": word, "seconds": plan["bound"][term], "time": step_text(plan["bound"][term])}
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
            y=alt.Y("plan:N", sort=list(labels), title=None, axis=alt.Axis(labelLimit=150)),
            x=alt.X(
                "seconds:Q",
                title="seconds of a step, at least",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~s", tickCount=4),
            ),
            tooltip=["plan:N", "term:N", "time:N"],
            **categories("term", order, "point"),
        )
    )
    caption = "A step takes at least the time of its rightmost point. The others may happen at the same time."
    return [
        charts.figure(
            "bounds", "Bounds on the time of a step", caption, points, rows,
            height=60 + 30 * len(plans) + legend_height(order),
        )  # fmt: skip
    ]
