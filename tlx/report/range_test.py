"""The page of a range test: `lr_find.html`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt

from tlx.report import charts, page


def write(path: Path, curves: Sequence[Any], recipe: Mapping[str, Any]) -> Path:
    """Draws the curves (see `tlx.find.Curve`) into one file."""
    return page.write(path, draw(curves, recipe))


def draw(curves: Sequence[Any], recipe: Mapping[str, Any]) -> str:
    """The page as HTML."""
    names = [f"range-{number}" for number in range(len(curves))]
    drawings = [drawing(name, curve) for name, curve in zip(names, curves, strict=True)]
    groups = [{"name": curve.group, "steps": len(curve.rates), "suggestions": curve.suggestions} for curve in curves]
    return page.render("range_test.html", title="Range test", groups=groups, drawings=drawings, recipe=recipe)


def drawing(name: str, curve: Any) -> charts.Figure:
    """Loss and smoothed loss by rate, with an upright line a suggestion."""
    rows = [
        {"rate": rate, "value": loss, "smoothed": mean}
        for rate, loss, mean in zip(curve.rates, curve.losses, curve.smoothed, strict=True)
        if math.isfinite(loss)
    ]
    marks = [{"rate": rate, "what": what} for what, rate in curve.suggestions.items() if rate is not None]
    x = alt.X("rate:Q", title="rate", scale=alt.Scale(type="log"), axis=alt.Axis(format="~e", tickCount=8))
    # Of a test that ran away, what matters lies below its start.
    top = 1.5 * max((row["smoothed"] for row in rows[: max(len(rows) // 2, 1)]), default=1.0)
    scale = alt.Scale(zero=False, domainMax=top, clamp=True)
    told = [alt.Tooltip("rate:Q", format=".3~e"), alt.Tooltip("value:Q", format=".4~g", title="loss")]
    base = alt.Chart(charts.data()).encode(x=x)
    lines = [
        base.mark_line(opacity=0.35, strokeWidth=1, clip=True).encode(
            y=alt.Y("value:Q", title="loss", scale=scale), tooltip=told
        ),
        base.mark_line(strokeWidth=2, clip=True).encode(y=alt.Y("smoothed:Q", title="loss", scale=scale)),
    ]
    upright = alt.Chart(charts.data("marks")).encode(x="rate:Q")
    lines.append(upright.mark_rule(strokeDash=[3, 3], opacity=0.6).encode(tooltip=["what:N", "rate:Q"]))
    caption = "Thin: the loss of each step. Thick: its moving average. Dashed: what the four rules suggest."
    return charts.figure(
        name, f"Loss by rate: {curve.group}", caption, alt.layer(*lines), rows, height=300, marks=marks
    )
