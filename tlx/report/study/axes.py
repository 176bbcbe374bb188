"""What the drawings of a study share: axes, colours, and names short enough to stand beside an axis."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from tlx.records.studies import Table
from tlx.report.scales import NUMBERS
from tlx.report.study.names import Columns, Unit

# Settings that a section draws, at most.
PANELS = 12
# What the axis below the lines of a drawing takes, in pixels; `page.js` knows it too.
FOOT = 48
# Letters that stand beside an axis.
BESIDE = 26
PERCENT = "format(datum.value * 100, '~g')"


def labels(table: Table, columns: Columns) -> dict[str, str]:
    """The methods in the order of the study, which is that of the colours everywhere, and what to draw of each."""
    return brief(columns.method(summary.arm.names) for summary in table.summaries)


def brief(texts: Iterable[str], width: int = BESIDE) -> dict[str, str]:
    """Each text by itself or, where it is long, by its two ends; different texts stay different.

    >>> list(brief(["LoRA", "Lora(rank=8, on='attention/query')", "Lora(rank=8, on='attention/(key|query)')"]).values())
    ['LoRA', "Lora(rank=8, on…on/query')", "Lora(rank=8, on…y|query)')"]
    """
    found: dict[str, str] = {}
    for text in texts:
        if text in found:
            continue
        cut = text if len(text) <= width else f"{text[: width - 11]}…{text[-10:]}"
        taken = sum(other == cut or other.startswith(f"{cut} #") for other in found.values())
        found[text] = f"{cut} #{taken + 1}" if taken else cut
    return found


def spread(values: Sequence[float], unit: Unit) -> list[float]:
    """From the lowest to the highest with a little air; a share stays one, though its t-interval may not."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return [max(0.0, low - air), min(1.0, high + air)] if unit.share else [low - air, high + air]


def reach(table: Table, unit: Unit) -> Any:
    """The scale of the metric that all drawings of a study have: what it holds of an interval, it draws of it."""
    values = [score.value for summary in table.summaries for score in summary.scores.values()]
    ends = [end for one in table.summaries for end in (one.low, one.high) if math.isfinite(end)]
    return alt.Scale(domain=spread([*values, *ends], unit), nice=False, clamp=True)


def across(field: str, title: str, scale: Any, unit: Unit) -> Any:
    """Values along the axis; a share in per cent."""
    axis = alt.Axis(tickCount=5, grid=True, labelExpr=PERCENT if unit.share else NUMBERS)
    return alt.X(f"{field}:Q", title=title + (", %" if unit.share else ""), scale=scale, axis=axis)


def upright(field: str, title: str, scale: Any, unit: Unit) -> Any:
    axis = alt.Axis(tickCount=5, labelExpr=PERCENT if unit.share else NUMBERS)
    return alt.Y(f"{field}:Q", title=title + (", %" if unit.share else ""), scale=scale, axis=axis)


def lines_of(field: str, order: Iterable[str]) -> Any:
    """A line of the drawing for each value of `field`, in this order."""
    axis = alt.Axis(labelLimit=260, ticks=False, domain=False, labelPadding=8, grid=False)
    return alt.Y(f"{field}:N", sort=None, title=None, axis=axis, scale=alt.Scale(domain=list(dict.fromkeys(order))))


def form(unit: Unit) -> str:
    """How a tooltip writes a value of the metric."""
    return f".{unit.digits}%" if unit.share else ".5~g"


def omitted(settings: int) -> str:
    """What a section that draws the first of so many settings says of the others; empty where it draws all of them.

    >>> omitted(PANELS + 3), omitted(PANELS)
    ('The first 12 of 15 settings are drawn; 3 are left out.', '')
    """
    left = settings - PANELS
    if left <= 0:
        return ""
    return f"The first {PANELS} of {settings} settings are drawn; {left} {'is' if left == 1 else 'are'} left out."


def headed(title: str, setting: str) -> str:
    """
    >>> headed("test accuracy", "labels 16"), headed("time", "")
    ('Test accuracy: labels 16', 'Time')
    """
    return title[0].upper() + title[1:] + (f": {setting}" if setting else "")


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
