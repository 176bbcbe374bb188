"""Write the page of a range test: `lr_find.html`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from tlx.report import charts, page
from tlx.report.scales import numbers
from tlx.trees import Json


def write(path: Path, curves: Sequence[Any], recipe: Json, rules: Mapping[str, str]) -> Path:
    """Draw the curves (see `tlx.training.lr_find.Curve`) into one file. `rules` explains each suggestion."""
    return page.write(path, draw(curves, recipe, rules))


def draw(curves: Sequence[Any], recipe: Json, rules: Mapping[str, str]) -> str:
    """Return the page as HTML."""
    names = [f"range-{number}" for number in range(len(curves))]
    drawings = [drawing(name, curve) for name, curve in zip(names, curves, strict=True)]
    groups = []
    for curve in curves:
        shared = {"name": curve.group, "steps": len(curve.rates), "suggestions": curve.suggestions}
        groups.append(shared | {"recommended": curve.recommended, "why": curve.reason})
    return page.render(
        "range_test.html", title="Range test", groups=groups, drawings=drawings, recipe=recipe, rules=rules
    )


def drawing(name: str, curve: Any) -> charts.Figure:
    """Draw loss and smoothed loss by rate, with one vertical line per suggestion."""
    rows = [
        {"rate": rate, "value": loss, "smoothed": mean}
        for rate, loss, mean in zip(curve.rates, curve.losses, curve.smoothed, strict=True)
        if math.isfinite(loss)
    ]
    marks = [
        {"rate": rate, "what": f"{what} {rate:.1e}", "recommended": rate == curve.recommended}
        for what, rate in curve.suggestions.items()
        if rate is not None
    ]
    # Each name is on a separate line, because suggestions often lie close together.
    for place, mark in enumerate(sorted(marks, key=lambda mark: mark["rate"])):
        mark["row"] = place
    x = alt.X("rate:Q", title="rate", scale=alt.Scale(type="log"), axis=numbers(tickCount=8))
    # If the test diverged, only losses near or below its start matter.
    top = 1.5 * max((row["smoothed"] for row in rows[: max(len(rows) // 2, 1)]), default=1.0)
    scale = alt.Scale(zero=False, domainMax=top, clamp=True)
    tooltip = [alt.Tooltip("rate:Q", format=".3~e"), alt.Tooltip("value:Q", format=".4~g", title="loss")]
    base = alt.Chart(charts.data()).encode(x=x)
    lines = [
        base.mark_line(opacity=0.35, strokeWidth=1, clip=True).encode(
            y=alt.Y("value:Q", title="loss", scale=scale), tooltip=tooltip
        ),
        base.mark_line(strokeWidth=2, clip=True).encode(y=alt.Y("smoothed:Q", title="loss", scale=scale)),
    ]
    upright = alt.Chart(charts.data("marks")).encode(x="rate:Q")
    width = alt.when("datum.recommended").then(alt.value(2.5)).otherwise(alt.value(1))
    lines.append(
        upright.mark_rule(strokeDash=[3, 3], opacity=0.7).encode(strokeWidth=width, tooltip=["what:N", "rate:Q"])
    )
    for mark in marks:
        weight = "bold" if mark["recommended"] else "normal"
        text = upright.mark_text(align="left", dx=4, y=8 + 14 * mark["row"], fontSize=11, fontWeight=weight)
        lines.append(text.encode(text="what:N").transform_filter(f"datum.row === {mark['row']}"))
    caption = (
        "Thin line: loss of each step. Thick line: moving average. Dashed lines: the suggestions of four rules; the "
        "recommended one is bold."
    )
    return charts.figure(
        name, f"Loss by rate: {curve.group}", caption, alt.layer(*lines), rows, height=300, marks=marks
    )
